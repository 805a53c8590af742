"""One generation as a page: the film of x0_hat by step and frame beside the clip, the verdict, every parameter.

    write_run(lens.generate(task), "run.html")

A run read from disk needs its decoder first: ``write_run(lens.attach(dit_lens.load_run(folder)), "run.html")``.

When not to use: to compare runs. A sweep's report puts base, source, patched and placebo side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.display.lens_and_run import WORDS, judged
from dit_lens.errors import FigureError
from dit_lens.figures.film_folder import SIDE
from dit_lens.figures.frames import FilmStrip, as_frames, factor_for, film_strip, shrink, spread
from dit_lens.figures.report import MAX_SPRITE, Report

if TYPE_CHECKING:
    from dit_lens.wan.run import Run

#: Pixels of all frames of a page's film, so that several films stay below a page's 30 MB.
FILM_PIXELS = 6_000_000


def write_run(run: Run, path: str | Path, *, most: int = 10) -> Path:
    """Write the page of one run.

    Args:
        run: The run.
        path: The page.
        most: At most so many steps of its film (fewer where frames are large).

    Returns:
        The path.

    Raises:
        RecordError: A run without a decoder.
        FigureError: A run that did no step.
    """
    report = Report(f"Run of {run.meta.get('model', 'a model')}", run.prompt, methods=about(run))
    report.summary = [_verdict(run), *map(str, run.fired)]
    return add_run(report.section("Film of x0_hat"), run, most=most).write(path)


def add_run(report: Report, run: Run, *, title: str = "", most: int = 10) -> Report:
    """Add the film, the clip and the truth of a run to a report."""
    film, steps = film_of(run, most)
    truth = getattr(run.task, "frames", None)
    score, word = judged(run)
    name = f"{getattr(run.task, 'name', 'seed')} {getattr(run.task, 'seed', run.seed)}"
    return report.generation(
        title=title or name,
        prompt=run.prompt,
        film=film,
        sigmas=[run.sigmas[step] for step in steps],
        steps=steps,
        clip=run.video,
        truth=truth if truth is not None and np.shape(truth) == run.video.shape else None,
        verdict="" if score is None else word,
        details={k: str(v) for k, v in getattr(score, "details", {}).items()},
        fps=fps_of(run),
    )


def film_of(run: Run, most: int = 10) -> tuple[np.ndarray, list[int]]:
    """x0_hat of at most ``most`` steps, evenly spread.

    Args:
        run: The run.
        most: At most so many steps.

    Returns:
        uint8 (S, F, H, W, 3), and which steps they are.

    Raises:
        FigureError: A run that did no step.
    """
    if not run.n_steps:
        raise FigureError("this run did no step, so it has no film: continue it with lens.generate(resume=run)")
    size = run.size
    factor = max(1, -(-max(size.height, size.width) // MAX_SPRITE))
    a_step = size.num_frames * (size.height // factor) * (size.width // factor)
    steps = spread(run.n_steps, max(2, min(most, FILM_PIXELS // a_step)))
    return np.stack([as_frames(run.decode(run.x0_hat(step)), 4, "x0_hat") for step in steps]), steps


def strip_of(run: Run, most: int = 10, frames: Sequence[int] | None = None) -> FilmStrip:
    """The film as one picture: steps from left to right, frames downwards."""
    film, steps = film_of(run, most)
    film = shrink(film, factor_for(film, SIDE))
    chosen = spread(film.shape[1], 4) if frames is None else frames
    sigmas = [run.sigmas[step] for step in steps]
    return film_strip(film, sigmas=sigmas, steps=range(len(steps)), frames=chosen, labels=steps)


def score_of(run: Run) -> Any:
    """The task's score of a finished run; None without a scorer, or where it fails."""
    return judged(run)[0]


def fps_of(run: Run) -> float:
    """Frames per second of a run's video."""
    return float(run.meta.get("fps") or 8)


def about(run: Run) -> dict[str, Any]:
    """Every parameter of a run, for a page's methods."""
    plan, size = run.plan, run.size
    hooks = sorted({a.hook for a in run.activations})
    return {
        "prompt": run.prompt,
        "seed": run.seed,
        "task": "none" if run.task is None else repr(run.task),
        "video": f"{size.num_frames} frames of {size.height} x {size.width}",
        "token grid": str(run.grid),
        "steps": f"{run.n_steps} of {plan.n_steps}",
        "sampler": plan.scheduler,
        "guidance": f"{plan.guidance_scale:g} (high noise), {plan.guidance_scale_2:g} (low noise)",
        "sigmas": ", ".join(f"{sigma:.3f}" for sigma in plan.sigmas),
        "changed": "; ".join(map(str, run.fired)) or "nothing",
        "recorded": f"{len(run.activations)} activations of {', '.join(hooks)}" if hooks else "nothing",
        "model and versions": dict(run.meta),
    }


def _verdict(run: Run) -> str:
    if not run.complete:
        return f"Stopped after {run.n_steps} of {run.plan.n_steps} steps: the clip is of the last x0_hat."
    score, word = judged(run)
    if score is None:
        return f"Not judged: {word}" if word else "No task judges this video."
    value = getattr(score, "value", None)
    return word[:1].upper() + word[1:] + (f" (score {value:.2f})." if word in WORDS and value is not None else ".")
