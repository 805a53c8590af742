"""Ridge probes from sufficient statistics: what scikit-learn's pipeline would fit, for many targets at once.

With G = sum x x^T, s = sum x and n over the training rows of a fold, m = s / n, D = diag of the standard deviations,

    A = D^-1 (G - n m m^T) D^-1 + alpha I,        w = A^-1 D^-1 (sum x y - n m ybar),
    decision(x) = w . D^-1 (x - m) + ybar,

which is ``make_pipeline(StandardScaler(), Ridge(alpha))`` (or ``RidgeClassifier``, whose targets are -1 and 1) exactly.
G of all other folds is the total less the fold's own, so that all folds cost one pass. A does not depend on the labels:
labels, control labels and permutations share one factorisation a fold. scikit-learn fits many targets at once as well,
but each fold anew.

When not to use: for anything but ridge; logistic regression has no such statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from dit_lens.errors import ProbeError

ALPHA = 100.0


@dataclass(frozen=True, eq=False)
class Moments:
    """Features of one place, prepared for any targets.

    Attributes:
        x: (rows, d), centred.
        fold: (rows,), 0 to K - 1.
        means: Mean of the training rows of each fold, (K, d).
        scales: Standard deviations of the training rows, (K, d); 1 for constant channels.
        factors: Cholesky factor of A of each fold.
    """

    x: np.ndarray
    fold: np.ndarray
    means: np.ndarray
    scales: np.ndarray
    factors: tuple[tuple[np.ndarray, bool], ...]

    @classmethod
    def of(cls, x: np.ndarray, fold: np.ndarray, alpha: float = ALPHA) -> Moments:
        """Prepare features for any targets.

        Args:
            x: Finite, (rows, d).
            fold: (rows,), 0 to K - 1.
            alpha: Strength of the ridge, on scaled features.

        Raises:
            ProbeError: NaN or infinity.
        """
        if not np.isfinite(x).all():
            raise ProbeError(
                "features hold NaN or infinity: a region without tokens in some scene, or a broken generation; leave "
                "such units out of the label (None or NaN)"
            )
        x = x.astype(np.float64)
        x = x - x.mean(0)  # changes no decision, and keeps rounding of the differences below small
        k = int(fold.max()) + 1
        gram = np.stack([x[fold == i].T @ x[fold == i] for i in range(k)])  # (K, d, d)
        sums = np.stack([x[fold == i].sum(0) for i in range(k)])  # (K, d)
        counts = np.bincount(fold, minlength=k)
        means, scales, factors = [], [], []
        for i in range(k):
            n = counts.sum() - counts[i]
            m = (sums.sum(0) - sums[i]) / n
            spread = gram.sum(0) - gram[i] - n * np.outer(m, m)  # (d, d)
            # Constant channels, up to rounding, are scaled by 1, as StandardScaler does.
            variance = np.diag(spread) / n
            flat = variance <= 1e-12 * max(float(variance.max()), 1e-30)
            scale = np.where(flat, 1.0, np.sqrt(np.where(flat, 1.0, variance)))
            a = spread / np.outer(scale, scale)
            a[np.diag_indices_from(a)] += alpha
            means.append(m)
            scales.append(scale)
            factors.append(cho_factor(a))
        return cls(x, fold, np.array(means), np.array(scales), tuple(factors))

    def decisions(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Out-of-fold predictions of targets.

        Args:
            y: Targets (rows, T).

        Returns:
            Predictions (rows, T), each row by the probe that was fitted on the other folds; and the mean target of that
            probe's training rows, (rows, T).
        """
        out, mean = np.empty((2, *y.shape))
        totals = np.stack([self.x[self.fold == i].T @ y[self.fold == i] for i in range(len(self.factors))])  # (K, d, T)
        ysums = np.stack([y[self.fold == i].sum(0) for i in range(len(self.factors))])  # (K, T)
        counts = np.bincount(self.fold, minlength=len(self.factors))
        for i, factor in enumerate(self.factors):
            n = counts.sum() - counts[i]
            ybar = (ysums.sum(0) - ysums[i]) / n  # (T,)
            cross = totals.sum(0) - totals[i] - n * np.outer(self.means[i], ybar)  # (d, T)
            w = cho_solve(factor, cross / self.scales[i][:, None]) / self.scales[i][:, None]
            test = self.fold == i
            out[test], mean[test] = (self.x[test] - self.means[i]) @ w + ybar, ybar
        return out, mean


def targets(codes: np.ndarray, classes: int) -> np.ndarray:
    """Targets -1 and 1 of class codes.

    Args:
        codes: (rows, ...).
        classes: How many there are.

    Returns:
        (rows, columns, ...), a column a class, or one column for two classes.
    """
    if classes == 2:
        return np.where(codes == 1, 1.0, -1.0)[:, None]
    return np.stack([np.where(codes == c, 1.0, -1.0) for c in range(classes)], axis=1)
