"""Ablation: remove an activation and measure the effect.

``zero`` sets an activation (a block's update by default: the block is skipped) to zero; ``mean`` replaces it by its
mean over the selected tokens of the same call, which keeps its level and removes the differences between tokens.

When not to use: to compare two runs; that is ``patch``. Zero is a value that the model may never have seen, so a large
effect of ``zero`` without one of ``mean`` is evidence about the level, not about what the tokens carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from dit_lens.address import Address, Places, Select
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import ActivationEdit, described, select
from dit_lens.wan.editing import Context
from dit_lens.wan.points import point


@dataclass(frozen=True)
class Ablate:
    """Replace what ``where`` selects by ``to``: ``"zero"`` or ``"mean"``."""

    where: Select
    to: Literal["zero", "mean"] = "zero"

    def bind(self, context: Context) -> ActivationEdit:
        """Prepare the edit for one generation.

        Raises:
            InterventionError: A mean over tokens of a hook that has none.
        """
        flat = [p for p in map(point, self.where.hooks) if not p.axis]
        if self.to == "mean" and flat:
            raise InterventionError(
                f"{flat[0].name!r} is one vector a call ({flat[0].shape}) and has no mean over tokens: use "
                "to='zero', or patch it from another run"
            )
        return (_Zero if self.to == "zero" else _Mean)(str(self), context, self.where)

    def __str__(self) -> str:
        return f"ablate({', '.join(self.where.hooks)} to {self.to}, {described(self.where)})"


def ablate(
    steps: Any = None,
    layers: Any = None,
    *,
    to: str = "zero",
    **places: Unpack[Places],
) -> Ablate:
    """Specify an ablation. ``ablate(layers=7)`` skips block 7 everywhere.

    Args:
        steps: As of :func:`dit_lens.patch`.
        layers: As of :func:`dit_lens.patch`.
        to: ``"zero"`` or ``"mean"``; ``"skip"`` is ``"zero"`` of the update.
        **places: As of :func:`dit_lens.patch`; ``hooks="update"`` by default.

    Returns:
        The intervention.

    Raises:
        InterventionError: An unknown ``to``.
    """
    if to == "skip":
        places, to = {**places, "hooks": "update"}, "zero"
        places.pop("hook", None)
    if to not in ("zero", "mean"):
        raise InterventionError(f"ablate(to={to!r}) is unknown: use 'zero', 'mean', or 'skip' for a whole block")
    where = select(Select(hooks=("update",)), steps=steps, layers=layers, **places)
    return Ablate(where, to)  # type: ignore[arg-type]


class _Zero(ActivationEdit):
    def value(self, at: Address, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class _Mean(ActivationEdit):
    def value(self, at: Address, x: Tensor) -> Tensor:
        if self.tokens is None:
            return x.float().mean(1, keepdim=True).to(x.dtype).expand_as(x)
        weight = self.tokens.to(x.device).float()  # (B, N)
        weight = weight / weight.sum(1, keepdim=True)
        mean = torch.einsum("bn,bn...->b...", weight, x.float())
        return mean.unsqueeze(1).to(x.dtype).expand_as(x)
