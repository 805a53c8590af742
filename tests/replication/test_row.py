"""A row: what it reads becomes a claim by what it states, and what cannot be read says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from planted_results import beyond

from dit_lens.errors import MeasureError
from dit_lens.replication import Claim, Estimate, Reading, Row, Untestable
from dit_lens.replication.row import HALF_UP, REASONS, SHARE, SMALLEST, mean, text
from dit_lens.stats import mean_interval

RNG = np.random.default_rng(0)


def row(read: Any = None, **states: Any) -> Row:
    said = {"smallest": 0.1, **states}
    return Row("test/one", "It is there.", "what step {step} gives", "share of {all}", "chance", lambda m: read, **said)


def reading(effect: float, null: float, **more: Any) -> Reading:
    a, b = (xr.DataArray(level + 0.1 * RNG.standard_normal(20), dims="task") for level in (effect, null))
    return Reading(a, b, "so it is", {"step": 3, "all": 20}, **more)


@pytest.mark.parametrize(("effect", "verdict"), [(1.0, "supported"), (0.0, "contradicted"), (-1.0, "contradicted")])
def test_a_claim_holds_the_numbers_and_the_verdict(effect: float, verdict: str) -> None:
    found = reading(effect, 0.0)
    claim = row().claim(found)
    s = mean_interval(found.effect)
    assert (claim.id, claim.value, claim.low, claim.high, claim.n) == ("test/one", s["value"], s["low"], s["high"], 20)
    assert claim.null == mean_interval(found.null)["value"] and claim.null_name == "chance"
    assert (claim.verdict, claim.remark, claim.rule) == (verdict, "so it is", row().decides)
    assert (claim.measure, claim.unit) == ("what step 3 gives", "share of 20")
    assert claim.judged is not None and claim.judged.difference == pytest.approx(claim.value - claim.null)
    assert text(found.effect, None) == f"{claim.value:.3f} [{claim.low:.3f}, {claim.high:.3f}], n = 20"
    said = str(claim)
    assert said.startswith("It is there.\n  what step 3 gives: ") and f"{verdict}: difference" in said
    assert "chance: " in said and said.endswith("so it is")


def test_estimates_and_tests_of_its_own_come_first() -> None:
    own = (Estimate(5.0, 4.0, 6.0, 9), Estimate(1.0, 0.0, 2.0, 9))
    claim = row().claim(reading(1.0, 0.0, estimates=own))
    assert (claim.value, claim.null, claim.n, claim.verdict) == (5.0, 1.0, 9, "supported")
    assert row().claim(reading(1.0, 0.0, estimates=own, tested=False)).verdict == "undecided"
    assert row().claim(reading(1.0, 0.0, tested=True)).verdict == "supported"


def test_what_cannot_be_tested_says_why() -> None:
    claim = row().claim(Untestable("nothing to read"))
    assert (claim.verdict, claim.remark, claim.n) == ("cannot be tested on this model", "nothing to read", 0)
    assert claim.judged is None and str(claim).endswith("cannot be tested on this model: nothing to read")


def test_a_number_that_is_none_gives_no_verdict() -> None:
    never, zero = (xr.DataArray([value] * 3, dims="task") for value in (np.nan, 0.0))
    with pytest.raises(MeasureError, match="a verdict needs a finite number"):
        row().claim(Reading(never, zero, words={"step": 0, "all": 3}))


def test_intervals_have_a_width_unless_zero_is_by_construction() -> None:
    ones, zeros = (xr.DataArray([value] * 8, dims="task") for value in (1.0, 0.0))
    found = Reading(ones, zeros, words={"step": 0, "all": 8})
    claim = row(bounds=SHARE).claim(found)
    assert claim.low < claim.high == 1 and claim.null_low == 0 < claim.null_high
    built = row(bounds=SHARE, zero_null=True).claim(found)
    assert (built.null_low, built.null_high) == (0, 0) and built.low < 1
    bare = row().claim(found)
    assert np.isnan([bare.low, bare.high, bare.null_low]).all() and "1 share of 8, n = 8" in str(bare)
    measured = row(zero_null=True).claim(Reading(ones, 1 - ones + 1e-7, words={"step": 0, "all": 8}))
    assert np.isnan(measured.null_low), "not zero, whatever the row states"
    assert text(ones[:3], None) == "1.000, n = 3" and mean(ones, SHARE).low < 1


def test_an_interval_of_a_share_stays_one() -> None:
    """Four of five pairs differ, each task near them: as a mean the interval would end at 1.03."""
    shares = xr.DataArray([1.0, 1.0, 1.0, 0.5, 1.0, 0.6], dims="task")
    assert float(mean_interval(shares)["high"]) > 1 and beyond(text(shares, None))
    assert mean(shares, SHARE).high <= 1 and not beyond(text(shares, SHARE))
    with pytest.raises(TypeError, match="bounds"):
        text(shares)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ({}, "the interval of the paired difference from the null lies above it; contradicted where it excludes every"),
        ({"less": True}, "lies below it; "),
        ({"zero_null": True}, "lies 0.1 above it (the null is zero by construction)"),
        ({"within": HALF_UP}, "above it and the effect itself lies above 0.5; "),
        ({"within": (0.4, 0.6), "compared": False, "smallest": None},
         "supported where the effect itself lies between 0.4 and 0.6; contradicted where it lies outside that range"),
        ({"within": (-np.inf, 0.75)}, "the effect itself lies below 0.75; contradicted where it excludes every "
         "difference of 0.1 or more or the effect lies outside that range"),
        ({"smallest": None}, "contradicted where it lies on the other side"),
    ],
)  # fmt: skip
def test_what_decides_is_said(states: dict[str, Any], words: str) -> None:
    assert words in row(**states).decides


def test_every_smallest_effect_has_a_reason() -> None:
    assert set(REASONS) == set(SMALLEST)
    assert all(least > 0 and len(why) > 15 for least, why in REASONS.values())


def test_pairs_lie_along_a_dim() -> None:
    values = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("task", "kind"), coords={"kind": ["null", "region"]})
    found = Reading.along(values, "kind", ("region", "null"), "told", {"a": 1})
    assert found.effect.values.tolist() == [2, 4] and found.null.values.tolist() == [1, 3]
    assert "kind" not in found.effect.coords and found.paired and mean(found.effect, None).n == 2


def test_a_claim_is_plain_values() -> None:
    claim = row().claim(reading(1.0, 0.0))
    assert isinstance(claim, Claim) and all(isinstance(v, (int, float)) for v in (claim.value, claim.low, claim.n))
