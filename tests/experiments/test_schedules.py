"""Schedules and lengths: planted measures and scorers, planted trajectories of known commitment, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.errors import MeasureError, SamplerError
from dit_lens.experiments import schedules
from dit_lens.wan.run import Run

CHEAP = {"guidance_scale": 1.0}


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def maze() -> Any:
    """Two shortest routes, known to leave each other."""
    return next(t for t in (dl.tasks.load("maze", s) for s in range(50)) if len(t.solutions) == 2)


# -- planted trajectories: x0_hat of each step is a video of our choice


def encode(lens: Any, video: np.ndarray) -> torch.Tensor:
    vae = lens.pipe.vae
    x = torch.from_numpy(np.asarray(video, np.float32)).permute(3, 0, 1, 2)[None] * 2 - 1
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    return (vae.encode(x).latent_dist.mode() - mean)[0] / std[0]


def plant(lens: Any, task: Any, videos: list[np.ndarray]) -> Run:
    """A run whose x0_hat at step s decodes to ``videos[s]``; it ends in the last one."""
    steps = len(videos)
    run = lens.generate(task, num_inference_steps=steps, **CHEAP)
    latents = torch.stack([encode(lens, v) for v in [*videos, videos[-1]]])
    return replace(run, latents=latents, velocity=torch.zeros_like(latents[:-1]), _cache={})


def test_planted_commitment_and_exploration(lens: Any, maze: Any) -> None:
    """Both routes half and half for two steps, then the wrong one for a step, then the other to the end."""
    a, b = (maze.render(route) / 255 for route in maze.solutions)
    run = plant(lens, maze, [(a + b) / 2, (a + b) / 2, b, a, a])
    assert run.score.solved
    assert schedules.committed_at(run) == 3
    assert schedules.commit(run) == 3 / 5
    assert schedules.commit_sigma(run) == run.sigmas[3]
    assert schedules.exploring(run) == 2 / 5
    assert schedules.alive_first(run) == 2
    assert schedules.score(run) == schedules.solved(run) == 1


def test_exploration_is_a_share_of_the_schedule(lens: Any, maze: Any) -> None:
    """The null: a model that explores for the first half of any schedule explores as much in 4 steps as in 10, though
    in fewer of them; one that stops earlier explores less."""
    a, b = (maze.render(route) / 255 for route in maze.solutions)
    both = (a + b) / 2
    short, long = plant(lens, maze, [both] * 2 + [a] * 2), plant(lens, maze, [both] * 5 + [a] * 5)
    assert schedules.exploring(short) == schedules.exploring(long) == 0.5
    assert schedules.exploring(plant(lens, maze, [both] + [a] * 3)) == 0.25


def test_planted_certainty_and_failure(lens: Any, maze: Any) -> None:
    a = maze.render(maze.solutions[0]) / 255
    sure = plant(lens, maze, [a, a, a])
    assert schedules.committed_at(sure) == schedules.commit(sure) == schedules.exploring(sure) == 0
    assert schedules.alive_first(sure) == 1
    still = np.repeat(maze.first_frame[None], 13, 0) / 255
    nothing = plant(lens, maze, [a, a, still])  # the final video has no answer to commit to
    assert np.isnan(schedules.commit(nothing)) and np.isnan(schedules.commit_sigma(nothing))
    assert schedules.score(nothing) == 0


def test_a_task_without_answers(lens: Any, maze: Any) -> None:
    run = replace(plant(lens, maze, [maze.render(maze.truth) / 255]), task=object())
    with pytest.raises(MeasureError, match="pass measures="):
        schedules.commit(run)


# -- few steps


def test_planted_measures(lens: Any, maze: Any) -> None:
    """What is measured is the run of that schedule, from the same first noise, and by both samplers."""
    planted = {
        "n": lambda run: float(run.plan.n_steps),
        "first": lambda run: float(run.latents[0].sum()),
        "euler": lambda run: float("Euler" in run.plan.scheduler),
        "last_sigma": lambda run: run.sigmas[-2],
        "seed": lambda run: float(run.seed),
    }
    other = dl.tasks.load("choose", 4)
    found = schedules.few_steps(lens, [maze, other], (1, 3), measures=planted, seed=7, sampling=CHEAP)
    assert found["n"].dims == ("task", "sampler", "num_inference_steps")
    assert (found["n"] == found["num_inference_steps"]).all()
    assert (found["seed"] == xr.DataArray([7.0, 8.0], dims="task")).all()
    assert (found["first"] == found["first"][:, 0, 0]).all() and found["first"][0, 0, 0] != found["first"][1, 0, 0]
    assert (found["euler"].sel(sampler="own") == 0).all() and (found["euler"].sel(sampler="euler") == 1).all()
    shift, u = lens.pipe.scheduler.config.flow_shift, 1 / 3
    expected = shift * u / (1 + (shift - 1) * u)
    assert np.allclose(found["last_sigma"].sel(sampler="euler", num_inference_steps=3), expected)
    for sampler in ("own", "euler"):
        for n in (1, 3):
            high = [
                c
                for c in lens.plan(
                    num_inference_steps=n, guidance_scale=1.0, scheduler=schedules._samplers(lens, [sampler])[sampler]
                )
                if c.expert == "high"
            ]
            assert int(found["high_steps"].sel(sampler=sampler, num_inference_steps=n)) == len(high)
    assert list(found["task"].values) == [f"maze {maze.seed}", "choose 4"]


def test_a_scheduler_of_ones_own(lens: Any, maze: Any) -> None:
    mine = {"flat": schedules.ExplicitGridEuler(shift=1.0)}
    found = schedules.few_steps(lens, [maze], [4], mine, {"sigma": lambda run: run.sigmas[1]}, sampling=CHEAP)
    assert float(found["sigma"].squeeze()) == pytest.approx(0.75)


def test_few_steps_refusals(lens: Any, maze: Any) -> None:
    for tasks, steps, measures in (([], [4], schedules.MEASURES), ([maze], [], schedules.MEASURES), ([maze], [4], {})):
        with pytest.raises(MeasureError, match="at least one"):
            schedules.few_steps(lens, tasks, steps, measures=measures)
    with pytest.raises(MeasureError, match="'own', 'euler'"):
        schedules.few_steps(lens, [maze], [4], ["heun"])


# -- frames


@given(st.integers(1, 20), st.integers(1, 20))
def test_fitted(n: int, wanted: int) -> None:
    video = np.arange(n, dtype=float)[:, None, None, None]
    found = schedules.fitted(video, wanted)[:, 0, 0, 0]
    assert list(found) == [min(i, n - 1) for i in range(wanted)]


def test_frames_curve_with_a_planted_scorer(lens: Any, maze: Any) -> None:
    """The scorer sees videos of the length asked for, the own-length run cut to it, and the first frame held."""
    seen = []

    def planted(task: Any, video: np.ndarray) -> float:
        seen.append(video)
        return float(len(video))

    generate = {**CHEAP, "num_inference_steps": 2}
    found = schedules.frames_curve(lens, [maze], (5, 13, 17), planted, seed=3, sampling=generate)
    assert found["score"].values.tolist() == [[5, 13, 17]]
    assert found["cut"].values.tolist() == [[5, 13, 13]]  # a longer one cannot be cut from it
    assert found["still"].values.tolist() == [[5, 13, 17]]
    own = lens.generate(maze, seed=3, **generate).video
    assert np.array_equal(seen[3], own) and np.array_equal(seen[4], own) and np.array_equal(seen[1], own[:5])
    assert (seen[2] == seen[0][:1]).all() and not (seen[0] == seen[0][:1]).all()


def test_the_fitted_score_sees_only_what_fits() -> None:
    """The control of the scorer: a right video cut to F frames is right exactly if its walk has at most F cells."""
    for seed in range(12):
        task = dl.tasks.load("maze", seed)
        for n in (5, 9, 13, 17):
            right = schedules.fitted_score(task, schedules.fitted(task.frames, n)) == 1
            assert right == (len(task.truth) <= n)
        assert schedules.fitted_score(task, np.repeat(task.frames[:1], 5, 0)) == 0


def test_frames_refusals(lens: Any, maze: Any) -> None:
    with pytest.raises(MeasureError, match="at least one task"):
        schedules.frames_curve(lens, [], [5])
    with pytest.raises(MeasureError, match="at least one task"):
        schedules.frames_curve(lens, [maze], [])
    with pytest.raises(SamplerError):
        schedules.frames_curve(lens, [maze], [6])
