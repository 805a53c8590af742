"""Chain of Steps: what each step's x0_hat holds, over tasks and seeds (paper, section 3, Figs 1 and 2; 2603.30043).

For every run: the commitment curves of :mod:`dit_lens.measures.commitment`, against the run's own end, the end of the
same task at another seed, and the end of another task; the candidates of :mod:`dit_lens.measures.candidates` beside
wrong answers; and whether the answer shown best is already the final one (``leads``).

    found = chain_of_steps(lens, dit_lens.tasks.batch("maze", 20), seeds=(0, 1))
    mean_interval(found["motion"], over=("task", "seed"))          # value, low, high, n: seeds averaged, over tasks
    mean_interval(found["commit_motion"], over=("task", "seed"))   # the commit step with its interval

When not to use: on one task, which gives no interval; look at its film with ``dit_lens.figures``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import candidates
from dit_lens.measures.commitment import commit_step, commitment
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

#: The cosine from which a curve counts as committed.
COMMITTED = 0.9


def chain_of_steps(
    lens: Lens,
    tasks: Sequence[Any],
    seeds: Sequence[int] = (0, 1),
    *,
    at_least: float = COMMITTED,
    frames: Sequence[int] = (-1,),
    **options: Unpack[Options],
) -> xr.Dataset:
    """Commitment and candidates at every step, over tasks and seeds.

    Args:
        lens: The model.
        tasks: At least two, of one family and size; the null ``other task`` is the end of the next one at the same
            seed, ``other seed`` the same task's end at the next seed.
        seeds: Noise seeds, the same for every task.
        at_least: The cosine that counts as committed.
        frames: Pixel frames where answers are visible.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``answer``, ``motion`` (task, seed, reference, step), ``content`` (..., region), ``readable`` (task, seed,
        step); ``commit_answer``, ``commit_motion`` (task, seed), ``commit_content`` (task, seed, region): steps, NaN
        where never; ``solved``; ``revised``: whether a step shows a readable answer that is not the final one. For
        tasks that can draw their answers also the variables of ``candidates`` (task, seed, step), ``leads`` (task,
        seed, reference, step): whether the answer shown best is the one that the run ends in, NaN for ends that are no
        right answer, and ``solutions``, ``decoys`` (task): how many there are.

    Raises:
        MeasureError: Fewer than two tasks, or no seed.
    """
    if len(tasks) < 2 or not seeds:
        raise MeasureError(
            "a chain of steps is compared with another task's end: give at least two tasks, e.g. "
            "dit_lens.tasks.batch('maze', 20), and at least one seed"
        )

    def row(item: Item) -> xr.Dataset:
        runs = [item.clean(seed=seed) for seed in seeds]
        each = []
        for j, run in enumerate(runs):
            against = {"other seed": runs[(j + 1) % len(runs)]} if len(runs) > 1 else {}
            other = item.clean(1, seed=seeds[j])
            each.append(_one(run, {**against, "other task": other}, at_least, frames))
        joined = xr.concat(each, "seed", combine_attrs="drop_conflicts").assign_coords(seed=list(seeds))
        same = [name for name in ("solutions", "decoys") if name in joined]
        return joined.assign({name: joined[name].isel(seed=0) for name in same})

    found = over_tasks(lens, tasks, row, options=options, of=chain_of_steps)
    return found.assign_attrs(at_least=at_least)


def _one(run: Run, against: Mapping[str, Run], at_least: float, frames: Sequence[int]) -> xr.Dataset:
    curves = commitment(run, against)
    own = curves.sel(reference="final", drop=True)
    found = curves.assign(
        commit_answer=commit_step(own["answer"], 1.0),
        commit_motion=commit_step(own["motion"], at_least),
        commit_content=commit_step(own["content"], at_least),
        revised=((own["readable"] == 1) & (own["answer"] == 0)).any("step").astype(float),
    )
    if hasattr(run.task, "score"):
        found["solved"] = float(run.score.solved)
    if all(hasattr(run.task, name) for name in ("solutions", "render", "first_frame")):
        alive = candidates(run, frames=frames)
        ends = [_place(run.task, end) for end in (run, *against.values())]
        leads = [[float(s == end) if end >= 0 else np.nan for s in alive["strongest"].values] for end in ends]
        found = found.assign(alive.data_vars).assign(
            leads=(("reference", "step"), leads, {"long_name": "shown best is the end's answer", "units": "share"}),
            solutions=alive.attrs["solutions"],
            decoys=alive.attrs["decoys"],
        )
    return found


def _place(task: Any, end: Run) -> int:
    """Index of a run's final answer among the right ones; -1 for none of them."""
    answer = task.answer(end.video)
    return task.solutions.index(answer) if answer in task.solutions else -1
