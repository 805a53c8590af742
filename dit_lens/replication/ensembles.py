"""Claims about the training-free ensemble of latents.

A fresh seed's expected gain over another one is zero. The verdicts are on the paired difference of the same seeds with
and without sharing, which is the gain; what fresh seeds gain on the same tasks is measured and told beside it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.address import ALL, Depth
from dit_lens.experiments.seed_ensembles import MODES, ensembles
from dit_lens.interventions.ensemble_modes import ensemble_mode
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import SHARE, SMALLEST, Measured, Reading, Row, mean, stored
from dit_lens.wan.lens import Lens


def measured(
    lens: Lens,
    n: int = 30,
    seed: int = 0,
    progress: Progress = silent,
    *,
    name: str = "maze",
    num_inference_steps: int | None = 3,
    **arguments: Any,
) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.
        name: The tasks' family.
        num_inference_steps: Three by default, so that single seeds of the lab model do not all solve; at its twenty
            nearly every one does, and nothing can be gained.
        **arguments: For the experiment.

    Returns:
        ``ensembles``: every mode in the middle window, ``updates`` in others too.
    """
    others = [ensemble_mode("updates", layers=window) for window in (Depth(0, 0.25), ALL)]
    found = ensembles(
        lens, puzzles.batch(name, n, seed), modes=(*MODES, *others), other_layers=(), seed=seed,
        num_inference_steps=num_inference_steps,
        progress=progress, **arguments,
    )  # fmt: skip
    return {"ensembles": found}


def _conditions(m: Measured) -> tuple[xr.Dataset, str, list[str]]:
    """The first metric's result, and the conditions that share ``updates``: in the middle window, and in others."""
    found = m["ensembles"].isel(metric=0)
    middle, *others = [str(c) for c in found["kind"].values if str(c).startswith("updates ")]
    return found, middle, others


def _raises(m: Measured, mode: str) -> Reading | None:
    found, middle, _ = _conditions(m)
    condition = f"{mode} {middle.removeprefix('updates ')}"
    if condition not in found["kind"].values:
        return None
    one = found.sel(kind=condition, reading="one")
    k = found.attrs["k"]
    best, velocity = (found["gain"].sel(reading="one", kind=c).item() for c in (f"best of {k}", "velocity mean"))
    words = {
        "condition": condition, "step": found.attrs["steps"], "steps": found.attrs["num_inference_steps"], "k": k,
        "metric": found["metric"].item(),
    }  # fmt: skip
    return _paired(
        found,
        condition,
        "alone",
        f"p over all conditions that share: {float(one['gain_p_corrected']):.3f}. At the same number of calls: "
        f"velocities averaged {velocity:+.3f}, oracle best of {k} {best:+.3f}.",
        words,
    )


def _window(m: Measured) -> Reading | None:
    found, middle, others = _conditions(m)
    if not others:
        return None
    each = found["raw"].sel(reading="one").mean("draw")
    ahead = each.sel(kind=middle, drop=True) - each.sel(kind=others)
    nearest = others[int(ahead.mean("task").argmin("kind"))]
    told = "; ".join(f"'{other}' {mean(ahead.sel(kind=other), None)}" for other in others)
    return _paired(
        found,
        middle,
        nearest,
        f"Differences: {told}. In lock-step a window is its first layer, cached its last, so only shared updates ask "
        "about windows.",
        {"middle": middle, "nearest": nearest, "metric": found["metric"].item()},
    )


def _paired(found: xr.Dataset, condition: str, null: str, remark: str, words: dict[str, Any]) -> Reading:
    """Scores of two conditions on the same tasks and seeds; what fresh seeds gain stands in the remark."""
    each = found["raw"].sel(reading="one").mean("draw")
    fresh = stored(found.sel(kind=condition, reading="one"), "null", "null_low", "null_high", "n")
    effect, other = (each.sel(kind=kind, drop=True) for kind in (condition, null))
    return Reading(effect, other, f"Fresh seeds, whose expected gain is zero, gain {fresh}. {remark}", words)


ROWS = (
    *(
        Row(
            f"ensembles/{mode}",
            "Averaging the hidden states of three seeds in layers 20-29 of 40 at the first step raises the score, "
            ".685 to .716 (training-free ensemble).",
            "score of '{condition}', step {step} of {steps}, K = {k}, first seed continued",
            "{metric}", "the same seed alone: an ensemble of one", partial(_raises, mode=mode),
            smallest=SMALLEST["gain"], bounds=SHARE,
        )
        for mode in MODES
    ),
    Row(
        "ensembles/window",
        "The middle window (layers 20-29) is better than the early one (0-9) and than all layers.",
        "score of '{middle}', first seed continued",
        "{metric}", "the window that comes closest ('{nearest}'), same seeds", _window,
        smallest=SMALLEST["gain"], bounds=SHARE,
    ),
)  # fmt: skip
