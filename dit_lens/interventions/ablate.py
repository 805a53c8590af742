"""Ablation: take something away and see what is missed.

``zero`` sets an activation (a block's update by default: the block is skipped) to zero; ``mean`` replaces it by its
mean over the selected tokens of the same call, which keeps its level and removes what differs between tokens.

When not to use: to compare two runs; that is ``patch``. Zero is a value that the model may never have seen, so a large
effect of ``zero`` with none of ``mean`` speaks of the level, not of what the tokens carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dit_lens.address import ALL, Call, Select
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import ActivationEdit, select
from dit_lens.wan.editing import Context
from dit_lens.wan.points import point


@dataclass(frozen=True)
class Ablate:
    """Replace ``hook`` at ``where`` by ``to``: ``"zero"`` or ``"mean"``."""

    where: Select
    hook: str = "update"
    to: Literal["zero", "mean"] = "zero"

    def bind(self, context: Context) -> ActivationEdit:
        if self.to == "mean" and not point(self.hook).axis:
            raise InterventionError(
                f"{self.hook!r} is one vector a call ({point(self.hook).shape}) and has no mean over tokens: use "
                "to='zero', or patch it from another run"
            )
        return (_Zero if self.to == "zero" else _Mean)(str(self), context, self.where, self.hook)

    def __str__(self) -> str:
        return f"ablate({self.hook} to {self.to}, steps={self.where.steps}, layers={self.where.layers})"


def ablate(
    step: Any = None,
    layers: Any = ALL,
    *,
    steps: Any = None,
    hook: str = "update",
    to: str = "zero",
    branches: Any = ALL,
    heads: Any = None,
    tokens: Any = None,
) -> Ablate:
    """An ablation value. ``ablate(layers=7)`` skips block 7 everywhere; selections as in :func:`dit_lens.patch`.

    Errors: :class:`InterventionError` for an unknown ``to``.
    """
    if to == "skip":
        hook, to = "update", "zero"
    if to not in ("zero", "mean"):
        raise InterventionError(f"ablate(to={to!r}) is unknown: 'zero', 'mean', or 'skip' for a whole block")
    return Ablate(select(step, steps, layers, branches, heads, tokens), point(hook).name, to)  # type: ignore[arg-type]


class _Zero(ActivationEdit):
    def value(self, layer: int, call: Call, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class _Mean(ActivationEdit):
    def value(self, layer: int, call: Call, x: Tensor) -> Tensor:
        if self.tokens is None:
            return x.float().mean(1, keepdim=True).to(x.dtype).expand_as(x)
        weight = self.tokens.to(x.device).float()  # (B, N)
        weight = weight / weight.sum(1, keepdim=True)
        mean = torch.einsum("bn,bn...->b...", weight, x.float())
        return mean.unsqueeze(1).to(x.dtype).expand_as(x)
