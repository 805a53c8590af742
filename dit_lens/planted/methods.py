"""The methods of the toolkit as rows of one table: what each claims, what is true of it, and when a cell counts.

A cell is *called* where its difference from the method's own null has p <= .05, corrected over the method's cells (by
sign flips over tasks and the largest statistic, or the method's own correction), and is at least ``smallest``, which is
stated here and not chosen after the fact. Methods that say where something *is* (attention, energy, a read-out, a
decodable label) are told apart from those that say what is *used*: a decoy fools the first kind by design.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.planted import measuring, reading
from dit_lens.planted.measuring import Found, Tasks, every_step, horizon, windows
from dit_lens.planted.mechanism import Attend, Units
from dit_lens.planted.nulls import KINDS, Kind
from dit_lens.planted.planting import Planted
from dit_lens.planted.specs import BranchPlant, LabelPlant, LayerPlant, Spec, UnusedLabel
from dit_lens.planted.whole_specs import Nothing

SOME = 0.05  # an exact effect below this counts as none where membership is read off effects


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: How tables call it.
        claims: "use", what the answer depends on; "screen", an estimate of it that has to be measured again; or
            "presence", what is there.
        measure: Calls the toolkit.
        members: The cells that are true, bool.
        concerns: Which specs it is tried on.
        exact: What the number has to be, cell by cell, where that is known.
        guided: Whether networks without a mechanism are sampled with guidance for it.
        undecided: Cells of which the truth does not tell whether they are true, so that they do not count, bool.
        nulls: The networks without a mechanism in which whatever it calls is false.
        smallest: Smallest effect of interest, in the method's own unit.
        one_sided: Whether only more than the null counts.
        tasks: How many tasks it gets, as a multiple of those of a sweep.
    """

    name: str
    claims: Literal["use", "screen", "presence"]
    measure: Callable[[Planted, Tasks], Found]
    members: Callable[[Planted, Tasks], xr.DataArray]
    concerns: Callable[[Spec], bool] = lambda spec: True
    exact: Callable[[Planted, Tasks], xr.DataArray] | None = None
    smallest: float = 0.1
    one_sided: bool = False
    tasks: int = 1
    guided: bool = False
    undecided: Callable[[Planted, Tasks], xr.DataArray] | None = None
    nulls: tuple[Kind, ...] = KINDS


def _at_steps(made: Planted, tasks: Tasks) -> xr.DataArray:
    return made.truth.members().any("hook")


def _attributed(made: Planted, tasks: Tasks) -> xr.DataArray:
    return _at_steps(made, tasks).isel(step=slice(min(made.spec.open or (0,)), None))


def _held(made: Planted, tasks: Tasks, **how: bool) -> xr.DataArray:
    return made.truth.patch(tasks, steps=every_step(made), horizon="final", **how).isel(step=0, drop=True)


def _windows(made: Planted, tasks: Tasks) -> xr.DataArray:
    found = made.truth.patch(tasks, steps=every_step(made), layers=windows(made), horizon="final")
    return found.isel(step=0, drop=True)


def _cut(made: Planted, tasks: Tasks) -> xr.DataArray:
    return made.truth.attends(mechanism=True).any(["step", "head"])


def _used(made: Planted, tasks: Tasks) -> xr.DataArray:
    return xr.DataArray([made.spec.shown == "later", False], coords={"label": list(reading.BITS)}, dims="label")


def _responds(made: Planted, tasks: Tasks) -> xr.DataArray:
    """Layers of a rest after one that writes in the region: they read it there, and answer there."""
    writes = made.truth.writes_at_key(tasks)
    return (writes.cumsum("layer") > 0) & ~writes


def _has(kind: type, decoys: bool = False) -> Callable[[Spec], bool]:
    """Specs with a part of a kind in their mechanism (or anywhere)."""
    return lambda spec: any(
        isinstance(part, kind) for part in (*spec.mechanism(), *(spec.decoys() if decoys else ()))
    )


def _steerable(spec: Spec) -> bool:
    """Plants with a bit that is used, or one that is not, in the later frames: the check takes long."""
    return isinstance(spec, UnusedLabel | LabelPlant | Nothing) or spec == LayerPlant(layer=3, n_steps=2)


METHODS: tuple[Method, ...] = (
    Method(
        "patch", "use", measuring.patch_updates, _at_steps,
        exact=lambda made, tasks: made.truth.patch(tasks, horizon=horizon(made)),
    ),
    Method(
        "patch components", "use", measuring.patch_components,
        lambda made, tasks: made.truth.members().any("step"), exact=lambda made, tasks: _held(made, tasks, hooks=True),
    ),
    Method(
        "patch heads", "use", measuring.patch_heads, lambda made, tasks: made.truth.member_heads(), _has(Attend),
        lambda made, tasks: _held(made, tasks, heads=True),
    ),
    Method(
        "patch branches", "use", measuring.patch_branches,
        lambda made, tasks: abs(_held(made, tasks, branches=True)) > SOME, lambda spec: isinstance(spec, BranchPlant),
        lambda made, tasks: _held(made, tasks, branches=True), guided=True,
    ),
    Method(
        "patch windows", "use", measuring.patch_windows, lambda made, tasks: abs(_windows(made, tasks)) > SOME,
        exact=_windows,
    ),
    Method(
        "ablate", "use", measuring.ablate_updates, _at_steps,
        exact=lambda made, tasks: made.truth.ablate(tasks, horizon=horizon(made)),
    ),
    Method(
        "attribute", "screen", measuring.attribute_updates, _attributed, lambda spec: spec.experts == ("high",),
        lambda made, tasks: made.truth.patch(tasks).isel(step=slice(min(made.spec.open or (0,)), None)),
    ),
    Method("knockout", "use", measuring.cut_attention, _cut, _has(Attend, decoys=True), one_sided=True),
    Method(
        "causal check, normal", "use", reading.steer_along_normals, _used, _steerable, smallest=0.2, one_sided=True,
    ),
    Method(
        "causal check, pattern", "use", reading.steer_along_patterns, _used, _steerable, smallest=0.2, one_sided=True,
    ),
    Method(
        "region attention", "presence", reading.region_attention, lambda made, tasks: made.truth.attends(),
        _has(Attend, decoys=True), smallest=0.5, one_sided=True,
    ),
    Method(
        "energy", "presence", reading.update_energy, lambda made, tasks: made.truth.writes_at_key(tasks),
        lambda spec: spec.rest > 0 and _has(Units, decoys=True)(spec), smallest=0.5, one_sided=True,
        undecided=_responds,
    ),
    Method(
        "layer lens", "presence", reading.lens_answer, lambda made, tasks: abs(made.truth.shown(tasks)) > SOME,
        exact=lambda made, tasks: made.truth.shown(tasks),
    ),
    Method(
        "layer lens, cosine", "presence", reading.lens_gain, lambda made, tasks: made.truth.writes_read_out(tasks),
        lambda spec: spec.rest == 0, one_sided=True, nulls=("shuffled",),  # a random one is no shuffle of its weights
    ),
    Method(
        "probes", "presence", reading.probe_places, lambda made, tasks: made.truth.decodable(tasks),
        lambda spec: spec.shown == "later" or isinstance(spec, LabelPlant), smallest=0.15, one_sided=True, tasks=4,
    ),
)  # fmt: skip
BY_NAME = {method.name: method for method in METHODS}


def chosen(names: Sequence[str] | None) -> tuple[Method, ...]:
    """Methods by name; all of them by default."""
    unknown = [name for name in names or () if name not in BY_NAME]
    if unknown:
        raise MeasureError(f"unknown methods {unknown}: choose from {list(BY_NAME)}")
    return METHODS if names is None else tuple(BY_NAME[name] for name in names)


def truth_of(
    method: Method, made: Planted, tasks: Tasks, like: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """(members, all others that count, exact) in the dims of ``like``; exact is NaN where it is not known."""
    members = method.members(made, tasks).transpose(*like.dims)
    others = ~members
    if method.undecided is not None:
        others = others & ~method.undecided(made, tasks).transpose(*like.dims)
    exact = xr.full_like(like, np.nan)
    if method.exact is not None and made.spec.rest == 0:
        exact = method.exact(made, tasks).transpose(*like.dims)
    return members, others, exact
