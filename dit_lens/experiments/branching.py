"""Branching: fork a run at step k with fresh noise at that sigma, and count the answers of the branches.

x_k' = (1 - sigma_k) x0_hat_k + sigma_k eps' (:mod:`dit_lens.interventions.renoise`), then the sampler continues. While
the branches still end in different answers, step k had not decided; once they all agree, it had. The two references
are the same numbers over as many fresh seeds (nothing decided; equal to a fork at step 0), and the placebo: the run's
own noise, which only resets a multistep sampler's memory (everything decided).

    found = branching(lens, several("maze", 20), steps=(1, 4, 8, 12, 16), n=3)
    dit_lens.stats.paired(found["fresh_differ"], found["differ"].sel(step=4), bounds=(0, 1))

Every task has noise of its own (:func:`dit_lens.runner.noise_seed`): the run, its branches and the fresh runs.

2603.30043 reports at most 25 % diversity of trajectories for re-noised branches and 68 % for fresh seeds.

When not to use: on tasks with one answer, where branches can only fail; and for the content of x0_hat at a step: what a
state shows best and what its branches end in are different questions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.address import indices
from dit_lens.errors import MeasureError
from dit_lens.interventions.renoise import renoise, repeats
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run


def fork(lens: Lens, run: Run, step: int, seeds: Sequence[int | None]) -> list[Run]:
    """Branches of a run at a step.

    Cost: the steps from ``step`` on, for each branch.

    Args:
        lens: The model.
        run: The run.
        step: Where it is forked.
        seeds: Seeds of the fresh noise (None: its own noise, the placebo).

    Returns:
        One run per seed.

    Raises:
        AddressError: A step that the run did not do.
    """
    return [lens.generate(resume=run.until(step), interventions=renoise(run, step, seed)) for seed in seeds]


def _seeds(run: Run, step: int, n: int, seed_of: Callable[[int], int]) -> list[int]:
    """``seed_of`` of the first ``n`` numbers whose noise is not the one that the run started from."""
    return list(itertools.islice((s for s in map(seed_of, itertools.count()) if not repeats(run, step, s)), n))


def several(name: str, n: int, seed: int = 0, answers: int = 2) -> list[Any]:
    """The first unseen tasks of a family that have several right answers.

    Args:
        name: The family.
        n: How many tasks.
        seed: The first seed.
        answers: Least number of right answers.

    Returns:
        The tasks.

    Raises:
        MeasureError: The family has too few such tasks.
    """
    many = (puzzles.load(name, s) for s in range(seed, seed + 100 + 50 * n))
    found = list(itertools.islice((task for task in many if len(task.solutions) >= answers), n))
    if len(found) < n:
        raise MeasureError(
            f"{len(found)} of {n} {name!r} tasks with {answers} or more right answers found: branching needs a "
            "choice; use 'maze', 'choose' or 'pattern', or fewer answers"
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """Answers of ``n`` branches at each of ``steps``, of ``n`` fresh seeds, and of the placebo.

    Args:
        lens: The model.
        tasks: With an ``answer(video)``, and several right answers.
        steps: Where the run is forked.
        n: Branches at each step.
        seed: Of the run that is forked; the fresh runs have the next ones. Each task has its own noise under a seed
            (:func:`dit_lens.runner.noise_seed`), and so have its branches.
        placebo: Also continue from each step with the run's own noise.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        Per (task, step), and with the prefix ``fresh_`` per (task): ``distinct``, the number of different answers over
        the number of answers (at least 1 / n); ``differ``, the share of pairs whose answers differ, which does not
        depend on n; ``changed``, the share of answers other than the forked run's; ``answered``, the share of branches
        that give an answer at all, on which the others are computed; ``solved``; ``placebo_changed`` (task, step);
        and ``noise_seed`` (task), of the run that is forked. NaN where there are too few answers.

    Raises:
        MeasureError: Fewer than two branches, or tasks without answers.
        AddressError: Steps outside the plan.
    """
    if n < 2:
        raise MeasureError(f"n={n}: differences between branches need at least two of them")
    if not len(tasks):
        raise MeasureError("no tasks: give some, e.g. several('maze', 20)")
    for task in tasks:
        if not hasattr(task, "answer"):
            raise MeasureError(
                f"{task!r} reads no answers: branching needs a task with answer(video), see dit_lens.tasks"
            )

    def row(item: Item) -> xr.Dataset:
        base = item.clean(seed=item.noise_seed(seed))
        own = item.task.answer(base.video)

        def forked(step: int) -> dict[str, float]:
            found = counted(own, fork(item.lens, base, step, _seeds(base, step, n, item.noise_seed)))
            if placebo:
                found["placebo_changed"] = counted(own, fork(item.lens, base, step, [None]))["changed"]
            return found

        found = item.sites(forked, step=indices(steps, base.n_steps, "step", "a plan"))
        fresh = counted(own, [item.generate(seed=item.noise_seed(seed + 1 + j)) for j in range(n)])
        return found.assign({f"fresh_{name}": value for name, value in fresh.items()} | {"noise_seed": base.seed})

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=branching)
    found["step"].attrs = {"long_name": "step of the fork"}
    for name, what in LABELS.items():
        for full in (name, f"fresh_{name}", f"placebo_{name}"):
            if full in found:
                found[full].attrs = {"long_name": what, "units": "share"}
    return found.assign_attrs(n=n)


LABELS = MappingProxyType(
    {
        "distinct": "different answers / answers",
        "differ": "pairs that differ in their answer",
        "changed": "answers other than the forked run's",
        "answered": "branches that give an answer",
        "solved": "branches that solve the task",
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
