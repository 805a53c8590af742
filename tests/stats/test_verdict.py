"""Verdicts: the four outcomes on planted tasks, how often each is wrong, and what a page of them allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats import Verdict, corrected, paired, verdict
from dit_lens.stats.verdict import PLACEBO_TOO

INF = float("inf")


def tasks(values: object, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=("task", *dims))


def arms(
    seed: int, shift: float, n: int = 16, rho: float = 0.8, level: float = 0.0
) -> tuple[xr.DataArray, xr.DataArray]:
    rng = np.random.default_rng(seed)
    common = np.sqrt(rho) * rng.normal(size=n)
    a, b = (common + np.sqrt(1 - rho) * rng.normal(size=n) for _ in range(2))
    return tasks(a + shift), tasks(b)


# -- the outcomes


@pytest.mark.parametrize(
    ("n", "shift", "outcome"),
    [(24, 1.5, "supported"), (24, 0.0, "contradicted"), (24, -1.5, "contradicted"), (7, 0.2, "undecided")],
)
def test_the_outcome_follows_the_difference(n: int, shift: float, outcome: str) -> None:
    found = verdict(*arms(3, shift, n), smallest=0.6)
    assert found.outcome == outcome, found
    assert found.low <= found.difference <= found.high and found.n == n and found.smallest == 0.6
    assert found.p == found.p_corrected and found.p_against == found.p_against_corrected
    assert str(found).startswith(f"{outcome}: difference") and f"n = {n}" in found.why


def test_numbers_are_those_of_the_paired_comparison() -> None:
    a, b = arms(0, 0.7)
    found, known = verdict(a, b), paired(a, b)
    for name, value in (("value", found.difference), ("low", found.low), ("high", found.high), ("p", found.p)):
        assert value == pytest.approx(float(known[name])), name
    assert found.detectable == pytest.approx(float(known["detectable"]))


def test_the_interval_and_the_verdict_agree() -> None:
    """Supported exactly where the interval lies above zero; contradicted exactly where it lies below the smallest."""
    for seed in range(60):
        found = verdict(*arms(seed, 0.3, n=10), smallest=0.5)
        known = "contradicted" if found.high < 0.5 else "supported" if found.low > 0 else "undecided"
        assert found.outcome == known, found


def test_without_a_smallest_effect_only_the_other_side_contradicts() -> None:
    assert verdict(*arms(1, 0.0, n=24)).outcome == "undecided"
    assert verdict(*arms(1, -1.5, n=24)).outcome == "contradicted"
    assert verdict(*arms(1, 0.0, n=24), smallest=0.6).outcome == "contradicted"


def test_a_difference_smaller_than_of_interest_is_no_support() -> None:
    a, b = arms(1, 0.3, n=200, rho=0.99)
    assert verdict(a, b).outcome == "supported" and verdict(a, b, smallest=0.5).outcome == "contradicted"


def test_undecided_says_what_would_have_been_seen() -> None:
    found = verdict(*arms(5, 0.2, n=8))
    assert found.outcome == "undecided"
    assert f"a difference of {found.detectable:.3g} would have been seen in 80 % of studies" in found.why


def test_less_turns_the_claim_around() -> None:
    a, b = arms(2, -1.5)
    assert verdict(a, b, less=True).outcome == "supported" and verdict(a, b).outcome == "contradicted"
    assert verdict(a, b, less=True).difference == pytest.approx(-verdict(a, b).difference)
    share, none = tasks([0.0] * 11 + [1.0]), tasks([1.0] * 11 + [0.0])
    found = verdict(share, none, less=True, bounds=(0, 1))
    assert found.outcome == "supported" and 0 < found.low < found.high <= 1


def test_equal_differences_ask_for_bounds() -> None:
    same = tasks([0.4] * 12)
    found = verdict(same, same)
    assert found.outcome == "undecided" and "unless bounds are stated" in found.why
    found = verdict(tasks([0.9] * 12), tasks([0.4] * 12), within=(0.91, INF), bounds=(0, 1))
    assert found.outcome == "undecided" and found.detectable == pytest.approx(found.difference - found.low)


def test_few_tasks_decide_nothing() -> None:
    found = verdict(*arms(0, 50.0, n=4))
    assert found.outcome == "undecided" and "measure 6 or more" in found.why
    five = verdict(*arms(0, 50.0, n=5))
    assert five.outcome == "undecided" and five.p == 2 / 32


# -- nulls that are zero by construction


def test_to_lie_above_a_zero_that_could_not_be_otherwise_is_no_evidence() -> None:
    tiny, zero = tasks(1e-7 * np.arange(1, 17)), tasks(np.zeros(16))
    assert verdict(tiny, zero).outcome == "supported"  # what the row would say if it did not know
    found = verdict(tiny, zero, zero_null=True)
    assert found.outcome == "undecided" and "state the smallest effect of interest" in found.why
    assert verdict(tiny, zero, zero_null=True, smallest=0.1).outcome == "contradicted"
    large = tasks(np.linspace(0.3, 0.6, 16))
    assert verdict(large, zero, zero_null=True, smallest=0.1).outcome == "supported"
    assert verdict(large, zero, zero_null=True).outcome == "undecided"


def test_a_share_against_zero_has_to_exceed_what_is_of_interest() -> None:
    """10 % of 39 tasks: the old rule called it in more than half of studies."""
    rng = np.random.default_rng(0)
    zero, draws = tasks(np.zeros(39)), 300
    outcomes = [
        verdict(tasks(rng.random(39) < 0.1), zero, zero_null=True, smallest=0.1, bounds=(0, 1)).outcome
        for _ in range(draws)
    ]
    assert outcomes.count("supported") / draws <= 0.05
    many = tasks([1.0] * 30 + [0.0] * 9)
    assert verdict(many, zero, zero_null=True, smallest=0.1, bounds=(0, 1)).outcome == "supported"
    assert verdict(zero, zero, zero_null=True, smallest=0.1, bounds=(0, 1)).outcome == "contradicted"
    assert verdict(zero[:8], zero[:8], zero_null=True, smallest=0.1, bounds=(0, 1)).outcome == "undecided"


def test_all_zero_in_both_arms_is_no_evidence_of_absence_in_few_tasks() -> None:
    found = verdict(tasks(np.zeros(8)), tasks(np.zeros(8)), smallest=0.1, bounds=(0, 1))
    assert found.outcome == "undecided" and found.low < 0 < 0.1 < found.high == found.detectable


# -- ranges, and the placebo


def test_a_named_size_has_to_be_reached_too() -> None:
    rng = np.random.default_rng(0)
    high, low, null = (tasks(np.clip(rng.normal(m, 0.03, 16), 0, 1)) for m in (0.97, 0.85, 0.4))
    assert verdict(high, null, within=(0.9, INF)).outcome == "supported"
    assert verdict(low, null, within=(0.9, INF)).outcome == "contradicted"
    assert verdict(low, null).outcome == "supported"
    near = tasks(0.9 + 0.05 * np.tile([-1, 1], 8))
    assert verdict(near, null, within=(0.9, INF)).outcome == "undecided"
    assert verdict(high, high, within=(0.9, INF)).outcome == "undecided", "high, and the null as high"


def test_a_range_has_two_sides() -> None:
    place, zero = tasks(np.tile([0.45, 0.55], 8)), 0.0
    assert verdict(place, zero, within=(0.4, 0.6)).outcome == "supported"
    for elsewhere in (place + 0.3, place - 0.3):
        assert verdict(elsewhere, zero, within=(0.4, 0.6)).outcome == "contradicted"


def test_what_the_placebo_shows_too() -> None:
    rng = np.random.default_rng(0)
    effect, placebo = tasks(rng.normal(1, 0.2, 16)), tasks(rng.normal(1, 0.2, 16))
    assert verdict(effect, placebo, nothing=0, smallest=0.3).outcome == PLACEBO_TOO
    assert verdict(effect, placebo, smallest=0.3).outcome == "contradicted"  # what nothing is was not said
    assert verdict(effect, placebo - 1, nothing=0, smallest=0.3).outcome == "supported"
    assert verdict(effect + 1, placebo, nothing=0, smallest=0.3).outcome == "supported", "there, and above the placebo"
    assert verdict(effect - 1, placebo - 1, nothing=0, smallest=0.3).outcome == "contradicted"
    assert verdict(-effect, -placebo, nothing=0, smallest=0.3, less=True).outcome == PLACEBO_TOO
    assert verdict(effect, 1.0, nothing=0, smallest=0.3).outcome == "contradicted", "a number shows nothing"


# -- how often it is wrong


@pytest.mark.parametrize(("n", "power"), [(8, 0.6), (16, 0.93)])
def test_power_and_size_of_support(n: int, power: float) -> None:
    """Pair correlation .8, shift .6 standard deviations."""
    draws = 1500
    found = [verdict(*arms(i, 0.6, n)).outcome for i in range(draws)]
    assert found.count("supported") / draws >= power
    nothing = [verdict(*arms(i, 0.0, n)).outcome for i in range(draws)]
    assert nothing.count("supported") / draws <= 0.05 and nothing.count("contradicted") / draws <= 0.05


def test_what_is_of_interest_is_seldom_contradicted() -> None:
    draws = 400
    found = [verdict(*arms(i, 0.5, 12), smallest=0.5).outcome for i in range(draws)]
    assert found.count("contradicted") / draws <= 0.05


def test_a_page_of_nothing_calls_nothing() -> None:
    """20 rows of nothing: without correction some row of most pages is called, with it in 5 % of pages."""
    pages, plain, held = 60, 0, 0
    for page in range(pages):
        rows = [verdict(*arms(1000 * page + i, 0.0, 12)) for i in range(20)]
        plain += any(v.outcome != "undecided" for v in rows)
        held += any(v.outcome != "undecided" for v in corrected(rows))
    assert plain / pages > 0.4 and held / pages <= 0.15


def test_corrected_keeps_order_and_numbers_and_judges_again() -> None:
    rows = [verdict(*arms(i, shift, 10)) for i, shift in enumerate((2.0, 0.45, 0.0, 0.0, 0.0, 0.0))]
    page = corrected(rows)
    for before, after in zip(rows, page, strict=True):
        assert after == replace(before, p_corrected=after.p_corrected, p_against_corrected=after.p_against_corrected)
        assert after.p_corrected >= before.p
    assert page[0].outcome == "supported" and corrected([]) == []
    borderline = Verdict(1.0, 0.1, 2.0, 8, 0.04, 0.04, 0.9, 0.9)
    assert borderline.outcome == "supported"
    assert corrected([borderline, replace(borderline, p=0.8)])[0].outcome == "undecided"


def test_rows_that_were_not_tested_do_not_count() -> None:
    few = verdict(*arms(0, 1.0, n=4))
    sure = verdict(*arms(0, 1.0, n=12))
    assert corrected([few, sure, few])[1].p_corrected == sure.p
    assert corrected([few])[0].outcome == "undecided"


# -- refusals


def test_refusals_say_what_to_do() -> None:
    a, b = arms(0, 1.0)
    for smallest in (0.0, -1.0, float("nan")):
        with pytest.raises(MeasureError, match="lies above zero"):
            verdict(a, b, smallest=smallest)
    with pytest.raises(MeasureError, match="lower and the upper end"):
        verdict(a, b, within=(1.0, 0.0))
    with pytest.raises(MeasureError, match=r"take stats\.paired"):
        verdict(tasks(np.zeros((8, 3)), "layer"), 0.0)
    with pytest.raises(MeasureError, match="same tasks"):
        verdict(a, b[:8])


def test_tasks_without_a_number_leave_a_null_of_zero_known() -> None:
    """The ends are those of the tasks that have numbers, by what bounds allow, and not what sign flips reject."""
    a = xr.DataArray(np.linspace(0.1, 0.4, 12), dims="task")
    zero = xr.zeros_like(a)
    known = verdict(a, zero, smallest=0.1, zero_null=True, bounds=(0, 1))
    effect, null = (xr.DataArray(np.r_[np.nan, one, end], dims="task") for one, end in ((a, 0.9), (zero, np.nan)))
    found = verdict(effect, null, smallest=0.1, zero_null=True, bounds=(0, 1))
    assert repr(found) == repr(known) and found.n == 12
    rounded = zero + 1e-9 * np.arange(12)
    assert verdict(a, rounded, smallest=0.1, zero_null=True, bounds=(0, 1)).high == pytest.approx(known.high)
    assert found.high > 0.4 > verdict(a, zero, smallest=0.1, bounds=(0, 1)).high
