"""Methods that change a network: patches, ablation, attribution, knockout, windows of layers.

Each takes a planted network and tasks, calls the toolkit as a user would, and gives what it found of each task beside
the method's own null. On unlinked tasks the projection on base and source means nothing (they differ in their picture),
and what is read is the redness on the side of the source's label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr

from dit_lens.experiments import knockouts
from dit_lens.interventions import ablate
from dit_lens.planted.pictures import COLS, ROWS, PlantTask
from dit_lens.planted.planting import Planted
from dit_lens.planted.truth import HOOKS
from dit_lens.planted.weights import AMPLITUDE, HEADS
from dit_lens.progress import silent
from dit_lens.runner import Sweep
from dit_lens.runner.attribution import attribute
from dit_lens.runner.metrics import state
from dit_lens.wan.run import Run

Tasks = Sequence[PlantTask]


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found.

    Attributes:
        effect: (task, and one or more dims of cells); NaN where there is nothing to measure.
        null: The same under the method's own null, or a number.
        p: p of each cell, corrected over cells, of methods that come with their own; by sign flips for the others.
    """

    effect: xr.DataArray
    null: xr.DataArray | float = 0.0
    p: xr.DataArray | None = None


def toward_label(run: Run, base: Run, source: Run) -> float:
    """Redness on the side of the source's label, where its task shows the answer; 1 is a planted answer."""
    return float(redness(state(run, run), source.task) * source.task.label / AMPLITUDE)


def redness(latents: torch.Tensor, task: PlantTask) -> torch.Tensor:
    """Mean redness of latents or of a velocity (C, F, h, w) where the answer is shown."""
    red = latents[12]
    if task.shown == "later":
        return red[1:].mean()
    key = torch.from_numpy(task.places["key"]).reshape(ROWS, COLS)
    return red[0][key.repeat_interleave(2, 0).repeat_interleave(2, 1)].mean()


def swept(made: Planted, tasks: Tasks, **how: Any) -> Found:
    """A sweep with the twin of the other answer as source, read per task."""
    linked = tasks[0].linked
    sweep = Sweep(
        made.lens, tasks=tasks, source="other_answer", seed_step=1, progress=silent,
        metric="projection" if linked else toward_label, **how,
    )  # fmt: skip
    raw = sweep.raw()
    value = raw["value"] - raw["base"]
    if linked:
        value = value / (raw["source"] - raw["base"])
    value = value.isel(seed=0, drop=True).reset_coords(drop=True)
    value = value.squeeze([d for d in ("hook", "head", "region", "branch") if value.sizes[d] == 1], drop=True)
    value = value.assign_coords(task=range(len(tasks)))
    null = value.sel(kind="placebo", drop=True) if "placebo" in sweep.kinds else 0.0
    return Found(value.sel(kind="effect", drop=True), null)


def horizon(made: Planted) -> str:
    """Where effects are read: "local", at once, or "final", in the finished video.

    It is the finished video where a step at which nothing happens has no x0_hat of its own.
    """
    return "local" if made.spec.open is None and len(made.spec.experts) == 1 else "final"


def every_step(made: Planted) -> list[range]:
    """All steps as one group: an edit that is held."""
    return [range(made.spec.n_steps)]


def patch_updates(made: Planted, tasks: Tasks) -> Found:
    """The update of each block at each step, (step, layer)."""
    return swept(made, tasks, horizon=horizon(made))


def patch_components(made: Planted, tasks: Tasks) -> Found:
    """What each component adds, held over all steps, (layer, hook)."""
    found = swept(made, tasks, steps=every_step(made), hooks=list(HOOKS.values()), horizon="final")
    return _one_step(found)


def patch_heads(made: Planted, tasks: Tasks) -> Found:
    """Each head's output, held over all steps, (layer, head)."""
    return _one_step(swept(made, tasks, steps=every_step(made), hooks="z", heads=range(HEADS), horizon="final"))


def patch_branches(made: Planted, tasks: Tasks) -> Found:
    """The update of each block in each branch, held over all steps, (layer, branch)."""
    return _one_step(swept(made, tasks, steps=every_step(made), branches=list(made.truth.network.branches),
                           horizon="final"))  # fmt: skip


def windows(made: Planted) -> list[range]:
    """Runs of half of the layers, each shifted by one."""
    n = made.spec.n_layers
    width = max(2, n // 2)
    return [range(i, i + width) for i in range(n - width + 1)]


def patch_windows(made: Planted, tasks: Tasks) -> Found:
    """Updates of a window of layers together, held over all steps, (layer)."""
    return _one_step(swept(made, tasks, steps=every_step(made), layers=windows(made), horizon="final"))


def ablate_updates(made: Planted, tasks: Tasks) -> Found:
    """Each block skipped at each step, (step, layer); half of the way to the source is an answer that is gone."""
    return swept(made, tasks, edit=ablate, placebo="none", horizon=horizon(made))


def ablate_components(made: Planted, tasks: Tasks) -> Found:
    """Nothing added by each component, held over all steps, (layer, hook)."""
    return _one_step(swept(made, tasks, edit=ablate, placebo="none", steps=every_step(made),
                           hooks=list(HOOKS.values()), horizon="final"))  # fmt: skip


def attribute_updates(made: Planted, tasks: Tasks) -> Found:
    """Estimated local effects, (step, layer), from the first step on at which base and source can differ."""
    return Found(_attributed(made, tasks, ["update"])["update"])


def attribute_components(made: Planted, tasks: Tasks) -> Found:
    """Estimated local effects of each component, summed over steps, (layer, hook)."""
    found = _attributed(made, tasks, list(HOOKS.values()))
    return Found(found.to_dataarray("hook").sum("step").transpose("task", "layer", "hook"))


def _attributed(made: Planted, tasks: Tasks, hooks: Sequence[str]) -> xr.Dataset:
    first = 0 if made.spec.open is None else min(made.spec.open)
    steps = range(first, made.spec.n_steps)
    rows = []
    for i, task in enumerate(tasks):
        base, source = (made.lens.generate(t, seed=i) for t in (task, task.twin("other_answer")))
        objective = None if task.linked else _toward(source.task)
        rows.append(attribute(made.lens, base, source, hooks=hooks, steps=steps, path_points=4, objective=objective))
    return xr.concat(rows, "task").assign_coords(task=range(len(tasks))).reset_coords(drop=True)


def _toward(task: PlantTask) -> Callable[[torch.Tensor], torch.Tensor]:
    """Redness of x0_hat on the side of a task's label, to be differentiated."""
    return lambda x0: redness(x0, task) * task.label / AMPLITUDE


def cut_attention(made: Planted, tasks: Tasks) -> Found:
    """Attention of later frames to each region cut at each layer, beside a cut to random tokens, (region, layer).

    An effect is how far the finished video moves, in standard deviations.
    """
    layers = {str(layer): layer for layer in range(made.spec.n_layers)}
    edges = (("later", "key"), ("later", "other"))
    moved = knockouts(made.lens, tasks, edges, layers, progress=silent)["moved"]
    named = moved.assign_coords(task=range(len(tasks)), layer=range(made.spec.n_layers), edge=["key", "other"])
    named = named.rename(edge="region").reset_coords(drop=True)
    return Found(named.sel(kind="cut", drop=True), named.sel(kind="random", drop=True))


def _one_step(found: Found) -> Found:
    """Without the dim of steps, which has one entry."""
    def first(values: Any) -> Any:
        return values.isel(step=0, drop=True) if isinstance(values, xr.DataArray) else values

    return Found(first(found.effect), first(found.null))
