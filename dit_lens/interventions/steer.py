"""Steering: add a direction to an activation, or remove it.

x <- x + scale |x| u per token when ``relative``, else x <- x + scale u, with u the unit direction. ``remove`` projects
u out instead: x <- x - (x . u) u. A probe's weight vector is a direction; its placebo is a random one of the same norm.

When not to use: ``remove`` where activations have a level along u that should stay; that is ``erase``, with a mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dit_lens.address import Address, Places, Select
from dit_lens.checks import number
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import ActivationEdit, described, select
from dit_lens.wan.editing import Context


@dataclass(frozen=True, eq=False)
class Steer:
    """Add ``scale`` times the unit ``direction`` (d,) to what ``where`` selects; or remove it. Compared by content."""

    where: Select
    direction: Tensor = field(repr=False)
    scale: float = 1.0
    relative: bool = False
    remove: bool = False

    def bind(self, context: Context) -> ActivationEdit:
        """Prepare the edit for one generation."""
        return _SteerEdit(self, context)

    def _key(self) -> tuple[Any, ...]:
        vector = tuple(self.direction.tolist())
        return self.where, vector, self.scale, self.relative, self.remove

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Steer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        what = "remove direction" if self.remove else f"add {self.scale}{' |x|' if self.relative else ''}"
        return f"steer({what} at {', '.join(self.where.hooks)}, {described(self.where)})"


def steer(
    direction: np.ndarray | Tensor,
    scale: float = 1.0,
    *,
    steps: Any = None,
    layers: Any = None,
    relative: bool = False,
    remove: bool = False,
    **places: Unpack[Places],
) -> Steer:
    """Specify steering along a direction.

    Args:
        direction: One vector (d,); it is normalised.
        scale: How far, in the activation's own units, or in norms of each token with ``relative``.
        steps: As of :func:`dit_lens.patch`.
        layers: As of :func:`dit_lens.patch`.
        relative: Whether ``scale`` counts in norms of each token.
        remove: Remove the component along the direction, and add nothing.
        **places: As of :func:`dit_lens.patch`; ``hooks="resid_post"`` by default.

    Returns:
        The intervention.

    Raises:
        InterventionError: A direction that is zero, not finite, or not one vector, or a scale that is not a finite
            number.
    """
    vector = torch.as_tensor(direction, dtype=torch.float32).detach().cpu()
    scale = number(scale, "scale", error=InterventionError)
    if vector.ndim != 1 or not torch.isfinite(vector).all() or not bool(vector.norm() > 0):
        raise InterventionError(
            f"a direction must be one finite, non-zero vector (d,), found shape {tuple(vector.shape)}: of a probe "
            "take its pattern, or its direction"
        )
    where = select(Select(hooks=("resid_post",)), steps=steps, layers=layers, **places)
    return Steer(where, vector / vector.norm(), scale, relative, remove)


class _SteerEdit(ActivationEdit):
    def __init__(self, spec: Steer, context: Context) -> None:
        super().__init__(str(spec), context, spec.where)
        self.spec = spec

    def value(self, at: Address, x: Tensor) -> Tensor:
        u = self.spec.direction.to(x.device)
        if u.shape[0] != x.shape[-1]:
            raise InterventionError(
                f"the direction has {u.shape[0]} channels and {at.hook} has {x.shape[-1]}: use one that was found at "
                "this hook of this model"
            )
        wide = x.float()
        if self.spec.remove:
            return (wide - (wide @ u)[..., None] * u).type_as(x)
        size = wide.norm(dim=-1, keepdim=True) if self.spec.relative else 1.0
        return (wide + self.spec.scale * size * u).type_as(x)
