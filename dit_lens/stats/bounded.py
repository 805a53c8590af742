"""Interval of the mean of an outcome that has a least and a greatest value, whatever its shape: Gaffke's.

Between bounds the worst outcome is the one whose rare values are far from all that was seen. So the upper end takes one
more sample at the greatest value, the lower end one at the least, and weighs the n + 1 samples at random: weights are
uniform over all that sum to one, as in the Bayesian bootstrap. The ends are the outer 2.5 % of such weighted means::

    upper = quantile(sum_i w_i x_i + w_(n+1) greatest, .975),  w ~ Dirichlet(1, ..., 1)

Of two-valued outcomes these are Clopper and Pearson's ends. That they cover every bounded outcome is a conjecture
(Gaffke 2005; Learned-Miller and Thomas 2019, arXiv 1905.06208) against which nothing was found; benchmarks/coverage.py
tries it on eight shapes.

When not to use: on values that crowd together far from both bounds and can't be elsewhere. What bounds allow is then
much more than what is so, and the interval without bounds is about half as wide (docs/statistics.md).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import qmc

_POWER = 13  # 2^13 weightings
_CELLS = 256  # at a time


def bounded_ends(x: np.ndarray, bounds: tuple[float, float], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Gaffke's interval of a mean.

    Args:
        x: Samples along the first axis, (n, ...), within ``bounds``; NaN where there is none.
        bounds: The least and the greatest value that the outcome can have.
        level: Coverage.

    Returns:
        Lower and upper ends, (...); NaN where there is no sample.
    """
    least, greatest = bounds
    z = _unit(x.reshape(len(x), -1), bounds)  # (n, cells)
    counts = np.isfinite(z).sum(0)
    low, high = np.full((2, z.shape[1]), np.nan)
    for n in np.unique(counts[counts > 0]):
        cells = np.flatnonzero(counts == n)
        for at in np.split(cells, range(_CELLS, len(cells), _CELLS)):
            some = np.sort(z[:, at], 0)[:n]  # NaN last
            low[at] = 1 - np.quantile(_weighed(1 - some[::-1]), 0.5 + level / 2, axis=0)
            high[at] = np.quantile(_weighed(some), 0.5 + level / 2, axis=0)
    shape, width = x.shape[1:], greatest - least
    return least + width * low.reshape(shape), least + width * high.reshape(shape)


def bounded_p(x: np.ndarray, bounds: tuple[float, float], than: float) -> float:
    """One-sided p of "the mean is greater than this", which the interval's lower end agrees with.

    Args:
        x: Samples, (n,), without NaN.
        bounds: The least and the greatest value that the outcome can have.
        than: The mean to compare with.

    Returns:
        The share of weightings, those of the data counted with one more, whose mean is not greater.
    """
    z, (edge,) = _unit(np.sort(x)[:, None], bounds), _unit(np.array([than]), bounds)
    not_greater = int((_weighed(1 - z[::-1]) >= 1 - edge).sum())
    return (1 + not_greater) / (1 + 2**_POWER)


def _unit(x: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """On a scale where the bounds are 0 and 1."""
    return np.clip((x - bounds[0]) / (bounds[1] - bounds[0]), 0, 1)


def _weighed(x: np.ndarray) -> np.ndarray:
    """Weighted means of sorted samples between 0 and 1 and one more at 1: (n, cells) -> (weightings, cells)."""
    return np.asarray(_weights(len(x)) @ np.concatenate([x, np.ones((1, x.shape[1]))]))


@lru_cache(maxsize=16)
def _weights(n: int) -> np.ndarray:
    """Weights of n + 1 samples, uniform over all that sum to one: (weightings, n + 1), the same ones every time.

    They are the gaps between n sorted uniform numbers, and those are a Sobol sequence, which fills the space more
    evenly than random numbers do: ends are known to a few thousandths of the bounds' distance.
    """
    cuts = np.sort(qmc.Sobol(n, seed=0).random_base2(_POWER), axis=1)
    return np.diff(cuts, axis=1, prepend=0.0, append=1.0)
