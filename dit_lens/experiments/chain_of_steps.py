"""Chain of Steps: what each step's x0_hat holds, over tasks and seeds (paper, section 3, Figs 1 and 2; 2603.30043).

For every run: the commitment curves of :mod:`dit_lens.measures.commitment`, against the run's own end, the end of the
same task at another seed, and the end of another task; the candidates of :mod:`dit_lens.measures.candidates` beside
wrong answers; whether the answer shown best is already the final one (``leads``); and all of it again for the ideal
denoiser at the same states, with the excess of the network over it (:mod:`dit_lens.measures.excess`).

    found = chain_of_steps(lens, dit_lens.tasks.batch("maze", 20), seeds=(0, 1))
    stats.mean_interval(found["motion"], over=("task", "seed"))     # value, low, high, n: seeds averaged, over tasks
    stats.paired(found["fewest"], found["ideal_fewest"], over=("task", "seed"))     # excess over the ideal denoiser

*Settled* motion is read against ``other seed``: the same task, so that what the scene alone determines is in both.
Against another task it only says that tasks differ.

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
from dit_lens.measures.excess import excess
from dit_lens.measures.ideal_denoiser import MOST, IdealDenoiser, ideal_denoiser
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
        seeds: Each task has its own noise under each of these (:func:`dit_lens.runner.noise_seed`).
        at_least: The cosine that counts as committed.
        frames: Pixel frames where answers are visible.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``answer``, ``motion`` (task, seed, reference, step), ``content`` (..., region), ``readable`` (task, seed,
        step); ``commit_answer``, ``commit_motion`` (task, seed), ``commit_content`` (task, seed, region): steps, NaN
        where never; ``solved``; ``revised``: whether a step shows a readable answer that is not the final one. For
        tasks that can draw their answers also the variables of ``candidates`` (task, seed, step), ``leads`` (task,
        seed, reference, step): whether the answer shown best is the one that the run ends in, NaN for ends that are no
        right answer; ``solutions``, ``decoys`` (task): how many there are; the variables of ``excess`` (..., step);
        ``ideal_answer``, ``ideal_motion``, ``ideal_leads`` (..., reference, step): the same for the ideal denoiser; and
        ``ideal_likeliest``, whether its largest weight is on the end's answer. (Where routes cross, the answer shown
        best need not be the likeliest.)
        ``noise_seed`` (task, seed): what the noise was drawn with.

    Raises:
        MeasureError: Fewer than two tasks, or no seed.
    """
    if len(tasks) < 2 or not seeds:
        raise MeasureError(
            "a chain of steps is compared with another task's end: give at least two tasks, e.g. "
            "dit_lens.tasks.batch('maze', 20), and at least one seed"
        )

    def row(item: Item) -> xr.Dataset:
        runs = [item.clean(seed=item.noise_seed(seed)) for seed in seeds]
        nulls = _denoisers(item)
        each = []
        for j, run in enumerate(runs):
            against = {"other seed": runs[(j + 1) % len(runs)]} if len(runs) > 1 else {}
            other = item.clean(1, seed=item.noise_seed(seeds[j], 1))
            each.append(_one(run, {**against, "other task": other}, nulls, at_least, frames))
        joined = xr.concat(each, "seed", combine_attrs="drop_conflicts").assign_coords(seed=list(seeds))
        same = [name for name in ("solutions", "decoys") if name in joined]
        return joined.assign({name: joined[name].isel(seed=0) for name in same})

    found = over_tasks(lens, tasks, row, options=options, of=chain_of_steps)
    return found.assign_attrs(at_least=at_least)


def _denoisers(item: Item) -> tuple[IdealDenoiser, IdealDenoiser] | None:
    """The ideal denoiser of a task, and one that does not know right answers from wrong ones."""
    task = item.task
    if not _draws(task) or len(task.solutions) > MOST:
        return None
    wrong = task.decoys(min(len(task.solutions), 20)) if hasattr(task, "decoys") else ()
    ideal = ideal_denoiser(task, item.lens)
    return ideal, ideal_denoiser(task, item.lens, answers=(*task.solutions, *wrong)) if wrong else ideal


def _draws(task: Any) -> bool:
    return all(hasattr(task, name) for name in ("solutions", "render", "first_frame"))


def _one(
    run: Run,
    against: Mapping[str, Run],
    nulls: tuple[IdealDenoiser, IdealDenoiser] | None,
    at_least: float,
    frames: Sequence[int],
) -> xr.Dataset:
    film = run.film() if _draws(run.task) else None  # of a large video only where it is read more than once
    curves = commitment(run, against, film=film)
    own = curves.sel(reference="final", drop=True)
    found = curves.assign(
        commit_answer=commit_step(own["answer"], 1.0),
        commit_motion=commit_step(own["motion"], at_least),
        commit_content=commit_step(own["content"], at_least),
        revised=((own["readable"] == 1) & (own["answer"] == 0)).any("step").astype(float),
        noise_seed=run.seed,
    )
    if hasattr(run.task, "score"):
        found["solved"] = float(run.score.solved)
    if film is None:
        return found
    alive = candidates(run, film=film, frames=frames)
    ends = [_place(run.task, end) for end in (run, *against.values())]
    found = found.assign(alive.data_vars).assign(
        leads=_leads(alive["strongest"], ends), solutions=alive.attrs["solutions"], decoys=alive.attrs["decoys"]
    )
    if nulls is None:
        return found
    ideal, blind = nulls
    best = ideal.film(run)
    of_ideal = commitment(run, against, film=best)
    beyond = excess(run, ideal, blind, shown=alive, film=film, ideal_film=best, frames=frames)
    return found.assign(beyond.data_vars).assign(
        ideal_answer=of_ideal["answer"],
        ideal_motion=of_ideal["motion"],
        ideal_leads=_leads(beyond["ideal_strongest"], ends),
        ideal_likeliest=_leads(beyond["ideal_weight"].argmax("candidate"), ends),
    )


def _leads(strongest: xr.DataArray, ends: Sequence[int]) -> tuple[Any, ...]:
    """Whether the answer shown best is that of each end, (reference, step); NaN for ends that are no right answer."""
    same = [[float(s == end) if end >= 0 else np.nan for s in strongest.values] for end in ends]
    return ("reference", "step"), same, {"long_name": "shown best is the end's answer", "units": "share"}


def _place(task: Any, end: Run) -> int:
    """Index of a run's final answer among the right ones; -1 for none of them."""
    answer = task.answer(end.video)
    return task.solutions.index(answer) if answer in task.solutions else -1
