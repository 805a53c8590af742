"""Blends: clips that draw parts of several answers at once, and so give none of them.

x0_hat averages what may still come. A task's own reader is made for finished videos: it looks for one agent or one
colour within a tolerance, so a blend may have no answer for it, or that of its strongest part. Neither says what is
shown. Here a clip is a *blend* if no single answer, right or wrong, makes all the marks that it shows with a contrast
of at least ``seen`` (marks and contrasts are those of :mod:`dit_lens.measures.candidates`). One answer, sharp or faint,
is never a blend, nor is an empty clip, nor a mixture of so many answers that none of them shows.

A blend of two right answers is not a right answer: nobody can walk two routes.

When not to use: for wrong answers that are not among ``task.decoys``. A clip of one reads as a blend; ask
``task.answer`` first, as :func:`dit_lens.measures.answers_over_steps.read_answers` does. Behind a nonlinear decoder an
average of latents need not be a blend of pictures, and may read as an empty clip: ask the ideal denoiser's film, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import SEEN, Pool, pool

#: Most wrong answers that marks are taken from.
WRONG_ONES = 20


@dataclass(frozen=True, eq=False)
class Blends:
    """Reads clips of one task for blends. Make one with :func:`blends_of`."""

    reader: Pool = field(repr=False)
    seen: float = SEEN

    def __call__(self, clip: np.ndarray) -> bool:
        """Whether a clip shows what no single answer shows.

        Args:
            clip: (F, H, W, 3) in [0, 1].
        """
        shown = (self.reader.contrast(clip) >= self.seen) & self.reader.contested
        return not bool(self.reader.makes[:, shown].all(1).any())


def blends_of(
    task: Any,
    patch: tuple[int, int] = (16, 16),
    seen: float = SEEN,
    wrong: Sequence[Hashable] | None = None,
) -> Blends | None:
    """Prepare to read a task's clips for blends, in the last frame if it tells the answers apart, else in all frames.

    Args:
        task: A task.
        patch: Rows and columns of pixels of one place.
        seen: Least contrast of a mark that counts as shown.
        wrong: Wrong answers that are answers too, by themselves or in a blend; a few of ``task.decoys`` by default.

    Returns:
        The reader; None for a task that cannot draw its answers.
    """
    if not all(hasattr(task, name) for name in ("solutions", "render", "first_frame")):
        return None
    if wrong is None:
        wrong = task.decoys(min(len(task.solutions) + 1, WRONG_ONES)) if hasattr(task, "decoys") else ()
    try:
        return Blends(_all_answers(task, wrong, (-1,), patch), seen)
    except MeasureError:  # the last frame does not tell the answers apart
        return Blends(_all_answers(task, wrong, tuple(range(task.num_frames)), patch), seen)


def _all_answers(
    task: Any, wrong: Sequence[Hashable], frames: tuple[int, ...], patch: tuple[int, int]
) -> Pool:
    right = tuple(task.solutions)
    told = pool(task, wrong, frames=frames, patch=patch, decoys=True).answers if wrong else ()
    return pool(task, (*right, *told), frames=frames, patch=patch)
