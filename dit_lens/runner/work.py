"""Long work: units are measured group by group, each is kept as soon as it is done, and all are gathered in the end.

This is the one loop over tasks and places in the toolkit. A unit of a sweep is a cell, a unit of an experiment is a
task. Each kind of work defines its units, how a group of them is measured, and how finished ones are gathered;
:func:`run` does the rest: finished units, processes that share a folder, shards, progress, ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.runner.options import Running
from dit_lens.runner.progress_meter import ProgressMeter
from dit_lens.store.base import Store
from dit_lens.store.folder import open_store


class Unit(Protocol):
    """One finished number or table. ``key`` names it in a store; units of one ``group`` are measured together."""

    @property
    def key(self) -> str:
        """Name of the unit in a store."""

    @property
    def group(self) -> str:
        """Name of the group that the unit is measured with."""


class Work(Protocol):
    """The protocol of work that :func:`run` can run."""

    kind: str  # of dit_lens.store.manifest.KINDS

    @property
    def units(self) -> Sequence[Any]:
        """All units, those of a group side by side."""

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number, as plain JSON values."""

    def cost(self, unit: Any) -> float:
        """The work of a unit, in any measure that all of them share."""

    def measure(self, units: Sequence[Any], store: Store) -> Generator[tuple[Any, Any], None, None]:
        """Measure units of one group, in their order; ``store`` may keep what is made on the way."""

    def gather(self, results: Mapping[Any, Any]) -> xr.Dataset:
        """One labelled table from what is finished."""

    def recipe(self) -> tuple[Callable[..., Work], dict[str, Any]]:
        """A function and its keyword arguments that make this work again from a lens, in another process."""


def run(
    work: Work, running: Running, gather: Callable[[Mapping[Any, Any]], xr.Dataset] | None = None
) -> xr.Dataset:
    """Measure every unit of this shard that is not finished yet, and gather the finished ones.

    Args:
        work: The work.
        running: Where results are kept, where it runs, and how progress is reported.
        gather: In place of ``work.gather``.

    Returns:
        What ``work.gather`` makes of the units of this shard. Without a shard on the same folder: of all.

    Raises:
        StoreError: A folder of other parameters, or one that cannot be written.
        KeyboardInterrupt: ctrl-C; the message says how to continue.
    """
    execute = executor_of(running.executor)
    mine = share(work.units, running.shard)
    store = open_store(running.folder, work.kind, {} if running.folder is None else work.identity())
    with store.stoppable():
        meter = ProgressMeter(running.progress, {unit.key: work.cost(unit) for unit in mine}, store)
        execute(work, grouped(mine), store, meter)
    found = {unit: store.get(unit.key) for unit in mine}
    return (gather or work.gather)(found)


def grouped(units: Sequence[Any]) -> dict[str, list[Any]]:
    """Units by the name of their group, in their order."""
    groups: dict[str, list[Any]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit)
    return groups


def share(units: Sequence[Any], shard: str | tuple[int, int]) -> list[Any]:
    """The units of a shard: whole groups, dealt in turn, so that units that share work stay together."""
    part, of = shard_of(shard)
    return [unit for n, members in enumerate(grouped(units).values()) if n % of == part for unit in members]


def shard_of(shard: Any) -> tuple[int, int]:
    """Parse a shard, ``"0/4"`` or (0, 4), to (part, of).

    Raises:
        MeasureError: It is neither, or the part is outside.
    """
    try:
        part, of = (int(x) for x in (shard.split("/") if isinstance(shard, str) else shard))
    except (ValueError, TypeError):
        raise MeasureError(f"shard={shard!r}: write it as '0/4' or (0, 4), the first part being 0") from None
    if not 0 <= part < of:
        raise MeasureError(f"shard={shard!r}: of {of} parts, give one from 0 to {of - 1}")
    return part, of


def serial(work: Work, groups: Mapping[str, Sequence[Any]], store: Store, meter: ProgressMeter) -> None:
    """Measure in this process, one group after the other."""
    by_key = {unit.key: unit for units in groups.values() for unit in units}
    keys = {name: [unit.key for unit in units] for name, units in groups.items()}
    with store.todo(keys, waiting=meter.waiting) as todo:
        for _, missing in todo:
            # Closed at once on ctrl-C: a generator of cells holds no_grad and the model.
            with closing(work.measure([by_key[key] for key in missing], store)) as measured:
                for unit, value in measured:
                    store.put(unit.key, value)
                    meter.finished(unit)
    meter.complete()


def executor_of(wanted: Any) -> Callable[[Work, Mapping[str, Sequence[Any]], Store, ProgressMeter], None]:
    """The executor of a name, ``"serial"`` or ``"ray"``; an executor is returned as it is.

    Raises:
        MeasureError: An unknown executor.
    """
    if wanted in (None, "serial"):
        return serial
    if wanted == "ray":
        from dit_lens.runner.ray_actors import Ray

        return Ray()
    if not callable(wanted):
        raise MeasureError(f"executor={wanted!r}: choose 'serial', 'ray', or dit_lens.runner.Ray(load=..., actors=2)")
    return wanted
