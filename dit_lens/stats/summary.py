"""Means over tasks with bootstrap intervals, and what the tasks are called."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from dit_lens.errors import MeasureError


def summarise(values: xr.DataArray, over: str = "task", resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """Mean over tasks with a percentile bootstrap interval (95 %).

    Tasks are the unit that is resampled, never steps or tokens of one task.

    Args:
        values: Numbers along ``over`` and any other dims; NaN entries are left out.
        over: The dim of the tasks.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        Variables ``value, low, high, n`` over the other dims; no interval (NaN) with fewer than two tasks.

    Raises:
        MeasureError: ``over`` is not a dim of ``values``.
    """
    if over not in values.dims:
        raise MeasureError(f"values have axes {list(values.dims)}, and {over!r} is none of them")
    data = values.transpose(over, ...).values  # (puzzles, ...)
    rng = np.random.default_rng(seed)
    count = np.isfinite(data).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(data, 0) / count
        draws = np.empty((resamples, *data.shape[1:]), dtype=np.float32)
        for i in range(resamples):
            some = data[rng.integers(0, len(data), len(data))]
            draws[i] = np.nansum(some, 0) / np.isfinite(some).sum(0)
    few = count < 2
    low, high = np.full((2, *mean.shape), np.nan)
    if resamples and not few.all():
        with warnings.catch_warnings():  # places without any puzzle stay NaN, as they should
            warnings.simplefilter("ignore", RuntimeWarning)
            low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    template = values.isel({over: 0}, drop=True)
    return xr.Dataset(
        {
            "value": template.copy(data=mean),
            "low": template.copy(data=np.where(few, np.nan, low)),
            "high": template.copy(data=np.where(few, np.nan, high)),
            "n": template.copy(data=count),
        },
        attrs=values.attrs,
    )


def beside(values: xr.DataArray, null: xr.DataArray, over: str = "task", seed: int = 0) -> xr.Dataset:
    """Means of an effect and of its null, each with its interval.

    Args:
        values: The effect.
        null: The same under the null.
        over: The dim of the tasks.
        seed: Of the bootstrap.

    Returns:
        ``value, low, high, n, null, null_low, null_high``.
    """
    found, other = summarise(values, over, seed=seed), summarise(null, over, seed=seed)
    return found.assign(null=other["value"], null_low=other["low"], null_high=other["high"])


def share(values: xr.DataArray, over: str = "task") -> xr.Dataset:
    """Share of ones with Wilson's interval (95 %).

    Args:
        values: Zeros and ones; NaN entries are left out.
        over: The dim of the tasks.

    Returns:
        ``value, low, high, n``.
    """
    n = values.notnull().sum(over)
    k = values.sum(over)
    ends = np.full((2, *n.shape), np.nan)
    for at in np.ndindex(n.shape):
        if n.values[at]:
            ends[:, *at] = wilson(int(k.values[at]), int(n.values[at]))[1:]
    low, high = (k.copy(data=end) for end in ends)
    return xr.Dataset({"value": k / n.where(n > 0), "low": low, "high": high, "n": n})


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """A share with Wilson's 95 % interval, which has a width where nothing or everything hits.

    Args:
        hits: How many are ones.
        n: Of how many, one or more.

    Returns:
        (value, low, high).
    """
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return hits / n, float(interval.low), float(interval.high)


def task_names(tasks: Sequence[Any]) -> list[str]:
    """What the dim ``task`` is labelled with: family and seed, or the place in the list where a task has none."""
    return [f"{getattr(task, 'name', 'task')} {getattr(task, 'seed', i)}" for i, task in enumerate(tasks)]
