"""What all interventions on activations share: where they apply, and how a change is made there.

A subclass of :class:`ActivationEdit` says what a call's activation becomes (``value``); selection of calls, layers,
heads and tokens, the fp32 arithmetic of updates, and counting are here.

Changing an update u = resid_post - resid_pre to u' gives resid_post' = resid_pre + u', and resid_post itself where
u' = u: so in every dtype putting a block's own update back is exactly the identity, and u' = 0 is exactly a skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.address import ALL, Address, Call, MaskIndices, Select
from dit_lens.errors import InterventionError
from dit_lens.wan.editing import Context, Edit, keep_selected
from dit_lens.wan.expert import Hook
from dit_lens.wan.points import point

#: Points that hold everything computed so far in a call: one replaced for all tokens leaves nothing of earlier layers.
STREAM = ("patch_embed", "resid_pre", "resid_mid", "resid_mid2", "resid_post", "final_norm")


def select(
    step: Any = None, steps: Any = None, layers: Any = ALL, branches: Any = ALL, heads: Any = None, tokens: Any = None
) -> Select:
    """A selection from the arguments that interventions take; ``step`` and ``steps`` mean the same."""
    if step is not None and steps is not None:
        raise InterventionError("give step= or steps=, not both: each takes one step, a range, a list or 'all'")
    chosen: Any = step if step is not None else (ALL if steps is None else steps)
    return Select(fixed(chosen), fixed(layers), fixed(branches), heads=fixed(heads), tokens=_tokens(tokens))


def fixed(wanted: Any) -> Any:
    """The same choice as a value that is hashable and that nobody can change later."""
    if isinstance(wanted, (set, frozenset)):
        return tuple(sorted(wanted))
    if isinstance(wanted, (list, np.ndarray, Tensor)):
        return tuple(wanted.tolist() if not isinstance(wanted, list) else wanted)
    return wanted


def _tokens(wanted: Any) -> Any:
    """Token indices from indices or from a mask, such as ``run.regions["agent"]``."""
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return (wanted,)
    if wanted is None or isinstance(wanted, (str, range, slice)):
        return wanted
    array = np.atleast_1d(wanted.cpu() if isinstance(wanted, Tensor) else fixed(wanted))
    if array.dtype == bool:
        if array.ndim != 1 or not array.any():
            raise InterventionError(
                f"tokens= got a mask of shape {array.shape} with {int(array.sum())} tokens: give one bool per token, "
                "as in run.regions['name'], with at least one of them True"
            )
        return MaskIndices(array)
    return tuple(array.tolist())


class ActivationEdit(Edit):
    """Changes ``hook`` (or a block's ``update``) at the selected places of one generation."""

    def __init__(self, label: str, context: Context, where: Select, hook: str) -> None:
        super().__init__(label)
        self.context, self.where, self.hook = context, where, hook
        self.point = point(hook)
        self.calls = frozenset(call.index for call in where.calls_of(context.plan.calls))
        if not self.point.in_block and where.layers != ALL:
            raise InterventionError(f"{hook!r} lies outside the blocks and has no layer: leave layers= out")
        self.layers = where.layers_of(context.n_layers) if self.point.in_block else (-1,)
        self.tokens, self.heads = context.token_mask(where), context.heads(where)
        if self.heads is not None and not self.point.per_head:
            raise InterventionError(f"heads= needs a per-head hook (q, k, v, z, cross_q, ...), found {hook!r}")
        if self.tokens is not None and self.point.axis != "N":
            raise InterventionError(f"tokens= selects video tokens, but {hook!r} is {self.point.shape}")

    def prepare(self, call: Call, latents: Tensor) -> None:
        """Called before the hooks of a selected call are made: the place for work that a call needs once."""

    def value(self, layer: int, call: Call, x: Tensor) -> Tensor:
        """What activation ``x`` (for ``update``: the block's update, fp32) becomes."""
        raise InterventionError(f"{type(self).__name__} does not say what an activation becomes")  # pragma: no cover

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        if call.index not in self.calls:
            return ()
        self.prepare(call, latents)
        found: list[Hook] = []
        for layer in self.layers:
            found += self._update(layer, call) if self.hook == "update" else self._plain(layer, call)
        return found

    def _count(self, call: Call, layer: int) -> None:
        self.fired[Address(call.step, call.branch, layer, self.hook)] += 1

    def _plain(self, layer: int, call: Call) -> list[Hook]:
        def change(x: Tensor, hook: Any) -> Tensor:
            self._count(call, layer)
            return keep_selected(x, self.value(layer, call, x), self.tokens, self.heads)

        return [(self.point.at(layer), change)]

    def _update(self, layer: int, call: Call) -> list[Hook]:
        """Change what a block adds."""
        entering: list[Tensor] = []

        def enter(x: Tensor, hook: Any) -> None:
            entering[:] = [x]

        enter.reads_only = True  # type: ignore[attr-defined]

        def leave(x: Tensor, hook: Any) -> Tensor:
            self._count(call, layer)
            before = entering.pop().float()
            old = x.float() - before  # (B, N, d)
            new = self.value(layer, call, old).to(x.device).float()
            changed = torch.where(new == old, x, (before + new).type_as(x))
            return keep_selected(x, changed, self.tokens, None)

        return [(f"blocks.{layer}.hook_resid_pre", enter), (f"blocks.{layer}.hook_resid_post", leave)]
