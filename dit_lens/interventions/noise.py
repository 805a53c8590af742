"""Noise in the latents, at a step or at a frame (paper, noise perturbation, Fig. 3).

The paper replaces latents by unit-variance noise: at one step for all frames, x_{s, all f} <- N(0, I), or for one frame
at every step, x_{all s, f} <- N(0, I). At small sigma this is far from any state the model has seen; ``matched=True``
is the control: noise with exactly the mean and standard deviation of the latents that it replaces, so that only content
is lost.

The noise depends on the intervention's seed, the run's seed and the step, and on nothing else: not on which frames are
chosen, on the other items of a batch, or on where a run was resumed; and it is never the noise that a run starts from.

When not to use: on latent frame 0 of a model that takes the first frame clean (Wan2.2 TI2V), which never reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_lens import checks
from dit_lens.address import ALL, Address, Indices, Select, fixed, indices
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import select
from dit_lens.wan.editing import Context, Edit


@dataclass(frozen=True)
class Noise:
    """Replace the latents entering the selected steps, in the selected latent frames, by fresh noise from ``seed``."""

    where: Select
    frames: Indices = ALL
    matched: bool = False
    seed: int = 0

    def bind(self, context: Context) -> Edit:
        """Prepare the edit for one generation."""
        return _NoiseEdit(self, context)

    def __str__(self) -> str:
        kind = "moment-matched" if self.matched else "unit"
        return f"noise({kind}, steps={self.where.steps}, frames={self.frames}, seed={self.seed})"


def noise(
    steps: Any = None, *, step: int | None = None, frames: Indices = ALL, matched: bool = False, seed: int = 0
) -> Noise:
    """Specify noise. ``noise(step=10)`` is the paper's noise at a step; ``noise(frames=3)`` its noise at a frame.

    Args:
        steps: As of :func:`dit_lens.patch`.
        step: One step.
        frames: Latent frames; all by default.
        matched: Whether the noise gets the mean and standard deviation of the latents that it replaces.
        seed: Seed of the noise.

    Returns:
        The intervention.

    Raises:
        InterventionError: A seed that is not an integer.
    """
    return Noise(select(steps=steps, step=step), fixed(frames), matched, checks.seed(seed, error=InterventionError))


class _NoiseEdit(Edit):
    def __init__(self, spec: Noise, context: Context) -> None:
        super().__init__(str(spec))
        self.spec = spec
        self.steps = set(spec.where.steps_of(context.plan.n_steps))
        self.frames = list(indices(spec.frames, context.grid.frames, "frame", "a video"))
        self.seeds = context.seeds

    def latents(self, step: int, x: Tensor) -> Tensor:
        if step not in self.steps:
            return x
        fresh = torch.stack([draw(x.shape[1:], self.spec.seed, seed, step) for seed in self.seeds]).to(x)
        old, new = x[:, :, self.frames], fresh[:, :, self.frames]  # (B, C, f, h, w)
        if self.spec.matched:
            axes = (1, 2, 3, 4)
            new = (new - new.mean(axes, keepdim=True)) / new.std(axes, keepdim=True)
            new = old.mean(axes, keepdim=True) + old.std(axes, keepdim=True) * new
        changed = x.clone()
        changed[:, :, self.frames] = new
        self.fired[Address(step, "cond", -1, "latents")] += 1
        return changed


def draw(shape: Sequence[int], seed: int, run_seed: int, step: int) -> Tensor:
    """Draw N(0, I): one stream for each (seed, run seed, step), apart from the streams that runs start from.

    Args:
        shape: Shape of the draw.
        seed: Seed of the intervention.
        run_seed: Seed of the run.
        step: The step.

    Returns:
        Noise of that shape, float32 on the CPU.
    """
    stream = hashlib.sha256(f"dit_lens/noise/{seed}/{run_seed}/{step}".encode()).digest()[:8]
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(stream, "big"))
    return torch.randn(tuple(shape), generator=generator)
