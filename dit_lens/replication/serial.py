"""Claims about serial depth: whether denoising steps compute, or unfold a posterior that one pass already has.

The paper says that reasoning unfolds along the steps (section 3); work on the "seriality gap" (2607.13031) says that
steps add no serial depth, and layers do. Long and short puzzles are compared in pairs, and everything that steps bring
is read in excess of an ideal denoiser that is sampled with the same steps from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.experiments.serial_depth import matched_lengths, solved_by_depth, solved_by_steps, support_by_step
from dit_lens.measures.step_gains import OVER, gain, pairs_by_length, passes, redrawn
from dit_lens.progress import Progress, prefixed, silent
from dit_lens.replication.row import DIFFERENCE, SHARE, SMALLEST, Measured, Reading, Row, text
from dit_lens.stats.intervals import by_task
from dit_lens.wan.lens import Lens

PARTS = ("support", "steps", "depth")
GAINS = (-2.0, 2.0)
#: The fewest steps in which an average over several answers can become one of them.
FEW = 2
SHORT, LONG = (3, 4), (7, 12)


def measured(
    lens: Lens,
    n: int = 12,
    seed: int = 0,
    progress: Progress = silent,
    *,
    parts: Sequence[str] = PARTS,
    name: str = "maze",
    short: tuple[int, int] = SHORT,
    long: tuple[int, int] = LONG,
    num_inference_steps: Sequence[int] | None = None,
    depth_steps: Sequence[int] | None = None,
    n_layers: Sequence[int] | None = None,
    support_steps: Sequence[int] | None = None,
    frames: Sequence[int] = (-1,),
    folder: str | Path | None = None,
    **options: Any,
) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Pairs of a short and a long unseen puzzle.
        seed: Where the search for them begins.
        progress: Called as ``progress(done, total, what)``.
        parts: What is measured; rows that read the others are left out.
        name: Their family.
        short: Least and greatest length of the short ones.
        long: Of the long ones.
        num_inference_steps: Numbers of steps; 1, 2, half the usual number and the usual one by default.
        depth_steps: Those with fewer layers; 2 and the usual number by default.
        n_layers: Numbers of layers that act; three quarters and all by default.
        support_steps: Steps at which right and wrong answers are read; all by default.
        frames: Pixel frames in which wrong answers are read.
        folder: Where finished puzzles are kept.
        **options: Sampling.

    Returns:
        ``steps``, two noise seeds a puzzle; ``support`` and ``depth``, one. Puzzles are ``[*short, *long]``.

    Raises:
        MeasureError: Unknown parts, and as :func:`matched_lengths` says.
    """
    if not parts or not set(parts) <= set(PARTS):
        raise MeasureError(f"parts={list(parts)}: choose from {list(PARTS)}")
    tasks = [task for side in matched_lengths(name, n, short, long, seed=seed) for task in side]
    usual = lens.plan(**options).n_steps
    counts = sorted({1, FEW, usual // 2, usual} - {0}) if num_inference_steps is None else num_inference_steps
    deep = sorted({FEW, usual}) if depth_steps is None else depth_steps
    layers = (lens.n_layers, round(0.75 * lens.n_layers)) if n_layers is None else n_layers

    def kept(part: str) -> dict[str, Any]:
        where = None if folder is None else Path(folder) / part
        return {**options, "folder": where, "progress": prefixed(progress, part)}

    makes: dict[str, Callable[[], xr.Dataset]] = {
        "support": lambda: support_by_step(
            lens, tasks, (0,), steps=support_steps, frames=frames, **kept("support")
        ),
        "steps": lambda: solved_by_steps(lens, tasks, counts, (0, 1), **kept("steps")),
        "depth": lambda: solved_by_depth(lens, tasks, layers, deep, (0,), which=("even", "random"), **kept("depth")),
    }  # fmt: skip
    return {part: makes[part]() for part in PARTS if part in parts}


def _usual(found: xr.Dataset) -> int:
    """The number of steps that is usual, or the largest one that was measured."""
    known = [int(n) for n in found["num_inference_steps"].values]
    usual = int(found.attrs.get("n_steps", known[-1]))
    return usual if usual in known else max(known)


def _wrong_first(m: Measured) -> Reading:
    found = m["support"]
    wrong = by_task(found["wrong"], OVER)
    lost = wrong.isel(step=0) - wrong.isel(step=-1)
    _, long = pairs_by_length(lost.assign_coords(length=found["length"]))
    parts = {kind: long.sel(kind=kind, drop=True) for kind in ("network", "ideal", "blind")}
    remark = f"an average that does not know the puzzle loses {text(parts['blind'], DIFFERENCE)}"
    return Reading(parts["network"], parts["ideal"], remark)


def _wrong_longer(m: Measured) -> Reading:
    found = m["support"].isel(step=0)
    wrong = by_task(found["wrong"], OVER)
    over = (wrong.sel(kind="network", drop=True) - wrong.sel(kind="ideal", drop=True)).drop_vars("step")
    blind = wrong.sel(kind="blind", drop=True).drop_vars("step")
    short, long = pairs_by_length(over)
    sides = zip(("short", "long"), pairs_by_length(blind), strict=True)
    remark = "an average that does not know the puzzle shows " + " and ".join(
        f"{text(one, SHARE)} in {side} puzzles" for side, one in sides
    )
    return Reading(long, short, remark)


def _gain(m: Measured, reading: str, few: int) -> Reading:
    found = m["steps"]
    many = _usual(found)
    short, long = pairs_by_length(gain(found, few, many, reading))
    parts = "; ".join(
        f"{side} puzzles: network {text(one.sel(kind='network'), DIFFERENCE)}, "
        f"ideal denoiser {text(one.sel(kind='ideal'), DIFFERENCE)}"
        for side, one in (("short", short), ("long", long))
    )
    again = redrawn(found, reading).sel(kind="network", num_inference_steps=many)
    other = f"Another seed gives another verdict in {text(again, SHARE)} of the puzzles at {many} steps."
    remark = f"Gain in {parts}. {other}"
    above, null = (one.sel(kind="excess", drop=True) for one in (long, short))
    return Reading(above, null, remark, {"few": few, "many": many})


def _gain_right(m: Measured) -> Reading:
    return _gain(m, "right", 1)


def _gain_solved(m: Measured) -> Reading:
    remark = "A long answer has more cells to draw, each of which has to be sharp: this alone lets it gain more."
    found = _gain(m, "solved", FEW)
    return Reading(found.effect, found.null, f"{found.remark} {remark}", found.words)


def _series(m: Measured) -> Reading:
    made = passes(m["steps"], "solved")
    n = int(made["num_inference_steps"][-1])
    videos = int(made.attrs["videos_in_parallel"])
    last = made.sel(num_inference_steps=n, drop=True)
    arms = {name: pairs_by_length(last[name])[1] for name in ("series", "drawn", "best")}
    net, ideal = ({k: v.sel(kind=kind, drop=True) for k, v in arms.items()} for kind in ("network", "ideal"))
    remark = (
        f"One of the {videos} at random solves {text(net['drawn'], SHARE)}. "
        f"The ideal denoiser: series {text(ideal['series'], SHARE)}, best in parallel {text(ideal['best'], SHARE)}. "
        "The best takes a judge who knows the answer."
    )
    return Reading(net["series"], net["best"], remark, {"n": n, "m": videos, "each": n // videos})


def _depths(m: Measured) -> tuple[xr.DataArray, int, int, dict[str, int]]:
    """``right`` of all and of fewer layers, (kind, num_inference_steps, n_layers, task); all, fewer, words."""
    found = m["depth"]
    right = by_task(found["right"].mean("draw"), OVER)
    counts = sorted(int(n) for n in found["n_layers"].values)
    steps = [int(n) for n in found["num_inference_steps"].values]
    below = [n for n in counts if n < counts[-1]]
    fewer = min(below, key=lambda n: abs(n - 0.75 * counts[-1]))
    return right, counts[-1], fewer, {"few": steps[0], "many": steps[-1], "fewer": fewer, "all": counts[-1]}


def _steps_for_layers(m: Measured) -> Reading:
    right, every, fewer, words = _depths(m)
    up = right.isel(num_inference_steps=-1, drop=True) - right.isel(num_inference_steps=0, drop=True)
    _, long = pairs_by_length(up)
    arms = {kind: long.sel(kind=kind, n_layers=fewer, drop=True) for kind in ("even", "random")}
    null = long.sel(kind="even", n_layers=every, drop=True)
    return Reading(arms["even"], null, f"as many layers drawn at random gain {text(arms['random'], DIFFERENCE)}", words)


def _layers_for_length(m: Measured) -> Reading:
    right, every, fewer, words = _depths(m)
    last = right.isel(num_inference_steps=-1, drop=True)
    lost = last.sel(n_layers=every, drop=True) - last.sel(n_layers=fewer, drop=True)
    short, long = pairs_by_length(lost)
    remark = f"as many layers drawn at random: long {text(long.sel(kind='random'), DIFFERENCE)}, " + (
        f"short {text(short.sel(kind='random'), DIFFERENCE)}"
    )
    return Reading(long.sel(kind="even", drop=True), short.sel(kind="even", drop=True), remark, words)


def _of(part: str, read: Callable[[Measured], Reading], m: Measured) -> Reading | None:
    """A row whose part was not measured is left out."""
    return read(m) if part in m else None


_IDEAL = "an average over the right answers (ideal denoiser)"
ROWS = (
    Row(
        "serial/wrong-first",
        "Reasoning unfolds along the steps: early steps hold wrong answers, which later ones remove (section 3)",
        "share of what x0_hat shows that wrong answers show, at step 0 minus at the last step, long puzzles",
        "share", _IDEAL, partial(_of, "support", _wrong_first),
        smallest=SMALLEST["share"], zero_null=True, bounds=DIFFERENCE,
    ),
    Row(
        "serial/wrong-longer",
        "The longer the chain of moves, the less of it one pass can tell",
        "share that wrong answers show at step 0, in excess of the ideal denoiser, long puzzles",
        "share", "short puzzles, in pairs", partial(_of, "support", _wrong_longer),
        smallest=SMALLEST["share"], bounds=DIFFERENCE,
    ),
    Row(
        "serial/gain-right",
        "Steps add serial computation: long puzzles gain more from them than short ones",
        "nearest answer is a right one, {many} steps minus {few}, in excess of the ideal denoiser, long puzzles",
        "share", "short puzzles, in pairs", partial(_of, "steps", _gain_right),
        smallest=SMALLEST["share"], bounds=GAINS,
    ),
    Row(
        "serial/gain-solved",
        "Steps add serial computation: long puzzles are solved with more steps only, short ones with few",
        "solved, {many} steps minus {few}, in excess of the ideal denoiser, long puzzles",
        "share", "short puzzles, in pairs", partial(_of, "steps", _gain_solved),
        smallest=SMALLEST["share"], bounds=GAINS,
    ),
    Row(
        "serial/series",
        "Passes in series do what as many passes in parallel cannot (2607.13031 asks it of steps)",
        "solved by one video of {n} steps, long puzzles",
        "share", "the best of {m} videos of {each} steps", partial(_of, "steps", _series),
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "serial/steps-for-layers",
        "Steps stand in for layers: a shallower model makes up for its depth with more steps",
        "nearest answer is a right one, {many} steps minus {few}, with {fewer} of {all} layers, long puzzles",
        "share", "the same with all layers", partial(_of, "depth", _steps_for_layers),
        smallest=SMALLEST["share"], bounds=DIFFERENCE,
    ),
    Row(
        "serial/layers-for-length",
        "Serial work is done in depth: skipped layers cost long puzzles more than short ones (2607.13031)",
        "nearest answer is a right one, all {all} layers minus {fewer} of them, at {many} steps, long puzzles",
        "share", "short puzzles, in pairs", partial(_of, "depth", _layers_for_length),
        smallest=SMALLEST["share"], bounds=DIFFERENCE,
    ),
)  # fmt: skip
