"""Few steps and few frames: what the model reaches, and what is left of the exploration (paper, distillation, frames).

``few_steps`` samples the same puzzles with schedules of 4 to 50 steps and reads the same measures off each run. At the
first step (sigma = 1, the same noise) every schedule has the same x0_hat; what a short one loses is the steps in which
several answers can stand side by side. So exploration is counted in *steps* (``exploring``: steps with at least two
right answers alive in x0_hat) and placed by *noise level* (``commit_sigma``: sigma at the first step from which x0_hat
keeps the run's final answer), because a share of a schedule means another sigma in each.

``frames_curve`` samples videos of other lengths. A task is made for one length, so its scorer needs help: a short video
is continued by its last frame, a long one cut (:func:`fitted`). ``cut`` is the control of that help: the full-length
run, cut to the same length and scored in the same way, so that score < cut is the model's doing and not the scorer's.

When not to use: ``few_steps`` as a test of a distilled model, which was trained for its few steps: load one (its LoRA)
and sample it at 4 steps. ``frames_curve`` as a scaling law on a model trained at one length: it then says only what
happens outside its training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import candidates
from dit_lens.measures.commitment import commit_step, commitment
from dit_lens.progress import Progress, silent
from dit_lens.stats.summary import task_names
from dit_lens.tasks.requirements import needed
from dit_lens.wan.call_plan import ExplicitGridEuler
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import SamplingLike, merged

Measure = Callable[[Run], float]
STEPS = (4, 6, 8, 10, 20, 30, 50)


def score(run: Run) -> float:
    """The task's partial credit, 0 to 1."""
    return float(run.score.value)


def solved(run: Run) -> float:
    """Whether the task is solved, 0 or 1."""
    return float(run.score.solved)


def committed_at(run: Run) -> float:
    """The first step from which the answer read from x0_hat stays the final one; NaN where the final has none."""
    if not hasattr(run.task, "answer"):
        raise MeasureError(
            "this task reads no answers: pass measures= of your own to few_steps, such as a threshold on the content "
            "cosine of dit_lens.measures.commitment.commitment"
        )
    return float(commit_step(commitment(run)["answer"].sel(to="final"), 1.0))


def commit(run: Run) -> float:
    """:func:`committed_at` as a share of the schedule, step / steps."""
    return committed_at(run) / run.n_steps


def commit_sigma(run: Run) -> float:
    """Noise level at :func:`committed_at`: the number that can be compared between schedules."""
    step = committed_at(run)
    return run.sigmas[int(step)] if np.isfinite(step) else np.nan


def exploring(run: Run) -> float:
    """Steps in which at least two right answers are alive in x0_hat (the lower count of ``candidates``)."""
    return float((candidates(run, decoys=0)["fewest"] >= 2).sum())


def alive_first(run: Run) -> float:
    """Right answers alive in x0_hat of the first two steps, on average (the lower count of ``candidates``)."""
    return float(candidates(run, decoys=0, steps=range(min(2, run.n_steps)))["fewest"].mean())


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "score": score,
        "solved": solved,
        "commit": commit,
        "commit_sigma": commit_sigma,
        "exploring": exploring,
        "alive_first": alive_first,
    }
)


def few_steps(
    lens: Lens,
    tasks: Sequence[Any],
    num_inference_steps: Sequence[int] = STEPS,
    samplers: Mapping[str, Any] | Sequence[str] = ("own", "euler"),
    measures: Mapping[str, Measure] = MEASURES,
    *,
    seed: int = 0,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Any,
) -> xr.Dataset:
    """Every measure at every number of steps and sampler: variables (task, sampler, steps).

    ``samplers``: names, ``"own"`` (the pipeline's; UniPC in Wan) and ``"euler"`` (the paper's explicit grid, with the
    pipeline's shift), or name -> scheduler. ``measures``: name -> callable(run) -> float, called on each finished run.
    Puzzle i is generated with ``seed + i`` under every schedule: the same first noise. ``sampling``, or
    its arguments flat, but for what varies here: see :class:`dit_lens.Sampling`. ``high_steps`` (sampler, steps) says
    how many steps the high-noise expert has.

    Errors: :class:`MeasureError` without tasks, steps or measures, or for an unknown sampler name; :class:`TaskError`
    for tasks that the measures cannot read.
    """
    how, steps = merged(sampling, given, few_steps), num_inference_steps
    if not (len(tasks) and len(steps) and measures):
        raise MeasureError("few_steps needs at least one task, one number of steps and one measure")
    if measures is MEASURES:
        cure = "pass measures={'name': function of a run}"
        needed(tasks, "score", "answer", "solutions", "render", "first_frame", cure=cure)
    named = _samplers(lens, samplers)
    found = {name: np.full((len(tasks), len(named), len(steps)), np.nan) for name in measures}
    high = np.zeros((len(named), len(steps)), int)
    for i, task in enumerate(tasks):
        progress(i, len(tasks), f"schedules of {min(steps)} to {max(steps)} steps, puzzle {i}")
        for j, scheduler in enumerate(named.values()):
            for k, n in enumerate(steps):
                run = lens.generate(task, seed=seed + i, num_inference_steps=n, scheduler=scheduler, sampling=how)
                high[j, k] = sum(call.expert == "high" and call.branch == "cond" for call in run.plan)
                for name, measure in measures.items():
                    found[name][i, j, k] = measure(run)
    return xr.Dataset(
        {
            **{name: (("task", "sampler", "steps"), value) for name, value in found.items()},
            "high_steps": (("sampler", "steps"), high),
        },
        coords={
            "task": task_names(tasks),
            "sampler": list(named),
            "steps": list(steps),
        },
        attrs={"seed": seed, "model": lens.name},
    )


def _samplers(lens: Lens, wanted: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(wanted, Mapping):
        return dict(wanted)
    config = lens.pipe.scheduler.config
    shift = config.get("flow_shift") or config.get("shift") or 1.0
    known = {"own": None, "euler": ExplicitGridEuler(shift=shift)}
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if not names or not set(names) <= set(known):
        raise MeasureError(f"unknown samplers {list(names)}: choose from {list(known)}, or give name -> scheduler")
    return {name: known[name] for name in names}


def fitted(video: np.ndarray, num_frames: int) -> np.ndarray:
    """A video (F, H, W, 3) as one of ``num_frames``: continued by its last frame, or cut."""
    missing = num_frames - len(video)
    return np.concatenate([video, np.repeat(video[-1:], missing, 0)]) if missing > 0 else video[:num_frames]


def fitted_score(task: Any, video: np.ndarray) -> float:
    """The task's partial credit of a video of any length, :func:`fitted` to the length that the task is read at."""
    return float(task.score(fitted(video, task.num_frames)).value)


def frames_curve(
    lens: Lens,
    tasks: Sequence[Any],
    num_frames: Sequence[int],
    score: Callable[[Any, np.ndarray], float] = fitted_score,
    *,
    seed: int = 0,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Any,
) -> xr.Dataset:
    """Score of videos generated at each length of ``num_frames`` (1 + 4 k pixel frames): variables (task, frames).

    ``score``: callable(task, video (F, H, W, 3)) -> float, for a video of any length. Returns ``score``; ``cut``, the
    control: the run at the task's own length (the lens's, where it has none), cut to that many frames; and ``still``,
    the null: the first frame repeated.

    Errors: :class:`MeasureError` without tasks or lengths; :class:`TaskError` for tasks without a scorer;
    :class:`SamplerError` for lengths other than 1 + 4 k.
    """
    how, frames = merged(sampling, given, frames_curve), num_frames
    if not (len(tasks) and len(frames)):
        raise MeasureError("frames_curve needs at least one task and one number of frames, e.g. num_frames=(5, 9, 13)")
    if score is fitted_score:
        needed(tasks, "score", "num_frames", cure="pass score=function of a task and a video")
    shape = (len(tasks), len(frames))
    found = {name: np.zeros(shape) for name in ("score", "cut", "still")}
    for i, task in enumerate(tasks):
        progress(i, len(tasks), f"videos of {min(frames)} to {max(frames)} frames, puzzle {i}")
        own = getattr(task, "num_frames", None) or lens.defaults.num_frames
        videos: dict[int, np.ndarray] = {}
        for n in sorted({own, *frames}):
            # Regions are drawn for the task's own length, and nothing here reads them.
            videos[n] = lens.generate(task, seed=seed + i, num_frames=n, regions={}, sampling=how).video
        for k, n in enumerate(frames):
            found["score"][i, k] = score(task, videos[n])
            found["cut"][i, k] = score(task, videos[own][:n])
            found["still"][i, k] = score(task, np.repeat(videos[n][:1], n, 0))
    return xr.Dataset(
        {name: (("task", "frames"), value) for name, value in found.items()},
        coords={"task": task_names(tasks), "frames": list(frames)},
        attrs={"seed": seed, "model": lens.name},
    )
