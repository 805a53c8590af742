"""The map: which layers and steps of a model do what, from puzzles with known answers.

Evidence for every (step, layer): token energy by region against shuffled masks, attention to the foreground against
random masks, local effects of a block's update against the same scene at another seed, the layer lens; and effects of a
quarter of the layers held over *all* steps on the finished video, since one step often moves x0_hat and not the video.
``dit_lens.experiments.roles`` turns the evidence into one table and cuts it into early, middle and late, where layers
differ more than those of the same model with shuffled weights. Every number is a mean over puzzles with an interval.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.errors import TaskError
from dit_lens.experiments.roles import (
    PLACEBO_SEED,
    Roles,
    by_layer,
    control_evidence,
    layer_evidence,
    puzzle_runs,
    roles,
)
from dit_lens.experiments.rows import Progress
from dit_lens.measures import local_effects, region_energy, summarise
from dit_lens.sweeps import Sweep
from dit_lens.wan.lens import Lens
from dit_lens.wan.record import record
from dit_lens.wan.run import Run

REGIONS = ("agent", "goal", "path", "walls", "background")
ENERGY = record("resid_post", reduce="token_norm", branches="cond")
GROUPS = 4  # runs of layers whose update is held over all steps


@dataclass(frozen=True, eq=False)
class Map:
    """A finished map.

    ``layers``: the table, (expert, layer), one column per evidence. ``roles``: the cut and what it rests on.
    ``effects`` (step, layer): local effects. ``held`` (layers): effects on the video of updates held over all steps.
    ``energy`` (step, layer, region). ``runs``: the bases. ``about``: every parameter.
    """

    effects: xr.Dataset
    held: xr.Dataset
    energy: xr.Dataset
    layers: xr.Dataset
    roles: Roles
    runs: Sequence[Run] = field(repr=False)
    about: dict[str, Any] = field(repr=False)

    def tables(self) -> dict[str, xr.Dataset]:
        """The labelled arrays by name, as ``write`` names their files."""
        return {name: getattr(self, name) for name in ("layers", "effects", "held", "energy")}

    def write(self, folder: str | Path) -> Path:
        """Tables as CSV, runs as safetensors, and ``report.html``; the report's path."""
        from dit_lens.figures.atlas import write_report

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables().items():
            table.to_dataframe().reset_index().to_csv(folder / f"{name}.csv", index=False)
        for i, run in enumerate(self.runs):
            run.save(folder / "runs" / f"{i:02d}-{run.task.name}-{run.task.seed}")
        return write_report(self, folder / "report.html")


def map(
    lens: Lens,
    tasks: Sequence[Any] | None = None,
    n: int = 2,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Map:
    """Generate puzzles, record, patch, read out, compare with a model that learned nothing, and summarise.

    ``tasks``: families by name (``["maze"]``; all by default), of which ``n`` puzzles each are drawn, or tasks of your
    own with regions and twins. ``steps``: steps to patch and read (six, spread over the schedule); every second of them
    is also measured in the control. ``progress(done, total, what)`` is called before each puzzle. The same seed gives
    the same tables.

    Errors: :class:`TaskError` for too few puzzles, :class:`AddressError` for steps outside the plan.
    """
    drawn, families = _drawn(tasks, n, seed)
    began = time.time()
    plan = lens.plan()
    last = plan.n_steps - 1
    chosen = sorted({round(q * last) for q in (0, 0.1, 0.25, 0.5, 0.75, 1)}) if steps is None else sorted(set(steps))
    for step in chosen:
        plan.at(step)  # refused now, not after minutes
    few = _spread(chosen, [plan.at(s).expert for s in chosen])
    groups = [range(g[0], g[-1] + 1) for g in np.array_split(np.arange(lens.n_layers), GROUPS)]
    effects, held, energies, evidence, runs = [], [], [], [], []
    total = 2 * len(drawn)
    seeds = [seed + i for i in range(len(drawn))]
    for done, (task, number) in enumerate(zip(drawn, seeds, strict=True)):
        progress(done, total, f"{getattr(task, 'name', 'task')} {number}")
        base, source, placebo = puzzle_runs(lens, task, number, few, ENERGY)
        effect = local_effects(lens, base, source, placebo, chosen)
        effects.append(effect)
        held.append(_held(lens, base, source, placebo, groups))
        energies.append(region_energy(base, REGIONS, seed=number).isel(branch=0, drop=True))
        evidence.append(layer_evidence(lens, base, source, placebo, few, effect, seed=seed))
        runs.append(base)
    control = control_evidence(
        lens, drawn, seeds, few, lambda done, of, what: progress(len(drawn) + done, total, what), seed
    )
    progress(total, total, "writing")
    table, found = roles(by_layer(evidence), by_layer(control), seed=seed)
    effect, energy = _joined(effects), _joined(energies)
    final = _joined(held)
    about = {
        "model": lens.name, "weights": lens.fingerprint, "tasks": families, "puzzles": len(drawn),
        "first seed": seed, "sampler": plan.scheduler, "steps": plan.n_steps, "guidance": plan.guidance,
        "steps patched": list(chosen), "steps of the layer table": list(few),
        "placebo": f"same scene, seed + {PLACEBO_SEED}",
        "control": f"every weight tensor's entries shuffled, seed {seed}; same puzzles, the steps of the layer table",
        "solved": f"{sum(bool(r.score) for r in runs)} of {len(runs)}", "seconds": round(time.time() - began, 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {torch.get_num_threads()} threads",
        **{k: v for k, v in runs[0].meta.items() if k not in ("model", "fingerprint", "fps")},
    }  # fmt: skip
    return Map(
        _paired(effect, "effect", "placebo"),
        _paired(final, "effect", "placebo"),
        _paired(energy, "region", "null").assign_attrs(null_name="shuffled masks"),
        table, found, runs, about,
    )  # fmt: skip


def _drawn(tasks: Sequence[Any] | None, n: int, seed: int) -> tuple[list[Any], list[str]]:
    """The puzzles, and the names of their families."""
    names = puzzles.names() if tasks is None else tuple(tasks)
    if all(isinstance(name, str) for name in names):
        if n < 2:
            raise TaskError("a map needs n >= 2 puzzles of each task, or there is no interval to draw")
        return [puzzles.load(name, seed=seed + i) for name in names for i in range(n)], list(names)
    if len(names) < 2:
        raise TaskError("a map needs two or more puzzles, or there is no interval to draw")
    return list(names), sorted({str(getattr(task, "name", "task")) for task in names})


def _spread(steps: Sequence[int], experts: Sequence[str]) -> list[int]:
    """Every second step of each expert, its first among them."""
    return [s for e in dict.fromkeys(experts) for s in [s for s, x in zip(steps, experts, strict=True) if x == e][::2]]


def _held(lens: Lens, base: Run, source: Run, placebo: Run, groups: Sequence[range]) -> xr.DataArray:
    """Effect on the finished video, (kind, layers), of updates held over all steps in each group of layers."""
    found = Sweep(
        lens, base, source, placebo=placebo, steps=[range(base.plan.n_steps)], layers=groups, horizon="final"
    ).run(lambda done, total, what: None)
    kinds = [found[f"raw_{kind}"].squeeze(drop=True).reset_coords(drop=True) for kind in ("effect", "placebo")]
    joined = xr.concat(kinds, dim="kind").rename(layer="layers").assign_coords(kind=["effect", "placebo"])
    about = {"long_name": "effect on the video, updates held over all steps", "units": "0 = base, 1 = source"}
    return joined.rename(None).assign_attrs(about)


def _joined(rows: Sequence[xr.DataArray]) -> xr.DataArray:
    return xr.concat(rows, dim="puzzle", coords="minimal", compat="override")


def _paired(values: xr.DataArray, kind: str, null: str) -> xr.Dataset:
    """Summary of one kind with the mean of its null beside it."""
    found = summarise(values.sel(kind=kind, drop=True))
    return found.assign(null=summarise(values.sel(kind=null, drop=True), resamples=1)["value"])
