"""Redrawing a state from the training distribution, and restarting the sampler: the controls of noise in the latents.

The training path is x_sigma = (1 - sigma) x0 + sigma eps. ``redraw`` replaces latents by a fresh draw from it around
clean latents ``x0`` of your choice, so that the state has the marginal that the model knows at that sigma, which unit
noise (:func:`dit_lens.noise`, the paper's) has only at sigma = 1:

- around another task's finished latents, content is exchanged and the marginal kept (a *foreign* state);
- around the run's own content, content is kept and only the noise is renewed (a *renewed* state). At one step and for
  all frames, :func:`dit_lens.interventions.renoise.renoise` does this with x0_hat of that step.

The fresh noise is the same as that of ``noise`` with the same seed; at sigma = 1 the two are one intervention.

``restart`` leaves the latents as they are and resets a multistep sampler (UniPC), as every edit of latents does. It is
the placebo for that reset.

When not to use: with models that are given a clean first frame inside the latents (Wan2.2 TI2V) the redrawn first frame
is overwritten by the given one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dit_lens import checks
from dit_lens.address import ALL, Address, Indices, Select, fixed, indices
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import select
from dit_lens.interventions.noise import draw
from dit_lens.wan.editing import Context, Edit


@dataclass(frozen=True, eq=False)
class Redraw:
    """Replace the latents entering the selected steps, in the selected latent frames, by a draw around ``x0``."""

    where: Select
    x0: Tensor = field(repr=False)  # (C, F, h, w)
    frames: Indices = ALL
    seed: int = 0

    def bind(self, context: Context) -> Edit:
        """Prepare the edit for one generation."""
        return _RedrawEdit(self, context)

    def __str__(self) -> str:
        return f"redraw(steps={self.where.steps}, frames={self.frames}, seed={self.seed})"


@dataclass(frozen=True)
class Restart:
    """Change no latents at the selected steps, and reset the sampler's multistep memory there."""

    where: Select

    def bind(self, context: Context) -> Edit:
        """Prepare the edit for one generation."""
        return _RestartEdit(self, context)

    def __str__(self) -> str:
        return f"restart(steps={self.where.steps})"


def redraw(x0: Tensor, steps: Any = None, *, step: int | None = None, frames: Indices = ALL, seed: int = 0) -> Redraw:
    """Specify a redraw: x_s <- (1 - sigma_s) x0 + sigma_s eps with fresh eps from ``seed``, a new draw each step.

    Args:
        x0: Clean latents (C, F, h, w) of the same size, e.g. ``other.final`` or ``run.x0_hat(5)``.
        steps: As of :func:`dit_lens.patch`.
        step: One step.
        frames: Latent frames; all by default.
        seed: Seed of the noise.

    Returns:
        The intervention.

    Raises:
        InterventionError: Latents that are not finite or not (C, F, h, w), or a seed that is not an integer. When it is
            used, another size than the video's.
    """
    if x0.ndim != 4 or not bool(torch.isfinite(x0).all()):
        raise InterventionError(
            f"redraw needs finite clean latents (C, F, h, w), found shape {tuple(x0.shape)}: give run.final or "
            "run.x0_hat(step)"
        )
    return Redraw(select(steps=steps, step=step), x0, fixed(frames), checks.seed(seed, error=InterventionError))


def restart(steps: Any = None, *, step: int | None = None) -> Restart:
    """Specify a restart; with a sampler without memory (Euler) it changes nothing.

    Args:
        steps: As of :func:`dit_lens.patch`.
        step: One step.

    Returns:
        The intervention.
    """
    return Restart(select(steps=steps, step=step))


class _RedrawEdit(Edit):
    def __init__(self, spec: Redraw, context: Context) -> None:
        super().__init__(str(spec))
        self.spec, self.sigmas = spec, context.plan.sigmas
        self.steps = set(spec.where.steps_of(context.plan.n_steps))
        self.frames = list(indices(spec.frames, context.grid.frames, "frame", "a video"))
        self.seeds = context.seeds

    def latents(self, step: int, x: Tensor) -> Tensor:
        if step not in self.steps:
            return x
        if self.spec.x0.shape != x.shape[1:]:
            raise InterventionError(
                f"clean latents of shape {tuple(self.spec.x0.shape)} do not fit this video's {tuple(x.shape[1:])}: "
                "take them from a run of the same size and frame count"
            )
        x0 = self.spec.x0[None, :, self.frames].to(x)  # (1, C, f, h, w)
        fresh = torch.stack([draw(x.shape[1:], self.spec.seed, seed, step) for seed in self.seeds]).to(x)
        eps = fresh[:, :, self.frames]  # (B, C, f, h, w)
        changed = x.clone()
        changed[:, :, self.frames] = (1 - self.sigmas[step]) * x0 + self.sigmas[step] * eps
        self.fired[Address(step, "cond", -1, "latents")] += 1
        return changed


class _RestartEdit(Edit):
    def __init__(self, spec: Restart, context: Context) -> None:
        super().__init__(str(spec))
        self.steps = set(spec.where.steps_of(context.plan.n_steps))

    def latents(self, step: int, x: Tensor) -> Tensor:
        if step not in self.steps:
            return x
        self.fired[Address(step, "cond", -1, "latents")] += 1
        return x.clone()  # a new tensor resets the sampler's memory
