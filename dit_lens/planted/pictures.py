"""Tasks for planted networks: a picture of coloured cells, and an answer that is one bit.

Every cell of the first picture (16 x 16 pixels, one token) has a colour whose three channels are 0 or 255 each:

    green   on in the cells of the region "key", off elsewhere: where the label stands
    blue    on in the cells of the region "other", off elsewhere
    red     the label in "key"; a second bit, which no planted network uses, in "other"; random in all other cells

The answer is the redness of the video: where it is shown (``shown``) depends on what the network does. A task that asks
by text has its label in the prompt.

An unlinked task is a null: its label, its second bit and its regions are drawn by themselves, and all cells are random,
so that nothing in what a network is given tells of them. Whatever a method says of label or region there is false, in
any network.

When not to use: for anything a trained model should solve; those tasks are in :mod:`dit_lens.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image

from dit_lens.errors import TaskError
from dit_lens.tasks import Score

FRAMES, ROWS, COLS = 2, 3, 4  # latent frames, cells down and across; one cell is one token
CELL, PIXEL_FRAMES = 16, 5
REGION = 4  # cells in each region
WORDS = ("day", "night")  # prompts of label 1 and -1

Asks = Literal["picture", "text"]
Shown = Literal["key", "later"]


@dataclass(frozen=True)
class PlantTask:
    """One picture.

    Attributes:
        seed: Where the picture comes from.
        label: 1 or -1: what the network has to show.
        asks: Where the label stands.
        shown: Where the answer is read: "later" (all cells of the later frames) or "key" (the region, first frame).
        unused: 1 or -1: the second bit, in the region "other".
        scene: Drawn cells, from which everything but the two bits comes.
        linked: Whether label, second bit and regions are those of the picture.
    """

    seed: int
    label: int
    asks: Asks = "picture"
    shown: Shown = "later"
    unused: int = 1
    scene: int = 0
    linked: bool = True

    name = "plant"
    height, width, num_frames = ROWS * CELL, COLS * CELL, PIXEL_FRAMES

    @property
    def prompt(self) -> str:
        """One word; the label, if the task asks by text and is linked."""
        return WORDS[1] if self.asks == "text" and self.linked and self.label < 0 else WORDS[0]

    @cached_property
    def places(self) -> Mapping[str, np.ndarray]:
        """Cells of the regions "key" and "other", bool (rows * cols,)."""
        order = np.random.default_rng([self.scene, 1]).permutation(ROWS * COLS)
        key, other = np.zeros((2, ROWS * COLS), bool)
        key[order[:REGION]], other[order[REGION : 2 * REGION]] = True, True
        return MappingProxyType({"key": key, "other": other})

    @cached_property
    def cells(self) -> np.ndarray:
        """Red, green and blue of the first picture as 1 and -1, (rows * cols, 3)."""
        drawn = np.random.default_rng([self.scene, 2]).choice([-1.0, 1.0], (ROWS * COLS, 3))
        if not self.linked:
            return drawn
        key, other = self.places["key"], self.places["other"]
        red = drawn[:, 0]
        red[key] = self.label if self.asks == "picture" else red[key][0]
        red[other] = self.unused
        return np.stack([red, np.where(key, 1.0, -1.0), np.where(other, 1.0, -1.0)], 1)

    @cached_property
    def image(self) -> Image.Image:
        """The first picture."""
        cells = ((self.cells + 1) * 127.5).astype(np.uint8).reshape(ROWS, COLS, 3)
        return Image.fromarray(cells.repeat(CELL, 0).repeat(CELL, 1))

    @cached_property
    def regions(self) -> Mapping[str, np.ndarray]:
        """Regions of tokens, bool (n_tokens,).

        Returns:
            "key" (also as "foreground"), "other" and "rest" of the first frame; "later": all other frames.
        """
        first = np.arange(FRAMES * ROWS * COLS) < ROWS * COLS
        none = np.zeros((FRAMES - 1) * ROWS * COLS, bool)
        key, other = (np.concatenate([self.places[name], none]) for name in ("key", "other"))
        found = {"key": key, "foreground": key, "other": other, "rest": first & ~key & ~other, "later": ~first}
        return MappingProxyType(found)

    @property
    def truth(self) -> int:
        """The right answer."""
        return self.label

    @property
    def solutions(self) -> tuple[int, ...]:
        """All right answers."""
        return (self.label,)

    def redness(self, video: np.ndarray) -> float:
        """Mean redness where the answer is shown, of a video (F, H, W, 3), uint8 or in [0, 1]; grey is 0, red 1."""
        video = np.asarray(video)
        if video.shape != (PIXEL_FRAMES, self.height, self.width, 3):
            raise TaskError(
                f"a video of shape {video.shape} does not fit this task: generate with the lens's own defaults, or "
                f"height={self.height}, width={self.width}, num_frames={PIXEL_FRAMES}"
            )
        red = video[..., 0].astype(float) / (255 if video.dtype == np.uint8 else 1) * 2 - 1
        if self.shown == "later":
            return float(red[1:].mean())
        key = self.places["key"].reshape(ROWS, COLS).repeat(CELL, 0).repeat(CELL, 1)
        return float(red[0][key].mean())

    def answer(self, video: np.ndarray) -> int:
        """1 or -1."""
        return 1 if self.redness(video) > 0 else -1

    def score(self, video: np.ndarray) -> Score:
        """Solved if the answer is the label; partial credit is the redness on the label's side, 0 to 1."""
        red = self.redness(video) * self.label
        return Score(red > 0, float(np.clip(red, 0, 1)))

    def twin(self, kind: str, seed: int = 0) -> PlantTask:
        """Make a counterfactual partner.

        Of an unlinked task every twin is another picture, since its label stands in none.

        Args:
            kind: ``"other_answer"``: the same picture with the other label; ``"same_answer"``: another picture, same
                label.
            seed: Chooses among several other pictures.

        Returns:
            The twin.

        Raises:
            TaskError: For another kind.
        """
        moved = replace(self, scene=self.scene + 1_000_003 * (seed + 1))
        if kind == "other_answer":
            return replace(self if self.linked else moved, label=-self.label)
        if kind == "same_answer":
            return moved
        raise TaskError(f"unknown twin {kind!r}; choose 'other_answer' or 'same_answer'")


def draw(
    n: int, seed: int = 0, asks: Asks = "picture", shown: Shown = "later", linked: bool = True
) -> Sequence[PlantTask]:
    """``n`` tasks. Of four each has another pair of label and second bit, so that neither bit tells of the other."""
    rng = np.random.default_rng([seed, 2])
    pairs = np.tile([(1, 1), (-1, -1), (1, -1), (-1, 1)], (-(-n // 4), 1))[:n]
    labels, unused = rng.permutation(pairs).T
    return tuple(
        PlantTask(seed * 10_000 + i, int(labels[i]), asks, shown, int(unused[i]), seed * 10_000 + i, linked)
        for i in range(n)
    )
