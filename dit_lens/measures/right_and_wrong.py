"""Right answers beside wrong ones: which of them a state is nearest to, and what share of a picture wrong ones make.

Two readings of one question, whether a model knows which answers are right:

* ``nearest``: of the pictures of right and wrong answers, is the one nearest to the model's a right one (least squared
  distance in the latents)? A forced choice: it asks what is shown and not how sharply, so that a blurred right answer
  counts and a sharp wrong one does not. *Solved* asks both, and every cell of a long answer has to be sharp for it.
* ``wrong``: the share of what a picture shows that only wrong answers show, 1 - support of
  :mod:`dit_lens.measures.candidates`.

Both stand between two ends that are computed at the same states. The ideal denoiser (:class:`Choices`: ``right``)
averages over the right answers: it shows no wrong one at any step. The blind one (``blind``) averages over right and
wrong ones: it knows what the state says, and not what the task asks.

The wrong answers are the hardest of those that a task offers: of forty draws, those whose videos are nearest to a right
answer's. They are still far from everything that can be wrong.

When not to use: ``nearest`` as a score. A video that is nearest to a right answer may be none.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from dit_lens.checks import count
from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import pool
from dit_lens.measures.commitment import clips_of
from dit_lens.measures.ideal_denoiser import IdealDenoiser, ideal_denoiser
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

#: Wrong answers that are drawn, of which the hardest are taken.
DRAWN = 40
#: Who makes an estimate: the model, and the two ends that it is read between.
KINDS = ("network", "ideal", "blind")


@dataclass(frozen=True, eq=False)
class Choices:
    """The right and wrong answers of a task, as two denoisers. Make one with :func:`choices`.

    Attributes:
        right: The ideal denoiser over the right answers.
        blind: The one over right and wrong answers, the right ones first; the same as ``right`` where there are no
            wrong ones.
    """

    right: IdealDenoiser
    blind: IdealDenoiser

    @property
    def wrong(self) -> tuple[Hashable, ...]:
        """The wrong answers."""
        return self.blind.answers[len(self.right.answers) :]

    def nearest_right(self, clean: Tensor) -> float:
        """Whether the answer nearest to clean latents is a right one.

        Args:
            clean: x0_hat or finished latents, (C, F, h, w).

        Returns:
            0 or 1, or between where right and wrong ones are equally near; NaN without wrong answers.

        Raises:
            MeasureError: Latents of another shape, or with NaN.
        """
        if not self.wrong:
            return float("nan")
        near = self.blind.posterior(clean, 0.0)  # at sigma 0 the nearest answer has all the weight
        return float((near[: len(self.right.answers)] > 0).sum() / (near > 0).sum())


def choices(task: Any, lens: Lens, wrong: int = 8) -> Choices:
    """Right and wrong answers of a task, encoded.

    Args:
        task: With ``solutions``, ``render(answer)`` and, for wrong answers, ``decoys(n)``.
        lens: The model, for its VAE.
        wrong: At most so many wrong answers.

    Returns:
        The choices.

    Raises:
        MeasureError: ``wrong`` is no count, and as :func:`dit_lens.measures.ideal_denoiser` says.
    """
    count(wrong, "wrong", 1, error=MeasureError)
    ideal = ideal_denoiser(task, lens)
    hard = hardest_wrong(task, wrong)
    if not hard:
        return Choices(ideal, ideal)
    return Choices(ideal, ideal_denoiser(task, lens, answers=(*ideal.answers, *hard)))


def hardest_wrong(task: Any, n: int) -> tuple[Hashable, ...]:
    """Of forty wrong answers that are drawn, those whose videos are nearest to a right answer's.

    Args:
        task: With ``solutions`` and ``render(answer)``; without ``decoys(n)`` there are none.
        n: At most so many.

    Returns:
        Wrong answers, the hardest first; fewer than ``n`` where the task has no more.
    """
    drawn = tuple(task.decoys(max(n, DRAWN))) if hasattr(task, "decoys") else ()
    right = [task.render(answer).astype(np.float32) for answer in task.solutions] if drawn else []
    away = {}
    for answer in drawn:
        video = task.render(answer).astype(np.float32)
        away[answer] = min(float(np.square(video - other).sum()) for other in right)
    return tuple(sorted(drawn, key=away.__getitem__)[:n])


def right_and_wrong(
    run: Run, both: Choices, *, steps: Sequence[int] | None = None, frames: Sequence[int] = (-1,)
) -> xr.Dataset:
    """What the model's x0_hat shows of right and wrong answers at each step, beside both ends at the same states.

    Args:
        run: A run of a task that draws its answers.
        both: ``choices(run.task, lens)``.
        steps: All by default.
        frames: Pixel frames in which ``wrong`` is read: the last one by default, in which a route stays visible; all
            frames for tasks whose way is seen only while it is gone (``slide``).

    Returns:
        ``wrong`` and ``nearest`` over (kind, step), kinds :data:`KINDS`: shares, NaN without wrong answers. ``attrs``
        hold ``solutions`` and ``decoys``, how many there were.

    Raises:
        MeasureError: Choices of another task, and as :func:`dit_lens.measures.candidates` says.
    """
    if both.right.answers != tuple(run.task.solutions):
        raise MeasureError("these are the choices of another task: make them with choices(run.task, lens)")
    chosen = [run.n_steps + s if s < 0 else s for s in (range(run.n_steps) if steps is None else steps)]
    made = {
        "network": [run.x0_hat(step) for step in chosen],
        "ideal": [both.right.x0_hat(run, step) for step in chosen],
        "blind": [both.blind.x0_hat(run, step) for step in chosen],
    }
    nearest = [[both.nearest_right(clean) for clean in made[kind]] for kind in KINDS]
    wrong = np.full((len(KINDS), len(chosen)), np.nan)
    if both.wrong:
        size = (run.grid.pixel_rows, run.grid.pixel_cols)
        reader = pool(run.task, both.wrong, frames=frames, patch=size, decoys=True)
        for k, kind in enumerate(KINDS):
            _, clips = clips_of(run, [run.decode(clean) for clean in made[kind]], chosen)
            wrong[k] = [1 - reader.support(reader.contrast(clip)) for clip in clips]
    return xr.Dataset(
        {
            "wrong": (("kind", "step"), wrong, {"long_name": "shown by wrong answers only", "units": "share"}),
            "nearest": (("kind", "step"), nearest, {"long_name": "nearest answer is a right one", "units": "share"}),
        },
        coords={"kind": list(KINDS), "step": chosen, "sigma": ("step", [run.sigmas[s] for s in chosen])},
        attrs={"solutions": len(both.right.answers), "decoys": len(both.wrong)},
    )
