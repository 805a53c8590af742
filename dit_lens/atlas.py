"""The map: which layers and steps of a model do what, from puzzles with known answers.

Evidence for every (step, layer): token energy by region against shuffled masks, attention to the foreground against
random masks, local effects of a block's update against the same scene at another seed, the layer lens; and effects of a
quarter of the layers held over *all* steps on the finished video, since one step often moves x0_hat and not the video.
Linear probes say what can be read of the scene and of the decision after each layer, on further puzzles.
``dit_lens.experiments.roles`` turns the evidence into one table and cuts it into early, middle and late, where layers
differ more than those of the same model with shuffled weights. Every number is a mean over puzzles with an interval.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.errors import TaskError
from dit_lens.experiments.ensembles import ensembles as measure_ensembles
from dit_lens.experiments.layer_lens import shuffled_weights
from dit_lens.experiments.roles import (
    PLACEBO_SEED,
    Roles,
    by_layer,
    control_evidence,
    layer_evidence,
    puzzle_runs,
    roles,
    with_probes,
)
from dit_lens.experiments.rows import Progress, needed
from dit_lens.measures import local_effects, region_energy, summarise
from dit_lens.probing.evidence import decodability, gains
from dit_lens.sweeps import Sweep
from dit_lens.wan.lens import Lens
from dit_lens.wan.record import record
from dit_lens.wan.run import Run

REGIONS = ("agent", "goal", "path", "walls", "background")
ENERGY = record("resid_post", reduce="token_norm", branches="cond")
LABELLED = ("maze", "choose", "occlude")  # families with labels for probes
FEWEST = 8  # puzzles that probes can be fitted on
PROBE_SEED = 10_000  # puzzles for probes are other ones than those that are patched
GROUPS = 4  # runs of layers whose update is held over all steps


@dataclass(frozen=True, eq=False)
class Map:
    """A finished map.

    ``layers``: the table, (expert, layer), one column per evidence. ``roles``: the cut and what it rests on.
    ``effects`` (step, layer): local effects. ``held`` (layers): effects on the video of updates held over all steps.
    ``energy`` (step, layer, region). ``decodable`` (label, step, layer): scores of probes, with the input's, and the
    control's as null. ``ensembles`` (condition): scores of latents shared by three seeds, if asked for. ``clips``: the
    videos behind the largest effects of the first puzzle, (step, layer) -> name -> uint8 (F, H, W, 3). ``runs``: the
    bases. ``about``: every parameter.
    """

    effects: xr.Dataset
    held: xr.Dataset
    energy: xr.Dataset
    decodable: xr.Dataset
    layers: xr.Dataset
    ensembles: xr.Dataset
    roles: Roles
    clips: Mapping[tuple[int, int], Mapping[str, np.ndarray]] = field(repr=False)
    runs: Sequence[Run] = field(repr=False)
    about: dict[str, Any] = field(repr=False)

    def tables(self) -> dict[str, xr.Dataset]:
        """The labelled arrays by name, as ``write`` names their files."""
        names = ("layers", "effects", "held", "energy", "decodable", "ensembles")
        tables = {name: getattr(self, name) for name in names}
        return {name: table for name, table in tables.items() if table.data_vars}

    def write(self, folder: str | Path) -> Path:
        """Tables as CSV, runs as safetensors, and ``report.html``; the report's path."""
        from dit_lens.figures.atlas import write_report

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables().items():
            table.to_dataframe().reset_index().to_csv(folder / f"{name}.csv", index=False)
        for i, run in enumerate(self.runs):
            name = f"{getattr(run.task, 'name', 'task')}-{getattr(run.task, 'seed', run.seed)}"
            run.save(folder / "runs" / f"{i:02d}-{name}")
        return write_report(self, folder / "report.html")


def map(
    lens: Lens,
    tasks: Sequence[Any] | None = None,
    n: int = 2,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    scenes: int = 24,
    ensembles: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Map:
    """Generate puzzles, record, patch, read out, probe, compare with a model that learned nothing, and summarise.

    ``tasks``: families by name (``["maze"]``; all by default), of which ``n`` puzzles each are drawn, or tasks of your
    own with ``regions`` and ``twin(kind)``. ``steps``: steps to patch and read (six, spread over the schedule); every
    second of them is also measured in the control. ``scenes``: further puzzles, of the same families, that probes are
    fitted on (0: no probes; tasks of your own are probed themselves, if they are eight or more). ``ensembles``: also
    score latents shared by three seeds in the third quarter of the layers at step 0, beside the same seeds alone (half
    a minute more a puzzle). ``progress(done, total, what)`` is called before each puzzle. The same seed gives the same
    tables.

    Errors: :class:`TaskError` for too few puzzles or tasks without twins, :class:`MeasureError` for tasks without
    foreground, :class:`AddressError` for steps outside the plan.
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
    own = {name for task in drawn for name in task.regions}
    shown = [name for name in REGIONS if name in own] or sorted(own)
    effects, held, energies, evidence, runs = [], [], [], [], []
    first: tuple[Run, ...] = ()
    probed = _probed(families, drawn, scenes, seed)
    total = 2 * (len(drawn) + len(probed))
    seeds = [seed + i for i in range(len(drawn))]
    for done, (task, number) in enumerate(zip(drawn, seeds, strict=True)):
        progress(done, total, f"{getattr(task, 'name', 'task')} {number}")
        base, source, placebo = puzzle_runs(lens, task, number, few, ENERGY)
        effect = local_effects(lens, base, source, placebo, chosen)
        first = first or (base, source, placebo)
        effects.append(effect)
        held.append(_held(lens, base, source, placebo, groups))
        energies.append(_energy(base, shown, number))
        evidence.append(layer_evidence(lens, base, source, placebo, few, effect, seed=seed))
        runs.append(base)
    control = control_evidence(
        lens, drawn, seeds, few, lambda done, of, what: progress(len(drawn) + done, total, what), seed
    )
    trained, nothing = by_layer(evidence), by_layer(control)
    decodable = _decodable(lens, probed, few, seed, lambda done, of, what: progress(2 * len(drawn) + done, total, what))
    if decodable.sizes.get("label"):
        more = gains(decodable, [plan.at(s).expert for s in few])
        trained, nothing = with_probes(trained, more[0]), with_probes(nothing, more[1])
    progress(total, total, "writing")
    table, found = roles(trained, nothing, seed=seed)
    effect, energy = _joined(effects), _joined(energies)
    final = _joined(held)
    judged = [run for run in runs if hasattr(run.task, "score")]
    about = {
        "model": lens.name, "weights": lens.fingerprint, "tasks": families, "puzzles": len(drawn),
        "first seed": seed, "sampler": plan.scheduler, "steps": plan.n_steps, "guidance": plan.guidance,
        "steps patched": list(chosen), "steps of the layer table": list(few),
        "placebo": f"same scene, seed + {PLACEBO_SEED}",
        "control": f"every weight tensor's entries shuffled, seed {seed}; same puzzles, the steps of the layer table",
        "puzzles probed": len(probed), "seeds probed": f"from {seed + PROBE_SEED}",
        "solved": f"{sum(bool(r.score) for r in judged)} of {len(judged)}", "seconds": round(time.time() - began, 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {torch.get_num_threads()} threads",
        **{k: v for k, v in runs[0].meta.items() if k not in ("model", "fingerprint", "fps")},
    }  # fmt: skip
    local = _paired(effect, "effect", "placebo")
    return Map(
        local,
        _paired(final, "effect", "placebo"),
        _paired(energy, "region", "null").assign_attrs(null_name="shuffled masks"),
        _scores(decodable), table, _ensembles(lens, drawn, seed) if ensembles else xr.Dataset(), found,
        _clips(lens, first, local), runs, about,
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
    needed(names, "regions", "twin", cure="a map reads regions, and swaps with the twin of another answer")
    return list(names), sorted({str(getattr(task, "name", "task")) for task in names})


def _probed(families: Sequence[str], drawn: Sequence[Any], scenes: int, seed: int) -> list[Any]:
    """Puzzles for probes: further ones of the families that have a label, or the user's own; none if too few."""
    if not all(isinstance(task, puzzles.Task) for task in drawn):
        return list(drawn) if scenes and len(drawn) >= FEWEST else []
    asked = [name for name in families if name in LABELLED]
    if not asked or scenes < FEWEST:
        return []
    return [puzzles.load(asked[i % len(asked)], seed=seed + PROBE_SEED + i // len(asked)) for i in range(scenes)]


def _decodable(lens: Lens, probed: Sequence[Any], steps: Sequence[int], seed: int, progress: Progress) -> xr.Dataset:
    """Scores of probes in the model and in the control; empty where nothing is probed."""
    if not probed:
        return xr.Dataset()
    with shuffled_weights(lens, seed) as untrained:
        return decodability(lens, untrained, probed, steps, seed=seed + PROBE_SEED, progress=progress)


def _ensembles(lens: Lens, drawn: Sequence[Any], seed: int) -> xr.Dataset:
    """Scores of shared latents and their controls, one row a condition."""
    judged = [task for task in drawn if hasattr(task, "score")]
    found = measure_ensembles(lens, judged, other_layers=(), seed=seed).isel(metric=0).sel(continued="one")
    kept = found[["score", "low", "high", "n", "gain", "gain_low", "gain_high", "null"]].rename(score="value")
    return kept.drop_vars([c for c in kept.coords if c != "condition"])


def _clips(lens: Lens, first: Sequence[Run], effects: xr.Dataset, most: int = 4) -> dict[Any, Any]:
    """Base, source, patched and placebo videos (x0_hat of the patched step) behind the largest effects."""
    base, source, placebo = first
    values = effects["value"].transpose("step", "layer")
    order = np.argsort(-np.abs(np.nan_to_num(values.values)), axis=None)[:most]
    found = {}
    for s, layer in zip(*np.unravel_index(order, values.shape), strict=True):
        place = {"step": int(values["step"][s]), "layer": int(values["layer"][layer])}
        work = Sweep(lens, base, source, placebo=placebo, steps=[place["step"]], layers=[place["layer"]])
        runs = work.clips(0, **place)
        found[place["step"], place["layer"]] = {k: (r.video * 255).round().astype(np.uint8) for k, r in runs.items()}
    return found


def _scores(found: xr.Dataset) -> xr.Dataset:
    """What is shown of probes: their score, beside the input's and the control's."""
    if not found.data_vars:
        return xr.Dataset()
    names = {"score": "value", "untrained": "null"}
    kept = found[["score", "low", "high", "n", "untrained", "input"]].rename(names)
    kept = kept.drop_vars([c for c in kept.coords if c not in ("label", "step", "layer", "kind", "metric", "sigma")])
    kept["value"].attrs = {"long_name": "area under the ROC curve within scenes", "units": "chance 0.5"}
    return kept.assign_attrs(null_name="control")


def _spread(steps: Sequence[int], experts: Sequence[str]) -> list[int]:
    """Every second step of each expert, its first among them."""
    return [s for e in dict.fromkeys(experts) for s in [s for s, x in zip(steps, experts, strict=True) if x == e][::2]]


def _energy(base: Run, shown: Sequence[str], seed: int) -> xr.DataArray:
    """Energy of the regions to show, (step, layer, region, kind); NaN for those that this puzzle has not."""
    masks = {name: base.regions[name] for name in shown if name in base.regions}
    there = [name for name, mask in masks.items() if mask.any() and not mask.all()]
    return region_energy(base, there, seed=seed).isel(branch=0, drop=True).reindex(region=list(shown))


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
