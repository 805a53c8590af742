"""Verdicts over a page: paired, corrected over all rows, and one number counts once."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import noise_map

from dit_lens.errors import MeasureError
from dit_lens.replication import TABLE, Reading, Row, Untestable, judge, repeated
from dit_lens.stats import Verdict, fdr
from dit_lens.stats.verdict import PLACEBO_TOO

ROWS = [row for rows in TABLE.values() for row in rows]


def branches(differ: list[float], changed: list[float], fresh: float, n: int = 20) -> xr.Dataset:
    some = np.where(np.arange(n) % 10 == 0, 0.05, 0)
    grid = {"differ": np.add.outer(some, differ), "changed": np.add.outer(some, changed)}
    return xr.Dataset(
        {name: (("task", "step"), value) for name, value in grid.items()}
        | {"fresh_differ": ("task", some + fresh), "placebo_changed": (("task", "step"), np.zeros((n, 3)))},
        coords={"step": [1, 3, 16], "task": range(n)},
        attrs={"n_steps": 20},
    )


def test_every_row_states_what_a_verdict_needs() -> None:
    for row in ROWS:
        assert row.smallest is not None or not row.compared or row.networks, row.id  # a rank excludes no size
        assert row.smallest is None or row.smallest > 0
        assert not row.zero_null or row.smallest, row.id
        assert row.compared or row.within, row.id
        if row.unit.startswith("share") and row.id not in ("roles/divided", "attention/cut-later"):
            assert row.bounds in ((0, 1), (-1, 1), (-2, 2)), row.id  # a share, a difference of two, and of two such


def test_rows_are_judged_paired_and_by_what_was_stated() -> None:
    page = judge({"branching": {"branches": branches([0.6, 0.3, 0], [0.6, 0.3, 0], 0.6)}})
    assert list(page) == ["branching/fewer", "branching/undecided", "branching/pruned"]
    assert {v.outcome for v in page.values() if isinstance(v, Verdict)} == {"supported"}
    few, many = (
        judge({"branching": {"branches": branches([0.6, 0.6, 0], [0.03, 0.02, 0], 0.6, n)}}) for n in (20, 60)
    )
    rows = ("branching/fewer", "branching/undecided")  # nothing, and there but less than is of interest
    assert [few[id].outcome for id in rows] == ["undecided"] * 2, "of twenty, one in ten others may have gone unseen"
    assert [many[id].outcome for id in rows] == ["contradicted"] * 2


def test_the_noise_page_has_the_placebos_answer() -> None:
    """A redraw that keeps the content looks as far away as unit noise: shown, and the placebo shows it too."""
    steps, one = noise_map(0.5, n=30), noise_map(0.5, n=30).sel(kind=["unit", "renewed"], step=[10, 12])
    steps["dissimilarity"].loc[{"kind": "renewed"}] = steps["dissimilarity"].sel(kind="unit").values
    flat = xr.Dataset(
        {k: (("task", "kind", "frame"), np.ones((30, 2, 4))) for k in ("score", "elsewhere")}
        | {k: ("task", np.ones(30)) for k in ("clean_score", "clean_elsewhere")},
        coords={"kind": ["unit", "restart"]},
    )
    page = judge({"noise": {"steps": steps, "frames": flat, "one": one}})
    assert page["noise/persists"].outcome == PLACEBO_TOO
    assert page["noise/peak"].outcome == "supported"
    few = judge({"noise": {"steps": steps[{"task": slice(5)}], "frames": flat[{"task": slice(5)}],
                           "one": one[{"task": slice(5)}]}})  # fmt: skip
    assert few["noise/peak"].outcome == "undecided", "five equal peaks leave room for others"


def test_p_is_corrected_over_the_rows_of_all_experiments() -> None:
    measured = {"branches": branches([0.6, 0.3, 0], [0.6, 0.3, 0], 0.6)}
    found = judge({"branching": measured})
    known = fdr([v.p for v in found.values()])
    assert [v.p_corrected for v in found.values()] == pytest.approx(list(known))
    with pytest.raises(MeasureError, match="choose from"):
        judge({"astrology": measured})


def test_what_cannot_be_tested_stays_and_what_was_not_taken_is_left_out() -> None:
    mute = xr.Dataset({"score": (("task", "num_frames"), np.ones((6, 1)))}, {"num_frames": [5]})
    frames = mute.assign(cut=mute["score"], still=mute["score"])
    row = next(row for row in TABLE["schedules"] if row.id == "schedules/frames")
    assert isinstance(row.verdict({"frames": frames}), Untestable)
    assert judge({"attention": {}}) == {} and judge({}) == {}


def reading(effect: list[float], null: list[float]) -> Reading:
    return Reading(xr.DataArray(effect, dims="task"), xr.DataArray(null, dims="task"))


def test_one_number_is_found_however_often_it_is_told() -> None:
    found = {
        "a": reading([1, 2], [0, 0]), "b": reading([1, 3], [0, 0]), "c": reading([1, 2], [0, 0]),
        "d": reading([1, 2], [0, 1]), "e": reading([1, np.nan], [0, 0]), "f": reading([1, np.nan], [0, 0]),
    }  # fmt: skip
    assert repeated(found) == [("a", "c"), ("e", "f")]


def test_an_unpaired_null_enters_as_a_number() -> None:
    effect = xr.DataArray(np.ones(12), dims="task")
    null = xr.DataArray(np.zeros(5), dims="task")
    row = Row("t/x", "p", "m", "share", "n", lambda m: Reading(effect, null, paired=False),
              smallest=0.1, zero_null=True, bounds=(0, 1))  # fmt: skip
    found = row.verdict({})
    assert isinstance(found, Verdict) and found.outcome == "supported" and found.n == 12
