"""The seam between the sampler and interventions.

An intervention is a frozen value with one method, ``bind(context) -> Edit``. An :class:`Edit` belongs to one
generation: it is asked for the latents of each step and for the hooks of each call, and counts where it fired. The
sampler knows nothing else of interventions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dit_lens.address import Address, Call, Select, indices
from dit_lens.errors import AddressError, InterventionError
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.expert import Expert, Hook
from dit_lens.wan.token_grid import Grid


@dataclass(frozen=True)
class Context:
    """What an edit may know of the generation that it is bound to.

    Attributes:
        plan: The calls.
        experts: ``high`` and, where there is one, ``low``.
        grid: The token grid.
        masks: Region name -> bool (B, N).
        seeds: One per batch row.
        fingerprint: Of the weights.
        replay: Runs one recorded call of other runs again, with hooks.
    """

    plan: Plan
    experts: Mapping[str, Expert]
    grid: Grid
    masks: Mapping[str, Tensor]  # region name -> bool (B, N)
    seeds: tuple[int, ...]  # one per batch row
    fingerprint: str
    #: Runs one recorded call of other runs again, with hooks: replay(runs, call, hooks) -> velocity.
    replay: Callable[[Sequence[Any], Call, Sequence[Hook]], Tensor]

    @property
    def n_layers(self) -> int:
        """Layers of every expert; see :func:`one_depth`."""
        return one_depth(self.experts)

    @property
    def n_heads(self) -> int:
        """Attention heads of a layer."""
        return self.experts["high"].cfg.n_heads

    def token_mask(self, select: Select) -> Tensor | None:
        """The selected video tokens.

        Args:
            select: A selection, whose ``tokens`` name a region or are indices.

        Returns:
            Bool (B, N), or None for all.

        Raises:
            AddressError: For an unknown region, or an index outside.
            InterventionError: For a region without tokens.
        """
        if select.tokens is None:
            return None
        if isinstance(select.tokens, str):
            if select.tokens not in self.masks:
                raise AddressError(
                    f"region {select.tokens!r} is unknown: this video has {sorted(self.masks)}; generate from a task "
                    "or pass regions={'name': mask}"
                )
            mask = self.masks[select.tokens]
            if not bool(mask.any()):
                raise InterventionError(
                    f"region {select.tokens!r} holds no token of this video, so there is nothing to read or change: "
                    "choose another region, or a larger mask (a token counts from half of its pixels on)"
                )
            return mask
        chosen = indices(select.tokens, self.grid.n_tokens, "token", "a grid")
        mask = torch.zeros(len(self.seeds), self.grid.n_tokens, dtype=torch.bool)
        mask[:, list(chosen)] = True
        return mask

    def heads(self, select: Select) -> tuple[int, ...] | None:
        """Indices of the selected heads, or None for all."""
        return None if select.heads is None else indices(select.heads, self.n_heads, "head", "a model")


def one_depth(experts: Mapping[str, Expert]) -> int:
    """The number of layers, where all experts have the same.

    Raises:
        AddressError: Where they differ, and there is no one number.
    """
    depths = {name: expert.n_layers for name, expert in experts.items()}
    if len(set(depths.values())) > 1:
        raise AddressError(
            f"the experts have different numbers of layers, {depths}, and this needs one: ask "
            "lens.experts['high'].n_layers, and choose layers together with experts='high' or 'low'"
        )
    return depths["high"]


class Edit:
    """One intervention at work in one generation. Subclasses override ``latents`` or ``hooks``.

    Attributes:
        label: What messages and reports call it.
        fired: Address -> how often it was changed there.
        remarks: How to read the result.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.fired: Counter[Address] = Counter()
        self.remarks: list[str] = []

    def latents(self, step: int, x: Tensor) -> Tensor:
        """The latents that enter a step; returning another tensor restarts the sampler's multistep memory.

        Args:
            step: The step.
            x: Latents (B, C, F, h, w), as the step before or an earlier edit left them.
        """
        return x

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        """The hooks to hold during one call.

        Args:
            call: The call.
            latents: What enters it, (B, C, F, h, w).
        """
        return ()

    def finish(self, complete: bool = True) -> Fired:
        """The report of what was touched.

        Args:
            complete: Whether the generation ran to its end.

        Raises:
            InterventionError: The edit touched nothing in a complete run.
        """
        if complete and not self.fired:
            raise InterventionError(
                f"{self.label} never fired: nothing it selects ran in this generation. Check its steps and branches "
                "against lens.plan(...), and stop_after"
            )
        return Fired(self.label, dict(self.fired), tuple(self.remarks))


@dataclass(frozen=True)
class Fired:
    """What one intervention touched.

    Attributes:
        label: The intervention.
        touched: Address -> number of times.
        remarks: How to read it.
    """

    label: str
    touched: Mapping[Address, int]
    remarks: tuple[str, ...] = ()

    def until(self, step: int) -> Fired:
        """What of it happened before a step."""
        return replace(self, touched={a: n for a, n in self.touched.items() if a.step < step})

    def __str__(self) -> str:
        steps = sorted({a.step for a in self.touched})
        layers = sorted({a.layer for a in self.touched if a.layer >= 0})
        where = f"steps {steps}" + (f", layers {layers}" if layers else "")
        return "\n".join([f"{self.label}: {sum(self.touched.values())} activations changed at {where}", *self.remarks])


class Intervention(Protocol):
    """What ``lens.generate(interventions=[...])`` accepts.

    One that mixes the rows of a batch says so by a class attribute ``together = True``; ``generate`` then refuses to
    split the batch.
    """

    def bind(self, context: Context) -> Edit:
        """The intervention at work in one generation."""
        ...


def keep_selected(old: Tensor, new: Tensor, tokens: Tensor | None, heads: tuple[int, ...] | None) -> Tensor:
    """``new`` at the selected tokens and heads, ``old`` elsewhere.

    Args:
        old: The activation as it is, (B, N, ...).
        new: What is put in its place, of the same shape.
        tokens: Bool (B, N), or None for all.
        heads: Indices, or None for all.

    Returns:
        The shape, dtype and device of ``old``.

    Raises:
        InterventionError: Shapes differ, or heads are asked of a hook without heads.
    """
    if new.shape != old.shape:
        raise InterventionError(
            f"an activation of shape {tuple(old.shape)} cannot take one of shape {tuple(new.shape)}: base and source "
            "need the same size, frame count and hook"
        )
    new = new.to(device=old.device, dtype=old.dtype)
    if heads is not None:
        if old.ndim != 4:
            raise InterventionError("heads= needs a per-head hook: q, k, v, z, cross_q, cross_k, cross_v or cross_z")
        chosen = torch.zeros(old.shape[2], dtype=torch.bool, device=old.device)
        chosen[list(heads)] = True
        new = torch.where(chosen[None, None, :, None], new, old)
    if tokens is not None:
        if tokens.shape[1] != old.shape[1]:
            raise InterventionError(
                "tokens= selects video tokens, and this hook has another token axis (text or image)"
            )
        shape = (*tokens.shape, *(1,) * (old.ndim - 2))
        new = torch.where(tokens.to(old.device).reshape(shape), new, old)
    return new
