"""Claims about what can be read out of layers ("late layers consolidate"): late is the last quarter of the blocks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.experiments.readout_by_depth import WEIGHTS, layer_readout
from dit_lens.measures.layer_lens import settles
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import HALF_UP, SHARE, SMALLEST, Measured, Reading, Row, Untestable, mean
from dit_lens.tasks import batch, names
from dit_lens.wan.lens import Lens


def measured(lens: Lens, n: int = 16, seed: int = 0, progress: Progress = silent, **arguments: Any) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks, of all families together; as many others fit the translators.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.
        **arguments: For the experiment, and sampling.

    Returns:
        ``readout`` at up to seven steps.
    """
    last = lens.plan(**arguments).n_steps - 1
    at = sorted({round(q * last) for q in (0, 0.15, 0.3, 0.5, 0.7, 0.85, 1)})
    fit = batch(names(), n, seed, split="train")
    tasks = batch(names(), n, seed)
    return {"readout": layer_readout(lens, tasks, fit, steps=at, seed=seed, progress=progress, **arguments)}


def _velocity(m: Measured) -> Reading:
    found = m["readout"]
    depth = {k: settles(found[k].sel(reading="translated", drop=True)).mean("step") for k in ("cosine", "x0_cosine")}
    raw = settles(found["cosine"].sel(reading="raw", drop=True)).mean("step")
    trained, shuffled = (depth["cosine"].sel(kind=weights, drop=True) for weights in WEIGHTS)
    return Reading(
        trained,
        shuffled,
        f"Raw read-out: {_text(raw.sel(kind='trained'), None)}. By x0_hat instead of velocity: "
        f"{_text(depth['x0_cosine'].sel(kind='trained'), None)} "
        f"(null {_text(depth['x0_cosine'].sel(kind='shuffled'), None)}). Negative: before any layer.",
        {"steps": found.sizes["step"]},
        controls=shuffled.mean("task").expand_dims("control"),
    )


def _before_late(m: Measured, name: str) -> Reading | Untestable | None:
    found = m["readout"]
    if name not in found:
        return None
    at = int(0.75 * found.attrs["n_layers"]) - 1  # the last of the first three quarters
    layer = found["layer"].values[found["layer"].values <= at].max()
    shares = found[name].sel(kind="trained", reading="translated", drop=True).mean("step")  # (task, layer)
    here = shares.sel(layer=layer)
    if not np.isfinite(mean(here, SHARE).value):
        return Untestable(
            "at no measured step does the model's own x0_hat give an answer that this task can read or draw"
        )
    raw = found[name].sel(kind="trained", reading="raw", layer=layer).mean("step")
    means, families = shares.mean("task"), here.groupby("family").mean()
    by_layer = ", ".join(f"{int(i)}: {float(v):.2f}" for i, v in zip(means["layer"], means, strict=True))
    by_task = ", ".join(f"{task} {float(families.sel(family=task)):.2f}" for task in families["family"].values)
    return Reading(
        here,
        shares.sel(layer=-1),
        f"By layer: {by_layer}. After layer {layer} by task: {by_task}; raw: {_text(raw, SHARE)}.",
        {"layer": layer},
    )


def _text(values: xr.DataArray, bounds: tuple[float, float] | None) -> str:
    s = mean(values, bounds)
    return s.words(2) if np.isfinite(s.value) else "never"


_ASKED = (
    ("choice", "which answer is given stands before them", "is nearest to the same drawn answer as the model's"),
    ("answer", "the finished answer stands before them", "gives the same answer, every cell right, as the model's"),
)
ROWS = (
    Row(
        "layer_lens/velocity",
        "Late layers only consolidate: what the network will predict stands before them.",
        "depth from which on the translated read-out's velocity has a cosine above .9 with the model's, mean over "
        "{steps} steps",
        "layer / layers", "the same model with shuffled weights, one control network", _velocity,
        within=(-math.inf, 0.75), networks=True,
    ),
    *(
        Row(
            f"layer_lens/{name}",
            f"Late layers only consolidate: {says}.",
            "share of translated read-outs after layer {layer} (three quarters of the blocks) whose x0_hat "
            f"{what} at that step",
            "share", "the same read-out of what enters block 0", partial(_before_late, name=name),
            smallest=SMALLEST["share"], within=HALF_UP, bounds=SHARE,
        )
        for name, says, what in _ASKED
    ),
)  # fmt: skip
