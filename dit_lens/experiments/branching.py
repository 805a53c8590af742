"""Branching: fork a run at step k with fresh noise at that sigma, and count the answers of the branches.

x_k' = (1 - sigma_k) x0_hat_k + sigma_k eps' (:mod:`dit_lens.interventions.renoise`), then the sampler goes on. While
the branches still end in different answers, step k had not decided; once they all agree, it had. Beside it stand the
same numbers over as many fresh seeds (nothing decided; step 0 is the same thing), and the placebo: the run's own noise,
which only restarts a multistep sampler's memory (everything decided).

    found = branching(lens, several("maze", 20), steps=(1, 4, 8, 12, 16), n=3)
    beside(found["differ"], found["fresh_differ"])

2603.30043 reports at most 25 % diversity of trajectories for re-noised branches and 68 % for fresh seeds.

When not to use: on puzzles with one answer, where branches can only fail; and on x0_hat of a step alone: what a state
shows best and what its branches end in are different questions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.address import indices
from dit_lens.errors import MeasureError
from dit_lens.interventions.renoise import renoise, repeats
from dit_lens.progress import Progress, silent
from dit_lens.replication.claim import Claim
from dit_lens.replication.rows import above_null, prefixed, text
from dit_lens.stats.summary import puzzle_names
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged

#: Parts of the schedule at which a claim forks; the second is where the related work has runs committed.
FORKS = (0.05, 0.15, 0.4, 0.6, 0.8)


def fork(lens: Lens, run: Run, step: int, seeds: Sequence[int | None]) -> list[Run]:
    """Branches of a run at a step, one per seed of the fresh noise (None: its own noise, the placebo).

    Cost: the steps from ``step`` on, for each. Errors: :class:`AddressError` for a step that the run did not do.
    """
    return [lens.generate(resume=run.until(step), interventions=renoise(run, step, seed)) for seed in seeds]


def _seeds(run: Run, step: int, n: int) -> list[int]:
    """The first ``n`` seeds whose noise is not the one that the run started from."""
    return list(itertools.islice((s for s in itertools.count() if not repeats(run, step, s)), n))


def several(name: str, n: int, seed: int = 0, answers: int = 2) -> list[Any]:
    """The first ``n`` unseen puzzles of a family from ``seed`` up with at least so many right answers.

    Errors: :class:`MeasureError` for a family in which there are none among many.
    """
    many = (puzzles.load(name, s) for s in range(seed, seed + 100 + 50 * n))
    found = list(itertools.islice((task for task in many if len(task.solutions) >= answers), n))
    if len(found) < n:
        raise MeasureError(
            f"{len(found)} of {n} {name!r} puzzles with {answers} or more right answers found: branching needs a "
            "choice; take 'maze', 'choose' or 'pattern', and fewer answers"
        )
    return found


def branching(
    lens: Lens,
    tasks: Sequence[Any],
    steps: Any,
    n: int = 3,
    *,
    seed: int = 0,
    placebo: bool = True,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Answers of ``n`` branches at each of ``steps``, of ``n`` fresh seeds, and of the placebo.

    ``tasks``: with an ``answer(video)``, and several right ones. ``seed``: of the run that is forked; the fresh runs
    have the next ones. ``placebo``: also go on from each step with the run's own noise. ``sampling``, or
    its arguments flat: see :class:`dit_lens.Sampling`.

    Returns per (puzzle, step), and with the prefix ``fresh_`` per (puzzle): ``distinct``, the number of different
    answers over the number of answers (at least 1 / n); ``differ``, the share of pairs whose answers differ, which does
    not depend on n; ``changed``, the share of answers other than the forked run's; ``answered``, the share of branches
    that give an answer at all, on which the others are computed; ``solved``; and ``placebo_changed`` (puzzle, step).
    NaN where there are too few answers.

    Errors: :class:`MeasureError` for fewer than two branches or tasks without answers, :class:`AddressError` for steps.
    """
    how = merged(sampling, given, branching)
    if n < 2:
        raise MeasureError(f"n={n}: whether branches differ needs at least two of them")
    rows: list[xr.Dataset] = []
    at: tuple[int, ...] = ()
    first: Run | None = None
    for i, task in enumerate(tasks):
        if not hasattr(task, "answer"):
            raise MeasureError(
                f"{task!r} reads no answers: branching needs a task with answer(video), see dit_lens.tasks"
            )
        progress(i, len(tasks), f"{n} branches at each step and {n} fresh seeds, puzzle {i}")
        base = lens.generate(task, seed=seed, sampling=how)
        first, at = base, indices(steps, base.n_steps, "step", "a plan")
        own = task.answer(base.video)
        fresh = [lens.generate(task, seed=seed + 1 + j, sampling=how) for j in range(n)]
        forks = [counted(own, fork(lens, base, step, _seeds(base, step, n))) for step in at]
        row: dict[str, Any] = {name: ("step", [found[name] for found in forks]) for name in forks[0]}
        row |= {f"fresh_{name}": value for name, value in counted(own, fresh).items()}
        if placebo:
            same = [counted(own, fork(lens, base, step, [None]))["changed"] for step in at]
            row["placebo_changed"] = ("step", same)
        rows.append(xr.Dataset(row))
    if first is None:
        raise MeasureError("no tasks: give some, e.g. several('maze', 20)")
    found = xr.concat(rows, "puzzle").assign_coords(
        puzzle=puzzle_names(tasks),
        step=("step", list(at), {"long_name": "step of the fork"}),
        sigma=("step", [first.sigmas[s] for s in at]),
        expert=("step", [first.plan.at(s).expert for s in at]),
    )
    for name, what in LABELS.items():
        for full in (name, f"fresh_{name}", f"placebo_{name}"):
            if full in found:
                found[full].attrs = {"long_name": what, "units": "share"}
    return found.assign_attrs(n=n, seed=seed, n_steps=first.n_steps, model=lens.name)


LABELS = MappingProxyType(
    {
        "distinct": "different answers / answers",
        "differ": "pairs that differ in their answer",
        "changed": "answers other than the forked run's",
        "answered": "branches that give an answer",
        "solved": "branches that solve the puzzle",
    }
)


def counted(own: Any, runs: Sequence[Run]) -> dict[str, float]:
    """The numbers of :func:`branching` for one set of runs, given the answer of the run they are compared with."""
    given = [run.task.answer(run.video) for run in runs]
    answers = [answer for answer in given if answer is not None]
    pairs = list(itertools.combinations(answers, 2))
    return {
        "distinct": len(set(answers)) / len(answers) if answers else np.nan,
        "differ": float(np.mean([a != b for a, b in pairs])) if pairs else np.nan,
        "changed": float(np.mean([a != own for a in answers])) if answers and own is not None else np.nan,
        "answered": len(answers) / len(runs),
        "solved": float(np.mean([float(run.score.solved) for run in runs]))
        if hasattr(runs[0].task, "score")
        else np.nan,
    }


def claims(lens: Lens, n: int = 20, seed: int = 0, progress: Progress = silent) -> list[Claim]:
    """The claims about branches on ``n`` unseen puzzles each of ``maze`` and ``pattern`` with several answers."""
    parts = []
    for name in ("maze", "pattern"):
        tell = prefixed(progress, name)
        n_steps = lens.plan().n_steps
        steps = sorted({round(part * n_steps) for part in FORKS})
        parts.append(branching(lens, several(name, n, seed), steps, progress=tell))
    return judge(parts)


def judge(parts: Sequence[xr.Dataset]) -> list[Claim]:
    """The verdicts on ``branching`` of several families over one set of steps."""
    found = xr.concat(parts, "puzzle", combine_attrs="drop_conflicts")
    early, late = found.isel(step=1), found.isel(step=-1)
    part = float(early["step"]) / found.attrs["n_steps"]
    curve = "; ".join(f"step {int(s)}: {text(found['differ'].sel(step=s))}" for s in found["step"])
    return [
        above_null(
            "Re-noised branches hold fewer different answers than fresh seeds do (2603.30043: 25 % and 68 %)",
            "share of pairs of fresh seeds whose answers differ", "share",
            (found["fresh_differ"], early["differ"]), f"branches forked at {part:.0%} of the schedule",
            f"fresh seeds minus branches, puzzle by puzzle: {text(found['fresh_differ'] - early['differ'])}. "
            f"Branches by step: {curve}",
        ),
        above_null(
            "An early step has not decided yet: its branches end in other answers",
            f"share of branches forked at {part:.0%} of the schedule with another answer than the run's", "share",
            (early["changed"], early["placebo_changed"]), "the run's own noise, sampler restarted",
        ),
        above_null(
            "The choice among answers is pruned along the steps, not made at once (Figs 1, 2)",
            f"share of branches forked at step {int(early['step'])} with another answer than the run's", "share",
            (early["changed"], late["changed"]), f"forked at step {int(late['step'])}",
        ),
    ]  # fmt: skip
