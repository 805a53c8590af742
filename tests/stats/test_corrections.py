"""Corrections over rows and cells: known answers, the false findings they allow, and what they still find."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats import fdr, max_statistic, paired
from dit_lens.stats.sign_flips import sign_vectors, t_statistics


def cells(values: np.ndarray, *dims: str) -> xr.DataArray:
    return xr.DataArray(values, dims=("task", *(dims or ("layer",))))


# -- rows


def test_benjamini_and_hochbergs_known_example() -> None:
    """p_(i) m / i, made monotone from above; worked by hand."""
    p = [0.01, 0.04, 0.03, 0.5]
    known = np.array([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert fdr(p) == pytest.approx(known)
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert fdr(p, any_dependence=True) == pytest.approx(np.minimum(known * harmonic, 1))


def test_what_was_not_tested_does_not_count_and_labels_stay() -> None:
    p = xr.DataArray([[0.01, np.nan], [0.04, np.nan]], dims=("a", "b"), coords={"a": ["x", "y"]})
    found = fdr(p)
    assert found.sel(a="x").values[0] == pytest.approx(0.02) and np.isnan(found.values[:, 1]).all()
    assert np.isnan(fdr([np.nan])).all() and len(fdr([])) == 0
    with pytest.raises(MeasureError, match="between 0 and 1"):
        fdr([0.1, 1.2])


def test_false_discoveries_over_rows() -> None:
    """50 rows, 40 of nothing: of what is called, at most 5 % is wrong on average (40/50 of that)."""
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(300):
        p = rng.random(50)
        p[:10] = rng.beta(0.05, 5, 10)
        called = np.asarray(fdr(p)) <= 0.05
        wrong.append(called[10:].sum() / max(called.sum(), 1))
    assert np.mean(wrong) <= 0.05
    assert np.mean([(rng.random(20) <= 0.05).any() for _ in range(300)]) > 0.5  # without it


# -- cells


def related(rng: np.random.Generator, n: int, count: int, rho: float) -> np.ndarray:
    """Cells without an effect that correlate by ``rho``."""
    return np.sqrt(rho) * rng.normal(size=(n, 1)) + np.sqrt(1 - rho) * rng.normal(size=(n, count))


@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize("n", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_no_cell_of_nothing_stands_out(n: int, rho: float) -> None:
    """48 cells, as a small sweep: any false cell in 5 % of sweeps, where plain p calls one in more than half."""
    rng = np.random.default_rng(n)
    draws = 300
    any_plain, any_corrected = 0, {True: 0, False: 0}
    for i in range(draws):
        x = cells(related(rng, n, 48, rho))
        for step_down in any_corrected:
            found = max_statistic(x, step_down=step_down, seed=i)
            any_corrected[step_down] += bool((found["p_corrected"] <= 0.05).any())
        any_plain += bool((found["p"] <= 0.05).any())
    error = 2 * np.sqrt(0.05 * 0.95 / draws)
    assert all(count / draws <= 0.05 + error for count in any_corrected.values())
    assert rho or any_plain / draws > 0.5


def test_true_cells_are_found_and_step_down_finds_no_fewer() -> None:
    rng = np.random.default_rng(0)
    x = related(rng, 16, 40, 0.3)
    x[:, :6] += np.linspace(1.0, 2.0, 6)
    single, stepped = (max_statistic(cells(x), step_down=step)["p_corrected"].values for step in (False, True))
    assert (stepped <= single + 1e-12).all() and (stepped[6:] > 0.05).all()
    assert (single[3:6] <= 0.05).all() and (stepped <= 0.05).sum() >= (single <= 0.05).sum()


def test_one_cell_needs_no_correction_and_is_the_paired_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.6, 1, (10, 1)), rng.normal(size=(10, 1))
    found, alone = max_statistic(cells(a), cells(b)), paired(cells(a), cells(b))
    assert float(found["p"][0]) == pytest.approx(float(alone["p"][0]))
    assert float(found["p_corrected"][0]) == float(found["p"][0])
    assert float(found["value"][0]) == pytest.approx(float(alone["value"][0])) and int(found["n"][0]) == 10


def test_cells_that_move_together_cost_no_more_than_one() -> None:
    x = np.random.default_rng(0).normal(0.8, 1, (10, 1))
    found = max_statistic(cells(np.repeat(x, 100, 1)))
    np.testing.assert_allclose(found["p_corrected"], found["p"])


def test_step_down_by_hand() -> None:
    """Four tasks, three cells, all 16 flips: every cell against the largest of those that rank no higher."""
    x = np.array([[3.0, 1, 0.5], [2, 2, -1], [4, -1, 2], [3.5, 1.5, 0]])
    size = np.abs(t_statistics(x, sign_vectors(4)))
    order = np.argsort(-size[0])
    known, before = np.empty(3), 0.0
    for rank, cell in enumerate(order):
        largest = size[:, order[rank:]].max(1)
        before = max(before, float((largest >= size[0, cell] - 1e-9).mean()))
        known[cell] = before
    np.testing.assert_allclose(max_statistic(cells(x))["p_corrected"], known)


def test_missing_tasks_and_empty_cells() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 1, (9, 2, 3))
    x[0, 0, 0] = np.nan
    x[:, 1, 2] = np.nan
    x[1:, 1, 1] = np.nan
    found = max_statistic(cells(x, "step", "layer"))
    assert found["n"].values.tolist() == [[8, 9, 9], [9, 1, 0]] and found.attrs["cells"] == 4
    gone = np.array([[False, False, False], [False, True, True]])
    np.testing.assert_array_equal(np.isnan(found["p_corrected"]), gone)
    np.testing.assert_array_equal(np.isnan(found["p"]), gone)
    assert found["value"].values[1, 0] == pytest.approx(x[:, 1, 0].mean())
    none = max_statistic(cells(np.full((3, 2), np.nan)))
    assert none["p_corrected"].isnull().all() and none.attrs["cells"] == 0


def test_levels_below_the_task_do_not_multiply_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 1, (10, 1, 4)).repeat(5, 1)
    deep = max_statistic(xr.DataArray(x, dims=("task", "seed", "layer")), over=("task", "seed"))
    flat = max_statistic(cells(x[:, 0]))
    np.testing.assert_allclose(deep["p_corrected"], flat["p_corrected"])
    assert deep.attrs["interval_over"] == "task"


def test_what_is_no_pair_is_refused() -> None:
    x, y = cells(np.ones((4, 2))), cells(np.ones((5, 2)))
    for call in (max_statistic, paired):
        with pytest.raises(MeasureError, match="same tasks and cells"):
            call(x, y)
        with pytest.raises(MeasureError, match="same tasks and cells"):
            call(x.assign_coords(task=list("abcd")), x.assign_coords(task=list("abdc")))
