"""The intervals themselves, on plain arrays: one function a method, samples along the first axis, NaN left out.

Skewness-corrected t (Hall 1992, "On the removal of skewness by transformation", with Student's quantiles)::

    T = sqrt(n) (mean - mu) / s,  g(T) = T + k T^2 / (3 sqrt n) + k^2 T^3 / (27 n) + k / (6 sqrt n),  k the skewness
    interval = mean - g^-1(t_q) s / sqrt(n)  at q = .975 and .025

g takes the skewness out of T and is monotone, so that its inverse has a closed form and nothing is resampled. Without
skewness it is Student's interval.

When not to use: on two-valued outcomes, whose standard error is zero where all agree (:mod:`dit_lens.stats.shares`).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student


def skew_t(x: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the skewness-corrected t interval of the mean.

    Args:
        x: Samples along the first axis, (n, ...); NaN where there is none.
        level: Coverage, .95 for 95 %.

    Returns:
        Lower and upper ends, (...); NaN where fewer than two samples are, or all are equal.
    """
    return _t(x, level, unskewed=True)


def student_t(x: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Student's interval of the mean; arguments and result as of :func:`skew_t`."""
    return _t(x, level, unskewed=False)


def _t(x: np.ndarray, level: float, unskewed: bool) -> tuple[np.ndarray, np.ndarray]:
    n = np.isfinite(x).sum(0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(x, 0) / n
        away = x - mean
        second, third = (np.nansum(away**power, 0) / n for power in (2, 3))
        spread = np.sqrt(second * n / (n - 1) / n)  # standard error of the mean
        usable = (n > 1) & varies(x)
        quantile = student.ppf(0.5 + level / 2, np.where(n > 1, n - 1, np.nan))
        at = [quantile, -quantile]
        if unskewed:
            skew = np.where(usable, third / second**1.5, 0.0)
            at = [_unskewed(q, skew, n) for q in at]
        ends = [np.where(usable, mean - q * spread, np.nan) for q in at]
    return ends[0], ends[1]


def _unskewed(y: np.ndarray, skew: np.ndarray, n: np.ndarray) -> np.ndarray:
    """g^-1 of the module's text."""
    root = np.sqrt(n)
    k = np.where(np.abs(skew) < 1e-6, 1e-6, skew)  # the limit is y itself
    return np.asarray(3 * root / k * (np.cbrt(1 + k / root * (y - k / (6 * root))) - 1))


def varies(x: np.ndarray) -> np.ndarray:
    """Whether samples differ by more than rounding.

    Args:
        x: Samples along the first axis, (n, ...); NaN where there is none.

    Returns:
        Bool (...); False where there is no sample.
    """
    with np.errstate(invalid="ignore"):
        top = np.where(np.isfinite(x), x, -np.inf).max(0, initial=-np.inf)
        bottom = np.where(np.isfinite(x), x, np.inf).min(0, initial=np.inf)
        return np.asarray(top - bottom > 1e-12 * np.maximum(np.abs(top), np.abs(bottom)))


def wilson_ends(share: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's interval of a share, of which :func:`newcombe` is made.

    Args:
        share: The share, (...).
        n: Samples, (...).
        level: Coverage.

    Returns:
        Lower and upper ends, (...); NaN where n is 0.
    """
    z = norm.ppf(0.5 + level / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        low, high = np.where(share <= 0, 0.0, centre - half), np.where(share >= 1, 1.0, centre + half)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def newcombe(both: int, first: int, second: int, neither: int, level: float) -> tuple[float, float]:
    """Interval of the difference of two shares of the same tasks (Newcombe 1998, method 10).

    Args:
        both: Tasks in which both arms are 1.
        first: Tasks in which only the first arm is 1.
        second: Tasks in which only the second arm is 1.
        neither: Tasks in which no arm is 1.
        level: Coverage.

    Returns:
        Lower and upper end of share(first arm) - share(second arm).
    """
    n = both + first + second + neither
    a, b = (both + first) / n, (both + second) / n
    (low_a, low_b), (high_a, high_b) = (
        tuple(map(float, ends)) for ends in wilson_ends(np.array([a, b]), np.array([n, n]), level)
    )
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = both * neither - first * second
    corrected = max(cross - n / 2, 0.0) if cross > 0 else float(cross)  # continuity, towards no correlation
    phi = corrected / np.sqrt(margins) if margins else 0.0
    down = (a - low_a) ** 2 - 2 * phi * (a - low_a) * (high_b - b) + (high_b - b) ** 2
    up = (b - low_b) ** 2 - 2 * phi * (b - low_b) * (high_a - a) + (high_a - a) ** 2
    return a - b - float(np.sqrt(max(down, 0.0))), a - b + float(np.sqrt(max(up, 0.0)))


def effective_n(share: np.ndarray, clusters: np.ndarray, total: np.ndarray, level: float) -> np.ndarray:
    """How many independent samples a share of clustered ones is worth (Korn and Graubard 1998).

    Args:
        share: The overall share, (...).
        clusters: Share within each cluster, (m, ...); NaN where there is none.
        total: Samples over all clusters, (...).
        level: Coverage that the number is to be used at.

    Returns:
        Between the number of clusters, which are independent, and ``total``: the number of clusters where they all have
        the same share, which says nothing about how alike samples of one cluster are.
    """
    m = np.isfinite(clusters).sum(0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.nansum((clusters - share) ** 2, 0) / (m - 1) / m
        worth = share * (1 - share) / variance
        # Few clusters give their own variance badly: the ratio of the quantiles pays for it.
        q = 0.5 + level / 2
        worth = worth * (student.ppf(q, total - 1) / student.ppf(q, m - 1)) ** 2
    return np.where(varies(clusters), np.clip(worth, m, total), m)
