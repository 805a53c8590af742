"""Paired verdicts over a page: every row's effect against its null on the same tasks, corrected over all rows.

    measured = {name: dl.replication.measure(lens, name) for name in ("swap", "noise")}
    dl.replication.page(measured)                              # claims, as on docs/findings.md
    dl.replication.judge(measured)["swap/flips-maze"]          # the verdict of one

Rows that read the same number of every task, and are judged alike, are one number: they count once, and are one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dit_lens.progress import Progress, silent
from dit_lens.replication.claim import Claim
from dit_lens.replication.row import Measured, Reading, Row, Untestable
from dit_lens.replication.table import measure, rows_of
from dit_lens.stats.verdict import Verdict, corrected
from dit_lens.wan.lens import Lens


def claims(lens: Lens, experiment: str, *, progress: Progress = silent, **arguments: Any) -> list[Claim]:
    """What the paper says of one experiment beside what is found here, on unseen tasks.

    Args:
        lens: The model.
        experiment: A key of ``TABLE``.
        progress: Called as ``progress(done, total, what)``.
        **arguments: As of :func:`dit_lens.replication.measure`.

    Returns:
        As :func:`read`.

    Raises:
        MeasureError: As of :func:`dit_lens.replication.measure` and :func:`read`.
    """
    return read(experiment, measure(lens, experiment, progress=progress, **arguments))


def read(experiment: str, measured: Measured) -> list[Claim]:
    """The rows of one experiment; those whose data were not taken are left out.

    Args:
        experiment: A key of ``TABLE``.
        measured: What :func:`dit_lens.replication.measure` gave.

    Returns:
        Its claims, corrected over this experiment alone; for several, see :func:`page`.

    Raises:
        MeasureError: For another name, and where a row's number is not finite.
    """
    return page({experiment: measured})


def page(measured: Mapping[str, Measured], *, any_dependence: bool = False) -> list[Claim]:
    """All rows of a page beside what was found, the false discovery rate held over all that could be tested.

    Args:
        measured: What :func:`dit_lens.replication.measure` gave, by experiment.
        any_dependence: As of :func:`dit_lens.stats.fdr`.

    Returns:
        A claim for every number, in the order of the table; rows that are one number are one claim.

    Raises:
        MeasureError: For a name that is no experiment, and where a row's number is not finite.
    """
    rows, found = _read(measured)
    verdicts, first = _judged(rows, found, any_dependence)
    out = []
    for id, one in found.items():
        if first.get(id, id) == id:
            also = tuple(rows[other].paper for other, own in first.items() if own == id and other != id)
            out.append(rows[id].claim(one, verdicts.get(id), tuple(p for p in also if p != rows[id].paper)))
    return out


def judge(measured: Mapping[str, Measured], *, any_dependence: bool = False) -> dict[str, Verdict | Untestable]:
    """Verdicts of all rows of a page by id; arguments and exceptions as of :func:`page`.

    Args:
        measured: What :func:`dit_lens.replication.measure` gave, by experiment.
        any_dependence: As of :func:`dit_lens.stats.fdr`.

    Returns:
        A verdict for every row whose data were taken, in the order of the table; :class:`Untestable` for those that
        these runs cannot decide.
    """
    rows, found = _read(measured)
    verdicts, first = _judged(rows, found, any_dependence)
    return {id: verdicts[first.get(id, id)] if isinstance(one, Reading) else one for id, one in found.items()}


def _read(measured: Mapping[str, Measured]) -> tuple[dict[str, Row], dict[str, Reading | Untestable]]:
    """The rows by id, and what those whose data were taken read."""
    rows = {row.id: row for name in measured for row in rows_of(name)}
    read = {id: row.read(measured[row.experiment]) for id, row in rows.items()}
    return rows, {id: one for id, one in read.items() if one is not None}


def _judged(
    rows: Mapping[str, Row], found: Mapping[str, Reading | Untestable], any_dependence: bool
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Corrected verdicts of the numbers, and of repeated rows the first that is the same number."""
    readings = {id: one for id, one in found.items() if isinstance(one, Reading)}
    alone = {id: rows[id].judged(one) for id, one in readings.items()}
    first: dict[str, str] = {}
    for group in repeated(readings):
        for id in group:
            first[id] = next(other for other in group if repr(alone[other]) == repr(alone[id]))
    own = [id for id in readings if first.get(id, id) == id]
    verdicts = corrected([alone[id] for id in own], any_dependence=any_dependence)
    return dict(zip(own, verdicts, strict=True)), first


def repeated(readings: Mapping[str, Reading]) -> list[tuple[str, ...]]:
    """Groups of rows that read the same effect and the same null from every task.

    Args:
        readings: Id of a row -> what it read.

    Returns:
        Ids of each group of two or more.
    """
    groups: list[list[str]] = []
    for id, one in readings.items():
        for group in groups:
            other = readings[group[0]]
            if all(
                np.array_equal(a, b, equal_nan=True)
                for a, b in (
                    (one.effect.values.astype(float), other.effect.values.astype(float)),
                    (one.null.values.astype(float), other.null.values.astype(float)),
                )
            ):
                group.append(id)
                break
        else:
            groups.append([id])
    return [tuple(group) for group in groups if len(group) > 1]
