"""Local causal effect of each layer's update at a step: what x0_hat becomes when one block adds what it adds elsewhere.

For a base run b and a source run s (same noise, other answer), with h(l) meaning that block l's update is taken from
s::

    effect(step, l) = < x0_hat[h(l)] - x0_hat_b , x0_hat_s - x0_hat_b > / || x0_hat_s - x0_hat_b ||^2

0 is the base, 1 the source. The placebo takes the update from the same scene at another seed and is projected on the
same direction. Local means: the patched call alone, at the base's own latents; what the rest of the sampling makes of
it is another question, and on image-conditioned models the answer is often "nothing".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.interventions import patch
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import update_paths
from dit_lens.wan.reuse import Remembered, capture
from dit_lens.wan.run import Run


def local_effects(lens: Lens, base: Run, source: Run, placebo: Run, steps: Sequence[int]) -> xr.DataArray:
    """Effect of each block's update and of its placebo, (step, layer, kind) with kinds ``"effect"`` and ``"placebo"``.

    Exactly ``dl.patch(step=step, layers=layer)`` on the base, one layer at a time; layers before it are not run again.

    Errors: :class:`MeasureError` where the runs cannot be compared, or where source and base agree at a step.
    """
    for other in (source, placebo):
        if other.grid != base.grid or not other.plan.same_schedule(base.plan):
            raise MeasureError("base, source and placebo need the same size and the same sampling schedule")
    layers = range(lens.n_layers)
    values = np.zeros((len(steps), lens.n_layers, 2), dtype=np.float32)
    updates = update_paths(layers)
    with torch.no_grad():
        for i, step in enumerate(steps):
            origin = base.x0_hat(step)
            toward = source.x0_hat(step) - origin
            size = float((toward * toward).sum())
            if size == 0:
                raise MeasureError(f"base and source agree exactly at step {step}: choose a source with another answer")
            before = base.until(step)
            calls = base.plan.of_step(step)
            kept = capture(lens.replay, base, dict.fromkeys(calls, layers), lens.n_layers)
            taken: Any = Remembered(lens.replay, [(run, call, updates) for run in (source, placebo) for call in calls])
            for j, other in enumerate((source, placebo)):
                for layer in layers:
                    edit = patch(step=step, layers=layer, source=other)
                    run = lens.fork(before, [edit], stop_after=step, reuse=kept, replay=taken)
                    values[i, layer, j] = float(((run.x0_hat(step) - origin) * toward).sum()) / size
    return xr.DataArray(
        values,
        dims=("step", "layer", "kind"),
        coords={
            "step": list(steps),
            "layer": list(range(lens.n_layers)),
            "kind": ["effect", "placebo"],
            "sigma": ("step", [base.sigmas[s] for s in steps]),
            "expert": ("step", [base.plan.at(s).expert for s in steps]),
        },
        name="effect",
        attrs={"long_name": "local effect of a layer's update", "units": "0 = base, 1 = source"},
    )
