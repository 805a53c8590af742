"""``dl.sweep``: one intervention at many places, as a labelled array with its placebo and interval.

    effects = dl.sweep(lens, tasks=[dl.tasks.load("choose", seed=i) for i in range(8)], source="other_answer",
                       steps=[0, 5, range(0, 8)], layers="all", horizon="local", folder="sweep")

``Sweep(...)`` is the same as a value: ``print(sweep.plan())`` shows the cost, ``sweep.run()`` measures, and running it
again with the same folder continues where it stopped.

When not to use: to rank thousands of small sites roughly (heads of every layer and step); ``dl.attribute`` does that in
a few backward passes, and its best cells are then measured here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any, Literal, ParamSpec, Unpack

import torch
import xarray as xr

from dit_lens import checks
from dit_lens.display import html
from dit_lens.errors import MeasureError
from dit_lens.interventions import patch
from dit_lens.progress import Progress
from dit_lens.runner import arguments, cost, memory_chunks, metrics
from dit_lens.runner.cell_engine import Edit, Engine
from dit_lens.runner.cells import Axes, Cell, Kind, axes
from dit_lens.runner.metrics import Item, Metric, OneMetric, Reading
from dit_lens.runner.options import Options, split_options
from dit_lens.runner.results import gather, raw
from dit_lens.runner.work import run as run_work
from dit_lens.runner.work import shard_of, share
from dit_lens.store.base import Store
from dit_lens.store.identity import describe, source_identity, task_identity
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.conditions import Conditions
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

PLACEBO_SEED = 10_000  # added to an item's seed: same scene, other noise


class Sweep:
    """A sweep as a value: its places are fixed when it is made; nothing is generated before :meth:`run`.

    Attributes:
        axes: The places, spelled out.
        cells: What is measured, one value a number.
        mine: The cells of this shard.
        model_plan: The denoiser calls of one generation.
    """

    kind = "sweep"  # of kept work

    def __init__(
        self,
        lens: Lens,
        base: Any = None,
        source: Any = None,
        *,
        tasks: Sequence[Any] | None = None,
        seeds: Any = 0,
        seed_step: int = 0,
        edit: Edit = patch,
        steps: Any = "all",
        layers: Any = "all",
        hooks: str | Sequence[str] | None = "update",
        heads: Any = None,
        regions: str | Sequence[str] | Mapping[str, Any] | None = None,
        branches: str | Sequence[str] = "all",
        metric: str | Metric | None = None,
        horizon: Literal["local", "final"] | int = "local",
        placebo: Edit | Run | Literal["seed", "none"] | None = None,
        placebo_seed: int = PLACEBO_SEED,
        reading: Reading | None = None,
        memory: int = 4 << 30,
        budget: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Fix what is measured, and check now what would otherwise fail after minutes.

        Args:
            lens: The model.
            base: A task or a run to change; or give ``tasks``.
            source: Where activations come from: a twin's kind (``"other_answer"``), a task, a run, a list with one for
                each task, a function of the task, or None for edits that need none.
            tasks: A list of tasks, each generated with every one of ``seeds``.
            seeds: Noise seeds.
            seed_step: Added to the seeds for each further task: with 1, task i has ``seeds + i``.
            edit: Makes the intervention; called with ``steps, hook, branches`` and, where they apply, ``layers, heads,
                tokens``: ``dl.patch``, ``dl.ablate``, or your own.
            steps: ``"all"``, or a list whose entries are one index or a group held at once (``range(0, 8)``, ``(3,
                5)``).
            layers: Likewise, also ``dl.Depth(.5, .75)``.
            hooks: A name or a list; None for an edit of the latents, called with ``steps`` alone (``dl.noise``).
            heads: Indices, of hooks that have heads, each by itself.
            regions: Names of the tasks' regions, or a mapping with your own masks; all tokens by default.
            branches: ``"all"`` (both at once), ``"cond"``, ``"uncond"``, or a list.
            metric: ``"projection"`` (the default), ``"change"`` (the default without a source), ``"answer"``,
                ``"score"`` or ``metric(run, base, source) -> float``.
            horizon: ``"local"`` (x0_hat of the last patched step), a number of further steps, or ``"final"``.
            placebo: ``"seed"`` (same scene, another seed: the default with a source), a run to take from instead, an
                edit, or ``"none"``.
            placebo_seed: Added to an item's seed for ``placebo="seed"``.
            reading: Reads several numbers of a cell, for :meth:`raw`, in place of ``metric``.
            memory: Bytes that may be held for reuse on the model's device.
            budget: Seconds; a longer sweep is refused, and the message lists coarser ones.
            **options: Sampling (:class:`dit_lens.Sampling`) and running (:class:`dit_lens.runner.Running`): ``folder``,
                ``progress``, ``executor``, ``shard``.

        Raises:
            AddressError: A place outside the plan or the model.
            InterventionError: An edit that does not make an intervention.
            MeasureError: Runs that cannot be compared, or a metric that cannot be read.
        """
        self._recipe = {k: v for k, v in locals().items() if k not in ("self", "lens", "options")} | dict(options)
        sampling, self.running = split_options(options, Sweep.__init__)
        self.shard = shard_of(self.running.shard)
        self.lens, self.base, self.budget = lens, base, budget
        self.memory = checks.count(memory, "memory", error=MeasureError)
        self.tasks, self.seeds = arguments.tasks_of(base, tasks), arguments.seeds_of(base, seeds)
        self.seed_step, self.placebo_seed = seed_step, placebo_seed
        self.sources = arguments.sources_of(source, self.tasks)
        self.has_source = source is not None
        self.sampling = arguments.sampling_of(base, sampling)
        self.masks = arguments.masks_of(base, regions)
        own = lens.plan(self.sampling)
        self.model_plan: Plan = base.plan if isinstance(base, Run) else own
        expert = lens.experts["high"]
        self.axes: Axes = axes(
            self.model_plan, lens.n_layers, expert.cfg.n_heads, steps, layers, hooks, heads,
            tuple(self.masks) if self.masks is not None else regions,  # type: ignore[arg-type]  # a mapping is masks
            branches, expert.image_context,
        )  # fmt: skip
        if source is None and edit is patch:
            raise MeasureError("dit_lens.patch takes from a source: give source='other_answer', a task or a run")
        self.placebo = arguments.placebo_of(placebo, source)
        self.kinds: tuple[Kind, ...] = ("effect",) if self.placebo == "none" else ("effect", "placebo")
        of_placebo = self.placebo if callable(self.placebo) else edit
        self.metric = metrics.metric(metric, self.has_source, self.tasks) if reading is None else reading
        self.engine = Engine(
            lens, self.model_plan, edit, of_placebo, OneMetric(self.metric) if reading is None else reading,  # type: ignore[arg-type]  # the one or the other
            arguments.horizon_of(horizon),
        )  # fmt: skip
        self.cells: list[Cell] = self.axes.cells(len(self.tasks) * len(self.seeds), self.kinds)
        self.last_step = max(map(self.engine.last_step, self.cells))
        self.grid = self._check()
        # Now, so that a wrong edit fails here and not after the first generation.
        examples = {kind: self.engine.make(next(c for c in self.cells if c.kind == kind)) for kind in self.kinds}
        self.examples = examples
        takes_run = {"effect": self.has_source, "placebo": not callable(self.placebo)}
        self.takes = [kind for kind, made in examples.items() if takes_run[kind] and hasattr(made, "from_")]
        self._held: tuple[int, Item] | None = None

    def _check(self) -> Grid:
        """Check now what would otherwise fail after minutes; return the token grid."""
        given = [self.base] if isinstance(self.base, Run) else self.tasks
        others = [one for one in (*self.sources, self.placebo) if one is not None and not isinstance(one, str)]
        grid = arguments.grid_of(self.lens, [*given, *others], self.sampling)
        own = self.base if isinstance(self.base, Run) else _Likeness(self.model_plan, grid)
        for one in (self.base, *others):
            if isinstance(one, Run):
                arguments.check_run(self.lens, own, one, self.last_step)
        if self.placebo == "seed" and isinstance(self.base, Run) and self.base.task is None:
            raise MeasureError(
                "base is a run without a task, so it cannot be generated again with other noise: give placebo= a run "
                "of the same prompt and another seed, or give base= a task"
            )
        arguments.check_regions(self.axes.regions, given, grid, self.masks)
        return grid

    # -- cost

    def plan(self, calibrate: bool = True) -> cost.Cost:
        """Estimate cells, block evaluations, time, memory and disk of this shard.

        Args:
            calibrate: Time one denoiser call; without it the time is NaN.

        Returns:
            The cost.
        """
        return cost.estimate(self, self.mine, *(cost.calibrated(self) if calibrate else ()))

    def generated(self, item: int) -> int:
        """How many generations, as far as the last step of any cell, an item needs."""
        source = self.sources[item // len(self.seeds)]
        runs = (self.base, source)
        return (
            sum(run is not None and not isinstance(run, Run) for run in runs)
            + (self.base is None)
            + (self.placebo == "seed")
        )

    @cached_property
    def size(self) -> memory_chunks.Size:
        """Bytes of one activation, by the name of its hook."""
        config, pipe = self.lens.pipe.transformer.config, self.lens.pipe
        text = self.sampling.max_sequence_length or self.lens.defaults.max_sequence_length
        image = None
        if config.image_dim is not None:
            seen = pipe.image_encoder.config
            image = torch.empty(1, (seen.image_size // seen.patch_size) ** 2 + 1, 0)
        mask = torch.empty(0) if pipe.config.expand_timesteps else None
        conditions = Conditions(torch.empty(1, text, 0), image_context=image, frame_mask=mask)
        return memory_chunks.size_of(self.lens._extent(conditions, self.grid).shape, pipe.transformer.dtype.itemsize)

    def chunks(self, cells: Sequence[Cell]) -> list[tuple[Sequence[Cell], memory_chunks.Needs]]:
        """Cells of one item and first step, cut so that what they share fits into ``memory``."""
        return memory_chunks.chunks(cells, self.model_plan, self.lens.n_layers, self.takes, self.size, self.memory)

    # -- measuring

    def run(
        self, progress: Progress | None = None, budget: float | None = None, executor: Any = None
    ) -> xr.Dataset:
        """Measure every cell of this shard that is not done, and gather what there is.

        Args:
            progress: In place of the sweep's own.
            budget: In place of the sweep's own.
            executor: In place of the sweep's own.

        Returns:
            A Dataset over (step, layer, and each further axis that has several entries): ``value`` with 95 % interval
            ``low, high`` over tasks (over seeds if there is one task), ``n``, the placebo's ``null, null_low,
            null_high``, their paired ``difference`` with its interval, all normalised (0 = base, 1 = source); ``p`` of
            each cell, and ``p_corrected`` over all of them: a cell stands out where that is at most .05
            (:func:`dit_lens.stats.summarise`); and the raw metric per task and seed. Labels of ``step``
            and ``layer`` are numbers where every entry is one index (``sel(step=5)``); one group among them makes all
            of that axis texts (``sel(step="5")``, ``sel(step="0-7")``, ``"3,5"``).

        Raises:
            StoreError: A folder of other parameters.
            KeyboardInterrupt: After ctrl-C, with a sentence that says how to go on.
        """
        return self._measured(progress, budget, executor, gather)

    def raw(self, progress: Progress | None = None) -> xr.Dataset:
        """Every number of every cell, not summarised.

        Args:
            progress: In place of the sweep's own.

        Returns:
            (kind, task, seed, step, layer, hook, head, region, branch), one variable for each number that ``reading``
            reads.
        """
        return self._measured(progress, None, None, raw)

    def _measured(
        self, progress: Progress | None, budget: float | None, executor: Any, gather: Callable[..., xr.Dataset]
    ) -> xr.Dataset:
        budget = self.budget if budget is None else budget
        if budget is not None:
            cost.check_budget(self, checks.number(budget, "budget", 0, error=MeasureError))
        given = {"progress": progress, "executor": executor}
        running = replace(self.running, **{k: v for k, v in given.items() if v is not None})
        place = running.folder.place if isinstance(running.folder, Store) else running.folder
        if place is not None:
            cost.check_disk(place, len(self.mine) * cost.CELL_BYTES)
        try:
            return run_work(self, running, gather=lambda results: gather(self, results))
        finally:
            self._held = None

    @property
    def units(self) -> list[Cell]:
        """See :class:`dit_lens.runner.work.Work`."""
        return self.cells

    @property
    def mine(self) -> list[Cell]:
        """The cells of this shard."""
        return share(self.cells, self.shard)

    def cost(self, cell: Cell) -> int:
        """Block evaluations of one cell."""
        return cost.cell_blocks(cell, self.model_plan, self.lens.n_layers, self.engine.horizon)

    def measure(
        self, cells: Sequence[Cell], store: Store | None = None
    ) -> Generator[tuple[Cell, dict[str, float]], None, None]:
        """Measure cells of one item and first step, here and now."""
        if not cells:
            return
        number = cells[0].item
        if self._held is None or self._held[0] != number:
            self._held = None  # free the old runs before the new ones are made
            self._held = (number, self.item(number))
        for some, needs in self.chunks(cells):
            yield from self.engine.measure(self._held[1], some, needs)

    def gather(self, results: Mapping[Cell, Mapping[str, float]]) -> xr.Dataset:
        """See :class:`dit_lens.runner.work.Work`."""
        return gather(self, results)

    def recipe(self) -> tuple[Callable[..., Sweep], dict[str, Any]]:
        """See :class:`dit_lens.runner.work.Work`."""
        here = ("folder", "progress", "executor", "shard")
        return Sweep, {name: value for name, value in self._recipe.items() if name not in here}

    def item_of(self, number: int) -> tuple[int, int]:
        """(number of the task, seed) of an item."""
        which, seed = divmod(number, len(self.seeds))
        return which, self.seeds[seed] + which * self.seed_step

    def item(self, number: int) -> Item:
        """The runs of one item, generated here and checked; the metric is read once before any cell.

        Raises:
            MeasureError: Runs that cannot be compared, or a metric that is the same for base and source.
        """
        which, seed = self.item_of(number)
        task, lens = self.tasks[which], self.lens
        base = self.base if isinstance(self.base, Run) else self._generated(task, seed)
        source = self.sources[which]
        source = source(task) if callable(source) else source
        if source is not None and not isinstance(source, Run):
            source = self._generated(source, seed)
        placebo = self.placebo if isinstance(self.placebo, Run) else None
        if self.placebo == "seed":
            placebo = self._generated(task, seed + self.placebo_seed)
        for other in (source, placebo):
            if other is not None:
                arguments.check_run(lens, base, other, self.last_step)
        item = Item(base, source, placebo)
        if isinstance(self.engine.reading, OneMetric):
            low, high = self.engine.reading.ends(item, self.last_step)
            if self.has_source and low == high and len(self.tasks) * len(self.seeds) == 1:
                raise MeasureError(
                    f"the metric is {low:g} for both base and source, so effects cannot be normalised: choose a "
                    "source with another answer, or another metric (metric='projection')"
                )
        return item

    def _generated(self, task: Any, seed: int) -> Run:
        """An unchanged run, as far as any cell needs it."""
        stop = None if self.last_step == self.model_plan.n_steps - 1 else self.last_step
        run: Run = self.lens.generate(
            task, seed=seed, sampling=self.sampling, regions=self.masks, stop_after=stop
        )
        return run

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number, as plain values; two sweeps with equal identities can share a folder."""
        return {
            **self.lens.identity(self.sampling.scheduler),
            "plan": describe(self.model_plan),
            "sampling": describe(self.sampling),
            "masks": describe(self.masks),
            "tasks": [None if t is None else task_identity(t) for t in self.tasks],
            "seeds": list(self.seeds),
            "seed_step": self.seed_step,
            "placebo_seed": self.placebo_seed,
            "base": describe(self.base) if isinstance(self.base, Run) else None,
            "source": source_identity(self.sources),
            "axes": describe(self.axes),
            "edit": describe(self.examples),
            "made by": describe(self.engine.edit),
            "placebo": describe(self.placebo),
            "metric": describe(self.metric),
            "horizon": self.engine.horizon,
        }

    # -- after measuring

    def cell(self, item: int = 0, kind: Kind = "effect", **place: Any) -> Cell:
        """The cell at labels of the result, such as ``cell(step=5, layer=3)``; an axis of one entry may be left out.

        Raises:
            MeasureError: Labels that the sweep does not have.
        """
        chosen = []
        for axis, labels in self.axes.coords().items():
            label = place.pop(axis, labels[0] if len(labels) == 1 else None)
            found = [n for n, one in enumerate(labels) if str(one) == str(label)]  # tables from a file hold texts
            if not found:
                raise MeasureError(f"{axis}={label!r} is not in this sweep: choose from {labels}")
            chosen += found
        if place:
            raise MeasureError(f"{sorted(place)} are not axes of this sweep: choose from {list(self.axes.coords())}")
        return self.axes.cell(chosen, item, kind)

    def clips(self, item: int = 0, **place: Any) -> dict[str, Run]:
        """The runs behind one cell, as far as its horizon: base, source, patched, placebo. They are generated again.

        Args:
            item: The item.
            **place: As in :meth:`cell`.

        Returns:
            Runs by name.
        """
        cells = {kind: self.cell(item, kind, **place) for kind in self.kinds}
        runs, end = self.item(item), self.engine.last_step(cells["effect"]) + 1
        found = {"base": runs.base.until(end)} | ({} if runs.source is None else {"source": runs.source.until(end)})
        names = {"effect": "patched", "placebo": "placebo"}
        return found | {names[kind]: self.engine.run(runs, cell) for kind, cell in cells.items()}

    def but(self, **changes: Any) -> Sweep:
        """The same sweep with some arguments replaced."""
        return Sweep(self.lens, **{**self._recipe, **changes})

    def __repr__(self) -> str:
        swept = {k: len(v) for k, v in self.axes.coords().items() if len(v) > 1 or k in ("step", "layer")}
        sizes = ", ".join(f"{n} {k}{'s' if n > 1 else ''}" for k, n in swept.items())
        return f"Sweep of {len(self.cells)} cells on {self.lens.name}: {len(self.tasks)} tasks, {sizes}"

    def _repr_html_(self) -> str:
        """The places and the cost in block evaluations (no call is timed for this)."""
        horizon, part = self.engine.horizon, "{} of {}".format(*self.shard)
        rows = {
            "model": self.lens.name,
            "tasks": "; ".join(str(getattr(t, "prompt", t)) for t in self.tasks[:4])
            + (f"; and {len(self.tasks) - 4} more" if len(self.tasks) > 4 else ""),
            "seeds": ", ".join(map(str, self.seeds)),
            "edit (first cell)": str(self.examples["effect"]),
            "placebo": f"same scene, seed + {self.placebo_seed:,}" if self.placebo == "seed" else str(self.placebo),
            "metric": getattr(self.metric, "__name__", str(self.metric)),
            "horizon": {0: "local", None: "final"}.get(horizon, f"{horizon} further steps"),
            "folder": self.running.folder and str(self.running.folder),
            "cost": str(self.plan(calibrate=False)),
            "part": part if self.shard != (0, 1) else "",
        }
        axes = html.table(("axis", "n", "places"), [(k, len(v), _listed(v)) for k, v in self.axes.coords().items()])
        return html.facts(f"Sweep of {len(self.cells)} cells", rows, axes)


P = ParamSpec("P")


def _at_once(make: Callable[P, Sweep]) -> Callable[P, xr.Dataset]:
    """The function that makes a sweep and runs it, with the sweep's own signature."""

    @wraps(make)
    def sweep(*args: P.args, **kwargs: P.kwargs) -> xr.Dataset:
        return make(*args, **kwargs).run()

    drawn = inspect.signature(make.__init__)
    own = [p for p in drawn.parameters.values() if p.name not in ("self", "reading")]
    sweep.__signature__ = drawn.replace(parameters=own, return_annotation=xr.Dataset)  # type: ignore[attr-defined]
    sweep.__name__ = sweep.__qualname__ = "sweep"
    sweep.__doc__ = (
        "Measure one intervention at every (step, layer, hook, head, region, branch) asked for.\n\n"
        "``Sweep(...).run()`` in one call: the arguments are those of :class:`Sweep`, the result is that of "
        ":meth:`Sweep.run`.\n\n" + inspect.cleandoc(make.__init__.__doc__ or "").split("\n", 2)[2]
    )
    return sweep


sweep = _at_once(Sweep)
"""Measure one intervention at many places: ``Sweep(...).run()`` in one call, with the arguments of :class:`Sweep`."""


def _listed(labels: Sequence[Any], most: int = 12) -> str:
    told = [str(label) for label in labels]
    return ", ".join(told if len(told) <= most else [*told[: most - 2], "...", told[-1]])


class _Likeness:
    """Plan and grid of a base that is not generated yet."""

    def __init__(self, plan: Plan, grid: Grid) -> None:
        self.plan, self.grid = plan, grid
