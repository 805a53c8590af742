"""Sampling with the ideal denoiser: known ends, the sampler's own arithmetic, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.measures.ideal_denoiser import ideal_denoiser
from dit_lens.measures.ideal_sampling import ideal_run
from dit_lens.wan.call_plan import ExplicitGridEuler
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


def begun(lens: Lens, task: Any, steps: int, seed: int = 0, **how: Any) -> Any:
    """A run of which one step is done: its noise, schedule and conditions are all that is taken."""
    return lens.generate(task, seed=seed, stop_after=0, num_inference_steps=steps, guidance_scale=1.0, **how)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_right_answer_is_the_end_of_any_schedule(lens: Lens, steps: int) -> None:
    """The posterior is a point, so that every x0_hat is the answer, and the last step ends in it."""
    task = tasks.load("maze", 7)
    ideal = ideal_denoiser(task, lens)
    assert len(task.solutions) == 1
    run = ideal_run(lens, begun(lens, task, steps), ideal)
    assert run.complete and run.n_steps == steps
    for step in range(steps):
        np.testing.assert_allclose(run.x0_hat(step), ideal.latents[0], atol=1e-4)
    np.testing.assert_allclose(run.final, ideal.latents[0], atol=1e-4)
    assert run.score.solved


def test_one_step_ends_in_the_average_and_many_in_one_answer(lens: Lens) -> None:
    task = tasks.load("maze", 1)  # two right answers
    ideal = ideal_denoiser(task, lens)
    once = ideal_run(lens, begun(lens, task, 1), ideal)
    np.testing.assert_allclose(once.final, ideal.latents.mean(0), atol=1e-4)
    assert not once.score.solved
    ends = [ideal_run(lens, begun(lens, task, 20, seed), ideal) for seed in range(8)]
    assert all(run.score.solved for run in ends)
    assert {run.task.answer(run.video) for run in ends} == set(task.solutions)  # each of them, by the noise


def test_a_step_of_euler_by_hand(lens: Lens) -> None:
    """x' = x + (sigma' - sigma) v with v = (x - x0_hat) / sigma, and x0_hat at the state that it reached itself."""
    task = tasks.load("maze", 1)
    ideal = ideal_denoiser(task, lens)
    start = begun(lens, task, 3, scheduler=ExplicitGridEuler(shift=3.0))
    run = ideal_run(lens, start, ideal)
    assert torch.equal(run.latents[0], start.latents[0])
    x = start.latents[0].double()
    for step in range(3):
        sigma, after = run.sigmas[step : step + 2]
        v = (x - ideal.mean(ideal.posterior(x.float(), sigma)).double()) / sigma
        x = x + (after - sigma) * v
        np.testing.assert_allclose(run.latents[step + 1], x, atol=1e-4)


def test_it_calls_no_denoiser_and_carries_no_activations(lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.load("maze", 7)
    ideal, start = ideal_denoiser(task, lens), begun(lens, task, 4)

    def called(*args: Any, **named: Any) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(lens.pipe.transformer, "forward", called)
    monkeypatch.setattr(lens.pipe.transformer_2, "forward", called)
    run = ideal_run(lens, start, ideal)
    assert not run.activations and not run.fired and not run.edited


def test_another_schedule_is_refused(lens: Lens) -> None:
    task = tasks.load("maze", 7)
    start = begun(lens, task, 4)
    other = replace(start, sampling=start.sampling.but(num_inference_steps=5))
    with pytest.raises(MeasureError, match="changed since this run: generate it again"):
        ideal_run(lens, other, ideal_denoiser(task, lens))
