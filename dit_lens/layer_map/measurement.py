"""What a map measures, part by part: each task, each task in the control, probes, ensembles, clips.

The parts are items of a store (:mod:`dit_lens.store`), so that a survey of days can be stopped, and shared by several
processes. :mod:`dit_lens.layer_map.layer_map` combines them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.errors import TaskError
from dit_lens.experiments.local_effects import local_effects
from dit_lens.experiments.seed_ensembles import ensembles
from dit_lens.layer_map.controls import OpenControl
from dit_lens.layer_map.cost import map_cost, seconds_a_block
from dit_lens.layer_map.decodability import decodability
from dit_lens.layer_map.evidence import layer_evidence, puzzle_evidence, puzzle_runs
from dit_lens.measures import region_energy
from dit_lens.progress import Progress, silent
from dit_lens.runner import Sweep
from dit_lens.runner.cost import Cost
from dit_lens.runner.parts import make_parts
from dit_lens.stats.summary import summarise
from dit_lens.store.base import WAITING, Store
from dit_lens.store.identity import describe, task_identity
from dit_lens.tasks.requirements import needed
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import Sampling

Tables = Mapping[str, xr.Dataset]
RUNS = ("base", "source", "placebo")
REGIONS = ("agent", "goal", "path", "walls", "background")
ENERGY = record("resid_post", reduce="token_norm", branches="cond")
LABELLED = ("maze", "choose", "occlude")  # families with labels for probes
FEWEST = 8  # tasks that probes can be fitted on
PROBE_SEED = 10_000  # tasks for probes are other ones than those that are patched
GROUPS = 4  # runs of layers whose update is held over all steps
PUZZLE, CONTROL = 10, 3  # how long each takes beside a scene that is probed, about; for the time left


@dataclass(frozen=True, eq=False)
class Measured:
    """What a survey found.

    Attributes:
        effects: Local effects (task, step, layer, kind).
        held: Effects of updates held over all steps (task, layer, kind).
        energy: Token energy (task, step, layer, region, kind).
        trained: Evidence of each task.
        controls: Of each control the evidence of each task.
        decodable: Empty where not asked for.
        ensembles: Empty where not asked for.
        clips: (place, clip, frame, row, col, colour).
        runs: The base runs.
    """

    effects: xr.DataArray
    held: xr.DataArray
    energy: xr.DataArray
    trained: Sequence[xr.Dataset]
    controls: Sequence[Sequence[xr.Dataset]]
    decodable: xr.Dataset
    ensembles: xr.Dataset
    clips: xr.DataArray
    runs: Sequence[Run]


@dataclass(frozen=True, eq=False)
class Survey:
    """Which tasks are generated how, and where they are patched and read; make one with :func:`survey`.

    ``steps`` are patched; ``few`` are the steps of the layer table. ``probed`` are further tasks, for probes. ``how``
    is the sampling of all of them, ``controls`` the number of models that learned nothing, ``exact`` whether local
    effects are measured one patch at a time.
    """

    lens: Lens
    tasks: Sequence[Any]
    families: Sequence[str]
    probed: Sequence[Any]
    seed: int
    plan: Plan
    steps: Sequence[int]
    few: Sequence[int]
    how: Sampling
    controls: int
    exact: bool = False

    def parameters(self) -> dict[str, Any]:
        """Everything that can change a number, as plain values; ensembles may be asked for later."""
        how = self.how.given()
        return {
            **self.lens.identity(how.pop("scheduler", None)), "plan": describe(self.plan),
            "sampling": describe(how), "seed": self.seed, "steps": list(self.steps), "tasks": list(self.families),
            "n": len(self.tasks), "scenes": len(self.probed), "controls": self.controls, "exact": self.exact,
            "task": {
                f"{i}": {"base": task_identity(task), "twin": task_identity(_twin(task))}
                for i, task in enumerate(self.tasks)
            },
        }  # fmt: skip

    def cost(self, timed: bool = False) -> Cost:
        """What it costs in all; with a time where a step may be ``timed`` for it."""
        return map_cost(self, GROUPS, seconds_a_block(self) if timed else float("nan"))

    def run(self, kept: Store, ensembles: bool = False, progress: Progress = silent) -> Measured:
        """Make every part that is not kept yet.

        Args:
            kept: Where parts are kept.
            ensembles: Also measure the ensembles.
            progress: Called as ``progress(done, total, what)`` before each part, in units of about one probed scene.

        Returns:
            What was found.
        """
        numbers, n, probed = range(len(self.tasks)), len(self.tasks), 2 * len(self.probed)
        total = probed + (PUZZLE + CONTROL * self.controls) * n

        def waiting() -> None:
            progress(total * kept.done // len(kept.wanted or ()), total, WAITING)

        # Only where a control is not done: each needs the memory of the experts once more, one at a time.
        with OpenControl(self.lens, self.seed) as nothing:

            def puzzle(i: int) -> Tables:
                progress(probed + PUZZLE * i, total, self._called(i))
                return self._puzzle(i, kept)

            def control(c: int, i: int) -> Tables:
                progress(probed + PUZZLE * n + CONTROL * (c * n + i), total, f"control {c}, {self._called(i)}")
                found = puzzle_evidence(
                    nothing(c), self.tasks[i], self.seed + i, self.few, self.seed, self.how, exact=self.exact
                )
                return {"evidence": found}

            def probes() -> Tables:
                found = decodability(
                    self.lens, nothing(0), self.probed, self.few, seed=self.seed + PROBE_SEED, sampling=self.how,
                    folder=kept.child("decodable"), progress=lambda done, of, what: progress(done, total, what),
                )  # fmt: skip
                return {"decodable": found}

            # The largest part first: where processes share the work, they finish together.
            makes: dict[str, Callable[[], Tables]] = {"decodable": probes} if self.probed else {}
            makes |= {f"puzzle-{i}": partial(puzzle, i) for i in numbers}
            makes |= {f"control-{c}-{i}": partial(control, c, i) for c in range(self.controls) for i in numbers}
            later: dict[str, Callable[[], Tables]] = {"ensembles": self._ensembles} if ensembles else {}
            kept.wanted = {*makes, *later, "clips"}
            make_parts(kept, makes, _runs_of, waiting)
        make_parts(kept, later, waiting=waiting)  # when the controls' memory is free again
        rows = [kept.get(f"puzzle-{i}") for i in numbers]
        effects, held, energy = (_joined([row[name]["value"] for row in rows]) for name in ("effect", "held", "energy"))
        # The clips are of the first task, which may have no effect where others have one.
        there = effects.sel(kind="effect", drop=True)
        shown = there.mean("task").where(there.isel(task=0, drop=True).notnull())
        clips = {"clips": lambda: self._clips(kept, shown)}
        make_parts(kept, clips, waiting=waiting)
        progress(total, total, "writing")
        return Measured(
            effects, held, energy, [row["evidence"] for row in rows],
            [[kept.get(f"control-{c}-{i}")["evidence"] for i in numbers] for c in range(self.controls)],
            kept.get("decodable")["decodable"] if self.probed else xr.Dataset(),
            kept.get("ensembles")["ensembles"] if ensembles else xr.Dataset(),
            kept.get("clips")["clips"]["value"], [self._runs(kept, i, ("base",))[0] for i in numbers],
        )  # fmt: skip

    def _called(self, i: int) -> str:
        return f"{getattr(self.tasks[i], 'name', 'task')} {self.seed + i}"

    def _runs(self, kept: Store, i: int, names: Sequence[str] = RUNS) -> list[Run]:
        """Runs of a task as they are kept, with their tasks and a decoder."""
        tasks = {"base": self.tasks[i], "source": _twin(self.tasks[i]), "placebo": self.tasks[i]}
        runs = {name: Run.from_content(kept.get(f"puzzle-{i}.{name}")) for name in names}
        return [replace(self.lens.attach(run), task=tasks[name]) for name, run in runs.items()]

    def _puzzle(self, i: int, kept: Store) -> Tables:
        """Measure one task; keep its runs, its local effects and each cell of the sweep."""
        lens, task, number, inner = self.lens, self.tasks[i], self.seed + i, kept.child(f"puzzle-{i}")

        def generated() -> Tables:
            for name, run in zip(RUNS, puzzle_runs(lens, task, number, self.few, self.how, ENERGY), strict=True):
                inner.put(f"puzzle-{i}.{name}", run)
            return {"energy": self._energy(self._runs(inner, i)[0], number).to_dataset(name="value")}

        def moved() -> Tables:
            found = local_effects(lens, base, source, placebo, self.steps, exact=self.exact)
            return {"effect": found.to_dataset(name="value")}

        energy = inner.once("energy", generated)
        base, source, placebo = self._runs(inner, i)
        effect = inner.once("effect", moved)
        held = self._held(base, source, placebo, inner.child("held")).to_dataset(name="value")
        evidence = layer_evidence(lens, base, source, placebo, self.few, effect["effect"]["value"], seed=self.seed)
        for name, run in zip(_runs_of(f"puzzle-{i}"), (base, source, placebo), strict=False):
            kept.put(name, run)
        return {**energy, **effect, "held": held, "evidence": evidence}

    def _held(self, base: Run, source: Run, placebo: Run, folder: Store) -> xr.DataArray:
        """Effect on the finished video, (kind, layer), of updates held over all steps in each group of layers."""
        groups = [range(g[0], g[-1] + 1) for g in np.array_split(np.arange(self.lens.n_layers), GROUPS)]
        found = Sweep(
            self.lens, base, source, placebo=placebo, steps=[range(base.plan.n_steps)], layers=groups, horizon="final",
            folder=folder,
        ).run(silent)  # fmt: skip
        kinds = [found[f"raw_{kind}"].squeeze(drop=True).reset_coords(drop=True) for kind in ("effect", "placebo")]
        joined = xr.concat(kinds, dim="kind").assign_coords(kind=["effect", "placebo"])
        about = {"long_name": "effect on the video, updates held over all steps", "units": "0 = base, 1 = source"}
        return joined.rename(None).assign_attrs(about)

    def _energy(self, base: Run, number: int) -> xr.DataArray:
        """Energy of the regions to show, (step, layer, region, kind); NaN for those that this task does not have."""
        own = {name for task in self.tasks for name in task.regions}
        shown = [name for name in REGIONS if name in own] or sorted(own)
        masks = {name: base.regions[name] for name in shown if name in base.regions}
        there = [name for name, mask in masks.items() if mask.any() and not mask.all()]
        return region_energy(base, there, seed=number).isel(branch=0, drop=True).reindex(region=shown)

    def _ensembles(self) -> Tables:
        """Scores of shared latents and their controls, one row a condition."""
        judged = [task for task in self.tasks if hasattr(task, "score")]
        found = ensembles(self.lens, judged, other_layers=(), seed=self.seed, sampling=self.how)
        found = found.isel(metric=0).sel(reading="one")
        kept = found[["score", "low", "high", "n", "gain", "gain_low", "gain_high", "null"]].rename(score="value")
        told = {"remarks": "; ".join(found.attrs["remarks"])}  # a file of tables holds no lists
        return {"ensembles": kept.drop_vars([c for c in kept.coords if c != "kind"]).assign_attrs(told)}

    def _clips(self, kept: Store, effects: xr.DataArray, most: int = 4) -> Tables:
        """Base, source, patched and placebo videos (x0_hat of the patched step) behind the largest effects."""
        base, source, placebo = self._runs(kept, 0)
        values = effects.transpose("step", "layer")
        most = min(most, int(values.notnull().sum()))
        order = np.argsort(-np.abs(values.values), axis=None)[:most]  # NaN comes last
        found = []
        for s, layer in zip(*np.unravel_index(order, values.shape), strict=True):
            place = {"step": int(values["step"][s]), "layer": int(values["layer"][layer])}
            work = Sweep(self.lens, base, source, placebo=placebo, steps=[place["step"]], layers=[place["layer"]])
            videos = {k: (r.video * 255).round().astype(np.uint8) for k, r in work.clips(0, **place).items()}
            clip = xr.DataArray(
                np.stack(list(videos.values())), dims=("clip", "frame", "row", "col", "colour"),
                coords={"clip": list(videos), **place},
            )  # fmt: skip
            found.append(clip)
        if not found:
            none = np.zeros((0, 0, 0, 0, 0, 3), np.uint8)
            nothing = xr.DataArray(none, dims=("place", "clip", "frame", "row", "col", "colour"))
            return {"clips": nothing.to_dataset(name="value")}
        return {"clips": xr.concat(found, dim="place").to_dataset(name="value")}


def _runs_of(part: str) -> list[str]:
    """The runs that are kept beside a part: of the first task three, since clips are made from them."""
    names = RUNS if part == "puzzle-0" else RUNS[:1] if part.startswith("puzzle-") else ()
    return [f"{part}.{name}" for name in names]


def survey(
    lens: Lens,
    tasks: Sequence[Any] | None,
    n: int,
    seed: int,
    steps: Sequence[int] | None,
    scenes: int,
    how: Sampling,
    controls: int,
    exact: bool = False,
) -> Survey:
    """Draw the tasks, and check before the work what can be checked; arguments and exceptions as of :func:`map`."""
    if controls < 1:
        raise TaskError(f"controls={controls}: layers are compared with models that learned nothing: give 1 or more")
    drawn, families = _drawn(tasks, n, seed)
    plan = lens.plan(how)
    last = plan.n_steps - 1
    chosen = (
        sorted({round(q * last) for q in (0, 0.1, 0.25, 0.5, 0.75, 1)})
        if steps is None
        else sorted({int(s) for s in steps})
    )
    few = _spread(chosen, [plan.at(s).expert for s in chosen])
    return Survey(lens, drawn, families, _probed(families, drawn, scenes, seed), seed, plan, chosen, few, how, controls,
                  exact)  # fmt: skip


def summary_of(values: xr.DataArray, kind: str, null: str) -> xr.Dataset:
    """Summary of one kind with the mean of its null beside it."""
    return summarise(values.sel(kind=kind, drop=True), values.sel(kind=null, drop=True))


def _drawn(tasks: Sequence[Any] | None, n: int, seed: int) -> tuple[list[Any], list[str]]:
    """The tasks, and the names of their families."""
    names = puzzles.names() if tasks is None else tuple(tasks)
    if all(isinstance(name, str) for name in names):
        if n < 2:
            raise TaskError("a map needs at least two tasks of each family for its intervals: give n=2 or more")
        return [puzzles.load(name, seed=seed + i) for name in names for i in range(n)], list(names)
    if len(names) < 2:
        raise TaskError("a map needs at least two tasks for its intervals: give more tasks")
    needed(names, "regions", "twin", cure="a map reads regions, and swaps with the twin of another answer")
    return list(names), sorted({str(getattr(task, "name", "task")) for task in names})


def _probed(families: Sequence[str], drawn: Sequence[Any], scenes: int, seed: int) -> list[Any]:
    """Tasks for probes: further ones of the families that have a label, or the user's own; none if too few."""
    if not all(isinstance(task, puzzles.Task) for task in drawn):
        return list(drawn) if scenes and len(drawn) >= FEWEST else []
    asked = [name for name in families if name in LABELLED]
    if not asked or scenes < FEWEST:
        return []
    return [puzzles.load(asked[i % len(asked)], seed=seed + PROBE_SEED + i // len(asked)) for i in range(scenes)]


def _spread(steps: Sequence[int], experts: Sequence[str]) -> list[int]:
    """Every second step of each expert, its first among them."""
    return [s for e in dict.fromkeys(experts) for s in [s for s, x in zip(steps, experts, strict=True) if x == e][::2]]


def _twin(task: Any) -> Any:
    return task.twin("other_answer")


def _joined(rows: Sequence[xr.DataArray]) -> xr.DataArray:
    return xr.concat(rows, dim="task", coords="minimal", compat="override")
