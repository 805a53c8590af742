"""Claims on the ensemble: verdicts follow planted gains."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.experiments.seed_ensembles import PLACEBO, _table
from dit_lens.replication import Claim
from dit_lens.stats import mean_interval


def read_rows(found: xr.Dataset) -> list[Claim]:
    return every_row("ensembles", {"ensembles": found})


def result(gains: dict[str, float], n: int = 30) -> xr.Dataset:
    """A planted result: every condition scores .5 plus its gain, in every puzzle, give or take a little noise."""
    names = list(dict.fromkeys(["alone", "random of 3", "best of 3", PLACEBO, "velocity mean", *gains]))
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
    assert rows[0].value == pytest.approx(middle, abs=0.01) and rows[0].n == 30
    assert rows[1].value == pytest.approx(middle - max(early, whole), abs=0.01)
    assert all(claim.low <= claim.value <= claim.high for claim in rows)
    gain = mean_interval((found["raw"].sel(kind="updates 6-8") - found["raw"].sel(kind="alone")).mean("draw"))
    assert rows[0].low == pytest.approx(gain["low"].sel(reading="one").item())


def test_a_placebo_that_gains_as_much_is_no_support() -> None:
    rows = read_rows(result({"updates 6-8": 0.1, PLACEBO: 0.2}))
    assert supported(rows) == [False]
