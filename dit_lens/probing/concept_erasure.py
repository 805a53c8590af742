"""LEACE: the least change of an activation after which no linear probe reads a concept (Belrose et al. 2023).

    r(x) = x - W^+ Q W (x - mu),     W = (Sigma_xx^(1/2))^+,     Q = projection on the columns of W Sigma_xz

``x`` is an activation with mean mu, ``z`` the concept (one column per class, or numbers). Then Cov(r(x), z) = 0 on the
data it was fitted on, so that there the best linear read-out of z is a constant; and of all affine maps of which that
is true, r moves x least, E ||r(x) - x||^2 in the Mahalanobis norm of Sigma_xx. W^+ Q W is an oblique projection of rank
at most classes - 1, and is kept as two thin factors.

Only means and covariances are needed, so batches can be streamed: memory is d x d, whatever the number of rows. All is
done in float64, on channels scaled to unit variance. LEACE does not depend on the coordinates, but its rounding does:
the package ``concept-erasure`` 0.2.4 gives the same activations within 2e-13 on channels of one scale, and leaves a
correlation with the concept in a channel a million times smaller (0.06 in the median of 20 draws, 4e-13 here).

When not to use: as a proof that the concept is gone. It removes what a *linear* probe reads, at this place, in data
like that of the fit. With fewer rows than channels any label is read perfectly and erasing it erases noise: use many
scenes, or ``shrinkage``. Later layers may also read the concept again from text or image: use erasers there too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dit_lens.errors import ProbeError

#: Correlations below this are rounding, and are not worth a direction.
NOTHING = 1e-8


@dataclass(frozen=True, eq=False)
class Eraser:
    """The map x <- x - left right (x - mean), for :func:`dit_lens.erase` or to be called on arrays and tensors.

    Erasers are compared by content.

    Attributes:
        left: (d, k), float64. Its columns span Sigma_xz, the directions in which activations differ with the concept.
        right: (k, d), float64, with right left = 1, so that the map is idempotent.
        mean: (d,), float64.
        n: Rows of the fit.
    """

    left: np.ndarray = field(repr=False)
    right: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    n: int = 0

    @property
    def rank(self) -> int:
        """Number of directions that are removed."""
        return self.left.shape[1]

    @property
    def matrix(self) -> np.ndarray:
        """The matrix (d, d) that maps x - mean to what is removed."""
        return self.left @ self.right

    @property
    def pattern(self) -> np.ndarray:
        """The unit vector (d,) along which activations change with the concept (Haufe et al. 2014).

        It points towards the later of two classes, for which it is the difference of class means, or towards larger
        numbers. A probe's normal is another vector.

        Raises:
            ProbeError: The concept has more than one direction.
        """
        if self.rank != 1:
            raise ProbeError(
                f"this concept has {self.rank} directions, not one pattern: take the difference of two classes' means"
            )
        return self.left[:, 0] / np.linalg.norm(self.left)

    def __call__(self, x: Any) -> Any:
        """Erase the concept from activations (..., d); the result has their type and dtype.

        Raises:
            ProbeError: Another number of channels than in the fit.
        """
        tensor = isinstance(x, Tensor)
        values = x.detach().double().cpu().numpy() if tensor else np.asarray(x, np.float64)
        if values.shape[-1:] != self.mean.shape:
            raise ProbeError(
                f"this eraser was fitted on {len(self.mean)} channels, found an array of shape {values.shape}: fit one "
                "on activations of that hook"
            )
        out = values - (values - self.mean) @ self.right.T @ self.left.T
        if tensor:
            return x.new_tensor(out)
        given = np.asarray(x).dtype
        return out.astype(given) if np.issubdtype(given, np.floating) else out

    def _key(self) -> tuple[Any, ...]:
        return self.left.shape, self.left.tobytes(), self.right.tobytes(), self.mean.tobytes()

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Eraser) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        return f"Eraser of {self.rank} of {len(self.mean)} directions, fitted on {self.n} rows"


class Leace:
    """Sufficient statistics of an eraser, updated batch by batch: n, means, Sigma_xx and Sigma_xz.

    Args:
        classes: All labels, since a batch may lack some; None where z is numbers.

    Raises:
        ProbeError: Fewer than two classes.
    """

    def __init__(self, classes: Sequence[Hashable] | None = None) -> None:
        self.classes = None if classes is None else list(dict.fromkeys(classes))
        if self.classes is not None and len(self.classes) < 2:
            raise ProbeError(f"classes={self.classes}: give at least two labels, or None where z is numbers")
        self.n = 0
        self.mean = np.zeros(0)  # of x and z side by side, (d + k,)
        self.scatter = np.zeros((0, 0))  # sums of products about the mean, (d + k, d)
        self.spread = np.zeros(0)  # the same of z with itself, diagonal, (k,)

    def update(self, x: Any, z: Any) -> Leace:
        """Add a batch.

        Args:
            x: Activations (..., d).
            z: Labels (...), or numbers (...) or (..., k).

        Returns:
            This object, so that calls can be chained.

        Raises:
            ProbeError: Other shapes than before, NaN, or a label that is none of ``classes``.
        """
        x = np.asarray(x.detach().float().cpu() if isinstance(x, Tensor) else x, np.float64)
        rows, d = x.reshape(-1, x.shape[-1]), x.shape[-1]
        both = np.concatenate([rows, self._concept(z, x.shape[:-1])], axis=1)  # (n, d + k)
        if not np.isfinite(both).all():
            raise ProbeError("activations or concepts hold NaN or infinity: a region without tokens, or a broken run")
        if not self.n:
            self.mean, self.spread = np.zeros(both.shape[1]), np.zeros(both.shape[1] - d)
            self.scatter = np.zeros((both.shape[1], d))
        if self.scatter.shape != (both.shape[1], d):
            raise ProbeError(
                f"this batch has {d} channels and {both.shape[1] - d} concept columns, those before had "
                f"{self.scatter.shape[1]} and {len(self.spread)}: give batches of one hook and one concept"
            )
        # Pairwise (Chan et al. 1983): exact however large the mean is beside the spread.
        n, mean = len(both), both.mean(0)
        centred, shift = both - mean, mean - self.mean
        weight = self.n * n / (self.n + n)
        self.scatter += centred.T @ centred[:, :d] + weight * np.outer(shift, shift[:d])
        self.spread += (centred[:, d:] ** 2).sum(0) + weight * shift[d:] ** 2
        self.mean = self.mean + shift * n / (self.n + n)
        self.n += n
        return self

    def eraser(self, shrinkage: float = 0.0) -> Eraser:
        """The eraser of all rows so far.

        Args:
            shrinkage: How far correlations between channels are shrunk to zero, from 0 to 1. The guarantee holds for
                any value; above 0 the change is not the least on these rows, and may carry over better to others when
                rows are few.

        Raises:
            ProbeError: Fewer than two rows, a concept that never changes, or a ``shrinkage`` out of range.
        """
        if not 0 <= shrinkage <= 1:
            raise ProbeError(f"shrinkage={shrinkage}: give a number from 0 (none) to 1 (channels independent)")
        if self.n < 2 or not self.spread.any():
            raise ProbeError(
                f"{self.n} rows in which the concept never changes: give rows of at least two classes or values"
            )
        d = self.scatter.shape[1]
        scale, z_scale = _scale(np.diag(self.scatter[:d])), _scale(self.spread)
        live = np.diag(self.scatter[:d]) > 0
        xx = self.scatter[:d] / scale / scale[:, None]  # correlations
        xx = (1 - shrinkage) * (xx + xx.T) / 2 + shrinkage * np.diag(live.astype(float))
        values, vectors = np.linalg.eigh(xx)
        kept = values > values[-1] * d * np.finfo(float).eps
        root = np.sqrt(np.where(kept, values, 1.0))
        whiten = (vectors * np.where(kept, 1 / root, 0)) @ vectors.T  # W
        colour = (vectors * np.where(kept, root, 0)) @ vectors.T  # W^+
        seen = whiten @ (self.scatter[d:].T / scale[:, None] / z_scale)  # W Sigma_xz, (d, k)
        u, s, _ = np.linalg.svd(seen, full_matrices=False)
        u = u[:, s > NOTHING]
        u = u * np.where(u.T @ seen[:, -1] < 0, -1.0, 1.0)  # so that a pattern has a sign
        return Eraser(scale[:, None] * (colour @ u), (u.T @ whiten) / scale, self.mean[:d].copy(), self.n)

    def _concept(self, z: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Columns (n, k) of z."""
        z = np.asarray(z.detach().cpu() if isinstance(z, Tensor) else z)
        n = int(np.prod(shape))
        if z.shape[: len(shape)] != shape or (self.classes is not None and z.shape != shape):
            raise ProbeError(f"concepts of shape {z.shape} for activations of {n} rows, shape {shape}: give one a row")
        if self.classes is None:
            return z.reshape(n, -1).astype(np.float64)
        columns = np.stack([z.reshape(-1) == c for c in self.classes], axis=1)
        if not columns.any(1).all():
            unknown = sorted({str(v) for v in z.reshape(-1)[~columns.any(1)]})
            raise ProbeError(f"labels {unknown} are none of classes={self.classes}: name all of them at the start")
        return columns.astype(np.float64)


def leace(x: Any, z: Any, shrinkage: float = 0.0) -> Eraser:
    """Fit an eraser on all rows at once.

    Args:
        x: Activations (..., d).
        z: Labels (...), or floats (...) or (..., k), whose linear trace is erased.
        shrinkage: As in :meth:`Leace.eraser`.

    Raises:
        ProbeError: Shapes that do not fit, NaN, a single class, or a concept that never changes.
    """
    values = np.asarray(z.detach().cpu() if isinstance(z, Tensor) else z)
    numbers = np.issubdtype(values.dtype, np.floating)
    classes = None if numbers else np.unique(values).tolist()
    if classes is not None and len(classes) < 2:
        raise ProbeError(f"all {values.size} labels are {classes}: an eraser needs at least two classes")
    return Leace(classes).update(x, values).eraser(shrinkage)


def _scale(squares: np.ndarray) -> np.ndarray:
    return np.where(squares > 0, np.sqrt(squares), 1.0)
