"""Claims about layer swapping (paper, Fig. 6b)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.address import Depth
from dit_lens.experiments.layer_swapping import KINDS, swap
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import HALF_UP, SHARE, SMALLEST, UP, Measured, Reading, Row, Rule, Untestable, stored
from dit_lens.wan.lens import Lens

FAMILIES = ("choose", "maze")  # same picture and other prompt; the reverse
MIDDLE = Depth(0.5, 0.75)  # layers 20 to 29 of 40


def measured(lens: Lens, n: int = 24, seed: int = 0, progress: Progress = silent, **arguments: Any) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.
        **arguments: For the sweeps.

    Returns:
        By family: ``<name> whole``, the stream at one layer; ``<name> each``, every update.
    """
    found = {}
    for name in FAMILIES:
        group = puzzles.batch(name, n, seed)
        first = MIDDLE.layers(lens.n_layers)[0]  # layer 20 of 40
        found[f"{name} whole"] = swap(
            lens, group, [first], [0], hooks="resid_post", seed=seed, progress=progress, **arguments
        )
        found[f"{name} each"] = swap(
            lens, group, "all", [0], horizons=("local",), seed=seed, progress=progress, **arguments
        )
    return found


def _flips(m: Measured, name: str) -> Reading | Untestable | None:
    if f"{name} whole" not in m:
        return None
    found = m[f"{name} whole"].isel(hook=0, layer=0, step=0)
    cell, local = found.sel(horizon="final"), found.sel(horizon="local")
    if not int(cell["flipped_n"]):
        return Untestable(f"no video of {name} could be read both in base and in source, so none could flip")
    same = any(remark.startswith("swap of") for remark in m[f"{name} whole"].attrs["remarks"])
    told = " Base and source share their text here, so this swap is the same at every layer." if same else ""
    flipped, null = (stored(cell, arm, f"{arm}_low", f"{arm}_high", "flipped_n") for arm in ("flipped", "flipped_null"))
    each = cell["raw"].sel(metric="flipped")
    return Reading(
        each.sel(kind="effect", drop=True),
        each.sel(kind="placebo", drop=True),
        f"x0_hat of the swapped step moves {float(local['effect']):.2f} of the way to the source's, the finished video "
        f"{float(cell['effect']):.2f}.{told}",
        {"layer": cell["layer"].item()},
        estimates=(flipped, null),
    )


def _middle(m: Measured, name: str) -> Reading | None:
    if f"{name} each" not in m:
        return None
    # (kind, layer, task)
    effect = m[f"{name} each"]["raw"].sel(metric="effect", horizon="local").isel(hook=0, step=0)
    middle = MIDDLE.layers(effect.sizes["layer"])
    inside = np.isin(np.arange(effect.sizes["layer"]), middle)
    contrast = effect.isel(layer=inside).mean("layer") - effect.isel(layer=~inside).mean("layer")
    means: xr.DataArray = effect.sel(kind="effect").mean("task")
    top = [f"{means['layer'].values[i]} ({float(means[i]):.2f})" for i in np.argsort(-means.values)[:3]]
    return Reading.along(
        contrast,
        "kind",
        KINDS,
        f"Largest local effects: layers {', '.join(top)}.",
        {"first": middle[0], "last": middle[-1]},
    )


def _rows(name: str) -> tuple[Row, Row]:
    return (
        Row(
            f"swap/flips-{name}",
            "Replacing the hidden state of one layer (20 or 21 of 40) by another scene's, in the first step only, "
            "flips the answer completely (Fig. 6b).",
            f"whole-stream swap at layer {{layer}}, step 0, both branches, {name}: finished videos with the source's "
            "answer",
            "share of puzzles", "same scene, other seed", partial(_flips, name=name),
            Rule(
                "supported when the interval lies above one half and above the placebo's",
                lambda a, b: a.low > max(0.5, b.high),
            ),
            smallest=SMALLEST["share"], within=HALF_UP, nothing=0.0, bounds=SHARE,
        ),
        Row(
            f"swap/middle-{name}",
            "The middle-to-late layers are the ones that decide the answer (Fig. 6b).",
            f"local effect of one layer's update at step 0, {name}: mean over layers {{first}}-{{last}} minus mean "
            "over the others",
            "0 = base, 1 = source", "same scene, other seed", partial(_middle, name=name),
            Rule(
                "supported when the interval lies above zero and above the placebo's",
                lambda a, b: a.low > max(0.0, b.high),
            ),
            smallest=SMALLEST["effect"], within=UP, nothing=0.0,
        ),
    )  # fmt: skip


ROWS = tuple(row for name in FAMILIES for row in _rows(name))
