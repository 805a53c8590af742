"""Gradients of one recorded denoiser call with respect to its activations.

The block's update u = resid_post - resid_pre has no module of its own. For ``hook="update"`` it is put into the graph:
resid_post = resid_pre + u, with the same values, bit for bit. The gradient with respect to u is then total: it holds
what u does to the stream and, through it, to all later updates. (It equals the gradient with respect to resid_post at
that layer; what differs is the activation that belongs to it, and so every product of the two.)

When not to use: for the effect of a large change, which a gradient only estimates; that is ``patch`` or ``ablate``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dit_lens.address import Call, Depth, Indices, Select
from dit_lens.wan.expert import Hook
from dit_lens.wan.points import point
from dit_lens.wan.run import Run

if TYPE_CHECKING:
    from dit_lens.wan.lens import Lens


class Gradients:
    """One recorded denoiser call with its graph kept.

    ``with lens.gradients(run, step=5) as call: v, acts = call("resid_post", layers=...)`` gives the velocity and the
    activations, attached, as ``path -> tensor``; ``torch.autograd.grad(metric(v), list(acts.values()))`` works inside.
    ``"update"`` is a hook, too, in fp32 under the path ``blocks.7.update``. Weights take no part: nothing is kept for
    them, and ``backward()`` leaves their ``.grad`` alone.
    """

    def __init__(self, lens: Lens, run: Run, call: Call) -> None:
        self.lens, self.run, self.call = lens, run, call

    def __enter__(self) -> Gradients:
        self._grad = torch.enable_grad()
        self._grad.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._grad.__exit__(*exc)

    def __call__(self, hook: str, layers: Indices | Depth = -1) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the call with points in the graph.

        Args:
            hook: A point's short name, or ``"update"``.
            layers: Where, in the blocks; the last one by default.

        Returns:
            The velocity (B, C, F, h, w), and path -> activation, both attached.

        Raises:
            AddressError: For an unknown hook or a layer that the model does not have.
        """
        p = point(hook)
        kept: dict[str, Tensor] = {}
        chosen = Select(layers=layers).layers_of(self.lens.experts[self.call.expert].n_layers) if p.in_block else (-1,)
        hooks: list[Hook] = []
        for layer in chosen:
            hooks += _updates(layer, kept) if p.name == "update" else [_at(p.at(layer), kept)]
        velocity = self.lens.replay(self.run, self.call, hooks)
        return velocity, kept


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Weights that ask for no gradient in this block: a graph made here holds activations only."""
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for name, weight in model.named_parameters():  # an offload hook may have put others in their places
            if name in learning:
                weight.requires_grad_(True)


def _attached(x: Tensor) -> Tensor:
    """``x`` in the graph: as it is where something before it is, else as a leaf."""
    return x if x.requires_grad else x.detach().requires_grad_(True)


def _at(path: str, kept: dict[str, Tensor]) -> Hook:
    def keep(x: Tensor, hook: Any) -> Tensor:
        kept[path] = _attached(x)
        return kept[path]

    return path, keep


def _updates(layer: int, kept: dict[str, Tensor]) -> list[Hook]:
    entering: list[Tensor] = []

    def enter(x: Tensor, hook: Any) -> None:
        entering[:] = [x]

    def leave(x: Tensor, hook: Any) -> Tensor:
        before = entering.pop().float()
        update = kept[f"blocks.{layer}.update"] = _attached(x.float() - before)  # (B, N, d)
        # Values of x, derivative of before + update: the differences are exact zeros.
        return (x.detach().float() + ((before - before.detach()) + (update - update.detach()))).type_as(x)

    return [(f"blocks.{layer}.hook_resid_pre", enter), (f"blocks.{layer}.hook_resid_post", leave)]
