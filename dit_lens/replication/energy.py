"""Claims about layer energy (paper, Fig. 6a): layers below depth .225 (9 of 40) are early, from 2/3 on deep."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.experiments.energy_by_depth import HOOKS, SHIFT, energy
from dit_lens.measures.energy import profile_stability
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import (
    DIFFERENCE,
    HALF_UP,
    SMALLEST,
    UP,
    Estimate,
    Measured,
    Reading,
    Row,
    mean,
)
from dit_lens.tasks import batch, names
from dit_lens.wan.lens import Lens

WHAT = {"resid_post": "stream after the block", "update": "what the block adds"}
SOURCES = {"regions": "task regions", "difference": "first against final frame"}
MASKS = "random masks, same size per frame"


def measured(lens: Lens, n: int = 24, seed: int = 0, progress: Progress = silent, **arguments: Any) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks, of all families together.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.
        **arguments: For the experiment.

    Returns:
        ``energy`` on tasks of all families.
    """
    tasks = batch(names(), n, seed)
    return {"energy": energy(lens, tasks, seed=seed, progress=progress, **arguments)}


def _part(m: Measured, hook: str) -> xr.Dataset | None:
    found: xr.Dataset = m["energy"]
    return found.sel(hook=hook, drop=True) if hook in found["hook"].values else None


def _level(m: Measured, hook: str, source: str) -> Reading | None:
    part = _part(m, hook)
    if part is None:
        return None
    first, _, entry = _levels(part, source)
    return _reading(first, f"At the input, before any layer: {_text(mean(entry, None))}. {_by_task(first)}")


def _shift(m: Measured, hook: str, source: str) -> Reading | None:
    part = _part(m, hook)
    if part is None:
        return None
    first, after, _ = _levels(part, source)
    level = f"From depth .225 on the ratio itself is {_text(mean(after.sel(kind='region'), None))}."
    return _reading(after - first, f"{level} {_by_task(after - first)}")


def _levels(part: xr.Dataset, source: str) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """(task, kind) of layers below depth .225 and from there on, and (task,) of what enters block 0."""
    ratio, depth = part["energy"].sel(region=source, drop=True), part["depth"]
    early, later = (depth >= 0) & (depth < SHIFT), depth >= SHIFT
    first, after = (ratio.sel(layer=layers).mean(("layer", "step")) for layers in (early, later))
    return first, after, ratio.sel(kind="region", layer=-1).mean("step")


def _growth(m: Measured, hook: str) -> Reading | None:
    part = _part(m, hook)
    if part is None:
        return None
    variance, depth = part["variance"], part["depth"]
    early, deep = (
        variance.sel(layer=layers).mean(("layer", "step"))
        for layers in ((depth >= 0) & (depth < SHIFT), depth >= 2 / 3)
    )
    before, at = (_text(mean(v.sel(kind="region"), None)) for v in (early, deep))
    return _reading(deep - early, f"The ratio itself below .225: {before}, from 2/3 on: {at}. {_by_task(deep - early)}")


def _stability(m: Measured, hook: str) -> Reading | None:
    part = _part(m, hook)
    if part is None:
        return None
    ratio = part["energy"].sel(region="regions", drop=True).sel(layer=part["depth"] >= 0)
    remarks = []
    _, count = np.unique(part["expert"].values, return_counts=True)
    for pairs in ("within", "across") if len(count) > 1 and max(count) > 1 else ():
        r = profile_stability(ratio, pairs)
        real, draw = (_text(mean(r.sel(kind=kind), DIFFERENCE)) for kind in ("region", "draw"))
        remarks.append(f"Of steps {pairs} {'one expert' if pairs == 'within' else 'experts'}: {real}, null {draw}.")
    return _reading(profile_stability(ratio), " ".join(remarks), null="draw")


def _reading(values: xr.DataArray, remark: str, null: str = "null") -> Reading:
    """From values (task, kind)."""
    return Reading.along(values, "kind", ("region", null), remark.strip())


def _text(s: Estimate) -> str:
    return s.words(2)


def _by_task(values: xr.DataArray) -> str:
    """The same number by task family, above the null."""
    above = values.sel(kind="region") - values.sel(kind="null")
    means = above.groupby("family").mean()
    parts = [f"{task} {float(means.sel(family=task)):.2f}" for task in means["family"].values]
    return f"Above the null by task: {', '.join(parts)}."


def _shift_rows(hook: str, source: str) -> tuple[Row, Row]:
    over = f"{WHAT[hook]}; foreground from {SOURCES[source]}"
    return (
        Row(
            f"energy/early-{hook}-{source}",
            "Layers 0 to 9 of 40 carry global structure and background (Fig. 6a).",
            f"log2 energy, foreground over the rest, mean over layers of depth below .225 and all steps; {over}",
            "log2 ratio", MASKS, partial(_level, hook=hook, source=source),
            smallest=SMALLEST["log2"], less=True, within=(-math.inf, 0.0), nothing=0.0,
        ),
        Row(
            f"energy/shift-{hook}-{source}",
            "From about layer 9 of 40 on, energy shifts to the foreground and to the things the prompt names.",
            f"log2 energy, foreground over the rest: layers from depth .225 on minus layers below; {over}",
            "log2 ratio", MASKS, partial(_shift, hook=hook, source=source),
            smallest=SMALLEST["log2"], within=UP, nothing=0.0,
        ),
    )  # fmt: skip


def _rows(hook: str) -> tuple[Row, ...]:
    """The stream by both masks, the updates by task regions."""
    sources = SOURCES if hook == HOOKS[0] else ("regions",)
    return (
        *(row for source in sources for row in _shift_rows(hook, source)),
        Row(
            f"energy/growth-{hook}",
            "In deeper layers channel variance grows in the target regions.",
            "log2 channel variance over tokens, foreground over the rest: layers from depth 2/3 on minus layers below "
            f".225; {WHAT[hook]}; foreground from task regions",
            "log2 ratio", MASKS, partial(_growth, hook=hook),
            smallest=SMALLEST["log2"], within=UP, nothing=0.0,
        ),
        Row(
            f"energy/stable-{hook}",
            "The pattern over layers is stable across steps.",
            "Pearson correlation of the layer profile of log2 energy between two steps, mean over pairs of steps; "
            f"{WHAT[hook]}",
            "Pearson r", "one random mask of the same size in every frame", partial(_stability, hook=hook),
            smallest=SMALLEST["correlation"], within=HALF_UP,
        ),
    )  # fmt: skip


ROWS = tuple(row for hook in HOOKS for row in _rows(hook))
