"""Right answers beside wrong ones: planted estimates of known share, both ends, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.measures.right_and_wrong import KINDS, Choices, choices, hardest_wrong, right_and_wrong
from dit_lens.tasks.task import Task
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def task() -> Task:
    return tasks.load("maze", 1)  # two right answers, and two wrong ones


@pytest.fixture(scope="module")
def both(lens: Lens, task: Task) -> Choices:
    return choices(task, lens, 4)


@pytest.fixture(scope="module")
def run(lens: Lens, task: Task) -> Run:
    return lens.generate(task, seed=0, num_inference_steps=3, guidance_scale=1.0)


def showing(run: Run, x0: torch.Tensor) -> Run:
    """The same states under a network whose x0_hat is always ``x0``."""
    v = [(x - x0) / s for x, s in zip(run.latents, run.sigmas[:-1], strict=False)]
    return replace(run, velocity=torch.stack(v), _cache={})


def test_the_ideal_network_shows_nothing_wrong(run: Run, both: Choices) -> None:
    made = replace(
        run,
        velocity=torch.stack([(run.latents[s] - both.right.x0_hat(run, s)) / run.sigmas[s] for s in range(3)]),
        _cache={},
    )
    found = right_and_wrong(made, both)
    np.testing.assert_allclose(found["wrong"].sel(kind=["network", "ideal"]), 0, atol=1e-3)
    assert (found["nearest"].sel(kind=["network", "ideal"]) == 1).all()
    assert found["kind"].values.tolist() == list(KINDS) and found.attrs == {"solutions": 2, "decoys": 2}


def test_a_wrong_answer_is_wrong_and_a_right_one_is_not(run: Run, both: Choices) -> None:
    """A wrong walk shares cells with right ones, so that not all that it shows is wrong."""
    wrong = right_and_wrong(showing(run, both.blind.latents[-1]), both, steps=[0, -1]).sel(kind="network")
    assert (wrong["wrong"] > 0.3).all() and (wrong["nearest"] == 0).all()
    assert wrong["step"].values.tolist() == [0, 2]
    right = right_and_wrong(showing(run, both.right.latents[0]), both).sel(kind="network")
    assert (right["wrong"] < 1e-3).all() and (right["nearest"] == 1).all()


def test_the_nearest_answer_needs_no_sharp_picture(both: Choices) -> None:
    """A third of the way from the average of all answers to a right one: blurred, and right."""
    grey = both.blind.latents.mean(0)
    right, wrong = both.right.latents[0], both.blind.latents[-1]
    assert both.nearest_right(grey + (right - grey) / 3) == 1
    assert both.nearest_right(grey + (wrong - grey) / 3) == 0
    tie = Choices(replace(both.right, answers=("a",), latents=torch.zeros(1, 1, 1, 1, 1), prior=np.ones(1)),
                  replace(both.right, answers=("a", "b"), latents=torch.tensor([[0.0], [2.0]]).reshape(2, 1, 1, 1, 1),
                          prior=np.ones(2) / 2))  # fmt: skip
    assert tie.nearest_right(torch.ones(1, 1, 1, 1)) == 0.5


def test_the_blind_end_starts_at_the_share_of_wrong_answers(run: Run, both: Choices) -> None:
    """Without knowing the task, four walks are as likely, of which two are wrong and share cells with right ones."""
    blind = right_and_wrong(run, both, steps=[0])["wrong"].sel(kind="blind", step=0)
    assert 0.15 < float(blind) < 0.5
    assert float(right_and_wrong(run, both, steps=[0])["wrong"].sel(kind="ideal", step=0)) < 1e-3


def test_the_hardest_wrong_answers_come_first() -> None:
    task = tasks.load("maze", 14)
    found = hardest_wrong(task, 5)
    assert len(found) == 5 and not set(found) & set(task.solutions)

    def away(answer: object) -> float:
        video = task.render(answer).astype(float)
        return min(float(((video - task.render(right)) ** 2).sum()) for right in task.solutions)

    distances = [away(answer) for answer in found]
    assert distances == sorted(distances)
    assert max(distances) <= min(away(a) for a in task.decoys(40) if a not in found)


def test_without_wrong_answers_there_is_nothing_to_choose_from(lens: Lens, run: Run, task: Task) -> None:
    bare = SimpleNamespace(solutions=task.solutions, render=task.render, first_frame=task.first_frame)
    alone = choices(bare, lens)
    assert alone.wrong == () and alone.blind is alone.right
    found = right_and_wrong(run, alone)
    assert found["wrong"].isnull().all() and found["nearest"].isnull().all()


def test_other_tasks_and_counts_are_refused(lens: Lens, run: Run) -> None:
    with pytest.raises(MeasureError, match=r"another task: make them with choices\(run.task, lens\)"):
        right_and_wrong(run, choices(tasks.load("maze", 7), lens))
    with pytest.raises(MeasureError, match="wrong=0: give an integer"):
        choices(tasks.load("maze", 7), lens, 0)
