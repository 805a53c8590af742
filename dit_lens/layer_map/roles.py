"""What each layer does: the table of the evidence beside control models, the model of depth, and the roles' places.

The evidence (:mod:`dit_lens.layer_map.evidence`) is averaged over the steps of an expert; where probes were fitted (on
other tasks; :mod:`dit_lens.layer_map.decodability`) there are two more:

    scene       gain in decodability of what stands in the first picture: walls, goals
    choice      gain in decodability of what the model decides: its path, which of several routes

The words have no other meaning here: a layer *perceives* as far as it makes the scene more decodable (without probes:
as far as it writes what it reads in the foreground into the rest of the video); it *decides* as far as its update,
taken from a run with another answer, moves x0_hat towards that answer; it *consolidates* as far as the velocity read
out after it is nearer to the final one than before it.

A network with nothing learned has depth trends of its own. So each number is taken again on the same tasks from several
models that learned nothing (:mod:`dit_lens.layer_map.controls`), and what is compared, cut and centred is the
difference to their mean. Stages are announced by a comparison of models of depth
(:mod:`dit_lens.layer_map.depth_models`); where each role lies, and in which order, is said in any case
(:mod:`dit_lens.layer_map.centres`).

When not to use: as the paper's claim tested on a large model from few tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.layer_map.centres import Centre, Estimate, behind, centre_of
from dit_lens.layer_map.depth_models import HEIGHTS, DepthModel, compare
from dit_lens.layer_map.evidence import EVIDENCE, LONG, PROBED
from dit_lens.stats.against_controls import against_controls
from dit_lens.stats.intervals import mean_interval
from dit_lens.stats.smallest_p import of_controls

ROLES = {"perceives": "attention", "decides": "effect", "consolidates": "readout"}
Order = tuple[str, str, Estimate]


def roles(
    trained: xr.Dataset, control: xr.Dataset, draws: int = 999, seed: int = 0, heights: Sequence[float] = HEIGHTS
) -> tuple[xr.Dataset, Roles]:
    """The layer table, and each expert's model of depth.

    Args:
        trained: Evidence by layer, (task, expert, layer), possibly with gains in decodability.
        control: The same of the control models, (control, task, expert, layer), on the same tasks; or of one of them.
        draws: Profiles drawn from each smooth model.
        seed: Their seed.
        heights: Heights of planted stages whose power is computed, in standard deviations.

    Returns:
        The table, (expert, layer): every evidence with ``<name>_low, _high, _n``; the mean of the controls as
        ``<name>_null``, and the least and the greatest of them as ``<name>_null_low, _null_high``; ``<name>_p``, the
        model's rank among the controls, corrected over layers and experts (:func:`dit_lens.stats.against_controls`:
        NaN with fewer than twenty, which ``attrs["no_mark"]`` says); ``depth``; and ``part`` (early, middle, late,
        place, or "-" where neither stages nor one place were found). And the roles.
    """
    n = trained.sizes["layer"]
    names = [*EVIDENCE, *(name for name in PROBED if name in trained)]
    meanings = ROLES | ({"perceives": "scene"} if "scene" in names else {})
    bands = {name: _band(control[name]) for name in names}
    above = xr.Dataset({name: trained[name] - bands[name].mean("control") for name in names})
    # Two experts are two tests: the level is corrected for that.
    level = 0.05 / trained.sizes["expert"]
    experts = trained["expert"].values.tolist()
    models = {
        expert: compare(
            above.sel(expert=expert, drop=True).mean("task").to_dataarray("evidence"), draws, seed, level, heights
        )
        for expert in experts
    }
    columns: dict[str, Any] = {}
    for name in names:
        mean = mean_interval(trained[name])
        columns[name] = mean["value"].assign_attrs(long_name=LONG[name][0], units=LONG[name][1], null_name="controls")
        columns |= {f"{name}_low": mean["low"], f"{name}_high": mean["high"], f"{name}_n": mean["n"]}
        band = bands[name].mean("task")
        columns[f"{name}_null"] = band.mean("control")
        columns |= {f"{name}_null_low": band.min("control"), f"{name}_null_high": band.max("control")}
        columns[f"{name}_p"] = against_controls(trained[name].mean("task"), band)["p_corrected"]
    part = np.full((trained.sizes["expert"], n), "-", dtype=object)
    for i, model in enumerate(models.values()):
        for word, run in zip(model.words(), model.runs(), strict=True):
            part[i, list(run)] = word
    columns["part"] = (("expert", "layer"), part.astype(str))
    profiles = {expert: {role: _profiles(above[name], expert) for role, name in meanings.items()} for expert in experts}
    centres = {expert: {role: centre_of(rows) for role, rows in found.items()} for expert, found in profiles.items()}
    orders = {
        expert: tuple((a, b, behind(found[a], found[b])) for a, b in pairwise(found))
        for expert, found in profiles.items()
    }
    depth = ("layer", np.arange(n) / n)
    table = xr.Dataset(columns, coords={"expert": experts, "layer": range(n), "depth": depth})
    count = max(band.sizes["control"] for band in bands.values())
    table = table.assign_attrs(controls=count, **of_controls(count).attrs())
    return table, Roles(models, centres, orders)


class Roles:
    """What was found of depth.

    Args:
        models: Expert -> its model of depth.
        centres: Expert -> role -> where it lies.
        orders: Expert -> pairs of neighbouring roles, and how far the second lies behind the first.
    """

    def __init__(
        self,
        models: Mapping[str, DepthModel],
        centres: Mapping[str, Mapping[str, Centre]],
        orders: Mapping[str, Sequence[Order]],
    ) -> None:
        self.models = dict(models)
        self.centres = {k: dict(v) for k, v in centres.items()}
        self.orders = {k: tuple(v) for k, v in orders.items()}

    def sentences(self) -> list[str]:
        """The findings in sentences with numbers."""
        said = []
        for expert, model in self.models.items():
            said.append(f"Expert {expert}: {model}.")
            parts = [f"{r} at {c.centre}, width {c.width}" for r, c in self.centres[expert].items()]
            said.append(f"Expert {expert}, centre of each role in depth, above the controls: {'; '.join(parts)}.")
            parts = [f"from {a} to {b} {found}" for a, b, found in self.orders[expert]]
            said.append(f"Expert {expert}, order of the centres, in depth: {'; '.join(parts)}.")
        return said

    def __repr__(self) -> str:
        return "\n".join(self.sentences())


def _band(control: xr.DataArray) -> xr.DataArray:
    """Evidence of the controls with their dim, also where there is one of them."""
    return control if "control" in control.dims else control.expand_dims("control")


def _profiles(above: xr.DataArray, expert: str) -> np.ndarray:
    """Profiles of the tasks that have one, (tasks, L)."""
    rows = above.sel(expert=expert).transpose("task", "layer").values
    return np.asarray(rows[np.isfinite(rows).any(1)])
