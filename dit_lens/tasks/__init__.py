"""Tasks with ground truth: eight families, most of them at several levels, on boards of several sizes.

    task = dit_lens.tasks.load("maze", seed=3)
    task.prompt, task.image, task.frames, task.regions, task.solutions
    task.score(video).solved
    task.twin("other_answer")
    dit_lens.tasks.load("maze", seed=3, level="hard", rows=7, cols=7, num_frames=17).name    # maze-hard-7x7x17
    dit_lens.tasks.load("maze-hard-7x7x17", seed=3)                                          # the same

``maze``, ``choose``, ``occlude`` and ``pattern`` without a level are what the lab model was trained on, 6 x 6 cells and
13 frames; ``listed()`` names all families and levels. ``dit_lens.tasks.vbvr`` reads and writes folders in VBVR's
format. Needs numpy and PIL only. What each family asks, its regions and its scorer's details are told in its own
module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from dit_lens.errors import TaskError
from dit_lens.tasks import vbvr
from dit_lens.tasks.catalog import FAMILIES, USUAL, kind, listed, parse, sizes
from dit_lens.tasks.task import KINDS, Scene, Score, Task, held_out

SPLITS = ("test", "train")

__all__ = [
    "KINDS",
    "SPLITS",
    "Scene",
    "Score",
    "Task",
    "batch",
    "canonical",
    "fits",
    "listed",
    "load",
    "names",
    "prompts",
    "scene",
    "vbvr",
]


def names() -> tuple[str, ...]:
    """The task families as the lab model knows them; ``listed`` has all others too."""
    return tuple(family for family, levels in FAMILIES.items() if USUAL in levels)


def canonical(
    name: str,
    *,
    level: str | None = None,
    rows: int | None = None,
    cols: int | None = None,
    num_frames: int | None = None,
) -> str:
    """The one name of a family at a level and a size: ``family[-level][-RxCxF]``.

    The level is left out where it is the lab model's, the size where it is the level's usual one.

    Args:
        name: A family, or a name that tells more.
        level: Such as "easy" or "hard".
        rows: Of the board, 5 to 8 cells.
        cols: Of the board, 5 to 8 cells.
        num_frames: 9, 13, 17 or 21.

    Raises:
        TaskError: For an unknown family or level, a size that the level has not, and a level that differs from the
            name's.
    """
    if name in FAMILIES:
        return str(kind(name, level, rows, cols, num_frames))
    known = parse(name)
    if level not in (None, known.level):
        raise TaskError(f"{name!r} is not of level {level!r}: give the family, {known.family!r}, and the level.")
    size = known.size
    return str(
        kind(
            known.family,
            known.level,
            size.rows if rows is None else rows,
            size.cols if cols is None else cols,
            size.num_frames if num_frames is None else num_frames,
        )
    )


def fits(name: str, rows: int, cols: int, num_frames: int) -> bool:
    """Whether the family at the name's level has tasks of a size: ``canonical`` with that size gives no error."""
    known = parse(name)
    return any((s.rows, s.cols, s.num_frames) == (rows, cols, num_frames) for s in sizes(known.family, known.level))


def prompts(names: Iterable[str] | None = None) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every prompt that the named tasks use (None: all of ``listed``) -> its family and the colours named, in order."""
    kinds = [parse(name) for name in (listed() if names is None else names)]
    return {prompt: (k.family, named) for k in kinds for prompt, named in k.rules.prompts().items()}


def load(
    name: str,
    seed: int = 0,
    split: str = "test",
    *,
    level: str | None = None,
    rows: int | None = None,
    cols: int | None = None,
    num_frames: int | None = None,
) -> Task:
    """One task. The same (name, seed, split) gives the same task everywhere.

    Args:
        name: A family, or a canonical name such as "maze-hard" or "maze-hard-7x7x17".
        seed: From 0 up.
        split: ``"test"`` tasks have first frames that the lab model was never trained on; ``"train"`` tasks have the
            others. A twin's own split, such as ``"test/other_answer-0"``, gives the twin again: a task can be kept as
            these three words.
        level: As in ``canonical``, and so are the following.
        rows: Of the board.
        cols: Of the board.
        num_frames: Of the video.

    Returns:
        The task.

    Raises:
        TaskError: For a name, size, seed or split that there is not.
    """
    split, *twins = split.split("/")
    name = canonical(name, level=level, rows=rows, cols=cols, num_frames=num_frames)
    task = Task(name, seed, split, scene(name, seed, split))
    for twin in twins:
        which, _, number = twin.rpartition("-")
        if not number.isdecimal():
            raise TaskError(f"{twin!r} names no twin; write '<kind>-<seed>', e.g. 'test/other_answer-0'.")
        task = task.twin(which, int(number))
    return task


def scene(name: str, seed: int, split: str = "test") -> Scene:
    """The bare content of a task, without pictures (for drawing many of them quickly)."""
    known = parse(name)
    if split not in SPLITS:
        raise TaskError(f"unknown split {split!r}; choose one of {', '.join(map(repr, SPLITS))}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise TaskError(f"a puzzle's seed is an int from 0 up, not {seed!r}.")
    rng = Random(f"dit_lens/{known}/{split}/{seed}")
    while True:
        drawn = known.rules.draw(rng, known.size)
        if held_out(drawn.codes()) == (split == "test"):
            return drawn


def batch(names: str | Sequence[str], n: int, seed: int = 0, split: str = "test") -> list[Task]:
    """``n`` tasks with seeds from ``seed`` up, taking the named families in turn."""
    families = (names,) if isinstance(names, str) else tuple(names)
    if not families or n < 0:
        raise TaskError("a batch needs at least one family name and n from 0 up, e.g. batch(['maze', 'choose'], n=8).")
    return [load(families[i % len(families)], seed + i // len(families), split) for i in range(n)]
