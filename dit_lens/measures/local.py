"""Local causal effect of each layer's update at a step: what x0_hat becomes when one block adds what it adds elsewhere.

For a base run b and a source run s (same noise, other answer), with h(l) meaning that block l's update is taken from
s::

    effect(step, l) = < x0_hat[h(l)] - x0_hat_b , x0_hat_s - x0_hat_b > / || x0_hat_s - x0_hat_b ||^2

0 is the base, 1 the source. The placebo takes the update from the same scene at another seed and is projected on the
same direction. Local means: the patched call alone, at the base's own latents; what the rest of the sampling makes
of it
is another question, and on image-conditioned models the answer is often "nothing".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens.errors import MeasureError
from dit_lens.wan.expert import Hook
from dit_lens.wan.lens import Lens
from dit_lens.wan.record import update_hooks
from dit_lens.wan.run import Run
from dit_lens.wan.sampler import guided, x0_hat


def local_effects(lens: Lens, base: Run, source: Run, placebo: Run, steps: Sequence[int]) -> xr.DataArray:
    """Effect of each block's update and of its placebo, (step, layer, kind) with kinds ``"effect"`` and ``"placebo"``.

    Errors: :class:`MeasureError` where the runs cannot be compared, or where source and base agree at a step.
    """
    for other in (source, placebo):
        if other.grid != base.grid or not other.plan.same_schedule(base.plan):
            raise MeasureError("base, source and placebo need the same size and the same sampling schedule")
    values = np.zeros((len(steps), lens.n_layers, 2), dtype=np.float32)
    with torch.no_grad():
        for i, step in enumerate(steps):
            origin = base.x0_hat(step)
            toward = source.x0_hat(step) - origin
            size = float((toward * toward).sum())
            if size == 0:
                raise MeasureError(
                    f"base and source agree exactly at step {step}: choose a source with another answer"
                )
            for j, other in enumerate((source, placebo)):
                updates = _updates(lens, other, step)
                for layer in range(lens.n_layers):
                    changed = _patched(lens, base, step, layer, updates) - origin
                    values[i, layer, j] = float((changed * toward).sum()) / size
    return xr.DataArray(
        values,
        dims=("step", "layer", "kind"),
        coords={
            "step": list(steps),
            "layer": list(range(lens.n_layers)),
            "kind": ["effect", "placebo"],
            "sigma": ("step", [base.sigmas[s] for s in steps]),
            "expert": ("step", [base.plan.at(s).expert for s in steps]),
        },
        name="effect",
        attrs={"long_name": "local effect of a layer's update", "units": "0 = base, 1 = source"},
    )


def _updates(lens: Lens, run: Run, step: int) -> dict[tuple[str, int], Tensor]:
    """What every block adds at a step of a recorded run, by (branch, layer)."""
    found: dict[tuple[str, int], Tensor] = {}
    for call in run.plan.of_step(step):
        hooks: list[Hook] = []
        for layer in range(lens.n_layers):
            hooks += update_hooks(layer, lambda u, key=(call.branch, layer): found.__setitem__(key, u))
        lens.replay(run, call, hooks)
    return found


def _patched(lens: Lens, base: Run, step: int, layer: int, updates: dict[tuple[str, int], Tensor]) -> Tensor:
    """The base's x0_hat at a step when one block adds another run's update, in both branches."""
    velocities = {}
    for call in base.plan.of_step(step):
        velocities[call.branch] = lens.replay(base, call, _replace_update(layer, updates[call.branch, layer]))
    call = base.plan.at(step)
    velocity = guided(base.plan, call, velocities["cond"], velocities.get("uncond")).cpu()
    return x0_hat(base.latents[step][None], velocity, base.sigmas[step], base.conditions)[0]


def _replace_update(layer: int, update: Tensor) -> list[Hook]:
    entering: list[Tensor] = []

    def enter(x: Tensor, hook: Any) -> None:
        entering[:] = [x]

    def leave(x: Tensor, hook: Any) -> Tensor:
        old = x.float() - entering.pop().float()
        return (x.float() + (update - old)).type_as(x)  # exactly x when the update is its own

    return [(f"blocks.{layer}.hook_resid_pre", enter), (f"blocks.{layer}.hook_resid_post", leave)]
