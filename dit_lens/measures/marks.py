"""Marks of one place: the values that answers show in a patch of a frame, and the contrast of each in a clip.

How marks are used, and the fit in words, is told in :mod:`dit_lens.measures.candidates`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from einops import rearrange
from scipy.optimize import nnls

from dit_lens.errors import MeasureError


@dataclass(frozen=True, eq=False)
class Place:
    """One patch of one frame, and the values marked there. Pixels at which these all look alike are averaged.

    Attributes:
        index: Which patch, frame-major.
        still: What the first frame shows there, (P, 3).
        group: Which group of pixels each belongs to, (P,).
        weight: Square root of the number of pixels of each group, (G,).
        values: v_i - still, weighted, (G * 3, n).
    """

    index: int
    still: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, index: int, still: np.ndarray, values: np.ndarray) -> Place:
        """Make a place from pixels.

        Args:
            index: Which patch, frame-major.
            still: What the first frame shows there, uint8 (P, 3).
            values: What answers show there, uint8 (n, P, 3).
        """
        _, group = distinct(np.concatenate([still[None], values]).swapaxes(0, 1))
        blank = cls(index, still / 255, group, np.sqrt(np.bincount(group)), np.zeros((0, 0)))
        return replace(blank, values=np.stack([blank.change(v / 255) for v in values], 1))

    def change(self, tile: np.ndarray) -> np.ndarray:
        """The weighted difference of a tile to the still frame, (G * 3,).

        Args:
            tile: Pixels in [0, 1], (P, 3).
        """
        sums = np.zeros((len(self.weight), 3))
        np.add.at(sums, self.group, tile - self.still)
        return (sums / self.weight[:, None]).reshape(-1)

    def contrast(self, tile: np.ndarray) -> np.ndarray:
        """Contrast q of each value, (n,): see :mod:`dit_lens.measures.candidates`.

        Args:
            tile: Pixels in [0, 1], (P, 3).
        """
        change, n = self.change(tile), self.values.shape[1]
        scale = 1e3 * float(np.abs(self.values).max())
        rows = np.zeros((len(change) + 2, n + 1))
        rows[: len(change), :n] = self.values
        rows[-2] = scale  # the sum is one, all but exactly
        rows[-1, n] = 1e-6 * scale  # the least q_0 among equals
        q = nnls(rows, np.concatenate([change, [scale, 0.0]]))[0][:n]
        left = np.linalg.norm(change - self.values @ q) / np.linalg.norm(self.values, axis=0)
        return np.asarray(q * np.clip(1 - left, 0, None))


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct rows among some.

    Args:
        rows: Bytes, (n, ...).

    Returns:
        An index of each distinct row, and which of these every row equals, (n,).
    """
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
    _, first, which = np.unique(flat.view(f"V{flat.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    return first, which.reshape(-1)


def tiles(clip: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Cut a clip into patches of frames.

    Args:
        clip: (F, H, W, 3).
        patch: Rows and columns of pixels.

    Returns:
        (places, P, 3), frame-major.

    Raises:
        MeasureError: Frames that do not divide into patches.
    """
    if clip.shape[-3] % patch[0] or clip.shape[-2] % patch[1]:
        raise MeasureError(
            f"frames of {clip.shape[-3]} x {clip.shape[-2]} do not divide into patches of {patch}: choose another "
            "patch="
        )
    return rearrange(clip, "f (r a) (c b) k -> (f r c) (a b) k", a=patch[0], b=patch[1])
