"""Experiments: one row of labelled numbers for each task.

An experiment is a function ``row(item) -> xr.Dataset`` that measures one task; the runner does the rest::

    def brightness(lens, tasks, *, seed=0, **options):
        def row(item):
            return xr.Dataset({"brightness": float(item.clean().video.mean())})

        return over_tasks(lens, tasks, row, seed=seed, options=options)

Noise seeds are fixed here. Task i is generated with noise seed ``seed + i``. An experiment that takes several seeds of
each task derives the noise of (task, seed) with :func:`noise_seed`, so that no two tasks share a noise, whichever seeds
they have: with one noise for all tasks, tasks would not be independent samples. :meth:`Item.sites` loops over the
places of one task (steps, layers, kinds of noise) and keeps each of them, so that an interrupted task continues where
it was. All variables that the row function takes from its enclosing scope belong to the identity of the kept work.

When not to use: for one intervention at many (step, layer) places; :class:`dit_lens.runner.Sweep` computes once what
such cells share.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.runner.options import split_options
from dit_lens.runner.work import run as run_work
from dit_lens.store.base import Store
from dit_lens.store.identity import describe, task_identity
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import Sampling

Row = Callable[["Item"], xr.Dataset]
Join = Callable[[Sequence[xr.Dataset]], xr.Dataset]
HELD = 6  # clean runs kept in memory: a task's own, its neighbour's and the first task's, at two seeds each


@dataclass(frozen=True)
class TaskUnit:
    """One task of an experiment."""

    index: int
    name: str = field(compare=False, default="")

    @property
    def key(self) -> str:
        """Its name in a store."""
        return f"task-{self.index}"

    @property
    def group(self) -> str:
        """Each task is a group of its own."""
        return f"{self.index}-"

    def __str__(self) -> str:
        return f"task {self.index}{f' ({self.name})' if self.name else ''}"


@dataclass(frozen=True, eq=False)
class Item:
    """One task of an experiment, and how to generate from it.

    Attributes:
        rows: The experiment.
        index: Number of the task.
        store: Where parts of this row are kept.
    """

    rows: TaskRows
    index: int
    store: Store

    @property
    def lens(self) -> Lens:
        """The model."""
        return self.rows.lens

    @property
    def task(self) -> Any:
        """The task."""
        return self.rows.tasks[self.index]

    @property
    def seed(self) -> int:
        """The noise seed of this task."""
        return self.rows.seed + self.index

    def noise_seed(self, seed: int, offset: int = 0) -> int:
        """:func:`noise_seed` of this task, or of the one ``offset`` further on (wrapping at the end of the list).

        Args:
            seed: What the user calls the seed.
            offset: Which task, from this one.
        """
        index = (self.index + offset) % len(self.rows.tasks)
        return noise_seed(seed, self.rows.tasks[index], index)

    @property
    def sampling(self) -> Sampling:
        """How the experiment generates."""
        return self.rows.sampling

    @property
    def plan(self) -> Plan:
        """The denoiser calls of a generation."""
        return self.rows.plan

    def clean(self, offset: int = 0, *, seed: int | None = None, record: Any = ()) -> Run:
        """The unchanged run of this task, or of the one ``offset`` further on (wrapping at the end of the list).

        Args:
            offset: Which task, from this one.
            seed: Noise seed; that task's own by default.
            record: As in ``lens.generate``; runs are kept for a while by (task, seed, record).

        Returns:
            The run.
        """
        index = (self.index + offset) % len(self.rows.tasks)
        return self.rows.clean_run(index, self.rows.seed + index if seed is None else seed, record)

    def generate(self, task: Any = None, *, seed: int | Sequence[int] | None = None, **arguments: Any) -> Any:
        """Call ``lens.generate`` with this experiment's sampling.

        Args:
            task: This item's task by default.
            seed: This item's seed by default.
            **arguments: As of ``lens.generate``, except sampling; ``sampling=`` replaces the experiment's.

        Returns:
            As ``lens.generate``.
        """
        how = {"sampling": self.rows.sampling, "regions": self.rows.regions, **arguments}
        return self.lens.generate(
            self.task if task is None else task, seed=self.seed if seed is None else seed, **how
        )

    def fork(self, run: Run, step: int, interventions: Any = (), **arguments: Any) -> Run:
        """Continue ``run`` from ``step``, reusing its earlier steps."""
        found: Run = self.lens.generate(resume=run.until(step), interventions=interventions, **arguments)
        return found

    def sites(self, measure: Callable[..., Mapping[str, Any]], /, **axes: Sequence[Any]) -> xr.Dataset:
        """Measure every combination of places, and keep each.

        Args:
            measure: Called as ``measure(**place)`` with one entry of every axis. Returns numbers by name: plain ones,
                or labelled arrays (``xr.DataArray``).
            **axes: The places, by the name of their dim.

        Returns:
            A Dataset with every name over (*axes, *dims of its array).

        Raises:
            MeasureError: An axis without entries.
        """
        if not axes or not all(len(places) for places in axes.values()):
            raise MeasureError(f"nothing to measure: {', '.join(axes) or 'no axis'} has no entry: give at least one")
        found: list[xr.Dataset] = []
        name = "sites-" + "-".join(axes)
        kept = self.store.child(name)
        for number, place in enumerate(itertools.product(*axes.values())):
            labels = dict(zip(axes, place, strict=True))

            def made(labels: dict[str, Any] = labels) -> dict[str, xr.Dataset]:
                values = measure(**labels)
                return {"site": values if isinstance(values, xr.Dataset) else xr.Dataset(dict(values))}

            found.append(kept.once(f"site-{number}", made)["site"])
        sizes = [len(places) for places in axes.values()]
        data = {
            str(key): (
                (*axes, *first.dims),
                np.stack([one[key].values for one in found]).reshape(*sizes, *first.shape),
                first.attrs,
            )
            for key, first in found[0].data_vars.items()
        }
        coords = {dim: list(map(_label, places)) for dim, places in axes.items()}
        return xr.Dataset(data, coords={**found[0].coords, **coords})


@dataclass(eq=False)
class TaskRows:
    """The rows of one experiment, as work for the runner."""

    lens: Lens
    tasks: Sequence[Any]
    row: Row
    seed: int
    sampling: Sampling
    regions: Any = None
    join: Join | None = None
    kind: str = "experiment"
    _runs: OrderedDict[Any, Run] = field(default_factory=OrderedDict, init=False, repr=False)

    @cached_property
    def plan(self) -> Plan:
        """The denoiser calls of a generation."""
        return self.lens.plan(self.sampling)

    @property
    def units(self) -> list[TaskUnit]:
        """See :class:`dit_lens.runner.work.Work`."""
        return [TaskUnit(i, str(getattr(task, "name", ""))) for i, task in enumerate(self.tasks)]

    def cost(self, unit: TaskUnit) -> float:
        """Cost of a unit: every task counts the same."""
        return 1.0

    def clean_run(self, index: int, seed: int, record: Any) -> Run:
        """An unchanged run of a task; the last few are kept."""
        key = (index, seed, repr(record))
        if key not in self._runs:
            self._runs[key] = self.lens.generate(
                self.tasks[index], seed=seed, record=record, sampling=self.sampling, regions=self.regions
            )
            while len(self._runs) > HELD:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]

    def measure(
        self, units: Sequence[TaskUnit], store: Store
    ) -> Generator[tuple[TaskUnit, dict[str, xr.Dataset]], None, None]:
        """See :class:`dit_lens.runner.work.Work`."""
        for unit in units:
            yield unit, {"row": self.row(Item(self, unit.index, store.child(unit.key)))}
            store.drop_child(unit.key)

    def gather(self, results: Mapping[TaskUnit, Mapping[str, xr.Dataset]]) -> xr.Dataset:
        """The rows side by side along ``task``, with sigma and expert beside a step.

        Raises:
            MeasureError: No task is finished yet.
        """
        if not results:
            raise MeasureError("no task is finished yet: run all shards, or this one, with the same folder")
        rows = [found["row"] for found in results.values()]
        whole = side_by_side(rows) if self.join is None else self.join(rows)
        chosen = [self.tasks[unit.index] for unit in results]
        if "task" in whole.dims:
            families = [str(getattr(task, "name", "task")) for task in chosen]
            whole = whole.assign_coords(task=task_names(chosen), family=("task", families))
        if "step" in whole.dims:
            steps = [int(step) for step in whole["step"].values]
            names = [self.plan.at(s).expert if s < self.plan.n_steps else "" for s in steps]
            whole = whole.assign_coords(
                sigma=("step", [self.plan.sigmas[s] for s in steps]), expert=("step", names)
            )
        about = {"model": self.lens.name, "seed": self.seed, "n_steps": self.plan.n_steps}
        return whole.assign_attrs(about)

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number, as plain values."""
        return {
            **self.lens.identity(self.sampling.scheduler),
            "row": describe(self.row),
            "sampling": describe(self.sampling),
            "regions": describe(self.regions),
            "plan": describe(self.plan),
            "tasks": [task_identity(task) for task in self.tasks],
            "seed": self.seed,
        }

    def recipe(self) -> tuple[Callable[..., TaskRows], dict[str, Any]]:
        """See :class:`dit_lens.runner.work.Work`."""
        names = ("tasks", "row", "seed", "sampling", "regions", "join")
        return TaskRows, {name: getattr(self, name) for name in names}


def noise_seed(seed: int, task: Any, index: int) -> int:
    """The noise seed of a task under a seed: the same wherever the task stands, another for every other task.

    Args:
        seed: What the user calls the seed.
        task: The task; its ``name``, ``split`` and ``seed`` say which it is.
        index: Its place in the list, which says so where a task has no name and seed.

    Returns:
        0 to 2^32 - 1: the CRC-32 of "seed/name/split/task seed".
    """
    who = [getattr(task, part, None) for part in ("name", "split", "seed")]
    known = isinstance(who[0], str) and isinstance(who[2], int)
    return crc32("/".join(map(str, (seed, *who) if known else (seed, index))).encode())


def over_tasks(
    lens: Lens,
    tasks: Sequence[Any],
    row: Row,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    of: Callable[..., Any] | None = None,
    regions: Any = None,
    least: int = 1,
    join: Join | None = None,
) -> xr.Dataset:
    """Measure a row for every task.

    Args:
        lens: The model.
        tasks: The tasks.
        row: ``row(item) -> xr.Dataset``, the labelled numbers of one task.
        seed: Task i is generated with ``seed + i``.
        options: The caller's ``**options``: sampling and running (:class:`dit_lens.runner.Options`).
        of: The caller, whose arguments are suggested for a misspelt option.
        regions: Your own masks for every generation, as in ``lens.generate``.
        least: How many tasks the experiment needs.
        join: Makes one table of all rows; by default they are put side by side along ``task``.

    Returns:
        The rows along ``task``.

    Raises:
        MeasureError: Too few tasks.
        StoreError: A folder of other parameters.
    """
    if len(tasks) < least:
        raise MeasureError(
            f"{len(tasks)} task(s), and this needs at least {least}: give more, e.g. dit_lens.tasks.batch('maze', 16)"
        )
    sampling, running = split_options(options or {}, of)
    return run_work(TaskRows(lens, list(tasks), row, seed, sampling, regions, join), running)


def task_names(tasks: Sequence[Any]) -> list[str]:
    """What the dim ``task`` is labelled with: family and seed, or the place in the list where a task has none."""
    return [f"{getattr(task, 'name', 'task')} {getattr(task, 'seed', i)}" for i, task in enumerate(tasks)]


def side_by_side(rows: Sequence[xr.Dataset]) -> xr.Dataset:
    """Rows along ``task``; labels that a row does not have are NaN there."""
    return xr.concat(
        rows, "task", join="outer", coords="minimal", compat="override", combine_attrs="drop_conflicts"
    )


def _label(place: Any) -> Any:
    return place if isinstance(place, (int, str, float, np.generic)) else str(place)
