"""Claims on the ensemble: verdicts follow planted gains."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.experiments.seed_ensembles import FRESH, PLACEBO, _table
from dit_lens.replication import Claim


def read_rows(found: xr.Dataset) -> list[Claim]:
    return every_row("ensembles", {"ensembles": found})


def result(gains: dict[str, float], n: int = 30) -> xr.Dataset:
    """A planted result: every condition scores .5 plus its gain, in every puzzle, give or take a little noise."""
    names = list(dict.fromkeys(["alone", "random of 3", "best of 3", PLACEBO, "velocity mean", *gains, FRESH]))
    coords = {"kind": names, "reading": ["one", "all"], "metric": ["value"], "draw": [0, 1, 2]}
    raw = xr.DataArray(np.zeros((len(names), 2, 1, 3, n)), dims=(*coords, "task"), coords=coords)
    raw[:] = 0.5 + 0.01 * np.random.default_rng(0).standard_normal(raw.shape)
    for name, gain in gains.items():
        raw.loc[{"kind": name}] += gain
    return _table(raw).assign_attrs(k=3, steps="0", num_inference_steps=3, remarks=[])


@pytest.mark.parametrize(
    ("middle", "early", "whole", "verdicts"),
    [
        (0.1, 0.0, 0.0, [True, True]),
        (0.1, 0.0, 0.1, [True, False]),
        (0.0, 0.0, 0.0, [False, False]),
        (-0.1, -0.2, -0.2, [False, True]),
    ],
)
def test_verdicts_follow_the_numbers(middle: float, early: float, whole: float, verdicts: list[bool]) -> None:
    found = result({"updates 6-8": middle, "updates 0-2": early, "updates 0-11": whole})
    rows = read_rows(found)
    assert supported(rows) == verdicts
    assert rows[0].value == pytest.approx(0.5 + middle, abs=0.01) and rows[0].n == 30
    assert [row.judged.difference for row in rows if row.judged is not None] == pytest.approx(
        [middle, middle - max(early, whole)], abs=0.01
    )
    assert all(claim.low <= claim.value <= claim.high for claim in rows)


def judged(gains: dict[str, float], n: int = 30, seed: int = 0) -> list[str]:
    """Outcomes of the page. Seeds of a task differ by far more than the gains; fresh ones were lucky or not."""
    found = result({**gains, "updates 0-2": 0.0, "updates 0-11": 0.0}, n)["raw"]
    rng = np.random.default_rng(seed)
    found = found + xr.DataArray(rng.normal(0, 0.1, n), dims="task") * (found["kind"] != FRESH)
    found = (found + xr.DataArray(rng.normal(0, 0.1, n), dims="task") * (found["kind"] == FRESH)).clip(0, 1)
    about = {"k": 3, "steps": "0", "num_inference_steps": 3, "remarks": []}
    return [claim.verdict for claim in read_rows(_table(found, (0, 1)).assign_attrs(about))]


def test_the_paired_verdict_is_on_the_same_seeds_with_and_without_sharing() -> None:
    there = judged({"updates 6-8": 0.05})
    assert there == ["supported", "supported"]
    assert judged({"updates 6-8": 0.0}) == ["contradicted", "contradicted"], "smaller than what is of interest"
    assert judged({"updates 6-8": -0.05})[0] == "contradicted"
    assert judged({"updates 6-8": 0.05, FRESH: -0.3}) == there, "luck of the fresh seeds does not enter"


def test_what_fresh_seeds_gain_is_told() -> None:
    (row,) = read_rows(result({"updates 6-8": 0.1, FRESH: 0.2}))
    assert row.remark.startswith("Fresh seeds, whose expected gain is zero, gain 0.20")
