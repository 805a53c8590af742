"""Claims about the training-free ensemble of latents.

A fresh seed's expected gain over another one is zero. The verdicts are on the paired difference of the same seeds with
and without sharing, which is the gain; the gain that fresh seeds have on the same tasks stands beside it as the null.
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
from dit_lens.replication.row import SHARE, SMALLEST, Measured, Reading, Row, Rule, mean, stored
from dit_lens.wan.lens import Lens

NULL = "gain of fresh seeds, whose expected gain is zero"


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
    alone = found["score"].sel(reading="one", kind="alone").item()
    gain, null = (stored(one, arm, f"{arm}_low", f"{arm}_high", "n") for arm in ("gain", "null"))
    each = found["raw"].sel(reading="one").mean("draw")
    p, corrected = float(one["gain_p"]), float(one["gain_p_corrected"])
    words = {
        "condition": condition, "step": found.attrs["steps"], "steps": found.attrs["num_inference_steps"], "k": k,
        "metric": found["metric"].item(),
    }  # fmt: skip
    return Reading(
        each.sel(kind=condition, drop=True),
        each.sel(kind="alone", drop=True),
        f"Alone: {alone:.3f}. The gain against zero: p = {p:.3f}, over all conditions that share {corrected:.3f}. "
        f"At the same number of calls: velocities averaged {velocity:+.3f}, oracle best of {k} {best:+.3f}.",
        words,
        estimates=(gain, null),
    )


def _window(m: Measured) -> Reading | None:
    found, middle, others = _conditions(m)
    if not others:
        return None
    each = found["raw"].sel(reading="one").mean("draw")
    gains = {other: each.sel(kind=middle, drop=True) - each.sel(kind=other, drop=True) for other in others}
    differences = {other: mean(values) for other, values in gains.items()}
    nearest = min(differences, key=lambda other: differences[other].value)
    fresh = stored(found.sel(kind=middle, reading="one"), "null", "null_low", "null_high", "n")
    told = "; ".join(f"'{o}' {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})" for o, d in differences.items())
    return Reading(
        each.sel(kind=middle, drop=True),
        each.sel(kind=nearest, drop=True),
        f"Differences: {told}. In lock-step a window is its first layer, cached its last, so only shared updates ask "
        "about windows.",
        {"middle": middle, "nearest": nearest, "metric": found["metric"].item()},
        estimates=(differences[nearest], fresh),
    )


_ABOVE_MEAN = Rule(
    "supported when the interval of the gain lies above zero and above a fresh seed's mean gain",
    lambda a, b: a.low > max(0.0, b.value),
)
_ALL_ABOVE = Rule(
    "supported when the differences to all other windows have intervals above zero and above a fresh seed's mean gain",
    lambda a, b: a.low > max(0.0, b.value),  # of the window that comes closest, so of all
)
ROWS = (
    *(
        Row(
            f"ensembles/{mode}",
            "Averaging the hidden states of three seeds in layers 20-29 of 40 at the first step raises the score, "
            ".685 to .716 (training-free ensemble).",
            "paired gain of '{condition}' over the same seed alone, step {step} of {steps}, K = {k}, first seed "
            "continued",
            "{metric}", NULL, partial(_raises, mode=mode), _ABOVE_MEAN,
            smallest=SMALLEST["gain"], bounds=SHARE,
        )
        for mode in MODES
    ),
    Row(
        "ensembles/window",
        "The middle window (layers 20-29) is better than the early one (0-9) and than all layers.",
        "paired score of '{middle}' minus the score of the window that comes closest ('{nearest}')",
        "{metric}", NULL, _window, _ALL_ABOVE,
        smallest=SMALLEST["gain"], bounds=SHARE,
    ),
)  # fmt: skip
