"""What a task is: a puzzle as a value, with its prompt, first frame, exact truth, regions, twins and scorer.

The families differ only in their *scene*, a small frozen dataclass (one file each: `maze.py`, `choose.py`, ...) that
follows the `Scene` protocol; `Task` turns a scene into pictures and checks what it is given.
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
    """A verdict on one generated video.

    solved: every demand of the task is met. value: partial credit in 0-1; a still first frame has 0, a solved video 1.
    details: the single checks by name (what they are is told in each family's `score`).
    """

    solved: bool
    value: float
    details: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.solved


@runtime_checkable
class Scene(Protocol):
    """One puzzle of one family. Scenes compare and hash by content."""

    @property
    def size(self) -> Size: ...
    @property
    def prompt(self) -> str: ...
    @property
    def truth(self) -> Hashable: ...
    @property
    def solutions(self) -> tuple[Hashable, ...]: ...
    def codes(self) -> np.ndarray: ...
    def codes_of(self, answer: Any) -> np.ndarray: ...
    def decoy(self, rng: Random) -> Hashable | None: ...
    def regions(self) -> dict[str, np.ndarray]: ...
    def answer(self, cells: np.ndarray) -> Hashable | None: ...
    def score(self, cells: np.ndarray) -> Score: ...
    def twin(self, kind: str, rng: Random) -> Scene: ...


@dataclass(frozen=True)
class Task:
    """A puzzle with ground truth.

    name, seed, split: where it came from; the same three always give the same task. scene: its content.
    prompt: what the model is told. frames: the exact answer video, uint8 (F, H, W, 3). image: its first frame, as PIL.
    regions: name -> bool (F, H, W), whole cells, constant or moving; regions may overlap (the path contains the agent).
    truth: the answer that `frames` shows; solutions: every right answer, sorted, canonical and hashable.
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
        return self.scene.size.num_frames

    @property
    def family(self) -> str:
        """The first word of the name, e.g. `"maze"` of `"maze-hard-7x7x17"`."""
        return self.name.partition("-")[0]

    @property
    def prompt(self) -> str:
        return self.scene.prompt

    @property
    def truth(self) -> Hashable:
        return self.scene.truth

    @cached_property
    def solutions(self) -> tuple[Hashable, ...]:
        return self.scene.solutions

    @cached_property
    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2), last axis (disc, rest)."""
        return _frozen(self.scene.codes())

    @cached_property
    def frames(self) -> np.ndarray:
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
        return MappingProxyType({k: _frozen(palette.to_pixels(v)) for k, v in self.cell_regions.items()})

    def answer(self, frames: np.ndarray) -> Hashable | None:
        """The answer that a generated video gives, in the form of `solutions`, right or wrong; None when it gives none.

        frames: uint8 0-255 or float 0-1, (F, H, W, 3).
        """
        return self.scene.answer(self._read(frames))

    def score(self, frames: np.ndarray) -> Score:
        """Judge a generated video, uint8 0-255 or float 0-1, (F, H, W, 3)."""
        return self.scene.score(self._read(frames))

    def render(self, answer: Hashable) -> np.ndarray:
        """The video that gives ``answer``, right or wrong, in this scene: uint8 (F, H, W, 3), read back by ``answer``.

        answer: in the form of `solutions`. An answer that cannot be drawn here is a TaskError that says why.
        """
        return palette.render(self.scene.codes_of(answer))

    def decoys(self, n: int, seed: int = 0) -> tuple[Hashable, ...]:
        """Up to `n` different wrong answers in the form of `solutions`, sorted: the null of whatever counts right ones.

        What a decoy is like is told in each family's `decoy`. Small scenes have few, perhaps none.
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
        """A counterfactual partner: `"other_answer"` (same scene, other answer) or `"same_answer"` (other scene, same
        answer).

        What is changed is the least that the family allows; `seed` chooses among several. The twin of a test task is
        not guaranteed to lie in the held-out part itself.
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
