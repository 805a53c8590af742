"""Smooth models of a profile over layers, with noise that neighbouring layers share: the nulls of the map.

For each evidence e and layer l::

    y_e(l) = polynomial_e(l) + u_e(l),    u_e(l) = rho u_e(l - 1) + innovation,    degree 0 to 3

The coefficients are fitted by generalised least squares, rho (one for all evidences) by restricted maximum likelihood
on a grid (Harville 1977), which maximum likelihood would underestimate on a dozen layers. Innovations may be correlated
between evidences, since the same layer makes all of them; :meth:`Smooth.draw` draws profiles with that covariance.

When not to use: for profiles with a few wild layers (heavy tails); the noise is taken as normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Correlations of neighbouring layers that are tried.
RHOS = np.round(np.arange(0.0, 0.95, 0.1), 1)
#: Degrees of the smooth models: flat, ramp, bow, wave.
DEGREES = (0, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class Smooth:
    """A fitted smooth model.

    Attributes:
        degree: Of the polynomial.
        rho: Correlation of neighbouring layers.
        mean: The fitted profile, (L, E).
        covariance: Of the innovations, (E, E).
    """

    degree: int
    rho: float
    mean: np.ndarray
    covariance: np.ndarray

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` profiles of this model, (n, L, E)."""
        return self.mean + noise(n, len(self.mean), self.covariance, self.rho, rng)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of a layer around the profile, (E,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance) / (1 - self.rho**2)))


def noise(n: int, n_layers: int, covariance: np.ndarray, rho: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary AR(1) noise over layers.

    Args:
        n: How many profiles.
        n_layers: L.
        covariance: Of the innovations, (E, E).
        rho: Correlation of neighbouring layers.
        rng: Source of randomness.

    Returns:
        (n, L, E).
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    found = rng.standard_normal((n, n_layers, len(covariance))) @ root.T
    found[:, 0] /= np.sqrt(1 - rho**2)
    for layer in range(1, n_layers):
        found[:, layer] += rho * found[:, layer - 1]
    return found


def whitener(n_layers: int, rho: float) -> np.ndarray:
    """The matrix W, (L, L), that turns AR(1) noise into its innovations; log det of W'W is log(1 - rho^2)."""
    w = np.eye(n_layers) - rho * np.eye(n_layers, k=-1)
    w[0, 0] = np.sqrt(1 - rho**2)
    return w


class Fitter:
    """Fits one smooth model to many profiles of the same layers.

    Args:
        layers: Positions of the layers that are there; others are missing.
        n_layers: Number of layers in all.
        degree: Of the polynomial.
    """

    def __init__(self, layers: np.ndarray, n_layers: int, degree: int) -> None:
        self.degree, self.n = degree, len(layers)
        depth = 2 * (layers + 0.5) / n_layers - 1
        self.design = depth[:, None] ** np.arange(degree + 1)  # (L, degree + 1)
        self.whiteners = [whitener(self.n, rho) for rho in RHOS]
        self.bases, self.logdets = [], []
        for w in self.whiteners:
            q, r = np.linalg.qr(w @ self.design)
            self.bases.append(q)
            self.logdets.append(2 * np.log(np.abs(np.diag(r))).sum())

    def likelihood(self, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Profile log likelihoods.

        Args:
            profiles: (n, L, E).

        Returns:
            The maximum over rho (n,), and the index in ``RHOS`` of the restricted maximum (n,).
        """
        n, p, evidences = self.n, self.degree + 1, profiles.shape[2]
        plain, restricted = [], []
        for rho, w, q, logdet in zip(RHOS, self.whiteners, self.bases, self.logdets, strict=True):
            z = w @ profiles
            rss = (z**2).sum(1) - ((q.T @ z) ** 2).sum(1)  # (n, E)
            logs = np.log(np.maximum(rss, 1e-12)).sum(1)
            noise = evidences / 2 * np.log(1 - rho**2)
            plain.append(noise - n / 2 * logs)
            restricted.append(noise - (n - p) / 2 * logs - evidences / 2 * logdet)
        return np.max(plain, 0), np.argmax(restricted, 0)

    def fit(self, profile: np.ndarray) -> Smooth:
        """The model fitted to one profile (L, E)."""
        at = int(self.likelihood(profile[None])[1][0])
        w, q = self.whiteners[at], self.bases[at]
        z = w @ profile
        fitted = q @ (q.T @ z)
        left = z - fitted
        covariance = left.T @ left / (self.n - self.degree - 1)
        return Smooth(self.degree, float(RHOS[at]), np.linalg.solve(w, fitted), covariance)
