"""Noise in the latents, at a step or at a frame (paper, noise perturbation, Fig. 3).

The paper replaces latents by unit-variance noise: at one step for all frames, x_{s, all f} <- N(0, I), or for one frame
at every step, x_{all s, f} <- N(0, I). At small sigma this is far from any state the model has seen; ``matched=True``
is the control: noise with the mean and standard deviation of the latents that it replaces, so that only content is
lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_lens.address import ALL, Address, Indices, Select, indices
from dit_lens.interventions.base import select
from dit_lens.wan.edits import Context, Edit


@dataclass(frozen=True)
class Noise:
    """Replace the latents entering the selected steps, in the selected latent frames, by fresh noise from ``seed``."""

    where: Select
    frames: Indices = ALL
    matched: bool = False
    seed: int = 0

    def bind(self, context: Context) -> Edit:
        return _NoiseEdit(self, context)

    def __str__(self) -> str:
        kind = "moment-matched" if self.matched else "unit"
        return f"noise({kind}, steps={self.where.steps}, frames={self.frames}, seed={self.seed})"


def noise(step: Any = None, *, steps: Any = None, frames: Indices = ALL, matched: bool = False, seed: int = 0) -> Noise:
    """A noise value. ``noise(step=10)`` is the paper's noise at a step; ``noise(frames=3)`` its noise at a frame."""
    return Noise(select(step, steps), tuple(frames) if isinstance(frames, list) else frames, matched, seed)


class _NoiseEdit(Edit):
    def __init__(self, spec: Noise, context: Context) -> None:
        super().__init__(str(spec))
        self.spec = spec
        self.steps = set(spec.where.steps_of(context.plan.n_steps))
        self.frames = list(indices(spec.frames, context.grid.frames, "frame", "a video"))

    def latents(self, step: int, x: Tensor) -> Tensor:
        if step not in self.steps:
            return x
        # One stream per step, so that holding a frame over steps draws anew and a resumed run draws the same.
        generator = torch.Generator("cpu").manual_seed(self.spec.seed * 100_003 + step)
        old = x[:, :, self.frames]  # (B, C, f, h, w)
        new = torch.randn(old.shape, generator=generator).to(x)
        if self.spec.matched:
            axes = (1, 2, 3, 4)
            new = old.mean(axes, keepdim=True) + old.std(axes, keepdim=True) * new
        changed = x.clone()
        changed[:, :, self.frames] = new
        self.fired[Address(step, "cond", -1, "latents")] += 1
        return changed
