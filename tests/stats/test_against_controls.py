"""A network among its controls: ranks by hand, the size of the test, what it finds, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats import against_controls, max_statistic


def networks(values: np.ndarray) -> tuple[xr.DataArray, xr.DataArray]:
    """The first of (networks, layers) as the network asked, the others as controls."""
    there = xr.DataArray(values, dims=("control", "layer"), coords={"layer": range(values.shape[1])})
    return there.isel(control=0, drop=True), there.isel(control=slice(1, None))


def test_ranks_by_hand() -> None:
    """One cell: p is the rank; two cells: the rank of the largest |z|."""
    values = np.arange(25.0)[:, None]
    for rank, at in ((1, 24), (1, 0), (3, 23), (25, 12)):  # |z| of 0 and 24 are equal: the larger rank of a tie
        own, controls = networks(np.roll(values, -at, axis=0))
        p = float(against_controls(own, controls)["p"][0])
        assert p == pytest.approx({1: 2, 3: 4, 25: 25}[rank] / 25)
    own, controls = networks(np.roll(values, -24, axis=0))
    one = against_controls(own, controls, one_sided=True)
    assert float(one["p"][0]) == pytest.approx(1 / 25) and float(one["value"][0]) == pytest.approx(24 - 11.5)
    two = networks(np.concatenate([np.roll(values, -23, axis=0), values[::-1] ** 2], axis=1))
    z = (lambda x: np.abs((x - x.mean(0)) / x.std(0)))(np.concatenate([two[0].values[None], two[1].values]))
    np.testing.assert_allclose(against_controls(*two)["p_corrected"], (z.max(1)[:, None] >= z[0] - 1e-9).mean(0))


@pytest.mark.parametrize(("count", "one_sided"), [(20, False), (39, True)])
def test_a_network_like_its_controls_stands_out_in_one_of_twenty(count: int, one_sided: bool) -> None:
    """Skewed cells that depend on each other: exact all the same, 1 / 21 and 2 / 40."""
    rng = np.random.default_rng(count)
    draws, wrong = 400, 0
    for _ in range(draws):
        x = rng.exponential(size=(count + 1, 6)) + 2 * rng.normal(size=(count + 1, 1)) ** 3
        found = against_controls(*networks(x), one_sided=one_sided)
        wrong += bool((found["p_corrected"] <= 0.05).any())
    exact = np.floor(0.05 * (count + 1)) / (count + 1)
    assert abs(wrong / draws - exact) < 3 * np.sqrt(exact * (1 - exact) / draws)


def test_tasks_cannot_stand_in_for_networks() -> None:
    """The kind of mistake: the same networks against one control, over tasks, differ nearly always."""
    rng = np.random.default_rng(0)
    wrong = {"one control, over tasks": 0, "twenty controls": 0}
    for _ in range(60):
        level = rng.normal(size=(21, 1, 4))  # what a network does
        x = xr.DataArray(level + 0.2 * rng.normal(size=(21, 8, 4)), dims=("control", "task", "layer"))
        tested = max_statistic(x.isel(control=0), x.isel(control=1))
        ranked = against_controls(x[0].mean("task"), x[1:].mean("task"))
        wrong["one control, over tasks"] += bool((tested["p_corrected"] <= 0.05).any())
        wrong["twenty controls"] += bool((ranked["p_corrected"] <= 0.05).any())
    assert wrong["one control, over tasks"] > 54 and wrong["twenty controls"] <= 8


def test_a_layer_that_no_control_has_is_found_alone() -> None:
    x = np.random.default_rng(1).normal(size=(25, 5))
    x[0, 2] += 9.0
    found = against_controls(*networks(x))
    assert found["p_corrected"].values[2] == pytest.approx(1 / 25)
    assert (found["p_corrected"].values[[0, 1, 3, 4]] > 0.05).all() and found["layer"].values.tolist() == [*range(5)]
    assert found.attrs["controls"] == 24 and found.attrs["cells"] == 5 and "no_mark" not in found.attrs


def test_below_twenty_controls_there_is_no_p() -> None:
    found = against_controls(*networks(np.random.default_rng(0).normal(size=(20, 3))))
    assert found["p"].isnull().all() and found["p_corrected"].isnull().all() and found["z"].notnull().all()
    assert found.attrs["no_mark"] == (
        "Against 19 control networks there is no p, so that nothing can stand out: take 20 or more."
    )
    one = against_controls(*networks(np.zeros((2, 3))))
    assert one.attrs["no_mark"].startswith("Against 1 control network there is no p")


def test_cells_without_numbers_do_not_count_and_equal_ones_say_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(22, 4))
    x[5, 0] = np.nan
    x[:, 1] = 3.0
    found = against_controls(*networks(x))
    assert np.isnan(found["p"].values[0]) and found.attrs["cells"] == 3
    assert found["p"].values[1] == 1 and float(found["value"][1]) == 0


def test_mistakes_are_named() -> None:
    own, controls = networks(np.zeros((22, 3)))
    with pytest.raises(MeasureError, match="none of 'draw': name theirs with over="):
        against_controls(own, controls, over="draw")
    with pytest.raises(MeasureError, match="average tasks first"):
        against_controls(own.expand_dims(task=2), controls)
    with pytest.raises(MeasureError, match="other labels along 'layer'"):
        against_controls(own.assign_coords(layer=[1, 2, 3]), controls)
