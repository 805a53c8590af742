"""The ideal denoiser: weights by hand, its limits, calibration by simulation, and agreement with the model's codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import candidates
from dit_lens.measures.ideal_denoiser import IdealDenoiser, ideal_denoiser
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run


def of(*rows: list[float], prior: list[float] | None = None) -> IdealDenoiser:
    """Answers whose latents are short vectors."""
    latents = torch.tensor(rows).reshape(len(rows), -1, 1, 1, 1)
    p = np.array(prior or [1 / len(rows)] * len(rows))
    return IdealDenoiser(tuple(range(len(rows))), latents, p)


def state(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def run(lens: Lens) -> Run:
    return lens.generate(tasks.load("maze", 1), seed=0, num_inference_steps=6)


# -- known answers


def test_two_answers_by_hand() -> None:
    """x0 = 0 and 2, sigma .5, x = .4: |x - .5 x0|^2 is .16 and .36, so the log odds are .2 / (2 * .25) = .4."""
    ideal = of([0.0], [2.0])
    weight = ideal.posterior(state(0.4), 0.5)
    np.testing.assert_allclose(weight, [1 / (1 + np.exp(-0.4)), 1 / (1 + np.exp(0.4))], atol=1e-6)
    np.testing.assert_allclose(ideal.mean(weight).item(), 2 * weight[1], atol=1e-6)
    # Half-way between the two scaled answers neither is preferred, but by the prior.
    np.testing.assert_allclose(ideal.posterior(state(0.5), 0.5), [0.5, 0.5])
    np.testing.assert_allclose(of([0.0], [2.0], prior=[0.9, 0.1]).posterior(state(0.5), 0.5), [0.9, 0.1])


def test_without_noise_the_nearest_answer_has_all_the_weight() -> None:
    ideal = of([0.0, 0.0], [1.0, 0.0], [0.0, 5.0])
    for sigma in (0.0, 1e-3):
        np.testing.assert_allclose(ideal.posterior(state(0.9, 0.2), sigma), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(ideal.posterior(state(0.5, 0.0), 0.0), [0.5, 0.5, 0])  # two as near
    np.testing.assert_allclose(of([0.0], [1.0], prior=[0.0, 1.0]).posterior(state(0.1), 0.5), [0, 1])


def test_pure_noise_gives_the_prior() -> None:
    """At sigma = 1 exactly, whatever the noise; just below it, on average over noise."""
    rng = torch.Generator().manual_seed(0)
    ideal = of([0.0, 3.0], [4.0, 1.0], [2.0, 2.0], prior=[0.5, 0.25, 0.25])
    noise = torch.randn((1000, 2, 1, 1, 1), generator=rng)
    assert all(np.array_equal(ideal.posterior(x, 1.0), [0.5, 0.25, 0.25]) for x in noise[:5])
    near = np.array([ideal.posterior(x, 0.98) for x in noise])
    np.testing.assert_allclose(near.mean(0), [0.5, 0.25, 0.25], atol=0.015)
    assert near.std(0).min() > 0.001, "each state leans a little"


def test_one_answer_gives_that_answer() -> None:
    ideal = of([1.0, -2.0, 3.0])
    for sigma in (0.0, 0.3, 1.0):
        weight = ideal.posterior(state(9.0, 9.0, 9.0), sigma)
        assert weight.tolist() == [1.0]
        assert ideal.mean(weight).flatten().tolist() == [1.0, -2.0, 3.0]


@pytest.mark.parametrize("sigma", [0.3, 0.7, 0.95])
def test_weights_are_calibrated_and_the_mean_is_the_best_estimate(sigma: float) -> None:
    """Of states drawn from the model itself: the weight given to the truth is its frequency, and the error of x0_hat is
    orthogonal to it."""
    rng, n = np.random.default_rng(0), 800
    rows = rng.normal(0, 1, (3, 4))
    ideal = of(*rows.tolist())
    truth = rng.integers(0, 3, n)
    x = (1 - sigma) * rows[truth] + sigma * rng.normal(0, 1, (n, 4))
    weights = np.array([ideal.posterior(state(*one).float(), sigma) for one in x])
    spread = np.sqrt((weights * (1 - weights)).mean(0) / n) + 1e-9
    assert (abs((np.eye(3)[truth] - weights).mean(0)) < 4 * spread).all()
    mean = weights @ rows
    error = ((rows[truth] - mean) * mean).sum(1)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(n) + 1e-6
    # Weights of another noise level are not calibrated: too sure.
    wrong = np.array([ideal.posterior(state(*one).float(), sigma / 3) for one in x])
    assert np.abs(wrong[np.arange(n), truth].mean() - np.square(wrong).sum(1).mean()) > 0.03


def test_what_the_state_does_not_hold_is_left_out() -> None:
    """The clean frame of TI2V: the state there says nothing."""
    ideal = of([0.0, 0.0], [5.0, 1.0])
    there, gone = ideal.posterior(state(5.0, 0.0), 0.5), ideal.posterior(state(5.0, 0.0), 0.5, state(0.0, 1.0))
    assert there[1] > 0.99 and gone[1] < 0.5


# -- on the model


def test_answers_survive_the_codec_and_the_run_ends_in_the_likeliest(lens: Lens, run: Run) -> None:
    ideal = ideal_denoiser(run.task, lens)
    for answer, latents in zip(ideal.answers, ideal.latents, strict=True):
        np.testing.assert_allclose(run.decode(latents), run.task.render(answer) / 255, atol=1e-4)
    weights = ideal.weights(run)
    assert weights.dims == ("step", "candidate") and weights.sizes == {"step": 6, "candidate": len(run.task.solutions)}
    np.testing.assert_allclose(weights.sum("candidate"), 1)
    assert abs(weights[0] - 0.5).max() < 0.01, "sigma is nearly 1"
    last = ideal.answers[int(weights.values[-1].argmax())]
    assert weights[-1].max() > 0.99 and last == run.task.answer(run.video)


def test_the_ideal_is_read_as_the_network_is(lens: Lens, run: Run) -> None:
    ideal = ideal_denoiser(run.task, lens)
    found = candidates(run, film=ideal.film(run))
    assert found.fewest[0] == 2 and found.fewest[-1] == 1 and (found.null == 0).all()
    some = candidates(run, film=ideal.film(run, [0, -1]), steps=[0, -1])
    assert some.identical(found.isel(step=[0, 5]))


def test_a_state_made_from_an_answer_is_recognised(lens: Lens, run: Run) -> None:
    """x = (1 - sigma) x0 + sigma eps is the sampler's own convention: at low sigma the right one has all the weight."""
    ideal = ideal_denoiser(run.task, lens)
    noise = torch.randn(run.latents[0].shape, generator=torch.Generator().manual_seed(5))
    for which in range(2):
        states = torch.stack([(1 - s) * ideal.latents[which] + s * noise for s in run.sigmas[:6]])
        made = replace(run, latents=torch.cat([states, states[-1:]]), _cache={})
        assert ideal.weights(made).values[-1].argmax() == which
        # An oracle's velocity eps - x0 gives back x0 with the run's own x0_hat.
        oracle = replace(made, velocity=(noise - ideal.latents[which]).expand(6, *noise.shape))
        np.testing.assert_allclose(oracle.x0_hat(3), ideal.latents[which], atol=1e-4)


def test_a_given_clean_frame_is_put_back(lens: Lens, run: Run) -> None:
    """TI2V: the mask is 0 at the given frame."""
    ideal = ideal_denoiser(run.task, lens)
    mask = torch.ones(1, 1, *run.latents.shape[2:])
    mask[:, :, 0] = 0
    clean = torch.full((1, *run.latents.shape[1:]), 7.0)
    given_clean = replace(run, conditions=replace(run.conditions, frame_mask=mask, image_latents=clean), _cache={})
    found = ideal.x0_hat(given_clean, 2)
    assert (found[:, 0] == 7).all()
    torch.testing.assert_close(found[:, 1:], ideal.x0_hat(run, 2)[:, 1:])


def test_mistakes_are_told_with_a_cure(lens: Lens, run: Run) -> None:
    task, ideal = run.task, ideal_denoiser(run.task, lens)
    with pytest.raises(MeasureError, match=r"dit_lens.tasks.load"):
        ideal_denoiser(SimpleNamespace(prompt="x"), lens)
    for bad in ((), [task.solutions[0]] * 5000):
        with pytest.raises(MeasureError, match="pass answers="):
            ideal_denoiser(task, lens, answers=bad)
    bad_priors: list[Any] = [[1.0], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]]
    for prior in bad_priors:
        with pytest.raises(MeasureError, match="one number from 0 up for each of 2"):
            ideal_denoiser(task, lens, prior=prior)
    with pytest.raises(MeasureError, match="own size and length"):
        ideal.posterior(torch.zeros(16, 2, 12, 12), 0.5)
    for x, sigma in ((torch.full_like(run.latents[0], torch.nan), 0.5), (run.latents[0], 1.5)):
        with pytest.raises(MeasureError, match="outside 0 to 1"):
            ideal.posterior(x, sigma)
