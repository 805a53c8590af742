"""Kinds of noise in the latents: the paper's, its control, its placebos; and in which frames.

The paper replaces the latents x_s that enter a step by unit noise eps ~ N(0, I). At sigma < 1 that is two things at
once: content is lost, and the state is one that the model has never seen. The kinds separate these:

    kind     x_s becomes                                what is lost                    on the model's path
    unit     eps (the paper's)                          content                         only at sigma = 1
    matched  mean(x_s) + std(x_s) eps                   content                         in its two moments
    foreign  (1 - sigma_s) x0 of another task           content, for a wrong one        yes
             + sigma_s eps
    renewed  (1 - sigma_s) x0_hat_s + sigma_s eps       the noise; content is kept      yes (but x0_hat is a mean)
    restart  x_s                                        the sampler's memory            yes

``foreign`` is the sigma-matched control, ``renewed`` and ``restart`` are the placebos. Held over several steps,
``renewed`` is drawn around the clean run's own finished latents: noise, but the right content. At sigma = 1 unit,
foreign and renewed are the same, and equal to another seed.

When not to use: ``matched`` as the control of content alone; its state is not on the model's path either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dit_lens.address import ALL, Indices, indices
from dit_lens.errors import MeasureError
from dit_lens.interventions.noise import noise
from dit_lens.interventions.redraw import redraw, restart
from dit_lens.wan.editing import Intervention
from dit_lens.wan.reduce import Masks
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

KINDS = ("unit", "matched", "foreign", "renewed", "restart")


def injection(kind: str, step: Any, base: Run, foreign: Run, seed: int = 1, frames: Indices = ALL) -> Intervention:
    """Make the intervention of a kind at one step, or held over several.

    Args:
        kind: One of :data:`KINDS`.
        step: A step of ``base``, or several.
        base: The clean run.
        foreign: A run of another task, whose finished latents the kind ``foreign`` takes.
        seed: Seed of the noise.
        frames: Latent frames; all by default.

    Returns:
        The intervention.

    Raises:
        MeasureError: An unknown kind.
    """
    if kind == "unit" or kind == "matched":
        return noise(step, frames=frames, matched=kind == "matched", seed=seed)
    if kind == "foreign":
        return redraw(foreign.final, step, frames=frames, seed=seed)
    if kind == "renewed":
        own = base.x0_hat(step) if isinstance(step, int) else base.final
        return redraw(own, step, frames=frames, seed=seed)
    if kind == "restart":
        return restart(step)
    raise MeasureError(f"unknown kind of noise {kind!r}: choose from {', '.join(KINDS)}")


def latent_frames(grid: Grid, frames: Indices = ALL, unit: str = "latent") -> tuple[int, ...]:
    """The latent frames that hold the given frames.

    A pixel frame has no latents of its own: latent frame f >= 1 holds pixel frames 1 + 4 (f - 1) to 4 f, so noise at a
    pixel frame is noise at the latent frame that holds it.

    Args:
        grid: The token grid.
        frames: All by default.
        unit: ``"latent"`` or ``"pixel"``: what ``frames`` counts.

    Returns:
        Indices of latent frames.

    Raises:
        MeasureError: Another unit.
        AddressError: Frames outside the video.
    """
    if unit == "latent":
        return indices(frames, grid.frames, "frame", "a video")
    if unit != "pixel":
        raise MeasureError(f"unit={unit!r}: give 'latent' or 'pixel'")
    pixels = indices(frames, grid.n_pixel_frames, "pixel frame", "a video")
    return tuple(sorted({-(-p // grid.stride) for p in pixels}))


def pixel_frames(grid: Grid, frame: int) -> slice:
    """The pixel frames that a latent frame holds."""
    return slice(0, 1) if frame == 0 else slice(1 + grid.stride * (frame - 1), 1 + grid.stride * frame)


def check(tasks: Sequence[Any], kinds: Sequence[str]) -> None:
    """Check that there are at least two tasks, and that the kinds are known.

    Raises:
        MeasureError: There are fewer, or a kind is unknown.
    """
    if len(tasks) < 2:
        raise MeasureError(
            f"{len(tasks)} task(s): a foreign state and an interval need at least two, e.g. tasks.batch('maze', 16)"
        )
    strange = [kind for kind in kinds if kind not in KINDS]
    if strange or not kinds:
        raise MeasureError(f"unknown kinds of noise {strange}: choose from {', '.join(KINDS)}")


@dataclass(frozen=True)
class SomeTokens:
    """A reducer that keeps ``most`` tokens, drawn at random and always the same, as samples for CKA."""

    most: int
    tokens: bool = field(default=True, init=False)

    def _index(self, grid: Grid) -> list[int]:
        # Not every k-th: that could pick one column of each frame.
        return sorted(np.random.default_rng(0).permutation(grid.n_tokens)[: self.most].tolist())

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """Reduce an activation (B, N, d) to (B, most, d)."""
        return x[:, self._index(grid)].clone()

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """Names and sizes of the axes of the reduced activation."""
        return {"token": len(self._index(grid)), "channel": None}
