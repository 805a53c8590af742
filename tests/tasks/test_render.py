"""Drawing any answer, right or wrong: what is drawn is read back, and wrong answers are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens import tasks
from dit_lens.errors import TaskError
from dit_lens.tasks import palette

SEEDS = range(12)


@pytest.mark.parametrize("name", tasks.names())
def test_the_truth_is_drawn_as_it_is_shown(name):
    for task in tasks.batch(name, 12):
        assert np.array_equal(task.render(task.truth), task.frames)


@pytest.mark.parametrize("name", tasks.names())
def test_every_solution_is_drawn_read_back_and_solved(name):
    for task in tasks.batch(name, 12):
        for answer in task.solutions[:20]:
            frames = task.render(answer)
            assert task.answer(frames) == answer
            assert task.score(frames).solved
            assert np.array_equal(frames[0], task.first_frame)


@pytest.mark.parametrize("name", tasks.names())
def test_decoys_are_wrong_answers_that_can_be_drawn(name):
    found = 0
    for task in tasks.batch(name, 12):
        decoys = task.decoys(6)
        assert len(set(decoys)) == len(decoys) <= 6
        assert not set(decoys) & set(task.solutions)
        assert decoys == task.decoys(6)
        for answer in decoys:
            frames = task.render(answer)
            assert task.answer(frames) == answer
            assert not task.score(frames).solved
            assert np.array_equal(frames[0], task.first_frame)
        found += len(decoys)
    assert found >= 30


def test_decoys_are_what_their_family_says():
    for task in tasks.batch("maze", 12):
        for route in task.decoys(4):
            assert len(route) == len(task.truth)
            assert len(set(route)) == len(route)
            assert not set(route) & set(task.scene.walls)
    for task in tasks.batch("choose", 12):
        rivals = set(task.twin("other_answer").solutions)
        assert set(task.decoys(100)) <= rivals
    for task in tasks.batch("pattern", 12):
        rows = {row for answer in task.solutions for row in answer}
        assert not rows & {row for answer in task.decoys(4) for row in answer}


def test_a_maze_without_other_ways_has_no_decoys():
    """One corridor: the only walk of its length is the solution."""
    from dataclasses import replace

    corridor = tuple((0, c) for c in range(4))
    walls = tuple(sorted({(1, c) for c in range(5)} | {(0, 4)}))
    scene = replace(tasks.load("maze", 0).scene, walls=walls, start=(0, 0), goal=(0, 3), route=corridor)
    assert tasks.Task("maze", 0, "test", scene).decoys(5) == ()


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("maze", ((0, 0),), "take one of task.solutions"),
        ("maze", None, "take one of task.solutions"),
        ("choose", [(0, 0), (0, 1)], "take one of task.solutions"),
        ("occlude", ("blue", 0, 0), "the answers that can are"),
        ("pattern", (("green",) * 6,) * 5, "beginning as shown"),
        ("pattern", "green", "beginning as shown"),
    ],
)
def test_an_answer_that_cannot_be_drawn_is_refused(name, answer, hint):
    task = tasks.load(name, 0)
    with pytest.raises(TaskError, match=hint):
        task.render(answer)
    assert task.render(task.solutions[0]).shape == (palette.FRAMES, 96, 96, 3)


def test_a_jumping_route_is_refused():
    task = tasks.load("maze", 0)
    start = task.scene.start
    far = ((start[0] + 3) % 6, (start[1] + 3) % 6)
    with pytest.raises(TaskError, match="jumps"):
        task.render((start, far))


def test_a_ball_cannot_rest_behind_the_screen():
    task = tasks.load("occlude", 1)
    name, row, _ = task.truth
    with pytest.raises(TaskError, match="the answers that can are"):
        task.render((name, row, task.scene.screen))
