"""A model that learned nothing: what it was handed can be read from it, what must be found cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.experiments import shuffled_weights
from dit_lens.probing import Label, collect, grid

SCENES = 24


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def puzzles() -> list[Any]:
    """Puzzles with several right answers, so that which one is shown does not follow from the picture."""
    drawn = (dl.tasks.load(family, seed=i) for i in range(200) for family in ("maze", "choose"))
    return [next(task for task in drawn if len(task.solutions) > 1) for _ in range(SCENES)]


def choice(scene: Any, grid: Any) -> Any:
    """Of the cells on some right route but not on all: is it on the one that was drawn?"""

    def cells(route: Any) -> np.ndarray:
        mask = np.zeros((grid.rows, grid.cols), bool)
        mask[tuple(np.array(route).T)] = True
        return np.tile(mask.reshape(-1), grid.frames)

    every = [cells(route) for route in scene.task.solutions]
    values = cells(scene.task.truth).astype(object)
    values[~np.any(every, axis=0) | np.all(every, axis=0)] = None
    return values


CHOICE = Label("choice", "decision", True, choice)


def passed(lens: Any, puzzles: list[Any], draws: range) -> int:
    """In how many draws of weights some place passes the corrected test at 5 %."""
    count = 0
    for draw in draws:
        with shuffled_weights(lens, draw) as nothing:
            features = collect(nothing, puzzles, steps=0, layers=(1, 4, 8, 11), seed=100 * draw,
                               stop_after=0)  # fmt: skip
        count += bool((grid(features, [CHOICE], permutations=19, seed=draw)["p"] <= 0.05).any())
    return count


def test_what_must_be_found_is_not_read_from_an_untrained_model(lens: Any, puzzles: list[Any]) -> None:
    assert passed(lens, puzzles, range(5)) <= 2  # by chance 5 % each; more than two: p = .001


@pytest.mark.slow  # two minutes
def test_over_many_draws_of_weights(lens: Any, puzzles: list[Any]) -> None:
    assert passed(lens, puzzles, range(40)) <= 6  # more than six of 40 at 5 %: p = .004


def test_what_it_was_handed_is(lens: Any, puzzles: list[Any]) -> None:
    """Goals stand in the first picture, so that even shuffled weights hand them on; the input baseline says so."""
    with shuffled_weights(lens, 0) as nothing:
        features = collect(nothing, puzzles, steps=0, layers=(1,), stop_after=0)
    found = grid(features, ["goal"], permutations=19).isel(label=0).squeeze()
    assert float(found["p"]) == 0.05 and float(found["score"]) > 0.55
    assert float(found["input"]) > float(found["score"]) - 0.1
