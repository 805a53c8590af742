"""Local causal effect of each layer's update at a step: x0_hat when one block's update is taken from another run.

For a base run b and a source run s (same noise, other answer), with h(l) meaning that block l's update is taken from
s::

    effect(step, l) = < x0_hat[h(l)] - x0_hat_b , x0_hat_s - x0_hat_b > / || x0_hat_s - x0_hat_b ||^2

0 is the base, 1 the source. The placebo takes the update from the same scene at another seed and is projected on the
same direction. Local means: the patched call alone, at the base's own latents.

When not to use: for effects on the finished video. On image-conditioned models one step often has none there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.progress import silent
from dit_lens.runner import Sweep
from dit_lens.runner.patched_together import fits, local_effects_together
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run


def local_effects(
    lens: Lens, base: Run, source: Run, placebo: Run, steps: Sequence[int], *, exact: bool = True
) -> xr.DataArray:
    """Effect of each block's update and of its placebo.

    Exactly ``dl.patch(step=step, layers=layer)`` on the base, one layer at a time; layers before it are not run again.

    Args:
        lens: The model.
        base: The run that is changed.
        source: The run whose updates are taken.
        placebo: The run of the same scene at another seed.
        steps: Steps to patch, each by itself.
        exact: Bit for bit. Otherwise several layers share a batch where a run is small
            (:mod:`dit_lens.runner.patched_together`): less time on small models, and other last digits.

    Returns:
        (step, layer, kind) with kinds ``"effect"`` and ``"placebo"``: 0 is the base, 1 the source; NaN at a step at
        which base and source agree. One pair of runs has no interval and no p: over tasks,
        :class:`dit_lens.runner.Sweep` gives both.

    Raises:
        MeasureError: The runs cannot be compared, or source and base agree to the end.
    """
    for other in (source, placebo):
        if other.grid != base.grid or not other.plan.same_schedule(base.plan):
            raise MeasureError(
                "base, source and placebo need the same size and the same sampling schedule: generate them alike"
            )
    if torch.equal(base.latents[-1], source.latents[-1]):
        raise MeasureError("base and source agree exactly to their end: choose a source with another answer")
    apart = [step for step in steps if not torch.equal(base.x0_hat(step), source.x0_hat(step))]
    if apart:
        sweep = Sweep(lens, base, source, placebo=placebo, steps=apart, progress=silent)  # refuses what it can't patch
        if exact or not fits(base):
            found = sweep.raw()["value"].squeeze(["task", "seed", "hook", "head", "region", "branch"], drop=True)
        else:
            found = local_effects_together(lens, base, {"effect": source, "placebo": placebo}, source, apart)
        found = found.reindex(step=list(steps)) if len(apart) < len(steps) else found
    else:
        size = (len(steps), lens.n_layers, 2)
        coords = {"step": list(steps), "layer": range(lens.n_layers), "kind": ["effect", "placebo"]}
        found = xr.DataArray(np.full(size, np.nan), dims=("step", "layer", "kind"), coords=coords)
    about = {"long_name": "local effect of a layer's update", "units": "0 = base, 1 = source"}
    return found.transpose("step", "layer", "kind").astype(np.float32).rename("effect").assign_attrs(about)
