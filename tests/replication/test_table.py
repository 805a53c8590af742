"""The table of claims: its rows are whole, its ids stay apart, and the lab model fills every one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from planted_results import every_row

from dit_lens import load, replication
from dit_lens.errors import MeasureError
from dit_lens.replication import TABLE, Row
from dit_lens.stats import Verdict

ROWS = [row for rows in TABLE.values() for row in rows]
#: Arguments of small measurements on the lab model.
SMALL: dict[str, dict[str, Any]] = {
    "attention": {"n": 2, "num_inference_steps": 4}, "behaviour": {"n": 5}, "branching": {"n": 2}, "chain": {"n": 4},
    "emerge": {"n": 2}, "energy": {"n": 4, "num_inference_steps": 2, "draws": 3},
    "ensembles": {"n": 2, "seed": 50, "num_inference_steps": 2},
    "layer_lens": {"n": 2, "num_inference_steps": 4}, "memory": {"n": 5}, "noise": {"n": 2}, "roles": {"n": 2},
    "schedules": {"n": 2}, "serial": {"n": 2, "num_inference_steps": (1, 2, 4), "depth_steps": (1, 2)},
    "swap": {"n": 2, "seed": 40, "num_inference_steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load("lab") as lens:
        yield lens


def test_ids_are_apart_and_name_their_experiment() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) == 75
    assert all(row.experiment == name for name, rows in TABLE.items() for row in rows)
    assert all(re.fullmatch(r"[a-z_]+/[a-z_-]+", row.id) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_says_all_that_a_reader_needs(row: Row) -> None:
    assert all((row.paper, row.measure, row.unit, row.null_name))
    assert row.decides.startswith("supported where") and "contradicted where" in row.decides
    assert row.smallest is None or f"{row.smallest:g}" in row.decides


def test_another_name_is_refused_with_those_there_are() -> None:
    for call in (replication.claims, replication.measure):
        with pytest.raises(MeasureError, match=r"states no claims: choose from.*'energy'"):
            call(None, "astrology")
    with pytest.raises(MeasureError, match=r"choose from.*'swap'"):
        replication.read("astrology", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_the_rows_are_made_from_runs(lens: Any, name: str) -> None:
    told: list[str] = []
    measured = replication.measure(lens, name, progress=lambda done, total, what: told.append(what), **SMALL[name])
    found = every_row(name, measured)
    assert len(found) == len(TABLE[name]) and told and len(replication.read(name, measured)) <= len(found)
    for row, claim in zip(TABLE[name], found, strict=True):
        assert claim.paper == row.paper and "{" not in claim.measure + claim.unit + claim.null_name
        if claim.verdict == "cannot be tested on this model":
            assert claim.remark
            continue
        assert np.isfinite([claim.value, claim.null]).all() and claim.n >= 1
        assert np.isnan(claim.low) or claim.low <= claim.value <= claim.high
        reading = row.read(measured)
        assert isinstance(reading, replication.Reading)
        assert reading.effect.ndim == reading.null.ndim == 1
        if reading.paired:
            assert reading.effect.sizes == reading.null.sizes
    page = replication.judge({name: measured})
    assert list(page) == [row.id for row in TABLE[name]]
    assert all(v.outcome == "undecided" for v in page.values() if isinstance(v, Verdict) and v.n < 5)
