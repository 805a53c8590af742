"""The base of all interventions on activations: where they apply, and how a change is made there.

A subclass of :class:`ActivationEdit` defines what an activation becomes (``value``); selection of calls, layers, heads
and tokens, the fp32 arithmetic of updates, and counting are done here.

Changing an update u = resid_post - resid_pre to u' gives resid_post' = resid_pre + u', and resid_post itself where
u' = u: so in every dtype putting a block's own update back is exactly the identity, and u' = 0 is exactly a skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dit_lens import address
from dit_lens.address import ALL, Address, Call, Select
from dit_lens.errors import InterventionError
from dit_lens.wan.editing import Context, Edit, keep_selected
from dit_lens.wan.expert import Hook
from dit_lens.wan.points import point
from dit_lens.wan.recording import layers_at

#: Points that hold everything computed so far in a call: replacing one for all tokens removes all earlier layers.
STREAM = ("patch_embed", "resid_pre", "resid_mid", "resid_mid2", "resid_post", "final_norm")


def select(default: Select | None = None, /, **places: Any) -> Select:
    """Select places as :func:`dit_lens.address.select` does, and check that the hooks exist.

    Args:
        default: What holds where nothing is given.
        **places: As of :func:`dit_lens.address.select`.

    Returns:
        The selection, with the full names of its hooks.

    Raises:
        AddressError: As there, and for an unknown hook.
    """
    where = address.select(default, **places)
    return where.but(hooks=tuple(dict.fromkeys(point(hook).name for hook in where.hooks)))


def described(where: Select) -> str:
    """Describe a selection for the label of an intervention: steps and layers, and what else is restricted."""
    tokens = where.tokens
    if isinstance(tokens, tuple) and len(tokens) > 6:
        tokens = f"{len(tokens)} of them"
    more = {"branches": where.branches, "experts": where.experts, "heads": where.heads, "tokens": tokens}
    parts = [f"steps={where.steps}", f"layers={where.layers}"]
    parts += [f"{name}={value}" for name, value in more.items() if value not in (None, ALL)]
    return ", ".join(parts)


class ActivationEdit(Edit):
    """Changes the selected hooks (points, or a block's ``update``) at the selected places of one generation."""

    def __init__(self, label: str, context: Context, where: Select) -> None:
        super().__init__(label)
        self.context, self.where = context, where
        self.points = tuple(point(hook) for hook in where.hooks)
        if not self.points:
            raise InterventionError(f"{label} names no hook: give its selection hooks=, such as hooks='update'")
        calls = where.calls_of(context.plan.calls)
        self.calls = frozenset(call.index for call in calls)
        depths = {name: expert.n_layers for name, expert in context.experts.items()}
        inside = any(p.in_block for p in self.points)
        self._layers = {c.expert: layers_at(where, c, depths) if inside else (-1,) for c in calls}
        self.layers = tuple(sorted({layer for layers in self._layers.values() for layer in layers}))
        self.tokens, self.heads = context.token_mask(where), context.heads(where)
        for p in self.points:
            if not p.in_block and where.layers != ALL:
                raise InterventionError(f"{p.name!r} lies outside the blocks and has no layer: leave layers= out")
            if self.heads is not None and not p.per_head:
                raise InterventionError(
                    f"heads= needs a per-head hook (q, k, v, z, cross_q, ...), found {p.name!r}: leave heads= out or "
                    "name one"
                )
            if self.tokens is not None and p.axis != "N":
                raise InterventionError(f"tokens= selects video tokens, but {p.name!r} is {p.shape}: leave tokens= out")

    def prepare(self, call: Call, latents: Tensor) -> None:
        """Do work that a selected call needs once; called before its hooks are made."""

    def value(self, at: Address, x: Tensor) -> Tensor:
        """Return the new value of activation ``x`` at an address (for ``update``: the block's update, in fp32)."""
        raise InterventionError(f"{type(self).__name__} has no value(): define value(at, x)")  # pragma: no cover

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        """The hooks that make the change in one call; none outside the selection."""
        if call.index not in self.calls:
            return ()
        self.prepare(call, latents)
        found: list[Hook] = []
        for at in self.places(call):
            found += self._update(at) if at.hook == "update" else self._plain(at)
        return found

    def places(self, call: Call) -> list[Address]:
        """The addresses that are changed in a call."""
        return [
            Address(call.step, call.branch, layer, p.name)
            for p in self.points
            for layer in (self._layers[call.expert] if p.in_block else (-1,))
        ]

    def _plain(self, at: Address) -> list[Hook]:
        def change(x: Tensor, hook: Any) -> Tensor:
            self.fired[at] += 1
            return keep_selected(x, self.value(at, x), self.tokens, self.heads)

        return [(point(at.hook).at(at.layer), change)]

    def _update(self, at: Address) -> list[Hook]:
        """Change what a block adds."""
        entering: list[Tensor] = []

        def enter(x: Tensor, hook: Any) -> None:
            entering[:] = [x]

        enter.reads_only = True  # type: ignore[attr-defined]

        def leave(x: Tensor, hook: Any) -> Tensor:
            self.fired[at] += 1
            before = entering.pop().float()
            old = x.float() - before  # (B, N, d)
            new = self.value(at, old).to(x.device).float()
            changed = torch.where(new == old, x, (before + new).type_as(x))
            return keep_selected(x, changed, self.tokens, None)

        return [(f"blocks.{at.layer}.hook_resid_pre", enter), (f"blocks.{at.layer}.hook_resid_post", leave)]
