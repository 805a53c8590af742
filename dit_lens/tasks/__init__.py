"""Puzzles with ground truth: `maze`, `choose`, `occlude`, `pattern`.

    task = dit_lens.tasks.load("maze", seed=3)
    task.prompt, task.image, task.frames, task.regions, task.solutions
    task.score(video).solved
    task.twin("other_answer")

`dit_lens.tasks.vbvr` reads and writes folders in VBVR's format. Needs numpy and PIL only. What each family asks, its
regions and its scorer's details are told in its own module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from dit_lens.errors import TaskError
from dit_lens.tasks import choose, maze, occlude, pattern, vbvr
from dit_lens.tasks.task import KINDS, Scene, Score, Task, held_out

_FAMILIES: dict[str, Callable[[Random], Scene]] = {
    "maze": maze.draw,
    "choose": choose.draw,
    "occlude": occlude.draw,
    "pattern": pattern.draw,
}
SPLITS = ("test", "train")

__all__ = ["KINDS", "SPLITS", "Scene", "Score", "Task", "batch", "load", "names", "scene", "vbvr"]


def names() -> tuple[str, ...]:
    """The task families."""
    return tuple(_FAMILIES)


def load(name: str, seed: int = 0, split: str = "test") -> Task:
    """One puzzle. The same (name, seed, split) gives the same puzzle everywhere.

    split: `"test"` puzzles have first frames that the lab model was never trained on; `"train"` puzzles have the
    others.
    A twin's own split, such as `"test/other_answer-0"`, gives the twin again: a task can be kept as these three words.
    """
    split, *twins = split.split("/")
    task = Task(name, seed, split, scene(name, seed, split))
    for twin in twins:
        kind, _, number = twin.rpartition("-")
        if not number.isdecimal():
            raise TaskError(f"{twin!r} names no twin; write '<kind>-<seed>', e.g. 'test/other_answer-0'.")
        task = task.twin(kind, int(number))
    return task


def scene(name: str, seed: int, split: str = "test") -> Scene:
    """The bare content of a puzzle, without pictures (for drawing many of them quickly)."""
    if name not in _FAMILIES:
        raise TaskError(f"unknown task {name!r}; choose one of {', '.join(map(repr, _FAMILIES))}.")
    if split not in SPLITS:
        raise TaskError(f"unknown split {split!r}; choose one of {', '.join(map(repr, SPLITS))}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise TaskError(f"a puzzle's seed is an int from 0 up, not {seed!r}.")
    rng = Random(f"dit_lens/{name}/{split}/{seed}")
    while True:
        drawn = _FAMILIES[name](rng)
        if held_out(drawn.codes()) == (split == "test"):
            return drawn


def batch(names: str | Sequence[str], n: int, seed: int = 0, split: str = "test") -> list[Task]:
    """`n` puzzles with seeds from `seed` up, taking the named families in turn."""
    families = (names,) if isinstance(names, str) else tuple(names)
    if not families or n < 0:
        raise TaskError("a batch needs at least one family name and n from 0 up, e.g. batch(['maze', 'choose'], n=8).")
    return [load(families[i % len(families)], seed + i // len(families), split) for i in range(n)]
