"""Paired verdicts over a whole page: every row's effect against its null on the same tasks, corrected over all rows.

    measured = {name: dl.replication.measure(lens, name) for name in ("swap", "noise")}
    dl.replication.judge(measured)["swap/flips-maze"]

Rows that read the same numbers are one number: they count once, and have one verdict. The rule of each row
(:func:`dit_lens.replication.read`) is older than these verdicts and compares intervals as if the arms were unpaired; it
is kept beside them until the findings page is made again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dit_lens.replication.row import Measured, Reading, Untestable
from dit_lens.replication.table import rows_of
from dit_lens.stats.verdict import Verdict, corrected


def judge(measured: Mapping[str, Measured], *, any_dependence: bool = False) -> dict[str, Verdict | Untestable]:
    """Verdicts of all rows of a page by id, the false discovery rate held over all that could be tested.

    Args:
        measured: What :func:`dit_lens.replication.measure` gave, by experiment.
        any_dependence: As of :func:`dit_lens.stats.fdr`.

    Returns:
        A verdict for every row whose data were taken, in the order of the table; :class:`Untestable` for those that
        these runs cannot decide.

    Raises:
        MeasureError: For a name that is no experiment.
    """
    rows = {row.id: row for name in measured for row in rows_of(name)}
    found = {id: row.read(measured[row.experiment]) for id, row in rows.items()}
    readings = {id: one for id, one in found.items() if isinstance(one, Reading)}
    alone = {id: rows[id].judged(one) for id, one in readings.items()}
    first: dict[str, str] = {}  # of rows that read the same and are judged the same
    for group in repeated(readings):
        for id in group:
            first[id] = next(other for other in group if repr(alone[other]) == repr(alone[id]))
    own = [id for id in readings if first.get(id, id) == id]
    page = corrected([alone[id] for id in own], any_dependence=any_dependence)
    verdicts = dict(zip(own, page, strict=True))
    out: dict[str, Verdict | Untestable] = {}
    for id, one in found.items():
        if isinstance(one, Reading):
            out[id] = verdicts[first.get(id, id)]
        elif one is not None:
            out[id] = one
    return out


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
