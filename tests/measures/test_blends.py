"""Blends: told from single answers, faint or sharp, right or wrong, and from empty clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dit_lens import tasks
from dit_lens.measures.answers_over_steps import NONE, RIGHT, WRONG, judged
from dit_lens.measures.blends import blends_of
from dit_lens.tasks.task import Task


def several(name: str, n: int = 4) -> Iterator[Task]:
    found = (tasks.load(name, seed) for seed in range(100))
    return (task for _, task in zip(range(n), (t for t in found if 1 < len(t.solutions) <= 12), strict=False))


def still(task: Task) -> np.ndarray:
    return np.repeat(task.first_frame[None] / 255, task.num_frames, 0)


@pytest.mark.parametrize("name", ["maze", "choose", "pattern"])
def test_a_blend_is_wrong_and_one_answer_is_not(name: str) -> None:
    for task in several(name):
        blends = blends_of(task)
        assert blends is not None
        first, second = (task.render(a) / 255 for a in task.solutions[:2])
        wrong = task.render(task.decoys(1)[0]) / 255
        assert judged(task, first, blends) == (RIGHT, False)
        assert judged(task, wrong, blends) == (WRONG, False)
        for other in (second, wrong):
            for weight in (0.5, 0.35, 0.7):
                assert judged(task, weight * first + (1 - weight) * other, blends) == (WRONG, True)
        # Nulls: nothing shown, one answer that fades in, a trace of a second one, noise.
        assert judged(task, still(task), blends) == (NONE, False)
        for part in (0.1, 0.5, 0.8):
            assert not blends(part * first + (1 - part) * still(task))
        assert not blends(0.9 * first + 0.1 * second)
        rng = np.random.default_rng(0)
        assert not blends(still(task) + rng.normal(0, 0.05, first.shape))


def test_a_blend_that_the_task_reads_as_right_is_wrong() -> None:
    """A maze is read from its agent alone: with a second route drawn in half its contrast it still gives an answer."""
    task = next(several("maze", 1))
    first, second = (task.render(a) / 255 for a in task.solutions[:2])
    clip = first.copy()
    clip[-1] = 0.5 * first[-1] + 0.5 * second[-1]
    assert task.answer(clip) in task.solutions
    assert judged(task, clip, None) == (RIGHT, False)
    assert judged(task, clip, blends_of(task)) == (WRONG, True)


def test_other_wrong_answers_can_be_named() -> None:
    task = next(several("choose", 1))
    twin = task.twin("other_answer")
    blends = blends_of(task, wrong=twin.solutions)
    assert blends is not None
    for answer in twin.solutions:
        assert not blends(task.render(answer) / 255)
    same = blends_of(task, wrong=task.solutions)  # no wrong one is left
    assert same is not None and same.reader.answers == task.solutions


def test_tasks_that_draw_nothing_have_no_reader_and_all_frames_help_where_one_does_not() -> None:
    assert blends_of(object()) is None
    task = tasks.load("maze", 1)

    class Returns:
        """Answers that only differ on the way."""

        solutions, first_frame, num_frames = task.solutions, task.first_frame, task.num_frames

        def render(self, answer: object) -> np.ndarray:
            video = task.render(answer).copy()
            video[-1] = task.first_frame
            return video

    blends = blends_of(Returns())
    assert blends is not None and len(blends.reader.frames) == task.num_frames
    first, second = (Returns().render(a) / 255 for a in task.solutions)
    assert blends(0.5 * first + 0.5 * second) and not blends(first)
