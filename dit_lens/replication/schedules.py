"""Claims about few steps and few frames (paper, distillation and frames)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import Any

from dit_lens import tasks as puzzles
from dit_lens.experiments.schedules import MEASURES, few_steps, frames_curve
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import DIFFERENCE, SHARE, SMALLEST, Measured, Reading, Row, Untestable, text
from dit_lens.wan.lens import Lens

FRAMES = (5, 9, 13, 17)


def measured(lens: Lens, n: int = 16, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen mazes of each kind.
        seed: Where the search for them begins, and of the noise.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        On mazes with several shortest routes: ``steps``, few and usual; ``again``, the usual at other seeds. On mazes
        that the shortest video has time for (at most four moves): ``frames``.
    """
    mazes = _mazes(n, seed, lambda task: len(task.solutions) > 1)
    usual = lens.defaults.num_inference_steps
    read = {name: MEASURES[name] for name in ("score", "commit_sigma", "exploring")}
    found = few_steps(lens, mazes, (4, usual), "own", read, seed=seed, progress=progress).squeeze("sampler")
    again = few_steps(lens, mazes, (usual,), "own", read, seed=seed + 10_000, progress=progress).squeeze("sampler")
    short = _mazes(n, seed, lambda task: len(task.truth) <= min(FRAMES))
    return {"steps": found, "again": again, "frames": frames_curve(lens, short, FRAMES, seed=seed, progress=progress)}


def _mazes(n: int, seed: int, wanted: Callable[[Any], bool]) -> list[Any]:
    """The first ``n`` unseen mazes from ``seed`` up that are wanted."""
    return list(islice(filter(wanted, (puzzles.load("maze", i) for i in count(seed))), n))


def _few(m: Measured, name: str) -> Reading:
    found, again = m["steps"], m["again"]
    few, usual = (int(found["num_inference_steps"][i]) for i in (0, -1))
    if name == "score":
        remark = "Fewer steps of the same model: no distilled one is at hand here."
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


def _frames(m: Measured) -> Untestable:
    curve = m["frames"]
    lengths = ", ".join(
        f"{int(f)} frames {text(curve['score'].sel(num_frames=f), SHARE)} "
        f"(cut {float(curve['cut'].sel(num_frames=f).mean()):.3f}, "
        f"still {float(curve['still'].sel(num_frames=f).mean()):.3f})"
        for f in curve["num_frames"]
    )
    return Untestable(
        f"This model was trained at one length only. Outside it, puzzles that fit the shortest video score: {lengths}."
    )


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
        "score by number of frames",
        "score, 0 to 1", "the full-length run, cut", _frames,
        smallest=SMALLEST["score"],
    ),
)  # fmt: skip
