"""Chain of Steps: the right runs are compared, the nulls are what they say, and verdicts follow the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.experiments.chain_of_steps import chain_of_steps
from dit_lens.measures.candidates import candidates
from dit_lens.measures.commitment import commit_step, commitment
from dit_lens.measures.excess import excess
from dit_lens.measures.ideal_denoiser import ideal_denoiser
from dit_lens.runner import noise_seed
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load

STEPS = 3
PUZZLES = (1, 2)  # two and three right answers
SEEDS = (0, 5)
LEVELS = ("task", "seed")


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def mazes() -> list[tasks.Task]:
    return [tasks.load("maze", s) for s in PUZZLES]


@pytest.fixture(scope="module")
def found(lens: Lens, mazes: list[tasks.Task]) -> xr.Dataset:
    return chain_of_steps(lens, mazes, SEEDS, sampling={"num_inference_steps": STEPS})


@pytest.fixture(scope="module")
def runs(lens: Lens, mazes: list[tasks.Task]) -> dict[tuple[int, int], Any]:
    return {
        (p, s): lens.generate(task, seed=noise_seed(s, task, p), num_inference_steps=STEPS)
        for p, task in enumerate(mazes)
        for s in SEEDS
    }


def test_curves_are_those_of_the_runs_and_nulls_of_the_others(found: xr.Dataset, runs: dict[Any, Any]) -> None:
    for p in (0, 1):
        for s, other in ((0, 5), (5, 0)):
            against = {"other seed": runs[p, other], "other task": runs[1 - p, s]}
            alone = commitment(runs[p, s], against)
            here = found.isel(task=p).sel(seed=s)
            for name in ("answer", "motion", "readable"):
                np.testing.assert_array_equal(here[name], alone[name])
            np.testing.assert_array_equal(here["content"].sel(region=alone.region), alone["content"])
            own = alone.sel(reference="final")
            np.testing.assert_equal(here["commit_motion"].item(), commit_step(own["motion"], 0.9).item())
            np.testing.assert_equal(here["commit_answer"].item(), commit_step(own["answer"], 1.0).item())
            assert here["solved"] == runs[p, s].score.solved


def test_candidates_are_those_of_the_runs(found: xr.Dataset, runs: dict[Any, Any], mazes: list[tasks.Task]) -> None:
    for (p, s), run in runs.items():
        alone, here = candidates(run), found.isel(task=p).sel(seed=s)
        for name in alone.data_vars:
            np.testing.assert_array_equal(here[name], alone[name], err_msg=str(name))
        ends = {"final": run, "other seed": runs[p, 5 - s], "other task": runs[1 - p, s]}
        for to, end in ends.items():
            answer = mazes[p].answer(end.video)
            if answer in mazes[p].solutions:
                wanted = [mazes[p].solutions[i] == answer for i in alone.strongest.values]
                np.testing.assert_array_equal(here.leads.sel(reference=to), wanted)
            else:
                assert np.isnan(here.leads.sel(reference=to)).all()
    assert list(found.solutions) == [len(task.solutions) for task in mazes]
    assert found.solutions.dims == ("task",)


def test_the_ideal_denoiser_is_read_at_the_states_of_the_same_run(
    lens: Lens, found: xr.Dataset, runs: dict[Any, Any], mazes: list[tasks.Task]
) -> None:
    for p, task in enumerate(mazes):
        ideal = ideal_denoiser(task, lens)
        wrong = task.decoys(len(task.solutions))
        run, here = runs[p, 5], found.isel(task=p).sel(seed=5)
        alone = excess(run, ideal, ideal_denoiser(task, lens, answers=(*task.solutions, *wrong)))
        for name in alone.data_vars:
            mine = here[name].sel(candidate=alone.candidate) if "candidate" in alone[name].dims else here[name]
            np.testing.assert_array_equal(mine, alone[name], err_msg=str(name))
        curves = commitment(run, {"other seed": runs[p, 0], "other task": runs[1 - p, 5]}, film=ideal.film(run))
        np.testing.assert_array_equal(here["ideal_motion"], curves["motion"])
        answer = task.answer(run.video)
        if answer in task.solutions:
            wanted = alone["ideal_weight"].argmax("candidate") == task.solutions.index(answer)
            np.testing.assert_array_equal(here["ideal_likeliest"].sel(reference="final"), wanted)
    weight = found["ideal_weight"]
    assert weight.dims == ("task", "seed", "step", "candidate")
    assert np.isnan(weight[0, :, :, 2]).all() and np.isfinite(weight[1]).all()  # two answers, three answers


def test_no_two_tasks_share_their_noise(found: xr.Dataset, runs: dict[Any, Any]) -> None:
    assert len(set(found["noise_seed"].values.ravel().tolist())) == 4
    starts = [run.latents[0].flatten() for run in runs.values()]
    for i, one in enumerate(starts):
        for other in starts[:i]:
            assert abs(float(one @ other) / one.numel()) < 0.06  # sd .01


def test_the_dims_are_named(found: xr.Dataset) -> None:
    assert found.motion.dims == ("task", "seed", "reference", "step")
    assert found.sizes == {
        "task": 2, "seed": 2, "reference": 3, "step": STEPS, "region": found.sizes["region"], "candidate": 3,
    }  # fmt: skip
    assert list(found.task.values) == ["maze 1", "maze 2"]
    assert list(found.seed) == list(SEEDS)
    assert list(found.expert.values)[-1] == "low"
    assert found.attrs["n_steps"] == STEPS
    assert found["motion"].attrs == {"long_name": "motion like the end's", "units": "cosine"}  # for the figures' axes


def test_tasks_without_answers_get_curves_only(lens: Lens) -> None:
    class Bare:
        prompt, height, width, num_frames = "solve the maze", 96, 96, 13

        def __init__(self, seed: int) -> None:
            self.image = tasks.load("maze", seed).image

    found = chain_of_steps(lens, [Bare(1), Bare(2)], (0,), sampling={"num_inference_steps": 2})
    assert "kind" not in found and "solved" not in found and "ideal_motion" not in found
    assert list(found.reference.values) == ["final", "other task"]
    assert np.isfinite(found.motion).all()


def test_mistakes_are_told_with_a_cure(lens: Lens, mazes: list[tasks.Task]) -> None:
    with pytest.raises(MeasureError, match=r"tasks.batch\('maze', 20\)"):
        chain_of_steps(lens, mazes[:1])
    with pytest.raises(MeasureError, match="one seed"):
        chain_of_steps(lens, mazes, ())
