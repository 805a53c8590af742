"""Answers over steps: the answer in every step's x0_hat, and the step from which a curve stays above a level.

``read_answers`` reads each step's x0_hat and the finished video as *none*, *wrong* or *right*. A clip that draws parts
of several answers is *wrong*, whatever the task's reader makes of it (:mod:`dit_lens.measures.blends`), and marked as a
``blend``, so that what is merely undecided can be told from an answer that is in error.

``corrections`` asks how often an answer that is wrong at step s is right at the end, and the reverse, beside two nulls:

* *flips*: answers flip at random. The null chain has, for every pair of verdicts a, b and every step t, one rate for
  both directions, estimated from all tasks,

      m_t(a, b) = (N_t(a -> b) + N_t(b -> a)) / (n_t(a) + n_t(b)),

  and P(right at the end | a at s) is read from the product of these matrices. With two verdicts it is the chance of an
  odd number of flips. More corrections than that means that flips have a direction.

* *unrelated*: the verdict at step s carries no information about the end: P(right at the end) over all tasks. Fewer
  corrections than that means that early mistakes persist.

``after_errors`` asks it of each task from its first error on, and of no task without one: where nothing was wrong,
nothing can be corrected, and tasks that were right all along would only dilute the number.

``onset`` is the first step from which a curve stays at or above a level; ``fade_in`` is the null for the order of
onsets: a film in which the finished video only fades in over the still first frame, as far at each step as x0_hat got.

When not to use: ``corrections`` of blends as self-correction. An average over right answers is a blend at first and one
answer at the end too; compare with the ideal denoiser's own verdicts at the same states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from dit_lens.checks import number
from dit_lens.errors import MeasureError
from dit_lens.measures.blends import Blends, blends_of
from dit_lens.stats.intervals import share_interval
from dit_lens.wan.run import Run

VERDICTS = ("none", "wrong", "right")
NONE, WRONG, RIGHT = range(3)


def read_answers(run: Run, film: np.ndarray | None = None) -> xr.Dataset:
    """Read the answer of each step's x0_hat, and last of the finished video.

    Args:
        run: A complete run whose task reads answers.
        film: The decoded pictures (n_steps + 1, F, H, W, 3), if they are at hand; decoded here by default.

    Returns:
        Over ``step``, of which n_steps stands for the finished video: ``verdict``, int8, an index into ``VERDICTS``;
        and ``blend``, whether a *wrong* is the picture of several answers at once. Of a task that cannot draw its
        answers blends are not seen.

    Raises:
        MeasureError: The run was stopped, its task has no answers, or ``film`` has another length.
    """
    task = run.task
    if not all(hasattr(task, name) for name in ("answer", "solutions")):
        raise MeasureError(
            "this run's task reads no answers: it needs answer(frames) and solutions, as the lab's tasks have"
        )
    if not run.complete:
        raise MeasureError(f"the run stopped after {run.n_steps} of {run.plan.n_steps} steps: generate it to the end")
    shown = [*run.film(), run.video] if film is None else film
    if len(shown) != run.n_steps + 1:
        raise MeasureError(
            f"film has {len(shown)} entries: give one for each of {run.n_steps} steps and the final video"
        )
    patch = (run.grid.pixel_rows, run.grid.pixel_cols) if hasattr(task, "render") else (16, 16)
    blends = blends_of(task, patch)
    read = [judged(task, frames, blends) for frames in shown]
    return xr.Dataset(
        {
            "verdict": (
                "step",
                np.array([state for state, _ in read], np.int8),
                {"long_name": "verdict on x0_hat's answer", "units": "0 none, 1 wrong, 2 right"},
            ),
            "blend": ("step", [blend for _, blend in read], {"long_name": "several answers at once", "units": ""}),
        },
        coords={"step": range(len(read))},
    )


def judged(task: Any, clip: np.ndarray, blends: Blends | None) -> tuple[int, bool]:
    """The verdict on one clip, and whether it is wrong as a blend.

    Args:
        task: With ``answer`` and ``solutions``.
        clip: (F, H, W, 3).
        blends: From ``blends_of(task)``.

    Returns:
        An index into ``VERDICTS``, and the blend. A wrong answer that the task reads is one, and no blend.
    """
    answer = task.answer(clip)
    if answer is not None and answer not in task.solutions:
        return WRONG, False
    if blends is not None and blends(clip):
        return WRONG, True
    return (NONE if answer is None else RIGHT), False


def verdicts(run: Run, film: np.ndarray | None = None) -> xr.DataArray:
    """``read_answers(run, film)["verdict"]``: (step,) int8, an index into ``VERDICTS``.

    Args:
        run: A complete run whose task reads answers.
        film: The decoded pictures (n_steps + 1, F, H, W, 3), if they are at hand; decoded here by default.

    Raises:
        MeasureError: As of :func:`read_answers`.
    """
    return read_answers(run, film)["verdict"]


def corrections(states: xr.DataArray, seed: int = 0, resamples: int = 300) -> xr.Dataset:
    """How often wrong answers become right, and right ones wrong, from each step to the end.

    Args:
        states: Verdicts (task, step); the last step is the end.
        seed: Seed of the bootstrap.
        resamples: Bootstrap draws over tasks.

    Returns:
        A Dataset over step, without the end. ``corrected``: of the tasks that are wrong at a step, the share right at
        the end; ``corrupted``: of those right, the share that is not right at the end; ``sharpened``: of those without
        an answer, the share right at the end. Each with ``_low``, ``_high`` (95 %, five tasks or more), ``_flips`` and
        ``_unrelated`` (the nulls of the module docstring), ``_flips_low`` and ``_flips_high`` (bootstrap over tasks, 95
        %); NaN where no task is in that state. ``count`` (step, verdict): tasks in each state. ``transitions`` (step,
        verdict, other_verdict): counts from one step to the next.

    Raises:
        MeasureError: ``states`` has other dims, too few entries, or values other than 0, 1 and 2.
    """
    data = _checked(states)
    end = data[:, -1]
    right_at_end = float((end == RIGHT).mean())
    blind = _to_right(data)
    rng = np.random.default_rng(seed)
    draws = np.stack([_to_right(data[rng.integers(0, len(data), len(data))]) for _ in range(resamples)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)  # (step, verdict)
    out: dict[str, Any] = {
        "count": (("step", "verdict"), np.stack([(data[:, :-1] == v).sum(0) for v in range(3)], -1)),
        "transitions": (("step", "verdict", "other_verdict"), _moves(data)),
    }
    for name, state in (("corrected", WRONG), ("corrupted", RIGHT), ("sharpened", NONE)):
        sign = -1 if name == "corrupted" else 1  # shares of "not right" are one minus those of "right"
        hits = (end == RIGHT) if sign > 0 else (end != RIGHT)
        asked = np.where(data[:, :-1] == state, hits[:, None].astype(float), np.nan)  # (task, step)
        found = share_interval(xr.DataArray(asked, dims=("task", "step")))
        shares = np.stack([found[end_of_name] for end_of_name in ("value", "low", "high")], 1)
        seen = np.isfinite(shares[:, 0])
        nulls = (blind, low, high) if sign > 0 else (1 - blind, 1 - high, 1 - low)
        flips = [np.where(seen, null[:, state], np.nan) for null in nulls]
        unrelated = np.where(seen, right_at_end if sign > 0 else 1 - right_at_end, np.nan)
        for end_of_name, values in zip(
            ("", "_low", "_high", "_flips", "_flips_low", "_flips_high", "_unrelated"),
            (*shares.T, *flips, unrelated),
            strict=True,
        ):
            out[name + end_of_name] = ("step", values)
    names = list(VERDICTS)
    coords = {"step": states["step"].values[:-1], "verdict": names, "other_verdict": names}
    attrs = {"long_name": "fate of answers from a step to the end", "units": "share", "n": len(data)}
    return xr.Dataset(out, coords=coords, attrs=attrs)


def after_errors(states: xr.DataArray) -> xr.Dataset:
    """What becomes of each task after its first error, beside the chance of that when flips are random.

    Args:
        states: Verdicts (task, step); the last step is the end.

    Returns:
        Over ``task``, NaN where no step before the end is wrong: ``first``, the step of the first error; ``corrected``,
        whether the end is right; ``chance``, P(right at the end | wrong at that step) of the symmetric chain.

    Raises:
        MeasureError: As of :func:`corrections`.
    """
    data = _checked(states)
    wrong = data[:, :-1] == WRONG
    erred, at = wrong.any(1), wrong.argmax(1)
    found = {
        "first": states["step"].values[at],
        "corrected": data[:, -1] == RIGHT,
        "chance": _to_right(data)[at, WRONG],
    }
    coords = {k: v for k, v in states.coords.items() if v.dims == ("task",)}
    return xr.Dataset(
        {name: ("task", np.where(erred, values.astype(float), np.nan)) for name, values in found.items()}, coords=coords
    )


def blind_flips(data: np.ndarray) -> np.ndarray:
    """The symmetric chain of the module docstring.

    Args:
        data: Verdicts (tasks, steps).

    Returns:
        (transitions, 3, 3): m_t(a, b) off the diagonal, rows summing to 1.
    """
    moves = _moves(np.asarray(data)).astype(float)  # (T, 3, 3)
    there = moves.sum(2)  # (T, 3) how many stand at each verdict
    both = there[:, :, None] + there[:, None, :]
    rate = np.divide(moves + moves.swapaxes(1, 2), both, out=np.zeros_like(moves), where=both > 0)
    rate *= 1 - np.eye(3)
    # Two pairs of one rare verdict can add up to more than 1; all rates of that step then shrink alike.
    rate /= np.maximum(1, rate.sum(2).max(1))[:, None, None]
    return rate + np.eye(3) * (1 - rate.sum(2))[:, :, None]


def onset(curve: xr.DataArray, level: float = 0.5) -> xr.DataArray:
    """The first step from which a curve stays at or above a level to the end.

    Args:
        curve: Any dims with ``step``.
        level: The level, in the curve's units.

    Returns:
        The other dims of ``curve``, in the units of its coordinate ``step``; NaN where it is below the level at the
        end.

    Raises:
        MeasureError: There is no dim ``step``.
    """
    if "step" not in curve.dims:
        raise MeasureError(f"an onset needs the dim 'step', found {list(curve.dims)}: give a curve over steps")
    values = curve.transpose(..., "step").values
    level = number(level, "level", error=MeasureError)
    holds = np.flip(np.logical_and.accumulate(np.flip(values >= level, -1), -1), -1)  # from here on for good
    first = curve["step"].values[holds.argmax(-1)].astype(float)
    out = curve.isel(step=0, drop=True).transpose(*[d for d in curve.dims if d != "step"])
    attrs = {"long_name": f"first step at or above {level} for good", "units": "step"}
    return out.copy(data=np.where(holds[..., -1], first, np.nan)).assign_attrs(attrs)


def fade_in(film: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A film in which the last video of ``film`` only fades in over the still first frame.

    Step s shows first + a_s (last - first) with a_s = <film_s - first, last - first> / |last - first|^2 in [0, 1], so
    it has come as far as the real step s, and everything in it happens at once.

    Args:
        film: (S, F, H, W, 3); the last entry is the finished video.
        first: The first frame (H, W, 3).

    Returns:
        (S, F, H, W, 3), float64.

    Raises:
        MeasureError: The last video is the still first frame.
    """
    film, first = np.asarray(film, np.float64), np.asarray(first, np.float64)
    way = film[-1] - first
    length = float((way * way).sum())
    if length == 0:
        raise MeasureError(
            "the last video is the first frame in every frame, so nothing fades in: choose a run in which something "
            "moves"
        )
    share = np.clip([float(((shown - first) * way).sum()) / length for shown in film], 0, 1)
    return first + share[:, None, None, None, None] * way


def _checked(states: xr.DataArray) -> np.ndarray:
    if set(states.dims) != {"task", "step"} or states.sizes["task"] < 1 or states.sizes["step"] < 2:
        raise MeasureError(
            f"verdicts have axes {dict(states.sizes)}: give (task, step) with at least a step and the end, as "
            "xr.concat([verdicts(run) for run in runs], 'task') is"
        )
    data = states.transpose("task", "step").values
    if not np.isin(data, (NONE, WRONG, RIGHT)).all():
        raise MeasureError("verdicts must be 0 (none), 1 (wrong) or 2 (right): give what verdicts(run) returns")
    return data.astype(int)


def _moves(data: np.ndarray) -> np.ndarray:
    """Counts (transition, from, to)."""
    out = np.zeros((data.shape[1] - 1, 3, 3), int)
    for t in range(data.shape[1] - 1):
        np.add.at(out[t], (data[:, t], data[:, t + 1]), 1)
    return out


def _to_right(data: np.ndarray) -> np.ndarray:
    """P(right at the end | verdict at a step) under blind flips, (step, verdict)."""
    chance = np.zeros(3)
    chance[RIGHT] = 1
    found = []
    for m in blind_flips(data)[::-1]:
        chance = m @ chance
        found.append(chance)
    return np.stack(found[::-1])
