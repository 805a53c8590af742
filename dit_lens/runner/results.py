"""From measured cells to a labelled array with placebo, n, interval, and p corrected over the cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.runner.cells import Axes, Cell
from dit_lens.stats.intervals import mean_interval
from dit_lens.stats.summary import summarise


def gather(sweep: Any, results: Mapping[Cell, Mapping[str, float]]) -> xr.Dataset:
    """Labelled arrays from the measured cells of a :class:`dit_lens.runner.Sweep`; what is not measured is NaN."""
    axes: Axes = sweep.axes
    found = raw(sweep, results)
    dims = ("task", "seed", *axes.coords())
    data = xr.Dataset({kind: found["value"].sel(kind=kind, drop=True) for kind in sweep.kinds})
    for end in ("base", "source"):  # the same whatever the kind
        data[end] = found[end].max("kind")
    data = data.transpose(*dims).drop_vars(["sigma", "expert"])
    coords = {name: data[name] for name in dims}
    normal = _normalised(data, sweep.kinds, sweep.has_source)
    levels = [level for level in ("task", "seed") if data.sizes[level] > 1] or ["task"]
    normal = {k: v.mean([level for level in ("task", "seed") if level not in levels]) for k, v in normal.items()}
    summary = _beside(normal["effect"], normal.get("placebo"), levels)
    summary = summary.assign({f"raw_{k}": data[k] for k in data.data_vars})
    summary = summary.squeeze([d for d in ("hook", "head", "region", "branch") if len(coords[d]) == 1])
    what = getattr(sweep.metric, "__name__", "metric")
    unit = "0 = base, 1 = source" if sweep.has_source else f"{what}, minus base"
    summary["value"].attrs = {"long_name": f"effect on {what}", "units": unit}
    summary["null"].attrs = {"long_name": "placebo", "units": unit}
    summary = summary.assign_coords({name: found[name] for name in ("sigma", "expert")})
    horizon = sweep.engine.horizon
    told = {0: "local", None: "final"}.get(horizon, f"{horizon} further steps")
    return summary.assign_attrs(horizon=told, metric=what, model=sweep.lens.name)


def _beside(effect: xr.DataArray, placebo: xr.DataArray | None, levels: list[str]) -> xr.Dataset:
    """Effect and placebo over the levels; without a placebo nothing is compared, and its variables are NaN."""
    if placebo is not None:
        return summarise(effect, placebo, levels)
    found = mean_interval(effect, levels)[["value", "low", "high", "n"]]
    ends = [f"{arm}{end}" for arm in ("null", "difference") for end in ("", "_low", "_high")]
    return found.assign({name: xr.full_like(found["value"], np.nan) for name in (*ends, "p", "p_corrected")})


def raw(sweep: Any, results: Mapping[Cell, Mapping[str, float]]) -> xr.Dataset:
    """Every number of every cell, (kind, task, seed, step, layer, hook, head, region, branch); NaN where missing."""
    axes: Axes = sweep.axes
    labels, seeds = axes.coords(), sweep.seeds
    coords: dict[str, Any] = {
        "kind": list(sweep.kinds), "task": range(len(sweep.tasks)), "seed": list(seeds), **labels,
    }  # fmt: skip
    shape = tuple(len(one) for one in coords.values())
    arrays: dict[str, np.ndarray] = {}
    for cell, numbers in results.items():
        for place in axes.places(cell):
            index = (sweep.kinds.index(cell.kind), *divmod(cell.item, len(seeds)), *place)
            for name, value in numbers.items():
                if name != "seconds":
                    arrays.setdefault(name, np.full(shape, np.nan))[index] = value
    plan = sweep.model_plan
    experts = [sorted({plan.at(step).expert for step in group}) for group in axes.steps]
    coords |= {
        "sigma": ("step", [plan.sigmas[group[0]] for group in axes.steps]),
        "expert": ("step", ["/".join(found) for found in experts]),
    }
    return xr.Dataset({name: (tuple(coords)[: len(shape)], values) for name, values in arrays.items()}, coords=coords)


def _normalised(data: xr.Dataset, kinds: tuple[str, ...], has_source: bool) -> dict[str, xr.DataArray]:
    """(m - m_base) / (m_source - m_base), NaN where base and source measure the same; without a source m - m_base."""
    if not has_source:
        return {k: data[k] - data["base"] for k in kinds}
    scale = data["source"] - data["base"]
    same = scale == 0
    if bool(same.any()):
        warnings.warn(
            f"the metric does not tell base from source in {int(same.sum())} of {int(scale.notnull().sum())} cells; "
            "they are left out of the means (n says how many remain), and stand in raw_effect",
            stacklevel=2,
        )
    return {k: ((data[k] - data["base"]) / scale.where(~same)) for k in kinds}
