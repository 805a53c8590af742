"""``dl.sweep``: one intervention at many places, as a labelled array with its placebo and interval.

    effects = dl.sweep(lens, tasks=[dl.tasks.load("choose", seed=i) for i in range(8)], source="other_answer",
                       steps=[0, 5, range(0, 8)], layers="all", metric="projection", horizon="local", folder="sweep")

``Sweep(...)`` is the same as a value: ``print(sweep.plan())`` tells the cost, ``sweep.run()`` measures, and running it
again with the same folder goes on where it stopped.

When not to use: to rank thousands of small sites roughly (heads of every layer and step); ``dl.attribute`` does that in
a few backward passes, and its best cells are then measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.interventions import patch
from dit_lens.measures.stats import beside
from dit_lens.sweeps import cost, metrics, setup
from dit_lens.sweeps.cells import Axes, Cell, Kind, axes
from dit_lens.sweeps.engine import Edit, Engine, Item, grouped
from dit_lens.sweeps.identity import describe, task_identity
from dit_lens.sweeps.ledger import Ledger
from dit_lens.sweeps.metrics import Metric
from dit_lens.wan.lens import Lens
from dit_lens.wan.plan import Plan
from dit_lens.wan.run import Run

Progress = Callable[[int, int, str], None]
PLACEBO_SEED = 10_000  # added to an item's seed: same scene, other noise


class Sweep:
    """A sweep as a value: what it would measure is fixed when it is made; nothing runs before ``run()``."""

    def __init__(
        self,
        lens: Lens,
        base: Any = None,
        source: Any = None,
        *,
        tasks: Sequence[Any] | None = None,
        seeds: int | Sequence[int] = 0,
        edit: Edit = patch,
        steps: Any = "all",
        layers: Any = "all",
        hooks: str | Sequence[str] = "update",
        heads: Any = None,
        regions: str | Sequence[str] | None = None,
        branch: str | Sequence[str] = "all",
        metric: str | Metric = "projection",
        horizon: Literal["local", "final"] | int = "local",
        placebo: Edit | Literal["seed", "none"] | None = None,
        sampling: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        shard: str | tuple[int, int] = (0, 1),
        memory: int = 4 << 30,
    ) -> None:
        """See :func:`sweep`."""
        self.lens, self.sampling = lens, dict(sampling or {})
        self.tasks, self.seeds = setup.tasks_of(base, tasks), setup.seeds_of(base, seeds)
        self.source, self.edit, self.folder, self.shard = source, edit, folder, setup.shard_of(shard)
        self.model_plan: Plan = base.plan if isinstance(base, Run) else lens.plan(**self.sampling)
        self.axes: Axes = axes(
            self.model_plan,
            lens.n_layers,
            lens.experts["high"].cfg.n_heads,
            steps,
            layers,
            hooks,
            heads,
            regions,
            branch,
        )
        self.placebo = setup.placebo_of(placebo, source)
        self.kinds: tuple[Kind, ...] = ("effect",) if self.placebo == "none" else ("effect", "placebo")
        self.horizon = setup.horizon_of(horizon)
        self.engine = Engine(
            lens,
            edit,
            self.placebo if callable(self.placebo) else edit,
            metrics.metric(metric),
            self.horizon,
            memory=memory,
        )
        self._base = base if isinstance(base, Run) else None
        self.cells: list[Cell] = self.axes.cells(len(self.tasks) * len(self.seeds), self.kinds)
        self.engine.intervention(self.cells[0], Item(None, None, None))  # type: ignore[arg-type]  # a wrong edit fails now

    # -- what it would cost

    def plan(self, calibrate: bool = True) -> cost.Cost:
        """Cells, block evaluations, time, memory and disk, before anything long runs."""
        return cost.estimate(self, calibrate)

    # -- measuring

    def run(self, progress: Progress | None = None, budget: float | None = None) -> xr.Dataset:
        """Measure every cell that is not done, and gather all. See :func:`sweep`."""
        if budget is not None:
            cost.check_budget(self, budget)
        ledger = None if self.folder is None else Ledger(self.folder, self.identity())
        results = self.measure(ledger, progress or setup.progress_bar(len(self.mine)))
        return self.gather(results)

    @property
    def mine(self) -> list[Cell]:
        """The cells of this shard: whole groups, dealt in turn, so that what is shared stays together."""
        part, of = self.shard
        return [c for n, (_, members) in enumerate(grouped(self.cells)) if n % of == part for c in members]

    def measure(self, ledger: Ledger | None, progress: Progress) -> dict[Cell, dict[str, float]]:
        """Measure the cells of this shard that are not done; all that are done, with what was measured."""
        results: dict[Cell, dict[str, float]] = {}
        held: tuple[int, Item] | None = None
        total = len(self.mine)
        waiting = list(grouped(self.mine))
        while waiting:
            later = []
            for (number, step), members in waiting:
                with _claim(ledger, f"{number}-{step}") as ours:
                    known = {} if ledger is None else {c: ledger.done(c) for c in members}
                    results |= {c: found for c, found in known.items() if found is not None}
                    left = [c for c in members if c not in results]
                    if left and not ours:
                        later.append(((number, step), members))  # another process is at it: come back for the rest
                        continue
                    if left:
                        if held is None or held[0] != number:
                            held = (number, self.item(number))
                        try:
                            for cell, found in self.engine.group(held[1], left):
                                if ledger is not None:
                                    ledger.commit(cell, found)
                                results[cell] = found
                                progress(len(results), total, str(cell))
                        except KeyboardInterrupt:
                            raise KeyboardInterrupt(self._stopped(len(results), total)) from None
            if len(later) == len(waiting):
                time.sleep(1.0)
            waiting = later
        progress(total, total, "done")
        return results

    def item(self, number: int) -> Item:
        """The runs of one item: generated here, and checked."""
        task, seed = self.tasks[number // len(self.seeds)], self.seeds[number % len(self.seeds)]
        base = self._base or self.lens.generate(task, seed=seed, **self.sampling)
        source = setup.source_run(self.lens, self.source, task, number // len(self.seeds), seed, self.sampling)
        placebo = None
        if "placebo" in self.kinds and source is not None and self.placebo == "seed":
            again = base.task if base.task is not None else task
            placebo = self.lens.generate(again, seed=seed + PLACEBO_SEED, **self.sampling)
        for other in (source, placebo):
            if other is not None and (other.grid != base.grid or not other.plan.same_schedule(base.plan)):
                raise MeasureError(
                    "base and source need the same size and the same sampling schedule: generate both with the same "
                    "steps, scheduler, size and frame count"
                )
        return Item(base, source, placebo)

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number."""
        example = self.engine.intervention(self.cells[0], Item(None, None, None))  # type: ignore[arg-type]
        return {
            "model": self.lens.fingerprint,
            "versions": {k: v for k, v in self.lens._meta().items() if k in ("torch", "diffusers", "transformers")},
            "plan": describe(self.model_plan),
            "sampling": describe(self.sampling),
            "tasks": [task_identity(t) for t in self.tasks],
            "seeds": list(self.seeds),
            "base": describe(self._base),
            "source": _identity(self.source),
            "axes": describe(self.axes),
            "edit": describe(example),
            "made by": describe(self.edit),
            "placebo": self.placebo if isinstance(self.placebo, str) else describe(self.placebo),
            "metric": describe(self.engine.metric),
            "horizon": self.horizon,
        }

    # -- the result

    def gather(self, results: Mapping[Cell, Mapping[str, float]]) -> xr.Dataset:
        """Labelled arrays from the measured cells; see :func:`sweep`."""
        dims = ("task", "seed", *self.axes.coords())
        coords: dict[str, Any] = {"task": range(len(self.tasks)), "seed": list(self.seeds), **self.axes.coords()}
        shape = tuple(len(coords[d]) for d in dims)
        raw = {name: np.full(shape, np.nan) for name in (*self.kinds, "base", "source")}
        for cell, found in results.items():
            for place in self._places(cell):
                raw[cell.kind][place] = found["value"]
                raw["base"][place], raw["source"][place] = found["base"], found["source"]
        data = xr.Dataset({k: (dims, v) for k, v in raw.items()}, coords=coords)
        scale = data["source"] - data["base"] if self.source is not None else 1.0
        over = "task" if len(self.tasks) > 1 else "seed"
        other = "seed" if over == "task" else "task"
        normal = {k: ((data[k] - data["base"]) / scale).mean(other) for k in self.kinds}
        null = normal["placebo"] if "placebo" in normal else xr.full_like(normal["effect"], np.nan)
        summary = beside(normal["effect"], null, over=over)
        what = getattr(self.engine.metric, "__name__", "metric")
        unit = "0 = base, 1 = source" if self.source is not None else f"{what}, minus base"
        summary = summary.assign({f"raw_{k}": data[k] for k in raw}).squeeze(
            [d for d in ("hook", "head", "region", "branch") if len(coords[d]) == 1]
        )
        summary["value"].attrs = {"long_name": f"effect on {what}", "units": unit}
        experts = [{self.model_plan.at(s).expert for s in group} for group in self.axes.steps]
        summary = summary.assign_coords(
            sigma=("step", [self.model_plan.sigmas[g[0]] for g in self.axes.steps]),
            expert=("step", ["/".join(sorted(e)) for e in experts]),
        )
        told = {0: "local", None: "final"}.get(self.horizon, f"{self.horizon} further steps")
        return summary.assign_attrs(horizon=told, metric=what, interval_over=over, model=self.lens.name)

    def _places(self, cell: Cell) -> list[tuple[int, ...]]:
        """Where a cell stands in the result; one outside the blocks stands at every layer."""
        a = self.axes
        layers = [a.layers.index(cell.layers)] if cell.layers else range(len(a.layers))
        first = (cell.item // len(self.seeds), cell.item % len(self.seeds), a.steps.index(cell.steps))
        last = (a.hooks.index(cell.hook), a.heads.index(cell.head), a.regions.index(cell.region),
                a.branches.index(cell.branch))  # fmt: skip
        return [(*first, layer, *last) for layer in layers]

    def _stopped(self, done: int, total: int) -> str:
        if self.folder is None:
            return f"stopped after {done} of {total} cells; nothing was kept: give folder= to be able to go on"
        return f"stopped after {done} of {total} cells; run the same sweep with folder={str(self.folder)!r} to go on"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(v)} {k}{'s' if len(v) > 1 else ''}" for k, v in self.axes.coords().items())
        return f"Sweep of {len(self.cells)} cells on {self.lens.name}: {len(self.tasks)} tasks, {sizes}"


def sweep(lens: Lens, base: Any = None, source: Any = None, **arguments: Any) -> xr.Dataset:
    """Measure one intervention at every (step, layer, hook, head, region, branch) asked for.

    ``base``: a task or a run; or ``tasks``: a list, with ``seeds``. ``source``: where activations come from: a twin's
    kind (``"other_answer"``), a task, a run, a list with one for each task, a function of the task, or None for edits
    that need none. ``edit``: makes the intervention, called with ``steps, hook, branches`` and, where they apply,
    ``layers, heads, tokens``: ``dl.patch``, ``dl.ablate``, or your own. ``steps``, ``layers``: ``"all"`` or a list of
    indices and groups held at once (``range(0, 8)``). ``metric``: ``"projection"``, ``"answer"``, ``"score"`` or
    ``metric(run, base, source) -> float``. ``horizon``: ``"local"`` (x0_hat of the last patched step), a number of
    further steps, or ``"final"``. ``placebo``: ``"seed"`` (same scene, seed + 10,000: the default with a source), an
    edit, or ``"none"``. ``sampling``: arguments of ``lens.generate``. ``folder``: keep finished cells there; the same
    sweep with the same folder goes on. ``shard="0/4"``: this process's part. ``progress(done, total, cell)``.
    ``budget``: seconds; a longer sweep is refused with coarser ones to choose from. ``memory``: bytes for reuse.

    Returns a Dataset over (step, layer, and each further axis that has several entries): ``value`` with 95 % interval
    ``low, high`` over tasks (over seeds if there is one task), ``n``, the placebo's ``null, null_low, null_high``, all
    normalised (0 = base, 1 = source), and the raw metric per task and seed. ``.to_dataframe()`` gives a table.

    Errors: :class:`AddressError` outside plan or model, :class:`MeasureError` for what cannot be compared or measured,
    :class:`StoreError` for a folder of other parameters, all before the long work starts where they can be known.
    """
    progress, budget = arguments.pop("progress", None), arguments.pop("budget", None)
    return Sweep(lens, base, source, **arguments).run(progress, budget)


def _claim(ledger: Ledger | None, group: str) -> AbstractContextManager[bool]:
    return nullcontext(True) if ledger is None else ledger.claim(group)


def _identity(source: Any) -> Any:
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [_identity(one) for one in source]
    return task_identity(source) if hasattr(source, "prompt") and not isinstance(source, Run) else describe(source)
