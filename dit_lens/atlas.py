"""The map: which layers and steps of a model do what, from puzzles with known answers.

Two kinds of evidence so far: token energy by region (against shuffled masks) and local update patches (against the same
scene at another seed). Every number is a mean over puzzles with a bootstrap interval.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.errors import TaskError
from dit_lens.measures import local_effects, region_energy, summarise
from dit_lens.wan.lens import Lens
from dit_lens.wan.record import record
from dit_lens.wan.run import Run

Progress = Callable[[int, int, str], None]
REGIONS = ("agent", "goal", "path", "walls", "background")


@dataclass(frozen=True, eq=False)
class Map:
    """A finished map: ``effects`` (step, layer), ``energy`` (step, layer, region), ``layers`` (expert, layer), runs."""

    effects: xr.Dataset
    energy: xr.Dataset
    layers: xr.Dataset
    runs: Sequence[Run] = field(repr=False)
    about: dict[str, Any] = field(repr=False)

    def write(self, folder: str | Path) -> Path:
        """Tables as CSV, runs as safetensors, and ``report.html``; the report's path."""
        from dit_lens.figures.atlas import write_report

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("effects", "energy", "layers"):
            getattr(self, name).to_dataframe().reset_index().to_csv(folder / f"{name}.csv", index=False)
        for i, run in enumerate(self.runs):
            run.save(folder / "runs" / f"{i:02d}-{run.task.name}-{run.task.seed}")
        return write_report(self, folder / "report.html")


def map(
    lens: Lens,
    names: Sequence[str] | None = None,
    n: int = 3,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Map:
    """Generate ``n`` puzzles of each task, record, patch, and summarise.

    ``names``: task families (all). ``steps``: steps to patch (six, spread over the schedule). ``progress(done, total,
    what)`` is called before each puzzle. The same seed gives the same tables.
    """
    families = puzzles.names() if names is None else tuple(names)
    if n < 2:
        raise TaskError("a map needs n >= 2 puzzles of each task, or there is no interval to draw")
    began = time.time()
    plan = lens.plan()
    chosen = sorted({round(q * (plan.n_steps - 1)) for q in (0, 0.1, 0.25, 0.5, 0.75, 1)}) if steps is None else steps
    for step in chosen:
        plan.at(step)  # refused now, not after minutes
    effects, energies, runs = [], [], []
    chores = [(name, i) for name in families for i in range(n)]
    for done, (name, i) in enumerate(chores):
        progress(done, len(chores), f"{name} {seed + i}")
        task = puzzles.load(name, seed=seed + i)
        base = lens.generate(task, seed=seed + i, record=record("resid_post", reduce="token_norm", branches="cond"))
        source = lens.generate(task.twin("other_answer"), seed=seed + i)
        placebo = lens.generate(task, seed=seed + i + 10_000)
        effects.append(local_effects(lens, base, source, placebo, chosen))
        energies.append(region_energy(base, REGIONS, seed=seed + i).isel(branch=0, drop=True))
        runs.append(base)
    progress(len(chores), len(chores), "writing")
    effect = xr.concat(effects, dim="puzzle", coords="minimal", compat="override")
    energy = xr.concat(energies, dim="puzzle", coords="minimal", compat="override")
    about = {
        "model": lens.name, "weights": lens.fingerprint, "tasks": list(families), "puzzles of each task": n,
        "first seed": seed, "sampler": plan.scheduler, "steps": plan.n_steps, "guidance": plan.guidance,
        "steps patched": list(chosen), "placebo": "same scene, seed + 10000",
        "solved": f"{sum(bool(r.score) for r in runs)} of {len(runs)}", "seconds": round(time.time() - began, 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        **{k: v for k, v in runs[0].meta.items() if k not in ("model", "fingerprint", "fps")},
    }  # fmt: skip
    return Map(
        _paired(effect, "effect", "placebo"),
        _paired(energy, "region", "null").assign_attrs(null_name="shuffled masks"),
        _table(effect),
        runs,
        about,
    )


def _paired(values: xr.DataArray, kind: str, null: str) -> xr.Dataset:
    """Summary of one kind with the mean of its null beside it."""
    found = summarise(values.sel(kind=kind, drop=True))
    return found.assign(null=summarise(values.sel(kind=null, drop=True), resamples=1)["value"])


def _table(effect: xr.DataArray) -> xr.Dataset:
    """One row per expert and layer: effect above placebo, averaged over the expert's patched steps."""
    rows = {}
    for expert in ("high", "low"):
        mine = effect.isel(step=np.flatnonzero(effect["expert"].values == expert))
        if mine.sizes["step"]:
            rows[expert] = mine.mean("step")
    joined = xr.concat(list(rows.values()), dim="expert").assign_coords(expert=list(rows))
    above = summarise(joined.sel(kind="effect", drop=True) - joined.sel(kind="placebo", drop=True))
    null = summarise(joined.sel(kind="placebo", drop=True), resamples=1)["value"]
    verdict = np.where(above["low"] > 0, "above placebo", "not above placebo")
    return xr.Dataset(
        {
            "effect": above["value"].assign_attrs(long_name="effect above placebo"),
            "effect_low": above["low"],
            "effect_high": above["high"],
            "effect_null": null,
            "effect_n": above["n"],
            "verdict": (("expert", "layer"), verdict),
        }
    )
