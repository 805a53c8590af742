"""What a task is: a value with its prompt, first frame, exact truth, regions, twins and scorer.

The families differ only in their *scene*, a small frozen dataclass (one file each: ``maze.py``, ``choose.py``, ...)
that follows the :class:`Scene` protocol; :class:`Task` turns a scene into pictures and checks what it is given.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable
from zlib import crc32

import numpy as np
from PIL import Image

from dit_lens.errors import TaskError
from dit_lens.tasks import palette
from dit_lens.tasks.grid import Size

KINDS = ("other_answer", "same_answer")


@dataclass(frozen=True)
class Score:
    """A verdict on one generated video; true where it is solved.

    Attributes:
        solved: Every demand of the task is met.
        value: Partial credit in 0-1; a still first frame has 0, a solved video 1.
        details: The single checks by name; what they are is told in each family's ``score``.
    """

    solved: bool
    value: float
    details: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.solved


@runtime_checkable
class Scene(Protocol):
    """One task of one family, on the board of cells. Scenes compare and hash by content."""

    @property
    def size(self) -> Size:
        """Rows, columns and frames."""
        ...

    @property
    def prompt(self) -> str:
        """What the model is told."""
        ...

    @property
    def truth(self) -> Hashable:
        """The answer that :meth:`codes` shows."""
        ...

    @property
    def solutions(self) -> tuple[Hashable, ...]:
        """Every right answer, sorted, canonical and hashable."""
        ...

    @property
    def serial_length(self) -> int:
        """Steps of the answer that build on one another, from 1 up; 1 where all its parts can be told at once."""
        ...

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2), last axis (disc, rest)."""
        ...

    def codes_of(self, answer: Any) -> np.ndarray:
        """The codes of a video that gives an answer, right or wrong; a TaskError where it cannot be drawn here."""
        ...

    def decoy(self, rng: Random) -> Hashable | None:
        """A wrong answer in the form of the solutions, or None where none is found."""
        ...

    def regions(self) -> dict[str, np.ndarray]:
        """Regions on the board of cells, name -> bool (F, R, C)."""
        ...

    def answer(self, cells: np.ndarray) -> Hashable | None:
        """The answer that codes (F, R, C, 2) read from a video give, right or wrong; None when they give none."""
        ...

    def score(self, cells: np.ndarray) -> Score:
        """Judge codes (F, R, C, 2) read from a video."""
        ...

    def twin(self, kind: str, rng: Random) -> Scene:
        """A counterfactual partner; ``kind`` is one of ``KINDS``."""
        ...


@dataclass(frozen=True)
class Task:
    """A task with ground truth.

    Attributes:
        name: Family, level and size; name, seed and split together always give the same task.
        seed: Which task of that name.
        split: ``"test"``, ``"train"``, or the split of a twin.
        scene: Its content.
        prompt: What the model is told.
        frames: The exact answer video, uint8 (F, H, W, 3).
        image: Its first frame, as PIL.
        regions: Name -> bool (F, H, W), whole cells, constant or moving; regions may overlap (the path contains the
            agent).
        truth: The answer that ``frames`` shows.
        solutions: Every right answer, sorted, canonical and hashable.
    """

    name: str
    seed: int
    split: str
    scene: Scene

    fps = palette.FPS

    @property
    def height(self) -> int:
        """Pixels, 16 for each row of the board."""
        return self.scene.size.rows * palette.CELL

    @property
    def width(self) -> int:
        """Pixels, 16 for each column of the board."""
        return self.scene.size.cols * palette.CELL

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return self.scene.size.num_frames

    @property
    def family(self) -> str:
        """The first word of the name, e.g. ``"maze"`` of ``"maze-hard-7x7x17"``."""
        return self.name.partition("-")[0]

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return self.scene.prompt

    @property
    def truth(self) -> Hashable:
        """The answer that :attr:`frames` shows."""
        return self.scene.truth

    @cached_property
    def solutions(self) -> tuple[Hashable, ...]:
        """Every right answer, sorted, canonical and hashable."""
        return self.scene.solutions

    @property
    def serial_length(self) -> int:
        """Steps of the answer that build on one another, from 1 up; 1 where all its parts can be told at once."""
        return self.scene.serial_length

    @cached_property
    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2), last axis (disc, rest)."""
        return _frozen(self.scene.codes())

    @cached_property
    def frames(self) -> np.ndarray:
        """The exact answer video, uint8 (F, H, W, 3)."""
        return _frozen(palette.render(self.codes))

    @property
    def first_frame(self) -> np.ndarray:
        """The conditioning image as an array, uint8 (H, W, 3)."""
        return self.frames[0]

    @property
    def image(self) -> Image.Image:
        """The conditioning image, as a PIL picture."""
        return Image.fromarray(self.first_frame)

    @cached_property
    def cell_regions(self) -> Mapping[str, np.ndarray]:
        """The regions on the board of cells, name -> bool (F, R, C)."""
        return MappingProxyType({k: _frozen(v) for k, v in self.scene.regions().items()})

    @cached_property
    def regions(self) -> Mapping[str, np.ndarray]:
        """The regions in pixels, name -> bool (F, H, W)."""
        return MappingProxyType({k: _frozen(palette.to_pixels(v)) for k, v in self.cell_regions.items()})

    def answer(self, frames: np.ndarray) -> Hashable | None:
        """The answer that a generated video gives, right or wrong.

        Args:
            frames: uint8 0-255 or float 0-1, (F, H, W, 3).

        Returns:
            An answer in the form of ``solutions``; None when the video gives none.
        """
        return self.scene.answer(self._read(frames))

    def score(self, frames: np.ndarray) -> Score:
        """Judge a generated video.

        Args:
            frames: uint8 0-255 or float 0-1, (F, H, W, 3).

        Returns:
            The verdict; its details are told in each family's ``score``.
        """
        return self.scene.score(self._read(frames))

    def render(self, answer: Hashable) -> np.ndarray:
        """Render the video that gives an answer, right or wrong, in this scene.

        Args:
            answer: In the form of ``solutions``. An answer that cannot be drawn here is a TaskError that says why.

        Returns:
            uint8 (F, H, W, 3), read back by :meth:`answer`.
        """
        return palette.render(self.scene.codes_of(answer))

    def decoys(self, n: int, seed: int = 0) -> tuple[Hashable, ...]:
        """Draw wrong answers: the null of whatever counts right ones.

        What a decoy is like is told in each family's ``decoy``. Small scenes have few, perhaps none.

        Args:
            n: At most so many.
            seed: Of the draw.

        Returns:
            Different wrong answers in the form of ``solutions``, sorted.
        """
        rng = Random(f"dit_lens/decoys/{self.name}/{self.split}/{self.seed}/{seed}")
        found: dict[Hashable, None] = {}
        for _ in range(20 * n):
            decoy = self.scene.decoy(rng)
            if decoy is None or len(found) == n:
                break
            found[decoy] = None
        return tuple(sorted(found))  # type: ignore[type-var]

    def twin(self, kind: str, seed: int = 0) -> Task:
        """Make a counterfactual partner.

        What is changed is the least that the family allows. The twin of a test task is not guaranteed to lie in the
        held-out part itself.

        Args:
            kind: ``"other_answer"`` (same scene, other answer) or ``"same_answer"`` (other scene, same answer).
            seed: Chooses among several.

        Returns:
            The twin, with a split such as ``"test/other_answer-0"``.

        Raises:
            TaskError: For another kind.
        """
        if kind not in KINDS:
            raise TaskError(f"unknown twin {kind!r}; choose one of {', '.join(map(repr, KINDS))}.")
        rng = Random(f"dit_lens/twin/{self.name}/{self.split}/{self.seed}/{kind}/{seed}")
        return Task(self.name, self.seed, f"{self.split}/{kind}-{seed}", self.scene.twin(kind, rng))

    def _read(self, frames: np.ndarray) -> np.ndarray:
        cells = palette.read(frames)
        if len(cells) != self.num_frames:
            raise TaskError(
                f"the video has {len(cells)} frames and a {self.name} task is read from {self.num_frames}; "
                f"generate with num_frames={self.num_frames}."
            )
        if cells.shape[1:3] != (self.scene.size.rows, self.scene.size.cols):
            raise TaskError(
                f"the video is {np.shape(frames)[1]} x {np.shape(frames)[2]} pixels and this {self.name} task is read "
                f"from {self.height} x {self.width}; generate with height={self.height}, width={self.width}."
            )
        return cells

    def __repr__(self) -> str:
        return f"Task({self.name!r}, seed={self.seed}, split={self.split!r}, prompt={self.prompt!r})"


def held_out(codes: np.ndarray) -> bool:
    """Whether a scene belongs to the test part: one in eight, by the content of its first frame and by nothing else.

    Training never sees such a first frame, whatever seed drew it and whatever the prompt says.
    """
    return crc32(np.ascontiguousarray(codes[0]).tobytes()) % 8 == 0


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array.flags.writeable = False
    return array
