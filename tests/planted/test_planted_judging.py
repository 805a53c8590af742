"""Judging: cells of known numbers, and the rate at which nothing is called something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.planted import LayerPlant, plant
from dit_lens.planted.judging import judge, score
from dit_lens.planted.measuring import Found
from dit_lens.planted.methods import BY_NAME, Method, chosen


def found(values: np.ndarray, null: float = 0.0) -> Found:
    return Found(xr.DataArray(values, dims=("task", "layer"), coords={"layer": range(values.shape[1])}), null)


def test_what_stands_out_is_called_and_crumbs_are_not() -> None:
    rng = np.random.default_rng(0)
    values = 0.01 * rng.standard_normal((8, 4))
    values[:, 1] += 0.8
    values[:, 2] += 0.09  # sure, and smaller than what is of interest
    values[:, 3] -= 0.5
    both = judge(found(values), 0.1)
    assert both["called"].values.tolist() == [False, True, False, True]
    assert judge(found(values), 0.1, one_sided=True)["called"].values.tolist() == [False, True, False, False]
    assert (both["p"].values[1:] <= 0.05).all()


def test_exact_numbers_are_called_and_nothing_at_all_is_not() -> None:
    values = np.zeros((6, 3))
    values[:, 0] = 1.0
    assert judge(found(values), 0.1)["called"].values.tolist() == [True, False, False]
    values[:, 1] = np.nan
    assert judge(found(values), 0.1)["called"].values.tolist() == [True, False, False]


def test_too_few_tasks_call_nothing() -> None:
    assert not judge(found(np.ones((4, 2))), 0.1)["called"].any()


def test_a_methods_own_p_is_taken() -> None:
    own = Found(found(np.ones((8, 2))).effect, 0.5, xr.DataArray([0.2, 0.01], dims="layer"))
    assert judge(own, 0.1)["called"].values.tolist() == [False, True]


def test_of_nothing_something_is_called_in_one_of_twenty() -> None:
    rng = np.random.default_rng(1)
    wrong = [bool(judge(found(rng.standard_normal((7, 6))), 0.1)["called"].any()) for _ in range(200)]
    assert np.mean(wrong) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


def scripted(values: np.ndarray, members: list[bool]) -> Method:
    """A method that gives these numbers, whatever the plant."""
    like = found(values).effect
    return replace(
        BY_NAME["patch"], measure=lambda made, tasks: Found(like),
        members=lambda made, tasks: xr.DataArray(members, dims="layer", coords={"layer": like["layer"]}),
        exact=lambda made, tasks: xr.DataArray([1.0, 0.0, 0.0], dims="layer", coords={"layer": like["layer"]}),
    )  # fmt: skip


def test_scores_of_known_answers() -> None:
    values = np.tile([0.9, 0.0, 0.3], (8, 1))
    with plant(LayerPlant(layer=0, n_layers=3, n_steps=1)) as made:
        right = score(scripted(values, [True, False, False]), made, made.tasks(2))
        half = score(scripted(values, [True, True, False]), made, made.tasks(2))
    assert (right["recall"], right["false"], right["any_false"], right["auc"]) == (1, 0.5, 1, 1)
    assert float(right["error"]) == pytest.approx(0.4 / 3)
    assert (half["recall"], half["false"], half["auc"]) == (0.5, 1, 0.5)
    assert right["decoys"] == 0 and right["members"] == 1 and right["cells"] == 3


def test_unknown_methods_are_named() -> None:
    with pytest.raises(MeasureError, match="unknown methods \\['magic'\\]: choose from \\['patch'"):
        chosen(["magic"])
