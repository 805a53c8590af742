"""Claims about few steps and few frames (paper, distillation and frames)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.experiments.schedules import MEASURES, few_steps, frames_curve
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import DIFFERENCE, SHARE, SMALLEST, Measured, Reading, Row, Untestable, text
from dit_lens.wan.lens import Lens

FRAMES = (5, 9, 13, 17)


def measured(
    lens: Lens,
    n: int = 16,
    seed: int = 0,
    progress: Progress = silent,
    *,
    name: str = "maze",
    student: Lens | None = None,
    lengths: Sequence[int] = (),
) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen mazes of each kind.
        seed: Where the search for them begins, and of the noise.
        progress: Called as ``progress(done, total, what)``.
        name: Their level.
        student: A model that was distilled from this one, sampled as it was made for.
        lengths: Numbers of frames that the model was trained at, where it was at several.

    Returns:
        On mazes with several shortest routes: ``steps``, few and usual; ``again``, the usual at other seeds;
        ``student``, where there is one. On mazes that the shortest video has time for: ``frames``.
    """
    mazes = _mazes(name, n, seed, lambda task: len(task.solutions) > 1)
    usual = lens.defaults.num_inference_steps
    read = {name: MEASURES[name] for name in ("score", "commit_sigma", "exploring")}

    def sampled(model: Lens, counts: Sequence[int], first: int = seed) -> xr.Dataset:
        return few_steps(model, mazes, counts, "own", read, seed=first, progress=progress).squeeze("sampler")

    found, again = sampled(lens, (4, usual)), sampled(lens, (usual,), seed + 10_000)
    frames = tuple(lengths) or FRAMES
    short = _mazes(name, n, seed, lambda task: len(task.truth) <= min(frames))
    curve = frames_curve(lens, short, frames, seed=seed, progress=progress).assign_attrs(trained=list(lengths))
    taught = {}
    if student is not None:
        taught["student"] = sampled(student, (student.defaults.num_inference_steps,))
    return {"steps": found, "again": again, "frames": curve, **taught}


def _mazes(name: str, n: int, seed: int, wanted: Callable[[Any], bool]) -> list[Any]:
    """The first ``n`` unseen mazes from ``seed`` up that are wanted."""
    return list(islice(filter(wanted, (puzzles.load(name, i) for i in count(seed))), n))


def _few(m: Measured, name: str) -> Reading:
    found, again = m["steps"], m["again"]
    few, usual = (int(found["num_inference_steps"][i]) for i in (0, -1))
    if name == "score":
        remark = "Fewer steps of the same model, not a distilled one."
    else:
        lengths = found["num_inference_steps"]
        count, sigma = (
            ", ".join(f"{int(n)} steps {text(values.sel(num_inference_steps=n), bounds)}" for n in lengths)
            for values, bounds in ((found["exploring"] * lengths, None), (found["commit_sigma"], SHARE))
        )
        remark = f"In steps, of which a short schedule has fewer: {count}. Noise level at the commitment: {sigma}."
    return Reading(
        found[name].sel(num_inference_steps=usual) - found[name].sel(num_inference_steps=few),
        found[name].sel(num_inference_steps=usual) - again[name].sel(num_inference_steps=usual),
        remark,
        {"few": few, "usual": usual},
    )


def _distilled(m: Measured, name: str) -> Reading | None:
    if "student" not in m:
        return None
    usual = int(m["steps"]["num_inference_steps"][-1])
    few = int(m["student"]["num_inference_steps"][0])
    teacher, again = (m[part][name].sel(num_inference_steps=usual) for part in ("steps", "again"))
    student = m["student"][name].sel(num_inference_steps=few)
    undistilled = m["steps"][name].isel(num_inference_steps=0)
    remark = (
        f"Teacher {text(teacher, SHARE)}, student {text(student, SHARE)}; the teacher itself at "
        f"{int(undistilled['num_inference_steps'])} steps {text(undistilled, SHARE)}."
    )
    return Reading(teacher - student, teacher - again, remark, {"few": few, "usual": usual})


def _frames(m: Measured) -> Reading | Untestable:
    curve = m["frames"]
    lengths = ", ".join(
        f"{int(f)} frames {text(curve['score'].sel(num_frames=f), SHARE)} "
        f"(cut {float(curve['cut'].sel(num_frames=f).mean()):.3f}, "
        f"still {float(curve['still'].sel(num_frames=f).mean()):.3f})"
        for f in curve["num_frames"]
    )
    trained = curve.attrs.get("trained", ())
    if len(trained) < 2:
        return Untestable(
            "This model was trained at one length only. Outside it, puzzles that fit the shortest video score: "
            f"{lengths}."
        )
    long, short = max(trained), min(trained)
    lost, cut = (
        curve[part].sel(num_frames=long, drop=True) - curve[part].sel(num_frames=short, drop=True)
        for part in ("score", "cut")
    )
    return Reading(lost, cut, f"{lengths}.", {"long": long, "short": short})


_SEEDS = "the same between two seeds at {usual} steps"
ROWS = (
    Row(
        "schedules/score",
        "Sampling in 4 steps (a distilled model, .605 against .685) lowers the score.",
        "score at {usual} steps minus at {few}",
        "score, 0 to 1", _SEEDS, partial(_few, name="score"),
        smallest=SMALLEST["score"],
    ),
    Row(
        "schedules/exploring",
        "With few steps the first ones are so large that exploration is squeezed and hardly seen.",
        "share of the steps with two or more right answers alive, at {usual} steps minus at {few}",
        "share of the schedule", _SEEDS, partial(_few, name="exploring"),
        smallest=SMALLEST["share"], bounds=DIFFERENCE,
    ),
    Row(
        "schedules/frames",
        "From about 100 frames down to 17 little is lost; below, quality clearly falls.",
        "score at {long} frames minus at {short}, puzzles that fit the shortest video",
        "score, 0 to 1", "the run at the puzzle's own length, cut", _frames,
        smallest=SMALLEST["score"],
    ),
    Row(
        "schedules/distilled",
        "A distilled model that samples in 4 steps scores less than its teacher (.605 against .685).",
        "score at {usual} steps minus that of the distilled model at {few}",
        "score, 0 to 1", _SEEDS, partial(_distilled, name="score"),
        smallest=SMALLEST["score"],
    ),
    Row(
        "schedules/distilled-exploring",
        "A distilled model hardly explores: its first steps are too large.",
        "share of the steps with two or more right answers alive, at {usual} steps minus the distilled model's {few}",
        "share of the schedule", _SEEDS, partial(_distilled, name="exploring"),
        smallest=SMALLEST["share"], bounds=DIFFERENCE,
    ),
)  # fmt: skip
