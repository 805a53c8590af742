"""Sign flips: the test that a paired difference has no direction, and what belongs to it.

Under the null each task's difference d_i is as likely to be -d_i. With all sign vectors s (or 9,999 random ones)::

    p(d > m)  =  share of s for which  sum s_i (d_i - m)  >=  sum (d_i - m)

Flipping a set of tasks raises the sum exactly if their mean lies at or below m. So the test for every m at once is in
the means of subsets of tasks (Hartigan 1969), and the interval that belongs to the test runs between two of them: it
holds exactly the differences that the test does not reject.

Flips are shared by all cells: the same tasks turn at the same time, so that what cells have in common stays in the null
of their maximum (:mod:`dit_lens.stats.corrections`).

When not to use: with fewer than six tasks no two-sided p below .05 exists (2 / 2^5 = .0625;
:mod:`dit_lens.stats.smallest_p`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

#: Tasks up to which every sign vector is taken; above, this many random ones beside the data as they are.
ALL_UP_TO, RANDOM = 12, 9_999
#: Numbers held at once.
_CHUNK = 4_000_000


@lru_cache(maxsize=8)
def sign_vectors(n: int, seed: int = 0) -> np.ndarray:
    """Sign vectors of ``n`` tasks: all of them for few tasks, random ones for more.

    Args:
        n: Tasks.
        seed: Of random ones.

    Returns:
        int8 (flips, n), read-only; the first leaves all as it is.
    """
    if n <= ALL_UP_TO:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.int8)
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (RANDOM, n), dtype=np.int8)
        signs = np.concatenate([np.ones((1, n), np.int8), 1 - 2 * drawn])
    signs.flags.writeable = False
    return signs


def subset_means(differences: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Mean of the flipped tasks under every sign vector but the first.

    A random vector that flips nothing is left out; the chance is 2^-n.

    Args:
        differences: (n,).
        signs: (flips, n), as :func:`sign_vectors` returns them.

    Returns:
        Sorted, (flips - 1,).
    """
    # sum over flipped = (sum - signed sum) / 2, which is one product of matrices.
    signed, count = signs[1:] @ differences, len(differences)
    flipped = (count - signs[1:].sum(1, dtype=int)) // 2
    kept = flipped > 0
    return np.sort((differences.sum() - signed[kept]) / (2 * flipped[kept]))


def p_above(means: np.ndarray, level: float) -> float:
    """One-sided p of "the difference is greater".

    Args:
        means: Sorted :func:`subset_means`.
        level: Than what.
    """
    close = 1e-9 * max(abs(level), float(np.abs(means).max(initial=0.0)))
    return float((1 + np.searchsorted(means, level + close, side="right")) / (1 + len(means)))


def p_below(means: np.ndarray, level: float) -> float:
    """One-sided p of "the difference is smaller"; arguments as of :func:`p_above`."""
    return p_above(-means[::-1], -level)


def ends(means: np.ndarray, level: float) -> tuple[float, float]:
    """The interval that holds what the two-sided test does not reject.

    Args:
        means: Sorted :func:`subset_means`.
        level: Coverage.

    Returns:
        Lower and upper end; infinite where the test cannot reject.
    """
    k = int(np.floor((1 - level) / 2 * (1 + len(means)) + 1e-9))
    if k < 1:
        return -np.inf, np.inf
    return float(means[k - 1]), float(means[-k])


def t_statistics(differences: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Student's t of every cell under every sign vector.

    Args:
        differences: (n, cells); NaN is left out.
        signs: (flips, n), as :func:`sign_vectors` returns them.

    Returns:
        (flips, cells). 0 where a cell has no differences, or only zeros; infinite where all are equal and not zero.
    """
    seen = np.isfinite(differences)
    d = np.where(seen, differences, 0.0)
    n = seen.sum(0)
    squares = (d * d).sum(0)
    out = np.empty((len(signs), d.shape[1]))
    rows = max(1, _CHUNK // max(1, d.shape[1]))
    for start in range(0, len(signs), rows):
        total = signs[start : start + rows].astype(float) @ d
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = squares - total**2 / n
            rest = np.where(rest > 1e-12 * squares, rest, 0.0)
            t = total / np.sqrt(n / np.maximum(n - 1, 1) * rest)
        out[start : start + rows] = np.where((squares > 0) & (n > 1), t, 0.0)
    return out
