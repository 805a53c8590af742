"""What steps bring, read off results over numbers of steps: gains, who gains more, and passes in series or parallel.

    gain(k, K) = [y_network(K) - y_network(k)] - [y_ideal(K) - y_ideal(k)]        of each task, seeds averaged

is what the model gains from K steps over k beyond what the same schedules give an ideal denoiser, which knows the
answers. The contrast of long and short tasks is a difference of these, pair by pair::

    contrast = gain of the long task - gain of its short partner

Steps that add serial computation give a contrast above zero; a posterior that is unfolded gives none.

``passes`` compares n passes spent in series (one video of n steps) with n passes in parallel (m videos of n / m steps
each): ``best`` of the m takes a judge who knows the answer, and is what parallel passes could reach at the most;
``drawn`` is one of them at random, which takes no judge.

When not to use: with shares near 0 or 1 in one of the groups only. A group that is at the ceiling cannot gain, whatever
the mechanism; look at the curves first (:func:`by_length`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats.intervals import by_task, mean_interval

OVER = ("task", "seed")


def by_length(
    values: xr.DataArray,
    bins: Sequence[tuple[int, int]],
    *,
    over: str | Sequence[str] = OVER,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> xr.Dataset:
    """Means with intervals over tasks, for each bin of lengths.

    Args:
        values: Along ``over`` and any other dims, with the coordinate ``length`` (task).
        bins: The least and the greatest length of each bin.
        over: As of :func:`dit_lens.stats.mean_interval`.
        bounds: Likewise.

    Returns:
        ``value``, ``low``, ``high``, ``n`` and ``exact`` with the dim ``length``, labelled "3-4".

    Raises:
        MeasureError: No ``length``, no bins, or a bin without tasks.
    """
    if "length" not in values.coords or not bins:
        raise MeasureError("a curve by length needs values with the coordinate 'length' and bins, e.g. [(3, 4)]")
    found = []
    for low, high in bins:
        inside = (values["length"] >= low) & (values["length"] <= high)
        if not inside.any():
            raise MeasureError(f"no task has a length of {low} to {high}: found {_range(values)}; choose other bins")
        some = values.isel(task=np.flatnonzero(inside.values))
        found.append(mean_interval(some.drop_vars("length"), over, bounds=bounds))
    names = [f"{low}-{high}" if low < high else f"{low}" for low, high in bins]
    joined = xr.concat(found, "length", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    return joined.assign_coords(length=names)


def gain(found: xr.Dataset, few: int, many: int, reading: str = "right") -> xr.DataArray:
    """What each task gains from many steps over few: the network, the ideal denoiser, and the excess of the network.

    Args:
        found: As ``dit_lens.experiments.solved_by_steps`` gives it.
        few: A number of steps.
        many: Another.
        reading: ``"right"`` or ``"solved"``.

    Returns:
        (kind, task), kinds ``network``, ``ideal`` and ``excess``, -2 to 2.

    Raises:
        MeasureError: Numbers of steps or a reading that ``found`` has not.
    """
    known = [int(n) for n in found["num_inference_steps"].values]
    if missing := [n for n in (few, many) if n not in known]:
        raise MeasureError(f"{missing} steps were not measured: choose from {known}")
    if reading not in found:
        raise MeasureError(f"reading={reading!r} was not measured: choose from {list(map(str, found.data_vars))}")
    seeds = [dim for dim in OVER if dim in found[reading].dims]
    y = by_task(found[reading], seeds)
    up = y.sel(num_inference_steps=many, drop=True) - y.sel(num_inference_steps=few, drop=True)
    parts = [up.sel(kind="network", drop=True), up.sel(kind="ideal", drop=True)]
    whole = xr.concat([*parts, parts[0] - parts[1]], "kind", coords="minimal", compat="override")
    about = {"long_name": f"{reading}, {many} steps minus {few}", "units": "share"}
    return whole.assign_coords(kind=["network", "ideal", "excess"]).transpose("kind", ..., "task").assign_attrs(about)


def pairs_by_length(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Short and long halves of tasks that were matched in pairs, ``[*short, *long]``.

    Args:
        values: Along ``task``, with the coordinate ``length``.

    Returns:
        (short, long), both with tasks numbered by pair.

    Raises:
        MeasureError: The second half is not longer than the first, pair by pair.
    """
    half, odd = divmod(values.sizes["task"], 2)
    order = values["length"].values if "length" in values.coords else np.zeros(2 * half)
    if odd or not half or not (order[:half] < order[half:]).all():
        raise MeasureError(
            "these tasks are no pairs of short and long: measure [*short, *long] of "
            "dit_lens.experiments.matched_lengths(...)"
        )
    halves = [values.isel(task=part) for part in (slice(0, half), slice(half, None))]
    gone = [str(name) for name, coord in values.coords.items() if coord.dims == ("task",)]
    short, long = (one.drop_vars(gone).assign_coords(task=range(half)) for one in halves)
    return short, long


def passes(found: xr.Dataset, reading: str = "solved") -> xr.Dataset:
    """The same number of passes in series and in parallel, task by task.

    Args:
        found: As ``dit_lens.experiments.solved_by_steps`` gives it, with m seeds of each task.
        reading: ``"right"`` or ``"solved"``.

    Returns:
        ``series`` (one video of n steps), ``drawn`` and ``best`` (of m videos of n / m steps each, one of them and the
        best of them) over (num_inference_steps, kind, task), for every n of which n / m was measured, too.

    Raises:
        MeasureError: Fewer than two seeds, or no such n.
    """
    y = found[reading].astype(float)
    m = y.sizes.get("seed", 1)
    known = [int(n) for n in y["num_inference_steps"].values]
    numbers = [n for n in known if n % m == 0 and n // m in known]
    if m < 2 or not numbers:
        raise MeasureError(
            f"{m} seed(s) and steps {known}: passes in parallel need two or more seeds, and numbers of steps of which "
            "one is that many times another, e.g. seeds=(0, 1), num_inference_steps=(2, 4)"
        )
    series = y.sel(num_inference_steps=numbers).mean("seed")
    each = y.sel(num_inference_steps=[n // m for n in numbers]).assign_coords(num_inference_steps=numbers)
    told: dict[str, Any] = {"series": series, "drawn": each.mean("seed"), "best": each.max("seed")}
    made = xr.Dataset(told).transpose("num_inference_steps", "kind", ..., "task")
    return made.assign_attrs(videos_in_parallel=m, reading=reading)


def redrawn(found: xr.Dataset, reading: str = "solved") -> xr.DataArray:
    """Whether another seed gives another verdict: what redrawing alone does, as a null of what more steps change.

    Args:
        found: As ``dit_lens.experiments.solved_by_steps`` gives it, with two or more seeds.
        reading: ``"right"`` or ``"solved"``.

    Returns:
        Share of the pairs of seeds that differ, over the other dims of ``found[reading]``.

    Raises:
        MeasureError: Fewer than two seeds.
    """
    y = found[reading].astype(float)
    m = y.sizes.get("seed", 1)
    if m < 2:
        raise MeasureError("redrawing needs two or more seeds of each task: measure with seeds=(0, 1)")
    share = y.mean("seed")
    return (2 * share * (1 - share) * m / (m - 1)).assign_attrs(long_name=f"{reading}: seeds differ", units="share")


def _range(values: xr.DataArray) -> str:
    return f"{int(values['length'].min())} to {int(values['length'].max())}"
