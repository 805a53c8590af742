"""Activation patching: run with some of another run's activations in place of its own.

By default a patch carries the *updates* of the chosen layers, resid_post - resid_pre, so that each layer counts. A
whole stream (``hook="resid_post"``) over all tokens carries everything computed so far: where base and source share
text and timestep, patching it at any one layer gives the same result, and over a range only the last layer counts. Such
a patch is made, with a warning and a remark in its report.

When not to use: to ask what a layer *needs*; that is ``ablate``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from torch import Tensor

from dit_lens.address import Address, Call, Places, Select
from dit_lens.errors import InterventionError
from dit_lens.interventions.base import STREAM, ActivationEdit, described, select
from dit_lens.wan.editing import Context
from dit_lens.wan.expert import Hook
from dit_lens.wan.points import point
from dit_lens.wan.recording import update_hooks
from dit_lens.wan.run import Run


@dataclass(frozen=True)
class Patch:
    """Take what ``where`` selects from ``source``, a run with the same schedule and size."""

    where: Select
    source: Run | None = field(default=None, repr=False)

    def from_(self, source: Run) -> Patch:
        """The same patch with a source."""
        return replace(self, source=source)

    def bind(self, context: Context) -> _PatchEdit:
        """Prepare the edit for one generation.

        Raises:
            InterventionError: There is no source, or one of another schedule or size.
        """
        return _PatchEdit(self, context)

    def __str__(self) -> str:
        return f"patch({', '.join(self.where.hooks)}, {described(self.where)})"


def patch(
    steps: Any = None,
    layers: Any = None,
    *,
    source: Run | None = None,
    **places: Unpack[Places],
) -> Patch:
    """Specify a patch: ``dit_lens.patch(step=5, layers=range(20, 30))``.

    Args:
        steps: One, a range, a list or ``"all"`` (the default). On image-conditioned models one step often changes
            x0_hat and not the video, because the image enters again at the next.
        layers: Likewise, also ``Depth(.5, .75)``.
        source: The run to take from. Its activations are recomputed from its stored latents, so it needs no recording.
            Its interventions on activations are not repeated; those on latents are in the stored latents.
        **places: ``hooks`` (``"update"`` by default, or points), ``branches`` (both), ``experts`` (both), ``heads``
            (all), ``tokens`` (a region name, token indices or a mask); and ``step``, ``layer``, ``branch``, ``expert``,
            ``hook``, ``head`` for exactly one: :func:`dit_lens.address.select`.

    Returns:
        The intervention.

    Raises:
        AddressError: Unknown names at once; places outside the plan when it is used.
        InterventionError: When it is used, no source, or one of another schedule or size.
    """
    return Patch(select(Select(hooks=("update",)), steps=steps, layers=layers, **places), source)


class _PatchEdit(ActivationEdit):
    def __init__(self, spec: Patch, context: Context) -> None:
        super().__init__(str(spec), context, spec.where)
        source = spec.source
        if source is None:
            raise InterventionError(f"{spec} has no source: use dit_lens.patch(..., source=run) or patch.from_(run)")
        if not source.plan.same_schedule(context.plan):
            raise InterventionError(
                "base and source were sampled on different schedules, so their steps do not correspond: use the "
                "same steps, scheduler, shift and boundary for both"
            )
        if source.grid != context.grid:
            raise InterventionError(
                f"base has {context.grid} and source {source.grid}: use the same size and frame count"
            )
        if source.meta.get("fingerprint") != context.fingerprint:
            raise InterventionError("the source run was made by other weights: generate it with this lens")
        chosen = [call for call in context.plan.calls if call.index in self.calls]
        last = max(call.step for call in chosen)
        if last >= source.n_steps:
            raise InterventionError(
                f"the source run stopped after {source.n_steps} steps and cannot give step {last}: patch steps below "
                f"{source.n_steps}, or finish it first, lens.generate(resume=source)"
            )
        if source.conditions.negative is None and any(call.branch == "uncond" for call in chosen):
            raise InterventionError(
                "the source run was made without guidance and has no uncond branch: patch branches='cond', or generate "
                "it with guidance above 1"
            )
        if not bool(source.latents.isfinite().all()):
            raise InterventionError("the latents of the source run hold NaN or infinity: generate it again")
        self.source = source
        self.taken: dict[Address, Tensor] = {}
        self._warn_degenerate()

    def prepare(self, call: Call, latents: Tensor) -> None:
        # The source's call is run again on its own latents: exact, and nothing but this call's layers is ever held.
        self.taken.clear()
        wanted: list[Hook] = []
        for at in self.places(call):
            if at.hook == "update":
                wanted += update_hooks(at.layer, lambda u, at=at: self._take(at, u))
            else:
                wanted.append((point(at.hook).at(at.layer), lambda x, hook, at=at: self._take(at, x)))
        self.context.replay([self.source], call, wanted)

    def _take(self, at: Address, x: Tensor) -> None:
        self.taken[at] = x.detach()

    def value(self, at: Address, x: Tensor) -> Tensor:
        taken = self.taken[at]
        return taken.expand_as(x) if taken.shape[1:] == x.shape[1:] else taken

    def _warn_degenerate(self) -> None:
        if self.tokens is not None:
            return
        for p in self.points:
            if p.name not in STREAM:
                continue
            alone = f"equals a patch of {p.name} at layer {self.layers[-1]} alone, and " if p.in_block else ""
            remark = (
                f"patching the whole stream ({p.name}, all tokens) carries everything computed so far: with shared "
                f"text and timestep it {alone}gives the source's velocity, the same at any layer. Patch "
                "hooks='update' (the default), a component, or a region to ask about layers"
            )
            self.remarks.append(remark)
            warnings.warn(remark, stacklevel=2)
