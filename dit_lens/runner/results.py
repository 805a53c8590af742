"""From measured cells to a labelled array with placebo, n and interval."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.runner.cells import Axes, Cell
from dit_lens.stats.summary import beside


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
    over = "task" if len(sweep.tasks) > 1 else "seed"
    normal = {k: v.mean("seed" if over == "task" else "task") for k, v in normal.items()}
    null = normal.get("placebo", xr.full_like(normal["effect"], np.nan))
    summary = beside(normal["effect"], null, over=over).assign({f"raw_{k}": data[k] for k in data.data_vars})
    summary = summary.squeeze([d for d in ("hook", "head", "region", "branch") if len(coords[d]) == 1])
    what = getattr(sweep.metric, "__name__", "metric")
    unit = "0 = base, 1 = source" if sweep.has_source else f"{what}, minus base"
    summary["value"].attrs = {"long_name": f"effect on {what}", "units": unit}
    summary["null"].attrs = {"long_name": "placebo", "units": unit}
    summary = summary.assign_coords({name: found[name] for name in ("sigma", "expert")})
    horizon = sweep.engine.horizon
    told = {0: "local", None: "final"}.get(horizon, f"{horizon} further steps")
    return summary.assign_attrs(horizon=told, metric=what, interval_over=over, model=sweep.lens.name)


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
