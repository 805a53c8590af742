"""Where in depth a role lies: centre and width of a profile over layers, with intervals over tasks.

With w_l the positive part of the mean profile at layer l of L, and depth d_l = (l + 1/2) / L::

    centre = sum w_l d_l / sum w_l            width = sqrt(sum w_l (d_l - centre)^2 / sum w_l)

Both are ratios of means over tasks; their intervals are those of the mean of the jackknife's pseudo-values
n theta - (n - 1) theta_without_i (Tukey 1958), by :func:`dit_lens.stats.mean_interval`. The order of two roles is the
difference of their centres, with the interval of the paired pseudo-values.

When not to use: for profiles with two separate peaks, whose centre lies where nothing is: look at the profile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from dit_lens.stats.intervals import mean_interval


@dataclass(frozen=True)
class Estimate:
    """A number over tasks with its 95 % interval; NaN ends where there are too few tasks."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = f" [{self.low:.2f}, {self.high:.2f}]" if np.isfinite(self.low) else ""
        return f"{self.value:.2f}{ends}"


@dataclass(frozen=True)
class Centre:
    """Where a role lies, in depth: its centre and its width."""

    centre: Estimate
    width: Estimate


def centre(profile: np.ndarray) -> np.ndarray:
    """The depth at which the positive part of profiles (L, ...) is centred; NaN where there is none."""
    depth, weight = _weights(profile)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.tensordot(depth, weight, 1) / weight.sum(0))


def width(profile: np.ndarray) -> np.ndarray:
    """The spread in depth of the positive part of profiles (L, ...), a standard deviation; NaN where there is none."""
    depth, weight = _weights(profile)
    with np.errstate(invalid="ignore"):
        away = (depth.reshape(-1, *[1] * (weight.ndim - 1)) - centre(profile)) ** 2
        return np.asarray(np.sqrt((weight * away).sum(0) / weight.sum(0)))


def _weights(profile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths (L,), and the positive part of a profile, zero where it is missing."""
    return (np.arange(len(profile)) + 0.5) / len(profile), np.clip(np.nan_to_num(profile), 0, None)


def pseudo_values(tasks: np.ndarray, number: Callable[[np.ndarray], np.ndarray]) -> tuple[float, np.ndarray]:
    """A number of the mean profile, and its jackknife pseudo-values.

    Args:
        tasks: Profiles (n, L); NaN where a task has none.
        number: From a profile (L,) to a number.

    Returns:
        The number of the mean over tasks, and (n,) pseudo-values.
    """
    n = len(tasks)
    whole = float(number(mean(tasks)))
    without = np.array([float(number(mean(np.delete(tasks, i, 0)))) for i in range(n)]) if n > 1 else np.full(n, np.nan)
    return whole, n * whole - (n - 1) * without


def mean(tasks: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is there; NaN where nothing is."""
    count = np.isfinite(tasks).sum(0)
    return np.asarray(np.nansum(tasks, 0) / np.where(count > 0, count, np.nan))


def estimate(value: float, pseudo: np.ndarray) -> Estimate:
    """A number with the interval of its pseudo-values."""
    found = mean_interval(xr.DataArray(pseudo, dims="task"))
    return Estimate(value, float(found["low"]), float(found["high"]))


def centre_of(tasks: np.ndarray) -> Centre:
    """Centre and width of the mean of profiles (n, L)."""
    return Centre(estimate(*pseudo_values(tasks, centre)), estimate(*pseudo_values(tasks, width)))


def behind(first: np.ndarray, second: np.ndarray) -> Estimate:
    """How far the centre of one role lies behind that of another, in depth.

    Args:
        first: Profiles of the one that is thought to come first, (n, L).
        second: Of the other, (m, L). On the same tasks in the same order the comparison is paired; of different numbers
            of tasks there is no interval.

    Returns:
        Negative where the second comes first.
    """
    (a, one), (b, other) = pseudo_values(first, centre), pseudo_values(second, centre)
    if len(one) != len(other):
        return Estimate(b - a, float("nan"), float("nan"))
    return estimate(b - a, other - one)
