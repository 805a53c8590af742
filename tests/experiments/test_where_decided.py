"""Where an answer is decided: places whose answer is known, nulls, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens.errors import MeasureError, TaskError
from dit_lens.experiments import other_noise, other_prompt, several, where_decided
from dit_lens.experiments.where_decided import route_tokens
from dit_lens.measures.label_decoding import fit_choice, names_true
from dit_lens.wan.token_grid import Grid

HOW: dict[str, Any] = {"num_inference_steps": 3, "steps": [0, 2], "held_layers": [0, 11]}


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def fit() -> list[Any]:
    return dl.tasks.batch("choose", 4, split="train")


@pytest.fixture(scope="module")
def found(lens: Any, fit: list[Any]) -> xr.Dataset:
    return where_decided(lens, dl.tasks.batch("choose", 2), fit, **HOW)


def test_before_the_prompt_is_read_nothing_tells_the_two_runs_apart(found: xr.Dataset) -> None:
    """Same picture and noise: at step 0 one stream enters block 0, for one run its own, for the other the other's."""
    start = found.sel(step=0, layer=-1)
    for name in ("decodable", "decodable_null", "readable"):
        assert (start[name] == 0.5).all(), name
    assert found["used"].sel(layer=-1).isnull().all() and found["sufficient"].sel(layer=-1).isnull().all()


def test_at_the_end_everything_tells_them_apart(found: xr.Dataset) -> None:
    end = found.sel(step=2, layer=11)
    assert (end["readable"] == 1).all(), "the last layer at the last step is the finished video"
    # The last stream of the other run at all steps, from the same noise, is the other run.
    assert (end["sufficient"] == 1).all()
    # At layer 0 eleven blocks still read the own prompt.
    assert (found["sufficient"].sel(layer=0) == 0).all()
    assert found["sufficient"].sel(layer=[1, 5]).isnull().all(), "not asked"


def test_used_is_the_local_effect(found: xr.Dataset, lens: Any) -> None:
    task = dl.tasks.batch("choose", 2)[1]
    how = {"num_inference_steps": 3}
    base, source = lens.generate(task, seed=1, **how), lens.generate(task.twin("other_answer"), seed=1, **how)
    placebo = lens.generate(task, seed=20_001, **how)
    known = dl.experiments.local_effects(lens, base, source, placebo, [0, 2])
    for name, kind in (("used", "effect"), ("used_null", "placebo")):
        assert np.array_equal(found[name][1].sel(layer=range(12)).values, known.sel(kind=kind).values), name


def test_the_result_is_labelled(found: xr.Dataset) -> None:
    assert found["layer"].values.tolist() == list(range(-1, 12)) and found["step"].values.tolist() == [0, 2]
    assert found.attrs["pair"] == "other_prompt" and found.attrs["fitted_on"] == 4
    assert all(array.dims == ("task", "step", "layer") and array.attrs["units"] for array in found.data_vars.values())
    inside = found[["decodable", "decodable_null", "readable", "sufficient"]].to_array()
    assert ((inside >= 0) & (inside <= 1) | inside.isnull()).all()


def test_two_noises_have_no_patch_and_one_answer_has_no_row(lens: Any, fit: list[Any]) -> None:
    tasks = several("choose", 2)
    many = [task for task in dl.tasks.batch("choose", 12, split="train") if len(task.solutions) > 2][:4]
    ways = where_decided(lens, tasks, many, pair=other_noise, num_inference_steps=4, steps=[3])
    assert ways["used"].isnull().all() and ways["sufficient"].isnull().all()
    seen = ways["readable"].notnull().all(("step", "layer"))
    assert seen.any() and (ways["readable"].sel(layer=11)[seen] == 1).all()

    def twice(generate: Any, task: Any, seed: int) -> Any:
        """One run, twice, for the tasks that are measured."""
        return (generate(task, seed),) * 2 if task.split != "train" else other_prompt(generate, task, seed)

    none = where_decided(lens, tasks, fit, pair=twice, steps=[0], num_inference_steps=3)
    assert all(array.isnull().all() for array in none.data_vars.values())


def test_a_planted_choice_is_found_and_a_shuffled_one_is_chance() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 400)
    x = rng.standard_normal((400, 2, 6))
    x[np.arange(400), true, 3] += 4
    assert names_true(fit_choice(x[:200], true[:200]), x[200:], true[200:]).mean() > 0.95
    shares = [
        names_true(fit_choice(x[:200], rng.permutation(true[:200])), x[200:], true[200:]).mean() for _ in range(60)
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.15)


def test_routes_as_tokens() -> None:
    grid = Grid(2, 3, 4)
    mask = route_tokens([(0, 1), (2, 3)], grid)
    assert np.flatnonzero(mask).tolist() == [1, 11, 13, 23]


def test_refusals(lens: Any, fit: list[Any]) -> None:
    tasks = dl.tasks.batch("choose", 2)
    with pytest.raises(TaskError, match="two or more of each"):
        where_decided(lens, tasks[:1], fit)
    with pytest.raises(MeasureError, match="also fitted on"):
        where_decided(lens, tasks, tasks, steps=[0], num_inference_steps=3)
    with pytest.raises(MeasureError, match="give two answers: give more"):
        where_decided(lens, tasks, fit[:2], pair=lambda generate, task, seed: None, num_inference_steps=1)
