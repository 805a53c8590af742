"""Commitment: how early in the sampling x0_hat gives what the run will end in (paper, Chain of Steps; 2603.30043).

x0_hat_s = x_s - sigma_s v_s (paper, eq. 2) is decoded at every step s and compared with the final video y:

- ``answer``: 1 if the task reads the same answer from both, else 0 (0 also where none can be read at s yet);
- ``motion``: cosine of motion energies, E[r, c] = mean over frames f and pixels of patch (r, c) of |y_{f+1} - y_f|;
- ``content``: cosine of x0_hat_s - y_0 and y - y_0 over a region's pixels, y_0 being the first frame: what has
  changed there.

Energies are never negative, so that any two moving videos of one scene have a high ``motion`` cosine: read it only
beside the same number against other finals (``against``). ``content`` has a sign and no such floor.

When not to use: as evidence that a step *decides*. x0_hat is an average over what may still come; that it holds the
final answer says that the answer is likely by then, and a fork (:mod:`dit_lens.experiments.branching`) says
whether it is settled. The last steps agree with the end by construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange, reduce

from dit_lens.checks import number
from dit_lens.errors import MeasureError
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

#: Root mean square change (of 0-1 colour) below which a region counts as still, so that its cosine says nothing.
STILL = 0.02


def motion_energy(clip: np.ndarray, patch: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Mean absolute change from frame to frame in each patch.

    Args:
        clip: (F, H, W, 3) in [0, 1].
        patch: Rows and columns of pixels of a patch.

    Returns:
        (rows, cols).

    Raises:
        MeasureError: The clip has fewer than two frames, or another shape.
    """
    if len(clip) < 2:
        raise MeasureError("one frame has no motion: generate with num_frames of at least 5")
    if not np.isfinite(clip).all():
        raise MeasureError("the video holds NaN or infinity, so its motion is not defined: generate it again")
    if clip.shape[1] % patch[0] or clip.shape[2] % patch[1]:
        raise MeasureError(
            f"frames of {clip.shape[1]} x {clip.shape[2]} do not divide into patches of {patch}: choose another patch="
        )
    change = np.abs(np.diff(np.asarray(clip, np.float32), axis=0))
    return reduce(change, "f (r a) (c b) k -> r c", "mean", a=patch[0], b=patch[1])


def commitment(
    run: Run,
    against: Mapping[str, Run] | None = None,
    *,
    film: np.ndarray | None = None,
    steps: Sequence[int] | None = None,
) -> xr.Dataset:
    """Similarity of each step's x0_hat to final videos.

    Each step is decoded once.

    Args:
        run: A complete run.
        against: Further complete runs to compare with, by name. These are the nulls: another seed of the same task
            (what the scene alone settles), another task.
        film: ``run.film(steps)``, if it is at hand.
        steps: All by default.

    Returns:
        ``answer`` and ``motion`` (to, step), ``content`` (to, step, region); ``to="final"`` compares with the run's own
        end, the other entries are the names of ``against``. ``answer`` is NaN without a task or where the final has no
        answer; ``readable`` (step): whether x0_hat gives an answer at all. ``content`` is NaN where nothing changes in
        a region (:data:`STILL`).

    Raises:
        MeasureError: An unfinished run, finals of another size, or latents with NaN.
    """
    finals = {"final": run, **(against or {})}
    for name, other in finals.items():
        if not other.complete:
            raise MeasureError(
                f"{name!r} was stopped before its end and has no final video: generate it to the last step"
            )
        if other.size != run.size:
            raise MeasureError(f"{name!r} has size {other.size} and the run {run.size}: compare videos of one size")
    chosen, clips = clips_of(run, film, steps)
    videos = [other.video for other in finals.values()]
    masks = pixel_regions(run)
    patch = (run.grid.pixel_rows, run.grid.pixel_cols)
    energies = [motion_energy(video, patch) for video in videos]
    changes = [{name: _change(video, video, m) for name, m in masks.items()} for video in videos]
    ends = [_answer(run.task, video) for video in videos]
    same, motion, content, readable = [], [], [], []  # each (steps, ...)
    for clip in clips:
        said, energy = _answer(run.task, clip), motion_energy(clip, patch)
        now = {name: _change(clip, run.video, m) for name, m in masks.items()}
        readable.append(float(said is not None) if hasattr(run.task, "answer") else np.nan)
        same.append([np.nan if end is None else float(said == end) for end in ends])
        motion.append([_cosine(energy, end) for end in energies])
        content.append([[_cosine(now[name], c) if _moves(c) else np.nan for name, c in end.items()] for end in changes])
    shape = (len(chosen), len(finals), len(masks))
    array = {"answer": np.array(same).T, "motion": np.array(motion).T}
    array["content"] = np.array(content).reshape(shape).swapaxes(0, 1)
    along = ("reference", "step")
    return xr.Dataset(
        {
            "answer": (along, array["answer"], {"long_name": "same answer as the end", "units": "share"}),
            "motion": (along, array["motion"], {"long_name": "motion like the end's", "units": "cosine"}),
            "readable": ("step", readable, {"long_name": "an answer can be read", "units": "share"}),
            "content": (
                ("reference", "step", "region"),
                array["content"],
                {"long_name": "change in the region like the end's", "units": "cosine"},
            ),
        },
        coords={
            "reference": list(finals),
            "step": ("step", chosen, {"long_name": "denoising step"}),
            "region": list(masks),
            "sigma": ("step", [run.sigmas[s] for s in chosen]),
            "expert": ("step", [run.plan.at(s).expert for s in chosen]),
        },
    )  # fmt: skip


def commit_step(similarity: xr.DataArray, at_least: float = 0.9) -> xr.DataArray:
    """The first step from which a similarity stays at a level or above.

    Args:
        similarity: (..., step).
        at_least: The level. For answers (0 or 1) any level above 0 means: from here on always the final answer.

    Returns:
        The dims of ``similarity`` without ``step``; NaN where the last step is below the level or NaN.

    Raises:
        MeasureError: There is no dim ``step``.
    """
    if "step" not in similarity.dims:
        raise MeasureError(
            f"similarity has dims {list(similarity.dims)} and no 'step': pass a variable of commitment(...)"
        )
    values = similarity.transpose("step", ...)
    at_least = number(at_least, "at_least", error=MeasureError)
    held = np.flip(np.logical_and.accumulate(np.flip(values.values >= at_least, 0), 0), 0)  # (step, ...)
    steps = values["step"].values
    first = steps[held.argmax(0)].astype(float)
    template = values.isel(step=0, drop=True)
    return template.copy(data=np.where(held[-1], first, np.nan)).assign_attrs(
        long_name=f"first step from which it stays >= {at_least:g}", units="step"
    )


def pixel_regions(run: Run) -> dict[str, np.ndarray]:
    """The run's token regions as pixels: name -> bool (frames, H, W)."""
    return {name: _pixels(run.grid, mask) for name, mask in run.regions.items()}


def _pixels(grid: Grid, mask: np.ndarray) -> np.ndarray:
    cells = rearrange(mask, "(f r c) -> f r c", f=grid.frames, r=grid.rows, c=grid.cols)
    frames = np.concatenate([cells[:1], cells[1:].repeat(grid.stride, 0)])
    return frames.repeat(grid.pixel_rows, 1).repeat(grid.pixel_cols, 2)


def clips_of(run: Run, film: Any, steps: Sequence[int] | None) -> tuple[list[int], Iterable[np.ndarray]]:
    """The chosen steps and their decoded x0_hat, one at a time, as a film of a large video needs much memory.

    Args:
        run: The run.
        film: Clips of the chosen steps, if they are at hand.
        steps: All by default.

    Returns:
        The steps, and an iterable of clips (F, H, W, 3).

    Raises:
        MeasureError: A film of another number of steps; when a clip is reached, NaN in it.
    """
    chosen = list(range(run.n_steps)) if steps is None else [run.n_steps + s if s < 0 else s for s in steps]
    if film is None:
        return chosen, (_finite(run.decode(run.x0_hat(step)), step) for step in chosen)
    if len(film) != len(chosen):
        raise MeasureError(f"the film has {len(film)} steps and {len(chosen)} were asked for: pass run.film(steps)")
    return chosen, (_finite(clip, step) for step, clip in zip(chosen, film, strict=True))


def _finite(clip: np.ndarray, step: int) -> np.ndarray:
    if not np.isfinite(clip).all():
        raise MeasureError(
            f"x0_hat of step {step} holds NaN or infinity: generate the run again, or leave the step out"
        )
    return clip


def _answer(task: Any, clip: np.ndarray) -> Any:
    return task.answer(clip) if hasattr(task, "answer") else None


def _change(clip: np.ndarray, end: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The difference of a clip in a region to the first frame of the final video, (pixels x 3,)."""
    return (clip[mask] - np.broadcast_to(end[:1], end.shape)[mask]).reshape(-1)


def _moves(change: np.ndarray) -> bool:
    return bool(change.size) and float(np.sqrt(np.mean(change**2))) >= STILL


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)  # in float32 equal films reach 1.000002 on some processors
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.sum(a * b)) / size if size else np.nan
