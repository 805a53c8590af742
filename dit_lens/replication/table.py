"""The table of the paper's claims, and the runs that its rows read.

    dl.replication.claims(lens, "swap")               # measure, then read every row of one experiment
    measured = dl.replication.measure(lens, "swap")   # the runs alone: datasets by name
    dl.replication.read("swap", measured)             # the rows alone, from what was measured

The table has an entry for each experiment; a file beside this one holds its rows and the calls that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from dit_lens.errors import MeasureError
from dit_lens.progress import Progress, silent
from dit_lens.replication import (
    attention,
    behaviour,
    branching,
    chain,
    emerge,
    energy,
    ensembles,
    layer_lens,
    memory,
    noise,
    roles,
    schedules,
    serial,
    swap,
)
from dit_lens.replication.row import Measured, Row
from dit_lens.wan.lens import Lens

_FAMILIES: Mapping[str, ModuleType] = {
    m.__name__.rpartition(".")[2]: m
    for m in (
        attention, behaviour, branching, chain, emerge, energy, ensembles, layer_lens, memory, noise, roles, schedules,
        serial, swap,
    )
}  # fmt: skip
#: Every claim, by experiment.
TABLE: Mapping[str, tuple[Row, ...]] = MappingProxyType({name: module.ROWS for name, module in _FAMILIES.items()})


def measure(lens: Lens, experiment: str, *, progress: Progress = silent, **arguments: Any) -> Measured:
    """Make the runs that the rows of one experiment read.

    Args:
        lens: The model.
        experiment: A key of ``TABLE``.
        progress: Called before each piece of work.
        arguments: ``n`` tasks, the first ``seed``, and what else ``measured`` of the experiment's file takes.

    Returns:
        Datasets by name, for :func:`dit_lens.replication.read`.

    Raises:
        MeasureError: For another name.
    """
    measured: Callable[..., Measured] = _family(experiment).measured
    return measured(lens, progress=progress, **arguments)


def rows_of(experiment: str) -> tuple[Row, ...]:
    """The rows of one experiment.

    Raises:
        MeasureError: For another name.
    """
    rows: tuple[Row, ...] = _family(experiment).ROWS
    return rows


def _family(experiment: str) -> ModuleType:
    if experiment not in _FAMILIES:
        raise MeasureError(f"experiment={experiment!r} states no claims: choose from {list(_FAMILIES)}")
    return _FAMILIES[experiment]
