"""Means and shares over tasks, with intervals whose coverage was simulated (docs/statistics.md).

    stats.mean_interval(scores, bounds=(0, 1))          # value, low, high, n, exact
    stats.share_interval(solved, over=("task", "seed"))

Tasks are the unit, never steps or tokens of one task. Where there are several levels (task, noise seed, training seed),
``over`` names them from the top down: what lies below the first is averaged within it, and the interval is over the
first alone. ``attrs["interval_over"]`` says which that is, and so what the number holds for: an interval over tasks
is about other tasks of these families under these trainings, not about another training.

When not to use: to compare two arms of the same tasks. Two intervals that overlap say little about a paired difference;
take :func:`dit_lens.stats.paired`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats.bounded import bounded_ends
from dit_lens.stats.methods import effective_n, skew_t, student_t, varies
from dit_lens.stats.shares import clustered_ends, share_ends

#: Fewer tasks give no interval: none of the methods holds its level there.
FEWEST = 5


def mean_interval(
    values: xr.DataArray,
    over: str | Sequence[str] = "task",
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    exact: bool = False,
    normal: bool = False,
) -> xr.Dataset:
    """Mean over tasks with its interval.

    Args:
        values: Numbers along ``over`` and any other dims; NaN entries are left out.
        over: The dim that the interval generalises over, or several from the top level down; the lower ones are
            averaged within the first before anything else.
        level: Coverage.
        bounds: The least and the greatest value that the outcome can have. The interval is then Gaffke's, which holds
            whatever the outcome's shape: it allows for tasks not seen anywhere within the bounds. Where all values lie
            on the two bounds the outcome is two-valued and has the interval of a share.
        exact: The number is the same for every task by construction (an identity, a placebo that changes nothing), so
            that equal values have an interval of width zero.
        normal: The values are near normal by themselves, as means over many tasks are, one for each of a few trainings.
            The interval is Student's, from two values on.

    Returns:
        Variables ``value, low, high, n`` and ``exact`` over the other dims. ``low`` and ``high`` are NaN below five
        tasks, and where all values are equal and neither ``bounds`` nor ``exact`` says what that means. ``exact`` is
        True where the width is zero by construction. Attributes ``interval_over``, ``averaged_over`` (the lower
        levels, if any), ``level``, ``method``, and ``no_interval``: why cells have none, where some do.

    Raises:
        MeasureError: For dims that ``values`` do not have, bounds that they leave, a level outside (0, 1), ``exact``
            values that differ, or ``normal`` with bounds.
    """
    if normal and bounds is not None:
        raise MeasureError("values within bounds are not normal: leave out normal=True or bounds")
    _, x, template, attrs = _samples(values, over, level)
    n = np.isfinite(x).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(x, 0) / np.where(n > 0, n, np.nan)
    if normal:
        low, high = student_t(x, level)
    else:
        low, high = skew_t(x, level) if bounds is None else _bounded(x, mean, n, _checked_bounds(x, bounds), level)
    same = ~varies(x) & (n > 0)
    if exact:
        if bool((~same & (n > 0)).any()):
            raise MeasureError(
                "exact=True is for a number that is the same for every task by construction, and these differ: leave "
                "it out"
            )
        low, high = np.where(same, mean, low), np.where(same, mean, high)
    fewest = 2 if normal else FEWEST
    enough = (n >= fewest) | (same & exact)
    data = {
        "value": mean, "low": np.where(enough, low, np.nan), "high": np.where(enough, high, np.nan), "n": n,
        "exact": same & exact,
    }  # fmt: skip
    plain = "Student's t" if normal else "Hall's skewness-corrected t"
    method = plain if bounds is None else "Gaffke, within bounds; Blaker where two-valued"
    few, bare = n < fewest, same & (n >= fewest) & (bounds is None)
    reasons = _reasons(few & ~(same & exact), bare & ~np.asarray(exact), fewest)
    return _dataset(data, template, {**attrs, "method": method, **reasons})


def share_interval(values: xr.DataArray, over: str | Sequence[str] = "task", *, level: float = 0.95) -> xr.Dataset:
    """Share of ones over tasks with Blaker's interval, which has a width where all or none are ones.

    Args:
        values: Zeros and ones (or booleans) along ``over`` and any other dims; NaN entries are left out.
        over: A dim, or several from the top level down. With several, samples of one task are not independent: the
            interval is that of the number of independent samples that they are worth (Korn and Graubard 1998),
            between the number of tasks and that of samples.
        level: Coverage, at the least.

    Returns:
        Variables ``value, low, high, n, exact`` as of :func:`mean_interval`; ``n`` counts tasks. Tasks weigh equally.

    Raises:
        MeasureError: For dims that ``values`` do not have, values other than 0 and 1, or a level outside (0, 1).
    """
    numbers = values.astype(float)
    if not bool((numbers.isnull() | (numbers == 0) | (numbers == 1)).all()):
        raise MeasureError("a share is of zeros and ones: compare first (values > 0.5), or take mean_interval")
    top, x, template, attrs = _samples(numbers, over, level)
    n = np.isfinite(x).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.nansum(x, 0) / np.where(n > 0, n, np.nan)
    lower = [dim for dim in _levels(over) if dim != top]
    if lower:
        total = numbers.notnull().sum(_levels(over)).transpose(*template.dims).values
        low, high = clustered_ends(share, effective_n(share, x, total, level), level)
    else:
        low, high = share_ends(np.nansum(x, 0), n, level)
    few = n < FEWEST
    data = {
        "value": share, "low": np.where(few, np.nan, low), "high": np.where(few, np.nan, high), "n": n,
        "exact": np.zeros(n.shape, bool),
    }  # fmt: skip
    method = "Korn and Graubard, clustered" if lower else "Blaker"
    return _dataset(data, template, {**attrs, "method": method, **_reasons(few, np.zeros_like(few), FEWEST)})


def _levels(over: str | Sequence[str]) -> list[str]:
    return [over] if isinstance(over, str) else list(over)


def _samples(
    values: xr.DataArray, over: str | Sequence[str], level: float
) -> tuple[str, np.ndarray, xr.DataArray, dict[str, Any]]:
    """(top level, samples along it (n, ...), a template of the other dims, attributes)."""
    levels = _levels(over)
    unknown = [dim for dim in levels if dim not in values.dims]
    if unknown or not levels:
        raise MeasureError(f"values have dims {list(values.dims)}, and over={levels} asks for others: name one of them")
    if not 0 < level < 1:
        raise MeasureError(f"level={level}: give a share between 0 and 1, e.g. .95")
    averaged = by_task(values, levels)
    template = averaged.sum(levels[0])
    attrs = {**values.attrs, "interval_over": levels[0], "level": level}
    if len(levels) > 1:
        attrs["averaged_over"] = ", ".join(levels[1:])
    return levels[0], averaged.transpose(levels[0], *template.dims).values.astype(float), template, attrs


def by_task(values: xr.DataArray, over: str | Sequence[str] = "task") -> xr.DataArray:
    """Levels below the first of ``over`` averaged within it, NaN left out; tasks weigh equally afterwards.

    Args:
        values: Numbers along ``over`` and any other dims.
        over: A dim, or several from the top level down.
    """
    lower = _levels(over)[1:]
    return values.astype(float).mean(lower, keep_attrs=True) if lower else values.astype(float)


def _checked_bounds(x: np.ndarray, bounds: tuple[float, float]) -> tuple[float, float]:
    least, greatest = map(float, bounds)
    slack = 1e-6 * (greatest - least)  # float32 means
    outside = np.isfinite(x) & ((x < least - slack) | (x > greatest + slack))
    if not least < greatest or outside.any():
        found = f"{np.nanmin(x):g} to {np.nanmax(x):g}" if np.isfinite(x).any() else "no values"
        raise MeasureError(f"bounds={bounds}: give the least and the greatest possible value; found {found}")
    return least, greatest


def _bounded(
    x: np.ndarray, mean: np.ndarray, n: np.ndarray, bounds: tuple[float, float], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ends within bounds; those of a share where the values are two-valued."""
    least, greatest = bounds
    width = greatest - least
    low, high = bounded_ends(x, bounds, level)
    two = (np.isnan(x) | np.isclose(x, least, atol=1e-9 * width) | np.isclose(x, greatest, atol=1e-9 * width)).all(0)
    hits = np.where(two & (n > 0), (mean - least) / width * n, 0.0)
    ends = [least + width * end for end in share_ends(hits, np.where(two, n, 0), level)]
    return np.where(two, ends[0], low), np.where(two, ends[1], high)


def _reasons(few: np.ndarray, equal: np.ndarray, fewest: int) -> dict[str, str]:
    """Why cells have no interval, as an attribute; none where all have one."""
    said = [
        f"{int(cells.sum())} of {cells.size} cells: {why}"
        for cells, why in (
            (few, f"fewer than {fewest} tasks"),
            (equal, "all values are equal, and neither bounds nor exact=True says what other tasks could give"),
        )
        if cells.any()
    ]
    return {"no_interval": "; ".join(said)} if said else {}


def _dataset(data: dict[str, np.ndarray], template: xr.DataArray, attrs: dict[str, Any]) -> xr.Dataset:
    arrays = {name: template.copy(data=np.asarray(values)) for name, values in data.items()}
    for array in arrays.values():
        array.attrs = {}
    return xr.Dataset(arrays, attrs=attrs)
