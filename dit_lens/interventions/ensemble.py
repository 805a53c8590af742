"""Seed ensembles: several seeds denoise in lock-step and share activations (paper, training-free ensemble).

The members are the rows of one batch: ``lens.generate(task, seed=[0, 1, 2], interventions=[dl.ensemble(step=0)])``
gives one run per member; the first continues "seed 0". At the selected layers each member's activation becomes
(1 - alpha) x + alpha mean over members. With alpha = 1 on the whole stream the members are identical after the first
selected layer, so the rest of the window has no effect: with *updates* (the default here) every layer of a window
counts. Averaging K noise-driven states shrinks their norm; ``rescale`` restores it.

When not to use: without the same seeds alone as a control; the best of several seeds is better than one by chance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from torch import Tensor

from dit_lens.address import Address, Depth, Places, Select
from dit_lens.checks import number
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import STREAM, ActivationEdit, described, select
from dit_lens.wan.editing import Context
from dit_lens.wan.points import point

#: Layers 20 to 29 of 40, the paper's window, as relative depth.
PAPER_WINDOW = Depth(0.5, 0.75)


@dataclass(frozen=True)
class Ensemble:
    """Move every member of the batch towards the mean at ``where``."""

    where: Select
    alpha: float = 1.0
    rescale: bool = False
    together: ClassVar[bool] = True  # generate(batch=) must not separate the members

    def bind(self, context: Context) -> ActivationEdit:
        """Prepare the edit for one generation.

        Raises:
            InterventionError: Fewer than two members, or members with equal seeds.
        """
        if len(context.seeds) < 2:
            raise InterventionError(
                "an ensemble needs at least two members in one batch: lens.generate(task, seed=[0, 1, 2], "
                "interventions=[dit_lens.ensemble(...)])"
            )
        if len(set(context.seeds)) < len(context.seeds):
            raise InterventionError(
                f"the members of an ensemble need different seeds, found {list(context.seeds)}: give each its own"
            )
        return _EnsembleEdit(self, context)

    def __str__(self) -> str:
        return f"ensemble({', '.join(self.where.hooks)}, alpha={self.alpha}, {described(self.where)})"


def ensemble(
    steps: Any = None,
    layers: Any = None,
    *,
    alpha: float = 1.0,
    rescale: bool = False,
    **places: Unpack[Places],
) -> Ensemble:
    """Specify a seed ensemble; by default at step 0 in the third quarter of the layers, as in the paper.

    Args:
        steps: As of :func:`dit_lens.patch`; the first by default.
        layers: As of :func:`dit_lens.patch`; ``PAPER_WINDOW`` by default.
        alpha: Share of the mean, above 0 and at most 1.
        rescale: Give the mean each member's own norm, token by token.
        **places: As of :func:`dit_lens.patch`; ``hooks="update"`` by default.

    Returns:
        The intervention.

    Raises:
        InterventionError: An alpha outside 0 to 1.
    """
    if not 0 < number(alpha, "alpha", error=InterventionError) <= 1:
        raise InterventionError(f"alpha={alpha}: give a share above 0 and at most 1")
    where = select(Select(steps=0, hooks=("update",)), steps=steps, layers=layers, **places)
    told = layers is not None or places.get("layer") is not None
    if not told and all(point(hook).in_block for hook in where.hooks):
        where = where.but(layers=PAPER_WINDOW)
    return Ensemble(where, alpha, rescale)


class _EnsembleEdit(ActivationEdit):
    def __init__(self, spec: Ensemble, context: Context) -> None:
        super().__init__(str(spec), context, spec.where)
        self.spec = spec
        whole = [hook for hook in spec.where.hooks if hook in STREAM]
        if spec.alpha == 1 and not spec.rescale and whole and self.tokens is None:
            remark = (
                f"sharing the whole stream ({whole[0]}, all tokens) with alpha=1 makes the members identical after "
                f"layer {self.layers[0]}: the later layers of the window do nothing, and members of one task get the "
                "same velocity. Share hooks='update' (the default), or take a smaller alpha"
            )
            self.remarks.append(remark)
            warnings.warn(remark, stacklevel=2)

    def value(self, at: Address, x: Tensor) -> Tensor:
        wide = x.float()
        mixed = (1 - self.spec.alpha) * wide + self.spec.alpha * wide.mean(0, keepdim=True)
        if self.spec.rescale:
            mixed = mixed * wide.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return mixed.type_as(x)
