"""Paired differences: power, size and coverage by simulation, known answers, and outcomes that do not vary."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest, ttest_rel

from dit_lens.errors import MeasureError
from dit_lens.stats import detectable, mean_interval, paired
from dit_lens.stats.methods import newcombe
from dit_lens.stats.pairs import Pairs
from dit_lens.stats.shares import share_ends


def tasks(values: object, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=("task", *dims))


def arms(rng: np.random.Generator, n: int, draws: int, shift: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Two arms that correlate by .8, the first higher by ``shift`` standard deviations; (puzzle, draw)."""
    common = np.sqrt(0.8) * rng.normal(size=(n, draws))
    a, b = (common + np.sqrt(0.2) * rng.normal(size=(n, draws)) for _ in range(2))
    return tasks(a + shift, "draw"), tasks(b, "draw")


@pytest.mark.parametrize(("n", "least"), [(8, 0.6), (16, 0.93), pytest.param(30, 0.99, marks=pytest.mark.slow)])
def test_power_and_size_of_the_paired_test(n: int, least: float) -> None:
    draws = 2000
    rng = np.random.default_rng(n)
    found = paired(*arms(rng, n, draws, 0.6))
    power = float(((found["p"] <= 0.05) & (found["value"] > 0)).mean())
    nothing = paired(*arms(rng, n, draws, 0.0))
    size = float((nothing["p"] <= 0.05).mean())
    assert power >= least, power
    assert size <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws), size
    covered = float(((found["low"] <= 0.6) & (found["high"] >= 0.6)).mean())
    assert 0.94 <= covered <= 0.97


def test_unpaired_intervals_would_fail_this_test() -> None:
    """The rule "the effect's interval lies above the null's" on the same numbers."""
    a, b = (mean_interval(arm) for arm in arms(np.random.default_rng(8), 8, 500, 0.6))
    assert float((a["low"] > b["high"]).mean()) < 0.15


def test_detectable_is_what_would_have_been_seen() -> None:
    """A paired t test of that shift is significant in 80 % of studies."""
    rng = np.random.default_rng(0)
    for n in (6, 12, 30):
        shift = detectable(2.0, n)
        d = rng.normal(shift, 2.0, (n, 4000))
        p = ttest_rel(d, np.zeros_like(d)).pvalue
        assert np.mean((p <= 0.05) & (d.mean(0) > 0)) == pytest.approx(0.8, abs=0.02)
    assert detectable(1.0, 30) < detectable(1.0, 10) and detectable(3.0, 10) == pytest.approx(3 * detectable(1.0, 10))
    with pytest.raises(MeasureError, match="fewer than two"):
        detectable(1.0, 1)


def test_numbers_of_one_pair_of_arms() -> None:
    a, b = np.array([3.0, 4, 5, 7, 9, 8]), np.array([1.0, 3, 2, 4, 5, 7])
    found = paired(tasks(a), tasks(b))
    assert float(found["value"]) == pytest.approx((a - b).mean()) and int(found["n"]) == 6
    assert float(found["p"]) == pytest.approx(2 / 64)  # all six point up
    assert float(found["sd"]) == pytest.approx((a - b).std(ddof=1))
    assert float(found["detectable"]) == pytest.approx(detectable(float(found["sd"]), 6))
    assert float(found["low"]) == 1 and float(found["high"]) == 4  # the least and the greatest difference
    one = paired(tasks(a), 2.0)
    assert float(one["value"]) == pytest.approx(a.mean() - 2)
    turned = paired(tasks(b), tasks(a))
    assert (float(turned["low"]), float(turned["high"])) == (-4, -1) and float(turned["p"]) == float(found["p"])


def test_a_task_missing_in_one_arm_is_left_out_of_both() -> None:
    a, b = tasks([1.0, 2, 3, 4, np.nan, 6, 7]), tasks([0.0, 1, np.nan, 2, 3, 4, 6])
    found = paired(a, b)
    assert int(found["n"]) == 5 and float(found["value"]) == pytest.approx(np.mean([1, 1, 2, 2, 1]))
    few = paired(tasks([1.0, 2, 3, 4]), tasks([0.0] * 4))
    assert np.isnan([few["low"], few["high"], few["p"], few["detectable"]]).all() and float(few["value"]) == 2.5


def test_levels_below_the_task_are_averaged() -> None:
    rng = np.random.default_rng(0)
    a, b = tasks(rng.normal(1, 1, (8, 3)), "seed"), tasks(rng.normal(size=(8, 3)), "seed")
    deep, flat = paired(a, b, over=("task", "seed")), paired(a.mean("seed"), b.mean("seed"))
    assert float(deep["value"]) == pytest.approx(float(flat["value"])) and float(deep["p"]) == float(flat["p"])
    assert deep.attrs["interval_over"] == "task"
    each = paired(a, b)
    assert each["p"].dims == ("seed",)


# -- outcomes with two values


def test_shares_of_the_same_tasks() -> None:
    a = np.array([1.0] * 9 + [0.0] * 3)
    b = np.array([1.0] * 2 + [0.0] * 10)
    found = paired(tasks(a), tasks(b), bounds=(0, 1))
    assert (float(found["low"]), float(found["high"])) == pytest.approx(newcombe(2, 7, 0, 3, 0.95))
    assert float(found["p"]) == pytest.approx(binomtest(7, 7).pvalue)  # McNemar
    doubled = paired(tasks(2 * a), tasks(2 * b), bounds=(0, 2))
    assert float(doubled["low"]) == pytest.approx(2 * float(found["low"]))


@pytest.mark.parametrize(("n", "a", "b"), [(8, 0.8, 0.8), (8, 0.9, 0.5), (16, 0.95, 0.95), (30, 0.5, 0.3)])
def test_coverage_of_a_difference_of_shares(n: int, a: float, b: float) -> None:
    """Arms that correlate: half of the tasks draw one number for both."""
    rng = np.random.default_rng(n)
    draws, covered, wrong = 1500, 0, 0
    for _ in range(draws):
        u, v = rng.random((2, n))
        v = np.where(rng.random(n) < 0.5, u, v)
        one = Pairs((u < a).astype(float), (v < b).astype(float), (0, 1))
        low, high = one.interval()
        covered += low <= a - b <= high
        wrong += one.p() <= 0.05
    assert covered / draws >= 0.93
    assert a != b or wrong / draws <= 0.05


def test_a_known_null_has_no_spread_of_its_own() -> None:
    a = np.array([1.0] * 8 + [0.0] * 2)
    known = Pairs(a, 0.0, (0, 1))
    blaker = share_ends(np.array(8), np.array(10), 0.95)
    assert known.interval() == pytest.approx(blaker)
    assert known.p_greater(0.5) == pytest.approx(binomtest(8, 10, 0.5, alternative="greater").pvalue)
    assert known.p_smaller(0.9) == pytest.approx(binomtest(8, 10, 0.9, alternative="less").pvalue)
    low, _ = Pairs(a, np.zeros(10), (0, 1)).interval()
    assert low < blaker[0]  # a null that was measured could have been otherwise


def test_margins_of_shares_go_by_the_interval() -> None:
    one = Pairs(np.array([1.0] * 9 + [0.0] * 3), np.zeros(12), (0, 1))
    p = one.p_greater(0.2)
    assert one.interval(1 - 2 * p)[0] == pytest.approx(0.2, abs=1e-4)
    p = one.p_smaller(0.95)
    assert one.interval(1 - 2 * p)[1] == pytest.approx(0.95, abs=1e-4)
    assert one.p_greater(0.9) == 1.0 and one.p_smaller(0.2) == 1.0
    assert (one.p_greater(-np.inf), one.p_smaller(np.inf)) == (0, 0)
    assert (one.p_greater(np.inf), one.p_smaller(-np.inf)) == (1, 1)


# -- outcomes that do not vary


def test_equal_differences_say_their_sign_and_no_more() -> None:
    one = Pairs(np.full(8, 3.0), np.full(8, 1.0))
    assert np.isnan(one.interval()).all() and np.isnan(one.detectable())
    assert one.p() == pytest.approx(2 / 256) and np.isnan(one.p_smaller(5.0))
    assert Pairs(np.zeros(8), np.zeros(8)).p() == 1


def test_bounds_say_what_tasks_not_seen_could_change() -> None:
    nothing = Pairs(np.full(8, 0.4), np.full(8, 0.4), (0, 1))
    low, high = nothing.interval()
    assert low == -high and 0.3 < high < 0.4 and nothing.detectable() == pytest.approx(high)
    assert nothing.p_smaller(0.2) > 0.05 > nothing.p_smaller(0.6)
    assert nothing.p() == 1
    p = 1 - 0.025 ** (1 / 8)  # Clopper and Pearson's upper end for none of eight
    assert Pairs(np.full(8, 0.4), 0.1, (0, 1)).interval() == pytest.approx((0.3 - 0.4 * p, 0.3 + 0.6 * p), abs=0.004)


@pytest.mark.parametrize(("least", "wide"), [(0, 2), (-3, 10), (5, 0.5)])
@pytest.mark.parametrize("known", [True, False])
def test_an_outcome_of_two_values_in_another_unit_says_the_same(least: float, wide: float, known: bool) -> None:
    effect = np.array([1.0] * 9 + [0.0] * 3)
    null = 0.4 if known else np.array([1.0] * 4 + [0.0] * 8)
    one, other = Pairs(effect, null, (0, 1)), Pairs(least + wide * effect, least + wide * null, (least, least + wide))
    assert one.two_valued and other.two_valued
    assert other.interval() == pytest.approx([wide * end for end in one.interval()])
    assert other.value == pytest.approx(wide * one.value) and other.p() == pytest.approx(one.p())
    assert other.p_greater(wide * 0.1) == pytest.approx(one.p_greater(0.1))
    assert other.p_smaller(wide * 0.6) == pytest.approx(one.p_smaller(0.6))
