"""Answers over steps: the answer in every step's x0_hat, and the step from which a curve stays above a level.

``verdicts`` reads the answer of each step's x0_hat and of the finished video as *none*, *wrong* or *right*.
``corrections`` asks how often an answer that is wrong at step s is right at the end, and the reverse, beside two nulls:

* *flips*: answers flip at random. The null chain has, for every pair of verdicts a, b and every step t, one rate for
  both directions, estimated from all tasks,

      m_t(a, b) = (N_t(a -> b) + N_t(b -> a)) / (n_t(a) + n_t(b)),

  and P(right at the end | a at s) is read from the product of these matrices. With two verdicts it is the chance of an
  odd number of flips. More corrections than that means that flips have a direction.

* *unrelated*: the verdict at step s carries no information about the end: P(right at the end) over all tasks. Fewer
  corrections than that means that early mistakes persist.

``onset`` is the first step from which a curve stays at or above a level; ``fade_in`` is the null for the order of
onsets: a film in which the finished video only fades in over the still first frame, as far at each step as x0_hat got.

When not to use: ``corrections`` where answers are read from a blend. A blurred x0_hat has no answer (*none*), and a
change from none to right is sharpening, not correction; that is why the three verdicts are kept apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from dit_lens.checks import number
from dit_lens.errors import MeasureError
from dit_lens.stats.intervals import share_interval
from dit_lens.wan.run import Run

VERDICTS = ("none", "wrong", "right")
NONE, WRONG, RIGHT = range(3)


def verdicts(run: Run, film: np.ndarray | None = None) -> xr.DataArray:
    """Read the answer of each step's x0_hat, and last of the finished video.

    Args:
        run: A complete run whose task reads answers.
        film: The decoded pictures (n_steps + 1, F, H, W, 3), if they are at hand; decoded here by default.

    Returns:
        (step,) int8, an index into ``VERDICTS``. The step n_steps stands for the finished video.

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
    answers = [task.answer(frames) for frames in shown]
    state = [NONE if a is None else (RIGHT if a in task.solutions else WRONG) for a in answers]
    return xr.DataArray(
        np.array(state, np.int8),
        dims="step",
        coords={"step": range(len(state))},
        name="verdict",
        attrs={"long_name": "verdict on x0_hat's answer", "units": "0 none, 1 wrong, 2 right"},
    )


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


def events(states: xr.DataArray) -> xr.Dataset:
    """Whether each task ever showed a wrong answer and ended right, or a right one and did not end right.

    Args:
        states: Verdicts (task, step); the last step is the end.

    Returns:
        ``corrected`` and ``corrupted``, bool (task,).
    """
    data = _checked(states)
    found = _events(data)
    coords = {k: v for k, v in states.coords.items() if v.dims == ("task",)}
    return xr.Dataset({k: ("task", v) for k, v in found.items()}, coords=coords)


def chance_events(states: xr.DataArray, draws: int = 500, seed: int = 0) -> xr.Dataset:
    """The shares of ``events`` when flips are random: tasks keep their first verdict and follow the symmetric chain.

    Args:
        states: Verdicts (task, step); the last step is the end.
        draws: Simulated sets of tasks.
        seed: Seed of the simulation.

    Returns:
        ``corrected`` and ``corrupted``, shares along ``part``: value, low and high (95 %) over draws.
    """
    data = _checked(states)
    chain = blind_flips(data)  # (transition, 3, 3)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"corrected": [], "corrupted": []}
    for _ in range(draws):
        path = [data[:, 0].astype(int)]
        for m in chain:
            edges = m.cumsum(1)[path[-1]]  # (tasks, 3)
            path.append(np.minimum((rng.random(len(data))[:, None] > edges).sum(1), 2))
        for name, hit in _events(np.stack(path, 1)).items():
            found[name].append(float(hit.mean()))
    out: dict[str, float] = {}
    for name, shares in found.items():
        low, high = np.percentile(shares, [2.5, 97.5])
        out |= {name: float(np.mean(shares)), f"{name}_low": float(low), f"{name}_high": float(high)}
    return xr.Dataset(out)


def expected_corrections(states: xr.DataArray) -> xr.DataArray:
    """Chance of each task to show a wrong answer before the end and end right, when flips are random.

    Exact, given each task's first verdict: the expectation that :func:`chance_events` simulates, task by task, so that
    a task can be compared with its own chance.

    Args:
        states: Verdicts (task, step); the last step is the end.

    Returns:
        (task,), 0 to 1.
    """
    data = _checked(states)
    seen, unseen = np.zeros(3), np.zeros(3)  # by verdict: after a wrong answer was shown, and before
    seen[RIGHT] = 1.0
    for m in blind_flips(data)[::-1]:
        seen, unseen = m @ seen, m @ unseen
        unseen[WRONG] = seen[WRONG]
    coords = {k: v for k, v in states.coords.items() if v.dims == ("task",)}
    return xr.DataArray(unseen[data[:, 0]], dims="task", coords=coords)


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


def _events(data: np.ndarray) -> dict[str, np.ndarray]:
    end = data[:, -1]
    return {
        "corrected": (data[:, :-1] == WRONG).any(1) & (end == RIGHT),
        "corrupted": (data[:, :-1] == RIGHT).any(1) & (end != RIGHT),
    }
