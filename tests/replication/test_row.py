"""A row: what it reads becomes a claim by its rule, and what cannot be read says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.replication import Estimate, Reading, Row, Rule, Untestable
from dit_lens.replication.row import ABOVE_NULL, ABOVE_ZERO, above, mean, text
from dit_lens.stats.summary import summarise

RNG = np.random.default_rng(0)


def row(read: Any, rule: Rule = ABOVE_NULL) -> Row:
    return Row("test/one", "It is there.", "what step {step} gives", "share of {all}", "chance", lambda m: read, rule)


def reading(effect: float, null: float, **more: Any) -> Reading:
    a, b = (xr.DataArray(level + 0.1 * RNG.standard_normal(20), dims="task") for level in (effect, null))
    return Reading(a, b, "so it is", {"step": 3, "all": 20}, **more)


@pytest.mark.parametrize(("effect", "verdict"), [(1.0, "supported"), (0.0, "not supported"), (-1.0, "not supported")])
def test_a_claim_holds_the_numbers_and_the_verdict(effect: float, verdict: str) -> None:
    found = reading(effect, 0.0)
    claim = row(found).claim({})
    assert claim is not None
    s = summarise(found.effect)
    assert (claim.value, claim.low, claim.high, claim.n) == (s["value"], s["low"], s["high"], 20)
    assert claim.null == summarise(found.null)["value"] and claim.null_name == "chance"
    assert (claim.verdict, claim.remark, claim.rule) == (verdict, "so it is", ABOVE_NULL.words)
    assert (claim.measure, claim.unit) == ("what step 3 gives", "share of 20")
    assert text(found.effect) == f"{claim.value:.3f} [{claim.low:.3f}, {claim.high:.3f}], n = 20"


def test_estimates_and_tests_of_its_own_come_first() -> None:
    own = (Estimate(5.0, 4.0, 6.0, 9), Estimate(1.0, 0.0, 2.0, 9))
    claim = row(reading(0.0, 0.0, estimates=own)).claim({})
    assert claim is not None and (claim.value, claim.null, claim.n, claim.verdict) == (5.0, 1.0, 9, "supported")
    claim = row(reading(0.0, 0.0, estimates=own, tested=False)).claim({})
    assert claim is not None and claim.verdict == "not supported"


def test_what_cannot_be_tested_says_why_and_what_was_not_measured_is_no_row() -> None:
    claim = row(Untestable("nothing to read")).claim({})
    assert claim is not None
    assert (claim.verdict, claim.remark, claim.n) == ("cannot be tested on this model", "nothing to read", 0)
    assert row(None).claim({}) is None


def test_a_number_that_is_none_gives_no_verdict() -> None:
    never, zero = (xr.DataArray([value] * 3, dims="task") for value in (np.nan, 0.0))
    with pytest.raises(MeasureError, match="a verdict needs a finite number"):
        row(Reading(never, zero, words={"step": 0, "all": 3})).claim({})


def test_rules() -> None:
    low, null = Estimate(0.5, 0.4, 0.6, 9), Estimate(0.1, 0.0, 0.2, 9)
    assert ABOVE_NULL.holds(low, null) and not ABOVE_NULL.holds(null, low)
    assert not ABOVE_NULL.holds(Estimate(0.3, 0.2, 0.4, 9), null)  # to touch is not to lie above
    assert ABOVE_ZERO.holds(low, Estimate(-1, -2, -0.5, 9)) and not ABOVE_ZERO.holds(null, Estimate(-1, -2, -0.5, 9))
    assert above(0.3).holds(low, null) and not above(0.4).holds(low, null) and "above 0.3" in above(0.3).words


def test_pairs_lie_along_a_dim() -> None:
    values = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("task", "kind"), coords={"kind": ["null", "region"]})
    found = Reading.along(values, "kind", ("region", "null"), "told", {"a": 1})
    assert found.effect.values.tolist() == [2, 4] and found.null.values.tolist() == [1, 3]
    assert "kind" not in found.effect.coords and found.paired and mean(found.effect).n == 2
