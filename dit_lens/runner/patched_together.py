"""Local effects of single layers' updates, many patched runs in one batch.

One patched run of a small model keeps a processor waiting for the next small matrix, so runs that differ in the patched
layer alone go through the later blocks together: those of a few neighbouring layers enter at the first of them, with
the base's stream, and each gets its layer's update from its giver when it leaves that block.

It is ``dl.patch(step=step, layers=layer)`` but for the order in which a batch is summed: numbers differ in their last
digits (tests/runner/test_patched_together.py says by how much). The exact way is :class:`dit_lens.runner.Sweep`.

When not to use: on models whose single run fills the device: a batch is then no faster, and takes its memory
(:func:`fits` says where it pays).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens.address import Call
from dit_lens.runner.metrics import projected
from dit_lens.wan.expert import Hook
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import update_hooks
from dit_lens.wan.run import Run
from dit_lens.wan.sampler import guided, x0_hat

TOKENS = 2048  # of a batch; on two cores more are no faster, and begin too early for their last layers


def fits(base: Run, kinds: int = 2) -> bool:
    """Whether two layers or more go into one batch."""
    return TOKENS // base.grid.n_tokens >= 2 * kinds


def local_effects_together(
    lens: Lens, base: Run, givers: Mapping[str, Run], toward: Run, steps: Sequence[int]
) -> xr.DataArray:
    """How far x0_hat of a step goes toward another run when one layer's update is taken from a giver.

    Args:
        lens: The model.
        base: The run that is patched.
        givers: Kind -> run whose updates are taken.
        toward: The run whose x0_hat is 1.
        steps: Steps at which base and ``toward`` differ.

    Returns:
        (step, layer, kind): < x0_hat[patched] - x0_hat_b, x0_hat_t - x0_hat_b > / || x0_hat_t - x0_hat_b ||^2.
    """
    many = max(1, TOKENS // (base.grid.n_tokens * len(givers)))
    groups = [range(i, min(i + many, lens.n_layers)) for i in range(0, lens.n_layers, many)]
    rows = [_step(lens, base, givers, toward, step, groups) for step in steps]
    coords = {"step": list(steps), "layer": range(lens.n_layers), "kind": list(givers)}
    return xr.DataArray(np.stack(rows), dims=("step", "layer", "kind"), coords=coords)


def _step(
    lens: Lens, base: Run, givers: Mapping[str, Run], toward: Run, step: int, groups: Sequence[range]
) -> np.ndarray:
    """Effects of one step, (layer, kind)."""
    with torch.no_grad():
        found = {call.branch: _velocities(lens, base, givers, call, groups) for call in base.plan.of_step(step)}
        v = guided(base.plan, base.plan.of_step(step)[0], found["cond"], found.get("uncond"))  # (layers * kinds, ...)
        latents = base.latents[step].to(v)
        ends = x0_hat(latents[None], v, base.plan.sigmas[step], base.conditions).float().cpu()
    origin = base.x0_hat(step).float()
    moved = [projected(end - origin, toward.x0_hat(step).float() - origin) for end in ends]
    return np.array(moved).reshape(lens.n_layers, len(givers))


def _velocities(
    lens: Lens, base: Run, givers: Mapping[str, Run], call: Call, groups: Sequence[range]
) -> Tensor:
    """Velocities of one call, layers first and kinds within, (layers * kinds, C, F, h, w)."""
    streams: dict[int, Tensor] = {}
    entering = [
        (f"blocks.{layer}.hook_resid_pre", lambda x, hook, i=layer: streams.__setitem__(i, x.detach()))
        for layer in range(lens.n_layers)
    ]
    lens.replay([base], call, entering)
    updates = [_updates(lens, run, call) for run in givers.values()]
    parts = []
    for group in groups:
        # (items, N, d): what leaves each layer's block in the runs in which it is patched
        left = {layer: torch.cat([_added(streams[layer], one[layer]) for one in updates]) for layer in group}
        hooks = [(f"blocks.{layer}.hook_resid_post", _put(left[layer], layer - group[0])) for layer in group]
        items = len(group) * len(givers)
        with lens.experts[call.expert].starting_at(group[0], streams[group[0]].expand(items, -1, -1)):
            parts.append(lens.replay([base] * items, call, hooks))
    return torch.cat(parts)


def _updates(lens: Lens, run: Run, call: Call) -> dict[int, Tensor]:
    """What each block adds in a run, fp32, (1, N, d)."""
    found: dict[int, Tensor] = {}
    hooks: list[Hook] = []
    for layer in range(lens.n_layers):
        hooks += update_hooks(layer, lambda u, i=layer: found.__setitem__(i, u.detach()))
    lens.replay([run], call, hooks)
    return found


def _added(stream: Tensor, update: Tensor) -> Tensor:
    return (stream.float() + update).type_as(stream)


def _put(values: Tensor, place: int) -> Callable[..., Tensor]:
    """A hook that gives the runs of one layer of a group what leaves its block."""

    def hook(x: Tensor, hook: object) -> Tensor:
        out = x.clone()
        out[place * len(values) : (place + 1) * len(values)] = values
        return out

    return hook
