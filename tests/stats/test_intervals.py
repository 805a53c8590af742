"""Intervals of means and shares: known answers, missing values, few tasks, and outcomes that do not vary."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from scipy.stats import t as student

from dit_lens.errors import MeasureError
from dit_lens.stats import mean_interval, share_interval
from dit_lens.stats.methods import newcombe, skew_t, wilson_ends
from dit_lens.stats.shares import share_ends

NAN = np.nan


def tasks(values: object, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=dims or ("task",), attrs={"units": "u"})


def ends(found: xr.Dataset) -> tuple[float, float]:
    return float(found["low"]), float(found["high"])


def test_without_skewness_it_is_students_interval() -> None:
    x = np.array([-3.0, -2, -1, 0, 1, 2, 3])
    half = student.ppf(0.975, 6) * x.std(ddof=1) / np.sqrt(7)
    assert ends(mean_interval(tasks(x))) == pytest.approx((-half, half), rel=1e-4)
    found = mean_interval(tasks(x + 5), level=0.5)
    assert float(found["value"]) == 5 and int(found["n"]) == 7 and not found["exact"]
    half = student.ppf(0.75, 6) * x.std(ddof=1) / np.sqrt(7)
    assert ends(found) == pytest.approx((5 - half, 5 + half), rel=1e-4)
    assert found.attrs["level"] == 0.5 and found.attrs["units"] == "u" and found.attrs["interval_over"] == "task"


def test_the_transformation_is_undone() -> None:
    """The ends are where Hall's polynomial of the t statistic meets Student's quantiles."""
    x = np.random.default_rng(0).exponential(size=12)
    n, mean, se = 12, x.mean(), x.std(ddof=1) / np.sqrt(12)
    k = ((x - mean) ** 3).mean() / x.std() ** 3
    for end, q in zip(ends(mean_interval(tasks(x))), (0.975, 0.025), strict=True):
        t = (mean - end) / se
        g = t + k * t**2 / (3 * np.sqrt(n)) + k**2 * t**3 / (27 * n) + k / (6 * np.sqrt(n))
        assert g == pytest.approx(student.ppf(q, n - 1))
    low, high = ends(mean_interval(tasks(x)))
    assert high - mean > mean - low  # the long tail is on the right


@given(arrays(float, st.integers(5, 20), elements=st.floats(-100, 100)), st.floats(0.1, 10), st.floats(-10, 10))
def test_a_change_of_units_changes_the_interval_alike(x: np.ndarray, scale: float, shift: float) -> None:
    before, after = (mean_interval(tasks(v)) for v in (x, scale * x + shift))
    if np.ptp(x) < 1e-3:
        return  # rounding decides whether such values differ
    for a, b in zip(ends(before), ends(after), strict=True):
        assert b == pytest.approx(scale * a + shift, rel=1e-4, abs=1e-3 * scale)
    low, high = ends(before)
    assert low < float(before["value"]) < high
    mirrored = ends(mean_interval(tasks(-x)))
    assert mirrored == pytest.approx((-high, -low), rel=1e-4, abs=1e-6)


def test_a_few_means_have_students_interval() -> None:
    x = np.array([0.61, 0.55, 0.70])
    half = student.ppf(0.975, 2) * x.std(ddof=1) / np.sqrt(3)
    found = mean_interval(tasks(x, "training"), "training", normal=True)
    assert ends(found) == pytest.approx((x.mean() - half, x.mean() + half)) and found.attrs["method"] == "Student's t"
    assert np.isnan(ends(mean_interval(tasks(x, "training"), "training"))).all()
    one = mean_interval(tasks(x[:1]), normal=True)
    assert np.isnan(ends(one)).all() and "fewer than 2" in one.attrs["no_interval"]
    draws = np.random.default_rng(0).normal(size=(3, 4000))
    found = mean_interval(tasks(draws, "task", "draw"), normal=True)
    assert float(((found["low"] <= 0) & (found["high"] >= 0)).mean()) == pytest.approx(0.95, abs=0.01)
    with pytest.raises(MeasureError, match="leave out normal=True or bounds"):
        mean_interval(tasks(x), normal=True, bounds=(0, 1))


def test_missing_values_are_left_out_cell_by_cell() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    x[[2, 5], 1] = NAN
    x[:, 2] = NAN
    found = mean_interval(tasks(x, "task", "layer"))
    assert found["n"].values.tolist() == [9, 7, 0]
    alone = mean_interval(tasks(np.delete(x[:, 1], [2, 5])))
    for name in ("value", "low", "high"):
        assert float(found[name][1]) == pytest.approx(float(alone[name]))
        assert np.isnan(found[name][2])


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_few_tasks_have_no_interval(n: int) -> None:
    for found in (mean_interval(tasks(np.arange(float(n)))), share_interval(tasks(np.ones(n)))):
        assert np.isnan(ends(found)).all() and int(found["n"]) == n
    found = mean_interval(tasks(np.arange(4.0) / 4), bounds=(0, 1))
    assert np.isnan(ends(found)).all()


def test_why_there_is_no_interval_is_said() -> None:
    x = np.stack([np.arange(8.0), np.full(8, 0.7), np.where(np.arange(8) < 4, np.arange(8), NAN)], 1)
    said = mean_interval(tasks(x, "task", "cell")).attrs["no_interval"]
    assert said.startswith("1 of 3 cells: fewer than 5 tasks; 1 of 3 cells: all values are equal, and neither bounds")
    assert "no_interval" not in mean_interval(tasks(x[:, 0])).attrs
    assert "no_interval" not in mean_interval(tasks(x[:, 1]), exact=True).attrs
    assert share_interval(tasks([1.0, 0.0])).attrs["no_interval"] == "1 of 1 cells: fewer than 5 tasks"


def test_equal_values_have_no_width_of_zero() -> None:
    """Without bounds nothing is known of tasks that were not seen; with them, that few are otherwise."""
    same = tasks([0.7] * 8)
    assert np.isnan(ends(mean_interval(same))).all()
    p = 1 - 0.025 ** (1 / 8)  # Clopper and Pearson's upper end for none of eight
    assert ends(mean_interval(same, bounds=(0, 1))) == pytest.approx((0.7 - 0.7 * p, 0.7 + 0.3 * p), abs=0.004)
    assert ends(mean_interval(tasks([1.0] * 8), bounds=(0, 1)))[1] == 1
    assert ends(mean_interval(tasks([1.0] * 8), bounds=(0, 1))) == ends(share_interval(tasks([1.0] * 8)))
    # Rounding does not count as varying.
    assert np.isnan(ends(mean_interval(tasks([0.1 + 0.2] * 4 + [0.3] * 4)))).all()


def test_what_is_equal_by_construction_says_so() -> None:
    found = mean_interval(tasks([0.0] * 3), exact=True)
    assert ends(found) == (0, 0) and bool(found["exact"])
    with pytest.raises(MeasureError, match="leave it out"):
        mean_interval(tasks([0.0, 1.0]), exact=True)


def test_two_values_are_a_share_whatever_they_are_called() -> None:
    x = np.array([1.0] * 7 + [0.0] * 3)
    share = ends(share_interval(tasks(x)))
    assert share == pytest.approx(share_ends(np.array(7), np.array(10), 0.95))
    assert ends(mean_interval(tasks(x), bounds=(0, 1))) == pytest.approx(share)
    doubled = ends(mean_interval(tasks(2 * x - 1), bounds=(-1, 1)))
    assert doubled == pytest.approx(tuple(2 * end - 1 for end in share))
    assert ends(mean_interval(tasks(x))) != pytest.approx(share)  # bounds not stated: nothing is assumed


def test_no_interval_leaves_the_bounds() -> None:
    low, high = ends(mean_interval(tasks([1.0] * 6 + [0.9, 0.2]), bounds=(0, 1)))
    assert 0 <= low < 0.8875 < high <= 1


def test_levels_are_averaged_below_the_task_and_tasks_weigh_equally() -> None:
    x = np.full((6, 3), NAN)
    x[:, 0] = [0, 0, 1, 1, 0, 1]
    x[0] = [0, 1, 1]  # one task has three seeds
    found = mean_interval(tasks(x, "task", "seed"), over=("task", "seed"))
    assert float(found["value"]) == pytest.approx((2 / 3 + 3) / 6) and int(found["n"]) == 6
    assert found.attrs["averaged_over"] == "seed"
    share = share_interval(tasks(x, "task", "seed"), over=("task", "seed"))
    assert float(share["value"]) == pytest.approx((2 / 3 + 3) / 6)
    assert share.attrs["method"] == "Korn and Graubard, clustered" and share.attrs["interval_over"] == "task"


def test_seeds_that_agree_are_worth_no_more_than_their_task() -> None:
    x = np.repeat(np.array([1.0] * 6 + [0.0] * 2)[:, None], 4, 1)
    clustered = share_interval(tasks(x, "task", "seed"), over=("task", "seed"))
    assert ends(clustered) == pytest.approx(ends(share_interval(tasks(x[:, 0]))), abs=0.02)
    every = np.ones((8, 4))
    assert ends(share_interval(tasks(every, "task", "seed"), over=("task", "seed"))) == pytest.approx(
        ends(share_interval(tasks(every[:, 0]))), abs=0.02
    )


def test_bad_input_is_told_with_a_cure() -> None:
    x = tasks([0.5] * 8)
    for call in (mean_interval, share_interval):
        with pytest.raises(MeasureError, match=r"name one of them"):
            call(tasks([1.0] * 8), over="seed")
        with pytest.raises(MeasureError, match="between 0 and 1"):
            call(tasks([1.0] * 8), level=95)
    with pytest.raises(MeasureError, match="take mean_interval"):
        share_interval(x)
    with pytest.raises(MeasureError, match=r"found 0.5 to 0.5"):
        mean_interval(x, bounds=(0, 0.4))
    with pytest.raises(MeasureError, match="least and the greatest"):
        mean_interval(x, bounds=(1, 0))


# -- the methods on plain arrays


def test_wilson_is_scipys() -> None:
    for hits, n in ((0, 5), (3, 7), (9, 9)):
        for level in (0.9, 0.95):
            known = binomtest(hits, n).proportion_ci(level, method="wilson")
            assert wilson_ends(np.array(hits / n), np.array(n), level) == pytest.approx((known.low, known.high))


def test_newcombe_is_that_of_contingencytables() -> None:
    """The R package's own test: 59 and 80 agree, 6 and 16 do not; -0.0621 (-0.1186 to -0.0046)."""
    assert newcombe(59, 6, 16, 80, level=0.95) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


def test_newcombe_turned_around_and_where_nothing_happens() -> None:
    low, high = newcombe(5, 4, 1, 6, 0.95)
    assert newcombe(5, 1, 4, 6, 0.95) == pytest.approx((-high, -low))
    low, high = newcombe(0, 0, 0, 10, 0.95)
    assert low == -high and high == pytest.approx(binomtest(0, 10).proportion_ci(method="wilson").high)


def test_no_numbers_no_interval() -> None:
    low, high = skew_t(np.full((3, 2), NAN), 0.95)
    assert np.isnan([low, high]).all()
