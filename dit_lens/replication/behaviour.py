"""Claims of self-correction, and of perception before action (paper, section 5, Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.experiments.self_correction import FILMS, perception_lag, plant_mistakes, watch_answers
from dit_lens.measures.answers_over_steps import VERDICTS, chance_events, corrections, events, expected_corrections
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import ABOVE_NULL, SHARE, SMALLEST, Estimate, Measured, Reading, Row, text
from dit_lens.stats.intervals import share_interval
from dit_lens.wan.lens import Lens


def measured(lens: Lens, n: int = 30, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the noise.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        ``seen``, the films of movers; ``states``, the verdicts of all tasks; ``wrong``, planted mistakes.
    """
    families: Mapping[str, list[Any]] = {name: [puzzles.load(name, i) for i in range(n)] for name in puzzles.names()}
    movers = [task for name in ("maze", "choose", "occlude") for task in families[name]]
    seen = watch_answers(lens, movers, seed=seed, progress=progress)
    more = watch_answers(lens, families["pattern"], curves=None, seed=seed, progress=progress)
    last = lens.plan().n_steps
    at = sorted({max(1, round(q * last)) for q in (0.1, 0.25, 0.4, 0.55, 0.7)})
    wrong = plant_mistakes(lens, families["choose"], at, seed=seed, progress=progress)
    return {"seen": seen, "states": xr.concat([seen["verdict"], more["verdict"]], "task"), "wrong": wrong}


def _corrected(m: Measured) -> Reading:
    """Self-correction in the film: a share of tasks, with Wilson's interval, beside blind flips."""
    states = m["states"]
    happened, chance, fate = events(states), chance_events(states), corrections(states)
    n = states.sizes["task"]
    wrong = (states == VERDICTS.index("wrong")).isel(step=slice(None, -1)).any("step")
    s = share_interval(happened["corrected"])
    found = Estimate(float(s["value"]), float(s["low"]), float(s["high"]), n)
    value, low, high = (float(chance[name]) for name in ("corrected", "corrected_low", "corrected_high"))
    null = Estimate(value, low, high, n)
    end = states.isel(step=-1)
    ends = ", ".join(f"{int((end == i).sum())} {name}" for i, name in enumerate(VERDICTS))
    each = happened["corrected"].astype(float)
    return Reading(
        each,
        expected_corrections(states),
        f"Wrong at any step before the end: {int(wrong.sum())}; right at some step and not at the end: "
        f"{int(happened['corrupted'].sum())} (chance {float(chance['corrupted']):.3f} of all); in the end: {ends}; "
        f"at step 0: {int(fate['count'][0].sel(verdict='none'))} without an answer, "
        f"{int(fate['count'][0].sel(verdict='right'))} right.",
        estimates=(found, null),
    )


def _put_right(m: Measured) -> Reading:
    wrong = m["wrong"]
    recovered = wrong["outcome"].sel(ending="own").astype(float).where(wrong["shows"]).mean("step")
    each = wrong["outcome"].sel(ending="own", kind="planted").mean("task")
    when = ", ".join(f"{int(k)}: {float(v):.2f}" for k, v in zip(wrong["step"], each, strict=True))
    shown = wrong["shows"].mean("task")
    return Reading.along(
        recovered,
        "kind",
        ("planted", "kept"),
        f"Right at the end by the step of the change: {when}; mistakes shown by then: "
        f"{', '.join(f'{float(v):.2f}' for v in shown)}; never wrong: {text(recovered.sel(kind='own'))}.",
    )


def _lag(m: Measured, determined: bool) -> Reading:
    """Of all tasks, or of those with one solution."""
    lag = perception_lag(m["seen"])
    fixed = (lag["solutions"] == 1).values
    orders = lag["lag"].sel(kind="x0_hat")
    if determined:
        remark = f"Puzzles with several solutions: {text(orders[~fixed])}."
        lag = lag.isel(task=fixed)
    else:
        later, earlier = (int((orders * sign > 0).sum()) for sign in (1, -1))
        remark = f"Motion stands {later} later, {earlier} earlier, of {orders.sizes['task']}."
    return Reading.along(lag["lag"], "kind", FILMS, remark, {"steps": m["seen"].attrs["n_steps"]})


_ORDER = "The first steps find the named entity, its motion comes later (perception before action, Fig. 5)."
_FADES = "the video only fades in"
ROWS = (
    Row(
        "behaviour/corrected",
        "Answers that are wrong at first are right at the end (self-correction), seen in x0_hat (section 5).",
        "puzzles that show a wrong answer at some step and end right",
        "share of puzzles", "answers that flip blindly, at the rates found", _corrected, ABOVE_NULL,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "behaviour/put-right",
        "A wrong answer that stands in x0_hat is put right by later steps (asked here of planted mistakes).",
        "share that ends right, of generations whose x0_hat gave the twin's answer when the instruction changed",
        "share", "the wrong instruction kept to the end", _put_right, ABOVE_NULL,
        smallest=SMALLEST["share"], zero_null=True, bounds=SHARE,
    ),
    Row(
        "behaviour/order",
        _ORDER,
        "lag of the motion behind the identification of the end, all puzzles",
        "steps of {steps}", _FADES, partial(_lag, determined=False), ABOVE_NULL,
        smallest=SMALLEST["steps"],
    ),
    Row(
        "behaviour/order-determined",
        _ORDER,
        "lag of the motion behind the identification of the end, puzzles with one solution, whose motion is determined",
        "steps of {steps}", _FADES, partial(_lag, determined=True), ABOVE_NULL,
        smallest=SMALLEST["steps"],
    ),
)  # fmt: skip
