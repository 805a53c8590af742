"""Few steps and few frames: the score that the model reaches, and how much it explores (paper, distillation, frames).

``few_steps`` samples the same tasks with schedules of 4 to 50 steps and reads the same measures off each run. At the
first step (sigma = 1, the same noise) every schedule has the same x0_hat. Exploration is a *share of the schedule*
(``exploring``: of the steps, those with at least two right answers alive in x0_hat): a short schedule cannot hold as
many such steps as a long one, so their number falls with its length whatever the model does. It is placed by *noise
level* as well (``commit_sigma``: sigma at the first step from which x0_hat keeps the run's final answer), because a
share of a schedule means another sigma in each.

``frames_curve`` samples videos of other lengths. A task is made for one length, so the video is fitted to its scorer: a
short video is continued by its last frame, a long one cut (:func:`fitted`). ``cut`` is the control of that fitting: the
full-length run, cut to the same length and scored in the same way, so that score < cut is due to the model and not to
the scorer.

When not to use: ``few_steps`` as a test of a distilled model, which was trained for its few steps: load one (its LoRA)
and sample it at 4 steps. ``frames_curve`` as a scaling law on a model trained at one length: it shows only the
behaviour outside its training.
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
from dit_lens.runner import Item, over_tasks
from dit_lens.runner.options import split_options
from dit_lens.tasks.requirements import needed
from dit_lens.wan.call_plan import ExplicitGridEuler
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

Measure = Callable[[Run], float]
STEPS = (4, 6, 8, 10, 20, 30, 50)


def score(run: Run) -> float:
    """The task's partial credit, 0 to 1."""
    return float(run.score.value)


def solved(run: Run) -> float:
    """Whether the task is solved, 0 or 1."""
    return float(run.score.solved)


def committed_at(run: Run) -> float:
    """The first step from which the answer read from x0_hat stays the final one; NaN where the final has none.

    Raises:
        MeasureError: The task reads no answers.
    """
    if not hasattr(run.task, "answer"):
        raise MeasureError(
            "this task reads no answers: pass measures= of your own to few_steps, such as a threshold on the content "
            "cosine of dit_lens.measures.commitment.commitment"
        )
    return float(commit_step(commitment(run)["answer"].sel(reference="final"), 1.0))


def commit(run: Run) -> float:
    """:func:`committed_at` as a share of the schedule, step / steps."""
    return committed_at(run) / run.n_steps


def commit_sigma(run: Run) -> float:
    """Noise level at :func:`committed_at`: the number that can be compared between schedules."""
    step = committed_at(run)
    return run.sigmas[int(step)] if np.isfinite(step) else np.nan


def exploring(run: Run) -> float:
    """Share of the steps in which two or more right answers are alive in x0_hat (the lower count of ``candidates``)."""
    return float((candidates(run, decoys=0)["fewest"] >= 2).mean())


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
    **options: Any,
) -> xr.Dataset:
    """Every measure at every number of steps and sampler.

    Task i is generated with ``seed + i`` under every schedule: the same first noise.

    Args:
        lens: The model.
        tasks: What is generated.
        num_inference_steps: Numbers of steps.
        samplers: Names, ``"own"`` (the pipeline's; UniPC in Wan) and ``"euler"`` (the paper's explicit grid, with the
            pipeline's shift), or name -> scheduler.
        measures: name -> function of a finished run.
        seed: Task i is generated with ``seed + i``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        Every measure (task, sampler, num_inference_steps), and ``high_steps`` (sampler, num_inference_steps), how many
        steps the high-noise expert has.

    Raises:
        MeasureError: No tasks, steps or measures, or an unknown sampler name.
        TaskError: Tasks that the measures cannot read.
    """
    if not (len(tasks) and len(num_inference_steps) and measures):
        raise MeasureError("few_steps needs at least one task, one number of steps and one measure")
    if measures is MEASURES:
        cure = "pass measures={'name': function of a run}"
        needed(tasks, "score", "answer", "solutions", "render", "first_frame", cure=cure)
    named = _samplers(lens, samplers)

    def row(item: Item) -> xr.Dataset:
        def sampled(sampler: str, num_inference_steps: int) -> dict[str, float]:
            run = item.generate(num_inference_steps=num_inference_steps, scheduler=named[sampler])
            return {name: measure(run) for name, measure in measures.items()}

        return item.sites(sampled, sampler=list(named), num_inference_steps=num_inference_steps)

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=few_steps)
    how = split_options(options)[0]
    high = [
        [
            sum(call.expert == "high" and call.branch == "cond" for call in lens.plan(how.but(
                num_inference_steps=n, scheduler=scheduler)))
            for n in num_inference_steps
        ]
        for scheduler in named.values()
    ]  # fmt: skip
    return found.assign(high_steps=(("sampler", "num_inference_steps"), high))


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
    """Fit a video to a number of frames: continued by its last frame, or cut.

    Args:
        video: (F, H, W, 3).
        num_frames: The number of frames.

    Returns:
        (num_frames, H, W, 3).
    """
    missing = num_frames - len(video)
    return np.concatenate([video, np.repeat(video[-1:], missing, 0)]) if missing > 0 else video[:num_frames]


def fitted_score(task: Any, video: np.ndarray) -> float:
    """The task's partial credit for a video of any length, :func:`fitted` to the length of the task."""
    return float(task.score(fitted(video, task.num_frames)).value)


def frames_curve(
    lens: Lens,
    tasks: Sequence[Any],
    num_frames: Sequence[int],
    score: Callable[[Any, np.ndarray], float] = fitted_score,
    *,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Score of videos generated at each length of ``num_frames`` (1 + 4 k pixel frames).

    Args:
        lens: The model.
        tasks: What is generated.
        num_frames: Lengths.
        score: ``score(task, video (F, H, W, 3)) -> float``, for a video of any length.
        seed: Task i is generated with ``seed + i``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        (task, num_frames): ``score``; ``cut``, the control: the run at the task's own length (the lens's, where it has
        none), cut to that many frames; and ``still``, the null: the first frame repeated.

    Raises:
        MeasureError: No tasks or lengths.
        TaskError: Tasks without a scorer.
        SamplerError: Lengths other than 1 + 4 k.
    """
    if not (len(tasks) and len(num_frames)):
        raise MeasureError("frames_curve needs at least one task and one number of frames, e.g. num_frames=(5, 9, 13)")
    if score is fitted_score:
        needed(tasks, "score", "num_frames", cure="pass score=function of a task and a video")

    def row(item: Item) -> xr.Dataset:
        task, videos = item.task, {}
        own = getattr(task, "num_frames", None) or item.lens.defaults.num_frames

        def video(n: int) -> np.ndarray:
            if n not in videos:
                # Regions are drawn for the task's own length, and nothing here reads them.
                videos[n] = item.generate(num_frames=n, regions={}).video
            return videos[n]

        def lengths(num_frames: int) -> dict[str, float]:
            return {
                "score": score(task, video(num_frames)),
                "cut": score(task, video(own)[:num_frames]),
                "still": score(task, np.repeat(video(num_frames)[:1], num_frames, 0)),
            }

        return item.sites(lengths, num_frames=num_frames)

    return over_tasks(lens, tasks, row, seed=seed, options=options, of=frames_curve)
