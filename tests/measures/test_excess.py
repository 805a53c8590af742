"""Excess over the ideal denoiser: none where the network is the ideal one, all of it where it shows a wrong answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.lab import CoupledLabVAE
from dit_lens.measures.answers_over_steps import VERDICTS, read_answers
from dit_lens.measures.candidates import candidates, pool
from dit_lens.measures.excess import excess, total_variation
from dit_lens.measures.ideal_denoiser import IdealDenoiser, ideal_denoiser
from dit_lens.tasks.task import Task
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

STEPS = 4


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def task() -> Task:
    return tasks.load("maze", 1)  # two right answers


@pytest.fixture(scope="module")
def run(lens: Lens, task: Task) -> Run:
    return lens.generate(task, seed=0, num_inference_steps=STEPS, guidance_scale=1.0)


@pytest.fixture(scope="module")
def denoisers(lens: Lens, task: Task) -> tuple[IdealDenoiser, IdealDenoiser]:
    return ideal_denoiser(task, lens), ideal_denoiser(task, lens, answers=(*task.solutions, *task.decoys(2)))


def showing(run: Run, x0: list[torch.Tensor]) -> Run:
    """The same states under a network whose x0_hat is what is given: v = (x - x0) / sigma."""
    v = [(x - one) / s for x, one, s in zip(run.latents, x0, run.sigmas, strict=False)]
    return replace(run, velocity=torch.stack(v), _cache={})


def test_an_ideal_network_has_no_excess(run: Run, denoisers: tuple[IdealDenoiser, IdealDenoiser]) -> None:
    """The null: candidates as many, as strong, the same one best, all of them right."""
    ideal, blind = denoisers
    made = showing(run, [ideal.x0_hat(run, s) for s in range(STEPS)])
    found = excess(made, ideal, blind)
    np.testing.assert_allclose(found["apart"], 0, atol=1e-3)
    np.testing.assert_array_equal(found["agree"], 1)
    np.testing.assert_allclose(found["ideal_support"], 1, atol=1e-3)
    assert (found["ideal_wrong"] == 0).all()
    assert found["ideal_weight"].sizes == {"step": STEPS, "candidate": 2}


def test_a_denoiser_that_does_not_know_the_task_shows_wrong_answers_at_first(
    run: Run, denoisers: tuple[IdealDenoiser, IdealDenoiser]
) -> None:
    ideal, blind = denoisers
    found = excess(run, ideal, blind)
    assert found["blind_support"][0] < 0.9
    assert found["blind_support"][-1] > 0.98, "late states hold the answer themselves"
    assert np.isnan(excess(run, ideal)["blind_support"]).all()


def test_a_wrong_answer_and_a_favourite_are_told_apart(
    run: Run, task: Task, denoisers: tuple[IdealDenoiser, IdealDenoiser]
) -> None:
    """A wrong answer is off the support; the ideal's second choice is on it, and as far away as one answer is from a
    blend of two."""
    ideal, blind = denoisers
    wrong = showing(run, [blind.latents[2]] * STEPS)
    assert float(candidates(wrong)["support"].max()) < 0.8
    lead = int(ideal.weights(run).values[0].argmax())
    other = showing(run, [ideal.latents[1 - lead]] * STEPS)
    found = excess(other, ideal, blind)
    assert found["agree"][0] == 0 and found["apart"][0] == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(candidates(other)["support"], 1, atol=1e-3)


def test_total_variation_by_hand(task: Task) -> None:
    """Weights .8 and .2 against .5 and .5: each contested place differs by .3."""
    reader = pool(task)
    a, b = (task.render(answer) / 255 for answer in task.solutions)
    assert total_variation(reader, 0.8 * a + 0.2 * b, 0.5 * a + 0.5 * b) == pytest.approx(0.3, abs=1e-3)
    assert total_variation(reader, a, a) == 0
    assert total_variation(reader, a, b) == pytest.approx(1, abs=1e-3)


# -- a decoder that is not linear


@pytest.fixture(scope="module")
def bent(task: Task) -> Iterator[Lens]:
    """The lab model with the nonlinear codec: its network does not know these latents, the ideal denoiser does."""
    with load("lab") as lens:
        lens.pipe.vae = CoupledLabVAE()
        yield lens


@pytest.fixture(scope="module")
def states(bent: Lens, task: Task) -> Run:
    """States on the way to the first right answer, as a perfect network would make them."""
    run = bent.generate(task, seed=0, num_inference_steps=STEPS, guidance_scale=1.0)
    truth = ideal_denoiser(task, bent).latents[0]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    latents = torch.stack([(1 - s) * truth + s * noise for s in (*run.sigmas[:STEPS], 0.0)])
    return replace(run, latents=latents, _cache={})


def test_the_ideal_works_behind_a_nonlinear_decoder(bent: Lens, task: Task, states: Run) -> None:
    ideal = ideal_denoiser(task, bent)
    film = ideal.film(states)
    assert ideal.weights(states).values[-1].argmax() == 0
    np.testing.assert_allclose(film[-1], task.render(task.solutions[0]) / 255, atol=0.02)
    made = showing(states, [ideal.x0_hat(states, s) for s in range(STEPS)])
    found = excess(made, ideal)
    np.testing.assert_allclose(found["apart"], 0, atol=1e-3)
    assert found["ideal_support"][-1] > 0.98 and (found["ideal_wrong"] == 0).all()
    assert read_answers(made)["verdict"].values[-1] == VERDICTS.index("right")


def test_a_posterior_mean_is_no_mixture_of_pictures_there(bent: Lens, lens: Lens, task: Task, states: Run) -> None:
    """At the first step both answers weigh a half: the linear codec shows half of each, this one neither half."""
    reader = pool(task)
    mixed = (task.render(task.solutions[0]) / 255 + task.render(task.solutions[1]) / 255) / 2
    shown = []
    for one in (lens, bent):
        ideal = ideal_denoiser(task, one)
        shown.append(one.attach(states).decode(ideal.mean(np.array([0.5, 0.5]))))
    np.testing.assert_allclose(shown[0], mixed, atol=1e-4)
    q = [reader.contrast(clip)[reader.deciding] for clip in shown]
    np.testing.assert_allclose(q[0], 0.5, atol=1e-3)
    assert np.abs(q[1] - 0.5).mean() > 0.1


def test_mistakes_are_told_with_a_cure(run: Run, denoisers: tuple[IdealDenoiser, IdealDenoiser]) -> None:
    with pytest.raises(MeasureError, match=r"ideal_denoiser\(run.task, lens\)"):
        excess(run, denoisers[1])
