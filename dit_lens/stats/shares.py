"""Interval of a share of ones: Blaker's for independent samples, Korn and Graubard's for samples in clusters.

Blaker (2000) inverts an exact test: with X ~ Binomial(n, p) and T(x) = min(P(X <= x), P(X >= x)), a share p is kept
where P(T(X) <= T(k)) exceeds 1 - level. The interval lies within Clopper and Pearson's and covers at least ``level``
at every share and every n. benchmarks/coverage.py compares it with Wilson's, Jeffreys' and mid-P: those are narrower
by up to 10 % at n = 8 and fall to .84 (Wilson, at shares of one or two in a hundred), .88 (Jeffreys) and .92 (mid-P).

Samples in clusters are worth fewer independent ones (:func:`dit_lens.stats.methods.effective_n`), a number that is not
whole: Clopper and Pearson's ends by the beta distribution take such numbers (Korn and Graubard 1998).

When not to use: for a difference of two shares of the same tasks (:func:`dit_lens.stats.methods.newcombe`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import beta, binom

_SCANS, _PLACES = 4, 60  # the ends are known to 60^-4


def share_ends(hits: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Blaker's interval of a share.

    Args:
        hits: Ones, whole numbers, (...).
        n: Samples, whole numbers, (...).
        level: Coverage.

    Returns:
        Lower and upper ends, (...); NaN where n is 0.
    """
    hits, n = np.broadcast_arrays(np.asarray(hits), np.asarray(n))
    ends = np.full((2, *n.shape), np.nan)
    for at in np.ndindex(n.shape):
        if n[at] > 0:
            ends[:, *at] = _blaker(round(float(hits[at])), int(n[at]), level)
    return ends[0], ends[1]


def clustered_ends(share: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Clopper and Pearson's interval at a number of samples that need not be whole.

    Args:
        share: The share, (...).
        n: Independent samples that it is worth, (...).
        level: Coverage.

    Returns:
        Lower and upper ends, (...); NaN where n is 0.
    """
    share, n = np.asarray(share, float), np.asarray(n, float)
    hits, tail = share * n, (1 - level) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(share <= 0, 0.0, beta.ppf(tail, hits, n - hits + 1))
        high = np.where(share >= 1, 1.0, beta.ppf(1 - tail, hits + 1, n - hits))
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


@lru_cache(maxsize=4096)
def _blaker(hits: int, n: int, level: float) -> tuple[float, float]:
    """Both ends; the upper one is the lower one of the zeros."""
    return _lower(hits, n, level), 1 - _lower(n - hits, n, level)


def _lower(hits: int, n: int, level: float) -> float:
    if hits == 0:
        return 0.0
    # Clopper and Pearson's end lies at or below. The acceptability jumps: each scan takes the first that is kept.
    out, inside = float(beta.ppf((1 - level) / 2, hits, n - hits + 1)), hits / n
    for _ in range(_SCANS):
        places = np.linspace(out, inside, _PLACES)
        first = int((_acceptable(hits, n, places) > 1 - level).argmax())  # the last one always is
        inside = float(places[first])
        out = float(places[max(first - 1, 0)])
    return out  # the end may be a jump, which belongs to the interval


def _acceptable(hits: int, n: int, p: np.ndarray) -> np.ndarray:
    """P(T(X) <= T(hits)) at each share, (shares,)."""
    x = np.arange(n + 1)
    chance = binom.pmf(x, n, p[:, None])  # (shares, n + 1)
    tail = np.minimum(chance.cumsum(1), chance[:, ::-1].cumsum(1)[:, ::-1])
    return np.asarray((chance * (tail <= tail[:, [hits]] * (1 + 1e-7))).sum(1))
