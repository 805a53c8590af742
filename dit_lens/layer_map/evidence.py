"""What each layer does, as numbers by step and layer: the evidence of the map, of a model and of its controls.

For every layer l of every expert, of the cond branch:

    attention   what self-attention writes from the foreground into tokens outside of it, over the length of the stream
                - the same of random masks of the foreground's size (dit_lens.measures.attention_written)
    writing     log2 of (|update| on the foreground / elsewhere) - the same of random masks
    effect      x0_hat moved towards another answer by that answer's update - the same of the placebo
    readout     cosine(v_l, v) - cosine(v_{l-1}, v), layer lens without translator

All are what the layer itself adds, so that neighbours are not alike by construction. A layer that writes nothing has no
attention, however sharply it looks. Where a number does not exist (the update of a muted layer is zero everywhere, base
and source agree at a step) it is NaN at that place and nowhere else.

When not to use: one evidence by itself as proof of what a layer is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.experiments.energy_by_depth import FOREGROUND
from dit_lens.experiments.local_effects import local_effects
from dit_lens.layer_map.controls import control_model
from dit_lens.measures.energy import energy_ratio
from dit_lens.measures.layer_lens import layer_lens
from dit_lens.measures.region_attention import region_attention
from dit_lens.measures.token_masks import region_mask, shuffled_mask
from dit_lens.progress import Progress, silent
from dit_lens.runner.sweep import PLACEBO_SEED
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import Record, record
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import DEFAULT, Sampling

EVIDENCE = ("attention", "writing", "effect", "readout")
PROBED = ("scene", "choice")  # where probes were fitted
LONG = {
    "attention": ("written from the foreground into the rest", "% of the stream's length, above random masks"),
    "writing": ("update on the foreground against elsewhere", "log2, above random masks"),
    "effect": ("local effect of the update", "0 = base, 1 = source; above placebo"),
    "readout": ("gain of the read-out", "cosine"),
    "scene": ("gain in decodability of the scene", "AUC"),
    "choice": ("gain in decodability of the decision", "AUC"),
}
RANDOM_MASKS = 3


def layer_evidence(
    lens: Lens,
    base: Run,
    source: Run,
    placebo: Run,
    steps: Sequence[int],
    effects: xr.DataArray | None = None,
    foreground: Sequence[str] = FOREGROUND,
    seed: int = 0,
    exact: bool = True,
) -> xr.Dataset:
    """The four kinds of evidence of one task, each beside its null.

    Args:
        lens: The model.
        base: Recorded ``update`` with ``token_norm`` in the cond branch at ``steps``.
        source: The run with another answer.
        placebo: The run of the same scene at another seed.
        steps: The steps.
        effects: ``local_effects`` at ``steps``, if they are at hand.
        foreground: Names of regions.
        seed: Seed of the random masks.
        exact: As of ``local_effects``.

    Returns:
        (step, layer) for each evidence, and for the first three their null as ``<name>_null``.
    """
    mask = region_mask(base, foreground)
    seen = _written(lens, base, mask, steps, seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # updates of muted layers
        ratio = energy_ratio(base, mask, "update", seed=seed).isel(branch=0, drop=True).sel(step=list(steps))
    if effects is None:
        effects = local_effects(lens, base, source, placebo, steps, exact=exact)
    moved = effects.sel(step=list(steps))
    read = layer_lens(lens, base, tuple(steps), entry=True)["cosine"].sel(reading="raw", drop=True)
    found = {
        "attention": seen["region"] - seen["null"],
        "attention_null": seen["null"],
        "writing": ratio.sel(kind="region", drop=True) - ratio.sel(kind="null", drop=True),
        "writing_null": ratio.sel(kind="null", drop=True),
        "effect": moved.sel(kind="effect", drop=True) - moved.sel(kind="placebo", drop=True),
        "effect_null": moved.sel(kind="placebo", drop=True),
        "readout": read.diff("layer"),  # labelled by the later layer
    }
    plain = {k: v.transpose("step", "layer").reset_coords(drop=True) for k, v in found.items()}
    expert = [base.plan.at(s).expert for s in steps]
    return xr.Dataset(plain).assign_coords(step=list(steps), expert=("step", expert))


def _written(lens: Lens, base: Run, mask: np.ndarray, steps: Sequence[int], seed: int) -> xr.Dataset:
    """What attention writes from the foreground (region) and from random masks (null), (step, layer), in percent.

    Queries are the tokens outside the foreground; for a random mask those that are outside of it as well, since tokens
    attend to themselves. Where none is left for a random mask, it is left out.
    """
    rng = np.random.default_rng(seed)
    drawn = [shuffled_mask(mask, base.grid, rng) for _ in range(RANDOM_MASKS)]
    drawn = [other for other in drawn if not (mask | other).all()]
    keys = {"region": mask} | {f"null {i}": other for i, other in enumerate(drawn)}
    queries = {name: ~(mask | other) for name, other in keys.items()}
    found = region_attention(
        lens, base, queries=queries, keys=keys, steps=tuple(steps), branches="cond", seed=seed, draws=1, written=True
    )["written"].isel(branch=0, drop=True)  # fmt: skip
    parts = {name: 100 * found.sel(query=name, key=name, drop=True) for name in keys}
    nulls = [part for name, part in parts.items() if name != "region"]
    null = xr.concat(nulls, dim="draw").mean("draw") if nulls else xr.zeros_like(parts["region"])
    return xr.Dataset({"region": parts["region"], "null": null}).reset_coords(drop=True)


def puzzle_runs(
    lens: Lens, task: Any, seed: int, steps: Sequence[int], how: Sampling = DEFAULT, /, *also: Record,
    stop_after: int | None = None,
) -> tuple[Run, Run, Run]:  # fmt: skip
    """Generate base, source (the twin with another answer) and placebo of a task.

    Args:
        lens: The model.
        task: The task.
        seed: The noise seed.
        steps: Where the base records what the evidence needs.
        how: The sampling.
        *also: Further recordings of the base.
        stop_after: The last step of all three.

    Returns:
        Base, source and placebo.
    """
    update = record("update", reduce="token_norm", branches="cond", steps=tuple(steps))
    return (
        lens.generate(task, seed=seed, record=[update, *also], sampling=how, stop_after=stop_after),
        lens.generate(task.twin("other_answer"), seed=seed, sampling=how, stop_after=stop_after),
        lens.generate(task, seed=seed + PLACEBO_SEED, sampling=how, stop_after=stop_after),
    )


def puzzle_evidence(
    lens: Lens, task: Any, number: int, steps: Sequence[int], seed: int, how: Sampling = DEFAULT, /, exact: bool = True
) -> xr.Dataset:
    """Generate one task, as far as is read, and take its :func:`layer_evidence`; ``how`` is the sampling."""
    runs = puzzle_runs(lens, task, number, steps, how, stop_after=max(steps))
    return layer_evidence(lens, *runs, steps, seed=seed, exact=exact)


def control_evidence(
    lens: Lens,
    tasks: Sequence[Any],
    seeds: Sequence[int],
    steps: Sequence[int],
    progress: Progress = silent,
    seed: int = 0,
    controls: int = 1,
    exact: bool = True,
) -> list[list[xr.Dataset]]:
    """The same evidence from models that learned nothing (:func:`dit_lens.layer_map.controls.control_model`).

    Args:
        lens: The model.
        tasks: The tasks.
        seeds: Their noise seeds.
        steps: The steps.
        progress: Called as ``progress(done, total, what)``.
        seed: The first seed of the controls.
        controls: How many there are.
        exact: As of ``local_effects``.

    Returns:
        For each control one dataset a task.
    """
    found, total = [], controls * len(tasks)
    for c in range(controls):
        with control_model(lens, c, seed) as nothing:
            rows = []
            for i, (task, number) in enumerate(zip(tasks, seeds, strict=True)):
                progress(c * len(tasks) + i, total, f"control {c}, {getattr(task, 'name', task)} {number}")
                rows.append(puzzle_evidence(nothing, task, number, steps, seed, exact=exact))
        found.append(rows)
    return found


def by_layer(rows: Sequence[xr.Dataset]) -> xr.Dataset:
    """Evidence of many tasks, (task, expert, layer): the mean over those of each expert's steps that have a number."""
    joined = xr.concat(rows, dim="task", coords="minimal", compat="override")
    order = [e for e in ("high", "low") if e in joined["expert"].values]
    parts = []
    for expert in order:
        part = joined.isel(step=np.flatnonzero(joined["expert"].values == expert))
        counted = part.notnull().sum("step")
        parts.append(part.sum("step") / counted.where(counted > 0))
    return xr.concat(parts, dim="expert").assign_coords(expert=order)


def by_control(controls: Sequence[Sequence[xr.Dataset]]) -> xr.Dataset:
    """Evidence of many tasks in many controls, (control, task, expert, layer)."""
    return xr.concat([by_layer(rows) for rows in controls], dim="control")


def with_probes(evidence: xr.Dataset, gains: xr.Dataset) -> xr.Dataset:
    """Add gains in decodability, (task, expert, layer), of other tasks to evidence by layer."""
    names = [f"patched {i}" for i in range(evidence.sizes["task"])]
    both = [evidence.assign_coords(task=names), gains.sel(expert=evidence["expert"].values)]
    return xr.merge([part.reset_coords(drop=True) for part in both], join="outer", compat="no_conflicts")
