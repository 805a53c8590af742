"""Claims of self-correction, and of perception before action (paper, section 5, Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.experiments.self_correction import FILMS, perception_lag, plant_mistakes, watch_answers
from dit_lens.measures.answers_over_steps import NONE, RIGHT, after_errors
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import SHARE, SMALLEST, Measured, Reading, Row, Untestable, text
from dit_lens.stats.intervals import FEWEST
from dit_lens.wan.lens import Lens


def measured(
    lens: Lens, n: int = 30, seed: int = 0, progress: Progress = silent, *, names: Sequence[str] = ()
) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the noise.
        progress: Called as ``progress(done, total, what)``.
        names: Levels of tasks in which errors are looked for, in place of the families at their usual level.

    Returns:
        ``seen``, the films of movers; ``answers``, the verdicts and blends of all tasks or of those of ``names``, of
        the network and of the ideal denoiser; ``wrong``, planted mistakes.
    """
    families: Mapping[str, list[Any]] = {name: [puzzles.load(name, i) for i in range(n)] for name in puzzles.names()}
    movers = [task for name in ("maze", "choose", "occlude") for task in families[name]]
    seen = watch_answers(lens, movers, seed=seed, progress=progress)
    others = [puzzles.load(name, i) for name in names for i in range(n)] or families["pattern"]
    more = watch_answers(lens, others, curves=None, seed=seed, progress=progress)
    last = lens.plan().n_steps
    at = sorted({max(1, round(q * last)) for q in (0.1, 0.25, 0.4, 0.55, 0.7)})
    wrong = plant_mistakes(lens, families["choose"], at, seed=seed, progress=progress)
    read = ["verdict", "blend", "ideal_verdict", "ideal_blend"]
    answers = more[read] if names else xr.concat([seen[read], more[read]], "task")
    return {"seen": seen, "answers": answers, "wrong": wrong}


def _corrected(m: Measured) -> Reading | Untestable:
    """Of tasks in which a wrong answer is read: those right at the end, beside blind flips from the same step."""
    answers = m["answers"]
    drawn = answers["verdict"].where(~answers["blend"], NONE).astype(int)  # blends are another row
    fate = after_errors(drawn)
    erred, n = int(fate["corrected"].notnull().sum()), drawn.sizes["task"]
    if erred < FEWEST:
        return Untestable(
            f"A wrong answer is read at some step of {erred} of {n} generations, of which "
            f"{int(fate['corrected'].sum())} end right: where nothing is wrong, nothing can be corrected."
        )
    lost = ((drawn == RIGHT).isel(step=slice(None, -1)).any("step") & (drawn.isel(step=-1) != RIGHT)).sum()
    remark = f"{erred} of {n} generations show a wrong answer; right at some step and not at the end: {int(lost)}."
    return Reading(fate["corrected"], fate["chance"], remark)


def _sharpened(m: Measured) -> Reading | Untestable:
    """Of tasks in which a blend is shown: those right at the end, beside the ideal denoiser's own blends."""
    answers = m["answers"]
    ends = []
    for who in ("", "ideal_"):
        seen = answers[f"{who}blend"].astype(bool).isel(step=slice(None, -1)).any("step")
        ends.append((answers[f"{who}verdict"].isel(step=-1) == RIGHT).astype(float).where(seen))
    blended, n = int(ends[0].notnull().sum()), ends[0].sizes["task"]
    if int((ends[0].notnull() & ends[1].notnull()).sum()) < FEWEST:
        return Untestable(f"{blended} of {n} generations show a blend of answers at some step: too few to compare.")
    first = answers.isel(step=0)
    remark = (
        f"Generations with a blend: {blended} of {n}, of the ideal denoiser {int(ends[1].notnull().sum())}; at step 0: "
        f"{int(first['blend'].sum())} and {int(first['ideal_blend'].sum())}."
    )
    return Reading(ends[0], ends[1], remark)


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
        f"{', '.join(f'{float(v):.2f}' for v in shown)}; never wrong: {text(recovered.sel(kind='own'), SHARE)}.",
    )


def _lag(m: Measured, determined: bool) -> Reading:
    """Of all tasks, or of those with one solution."""
    lag = perception_lag(m["seen"])
    fixed = (lag["solutions"] == 1).values
    orders = lag["lag"].sel(kind="x0_hat")
    if determined:
        remark = f"Puzzles with several solutions: {text(orders[~fixed], None)}."
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
        "share that ends right, of generations whose x0_hat gives a wrong answer at some step (blends left out)",
        "share", "answers that flip blindly from that step, at the rates found", _corrected,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "behaviour/sharpened",
        "What is unclear or mixed at first is right at the end (self-enhancement, section 5).",
        "share that ends right, of generations whose x0_hat blends several answers at some step",
        "share", "an average over the right answers (ideal denoiser), at the same states", _sharpened,
        smallest=SMALLEST["share"], nothing=0.0, bounds=SHARE,
    ),
    Row(
        "behaviour/put-right",
        "A wrong answer that stands in x0_hat is put right by later steps (asked here of planted mistakes).",
        "share that ends right, of generations whose x0_hat gave the twin's answer when the instruction changed",
        "share", "the wrong instruction kept to the end", _put_right,
        smallest=SMALLEST["share"], zero_null=True, bounds=SHARE,
    ),
    Row(
        "behaviour/order",
        _ORDER,
        "lag of the motion behind the identification of the end, all puzzles",
        "steps of {steps}", _FADES, partial(_lag, determined=False),
        smallest=SMALLEST["steps"],
    ),
    Row(
        "behaviour/order-determined",
        _ORDER,
        "lag of the motion behind the identification of the end, puzzles with one solution, whose motion is determined",
        "steps of {steps}", _FADES, partial(_lag, determined=True),
        smallest=SMALLEST["steps"],
    ),
)  # fmt: skip
