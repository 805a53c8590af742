"""An effect beside its null: the parts are those of the functions it is made of, and cells are corrected together."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats import max_statistic, mean_interval, paired, summarise

PARTS = [
    "value", "low", "high", "n", "null", "null_low", "null_high", "difference", "difference_low", "difference_high",
    "p", "p_corrected",
]  # fmt: skip


def tasks(values: object, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=("task", *dims))


def test_parts_are_those_of_their_functions() -> None:
    rng = np.random.default_rng(0)
    a, b = tasks(rng.normal(1, 1, (9, 4)), "step"), tasks(rng.normal(0, 1, (9, 4)), "step")
    found = summarise(a, b)
    assert list(found.data_vars) == PARTS
    xr.testing.assert_equal(found["low"], mean_interval(a)["low"])
    xr.testing.assert_equal(found["null_high"], mean_interval(b)["high"])
    xr.testing.assert_equal(found["difference_low"], paired(a, b)["low"])
    xr.testing.assert_equal(found["p_corrected"], max_statistic(a, b)["p_corrected"])
    assert (found["p"] <= found["p_corrected"]).all()
    assert found.attrs["interval_over"] == "task" and found.attrs["cells"] == 4


def test_a_planted_cell_stands_out_and_its_neighbours_do_not() -> None:
    rng = np.random.default_rng(1)
    effect = rng.normal(0, 0.1, (10, 6, 5))
    effect[:, 2, 3] += 1
    found = summarise(tasks(effect, "step", "layer"), tasks(rng.normal(0, 0.1, (10, 6, 5)), "step", "layer"))
    out = (found["p_corrected"] <= 0.05).values
    assert out[2, 3] and out.sum() == 1


def test_cells_without_an_effect_stand_out_in_one_page_of_twenty() -> None:
    rng = np.random.default_rng(0)
    draws, any_out, any_plain = 200, 0, 0
    for _ in range(draws):
        a, b = (tasks(rng.normal(size=(8, 20)), "layer") for _ in range(2))
        found = max_statistic(a, b)
        any_out += bool((found["p_corrected"] <= 0.05).any())
        any_plain += bool((found["p"] <= 0.05).any())
    assert any_out / draws <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws) < 0.4 < any_plain / draws


def test_seeds_are_averaged_and_a_null_may_have_fewer_dims() -> None:
    rng = np.random.default_rng(2)
    a, b = tasks(rng.normal(1, 1, (7, 3, 2)), "seed", "region"), tasks(rng.normal(0, 1, (7, 3)), "seed")
    found = summarise(a, b, over=("task", "seed"))
    known = summarise(a.mean("seed"), b.mean("seed").broadcast_like(a.mean("seed")))
    xr.testing.assert_allclose(found, known)
    assert found.attrs["averaged_over"] == "seed"


def test_bounds_and_small_n() -> None:
    ones, zeros = tasks([1.0] * 8), tasks([0.0] * 8)
    found = summarise(ones, zeros, bounds=(0, 1))
    assert float(found["low"]) < 1 == float(found["high"]) and float(found["null_high"]) > 0
    assert np.isnan(summarise(ones, zeros)["low"]) and "bounds" in summarise(ones, zeros).attrs["no_interval"]
    few = summarise(ones[:4], zeros[:4], bounds=(0, 1))
    assert np.isnan([few["low"], few["null_low"], few["difference_low"]]).all()
    assert few.attrs["no_interval"] == "1 of 1 cells: fewer than 5 tasks"


def test_what_is_no_pair_is_refused() -> None:
    a = tasks(np.zeros((6, 2)), "step")
    with pytest.raises(MeasureError, match=r"has dims \['layer'\] that the effect has not: select"):
        summarise(a, tasks(np.zeros((6, 2)), "layer"))
    with pytest.raises(MeasureError, match="not of the same tasks"):
        summarise(a, tasks(np.zeros((7, 2)), "step"))
