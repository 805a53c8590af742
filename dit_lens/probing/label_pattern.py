"""The pattern of a label: how activations differ with it on average (Haufe et al. 2014).

    a = Cov(x, z) / Var(z)         of a number z; with z of 0 and 1 that is the difference of the two classes' means
    a_c = E[x | c] - E[x]          of each of several classes; a_c - a_b is the difference of the means of c and b

A linear probe's normal w is a filter: least squares gives w ~ Sigma_xx^-1 a, turned away from whatever else varies
among the rows, and dependent on the scale of the channels. So a = Sigma_xx w / Var(z) is another vector, and the one
along which activations go when the label changes: push along it (:mod:`.causal_check`).

When not to use: to read the label; a projection on the pattern also reads all that varies along it. And not as the
direction that a model uses: whatever goes together with the label in these rows is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dit_lens.errors import ProbeError

_ROWS = 1024  # turned into float64 at a time: 40 MB of a 14B model's channels


def patterns(x: Any, y: Any, classes: Sequence[Any] = ()) -> np.ndarray:
    """How activations differ with a label, from the rows that a probe is fitted on.

    Args:
        x: Activations (..., d).
        y: Labels (...); numbers for a regression.
        classes: The classes in the probe's order; none for a regression.

    Returns:
        (k, d), float64, in the activation's own coordinates. k is 1 for two classes, pointing from the first to the
        second, and for a regression, per unit of the number; else one row a class.

    Raises:
        ProbeError: Shapes that do not fit, NaN, a class without rows, a label that is none of ``classes``, or a number
            that does not vary.

    Source: Haufe et al. 2014, NeuroImage 87, theorem 1.
    """
    x = np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x)
    y = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if x.ndim < 2 or x.shape[:-1] != y.shape:
        raise ProbeError(f"labels of shape {y.shape} for activations of shape {x.shape}: give one label a row (..., d)")
    rows, z = x.reshape(-1, x.shape[-1]), y.reshape(-1)
    columns = np.stack([z == c for c in classes], axis=1) if len(classes) else _centred(z)  # (n, classes or 1)
    if len(classes):
        _check_classes(columns, classes)
    sums = np.zeros((columns.shape[1], rows.shape[1]))
    for first in range(0, len(rows), _ROWS):
        part = slice(first, first + _ROWS)
        # About the first row, so that a channel that never changes has a pattern of exactly zero.
        sums += columns[part].T.astype(np.float64) @ (rows[part].astype(np.float64) - rows[0])
    if not len(classes):
        found = sums / (columns**2).sum()
    else:
        counts = columns.sum(0)
        means = sums / counts[:, None]
        found = means[1:] - means[:1] if len(classes) == 2 else means - sums.sum(0) / counts.sum()
    if not np.isfinite(found).all():
        raise ProbeError("the activations hold NaN or infinity: a region without tokens, or a broken run")
    return found


def pattern_shape(classes: Sequence[Any], d: int) -> tuple[int, int]:
    """The shape (k, d) of a probe's patterns.

    Args:
        classes: Classes of the probe.
        d: Number of channels.
    """
    return (len(classes) if len(classes) > 2 else 1), d


def _centred(z: np.ndarray) -> np.ndarray:
    """Numbers less their mean, (n, 1)."""
    if z.dtype.kind not in "fiub" or not np.isfinite(z).all() or not len(z) or z.min() == z.max():
        raise ProbeError(
            f"{z.size} labels of {z.dtype} are no numbers that vary: leave out rows without one, or name classes="
        )
    values = z.astype(np.float64)
    return (values - values.mean())[:, None]


def _check_classes(columns: np.ndarray, classes: Sequence[Any]) -> None:
    missing = [c for i, c in enumerate(classes) if not columns[:, i].any()]
    if len(classes) < 2 or missing or not (columns.sum(1) == 1).all():
        raise ProbeError(
            f"of classes={list(classes)[:10]} {missing[:10]} have no row, and {int((columns.sum(1) != 1).sum())} rows "
            "are of none of them or of two: name each class of the labels once, at least two"
        )
