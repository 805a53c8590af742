"""Claims about steps: what each step's x0_hat holds (paper, section 3, Figs 1 and 2; 2603.30043)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.errors import MeasureError
from dit_lens.experiments.chain_of_steps import COMMITTED, chain_of_steps
from dit_lens.measures.candidates import pool
from dit_lens.progress import Progress, prefixed, silent
from dit_lens.replication.row import ABOVE_NULL, HALF_UP, SHARE, SMALLEST, Measured, Reading, Row, above, text
from dit_lens.stats.intervals import by_task
from dit_lens.wan.lens import Lens

EARLY = 0.125  # of the schedule: where the related work reads its commitment (step 5 of 40)
by_puzzle = partial(by_task, over=("task", "seed"))
_READ = ["motion", "fewest", "share", "wrong", "kind", "together", "leads", "solutions", "decoys"]


def measured(lens: Lens, n: int = 20, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the first task.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        ``films``, two noise seeds a task; the kinds of planted ``sharp`` and ``mixed`` videos.
    """
    parts = []
    for name in puzzles.names():
        tell = prefixed(progress, name)
        parts.append(chain_of_steps(lens, puzzles.batch(name, n, seed), (0, 1), progress=tell))
    sharp, mixed = planted(puzzles.batch(("maze", "choose", "pattern"), 3 * n, seed))
    films = xr.concat([part[_READ] for part in parts], "task", combine_attrs="drop")
    return {"films": films, "sharp": sharp, "mixed": mixed}


def planted(tasks: Sequence[Any]) -> tuple[list[str], list[str]]:
    """What the criterion calls videos whose kind is known, rendered from tasks with several right answers.

    Args:
        tasks: Tasks; those with one right answer, or more than 60, are left out.

    Returns:
        Kinds of a sharp right answer, and of an even mixture of all of them.
    """
    sharp, mixed = [], []
    for task in (t for t in tasks if 1 < len(t.solutions) <= 60):
        reader = pool(task)
        videos = [task.render(answer) / 255 for answer in task.solutions]
        sharp.append(reader.read(videos[0]).kind)
        mixed.append(reader.read(np.mean(videos, 0)).kind)
    return sharp, mixed


def _films(m: Measured) -> tuple[xr.Dataset, xr.Dataset, int]:
    """Tasks with several right answers, with one, and the early step."""
    films = m["films"]
    several = films.isel(task=np.flatnonzero(films["solutions"] > 1))
    only = films.isel(task=np.flatnonzero(films["solutions"] == 1))
    if not (several.sizes["task"] and only.sizes["task"]):
        raise MeasureError(
            f"{several.sizes['task']} puzzles have several right answers and {only.sizes['task']} have one: the "
            "claims need both, so raise n"
        )
    return several, only, int(EARLY * films.sizes["step"])


def _motion(m: Measured) -> Reading:
    early = _films(m)[2]
    motion = by_puzzle(m["films"]["motion"].isel(step=early))
    other = f"with the same puzzle's end at another seed: {text(motion.sel(reference='other seed'))}"
    words = {"early": early, "steps": m["films"].sizes["step"]}
    return Reading(motion.sel(reference="final"), motion.sel(reference="other task"), other, words)


def _choice(m: Measured) -> Reading:
    several, _, early = _films(m)
    leads = by_puzzle(several["leads"].isel(step=early))
    return Reading(leads.sel(reference="final"), leads.sel(reference="other seed"), words={"early": early})


def _several(m: Measured) -> Reading:
    films = _films(m)[0]
    two = by_puzzle(films["fewest"] >= 2).isel(step=0)
    return Reading(two, by_puzzle((films["wrong"] >= 2).where(films["decoys"] >= 2)).isel(step=0))


def _pruned(m: Measured) -> Reading:
    two = by_puzzle(_films(m)[0]["fewest"] >= 2)
    return Reading(two.isel(step=0), two.isel(step=-1))


def _multi_path(m: Measured) -> Reading:
    films = _films(m)[0]
    shared = by_puzzle(films["together"].isel(step=0))
    remark = (
        f"summed contrast of the two strongest answers at step 0: {text(shared)}; a mixture has at most 1, side by "
        "side is 2"
    )
    found = by_puzzle((films["kind"] == "multi-path").any("step"))
    return Reading(found, _share(m["mixed"], "multi-path"), remark, paired=False)


def _superposition(m: Measured) -> Reading:
    found = by_puzzle((_films(m)[0]["kind"] == "superposition").isel(step=0))
    return Reading(found, _share(m["sharp"], "superposition"), paired=False)


def _unfolds(m: Measured) -> Reading:
    missing = by_puzzle(_films(m)[1]["share"] == 0)
    return Reading(
        missing.isel(step=0),
        missing.isel(step=-1),
        "where there is nothing to choose, what the first step lacks is what later steps must add",
    )


def _share(found: Sequence[str], kind: str) -> xr.DataArray:
    return xr.DataArray([float(one == kind) for one in found], dims="task")


ROWS = (
    Row(
        "chain/motion",
        "The motion is settled within the first 10-15 % of the schedule (2603.30043: cosine .93)",
        "cosine of motion energy with the own end, at step {early} of {steps}",
        "cosine", "with another puzzle's end", _motion, above(COMMITTED),
        smallest=SMALLEST["correlation"], within=(COMMITTED, math.inf),
    ),
    Row(
        "chain/choice",
        "The choice among answers is made within the first 10-15 % of the schedule (2603.30043)",
        "share of runs whose best shown answer at step {early} is the final one, puzzles with several",
        "share", "it is the final one of the other seed", _choice, above(COMMITTED),
        smallest=SMALLEST["share"], within=(COMMITTED, math.inf), bounds=SHARE,
    ),
    Row(
        "chain/several",
        "Early steps hold several candidate answers (Figs 1, 2)",
        "share of runs with at least two right answers visible at step 0, puzzles with several",
        "share", "at least two wrong answers visible", _several, ABOVE_NULL,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "chain/pruned",
        "Later steps prune the candidates to one (Figs 1, 2)",
        "share of runs with at least two right answers visible at step 0, puzzles with several",
        "share", "the same at the last step", _pruned, ABOVE_NULL,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "chain/multi-path",
        "Multi-path: several discrete answers stand side by side (Fig. 1)",
        "share of runs that at any step show more than a mixture can hold, puzzles with several",
        "share", "the same verdict on planted even mixtures", _multi_path, ABOVE_NULL,
        smallest=SMALLEST["share"], zero_null=True, bounds=SHARE,
    ),
    Row(
        "chain/superposition",
        "Superposition: early steps blur several answers into one mixture (Fig. 2)",
        "share of runs whose two strongest answers share one contrast at step 0, puzzles with several",
        "share", "the same verdict on planted sharp answers", _superposition, ABOVE_NULL,
        smallest=SMALLEST["share"], zero_null=True, bounds=SHARE,
    ),
    Row(
        "chain/unfolds",
        "Reasoning unfolds along the steps: the answer is not there at first",
        "share of runs in which the only right answer is not visible at step 0, puzzles with one",
        "share", "the same at the last step", _unfolds, above(0.5),
        smallest=SMALLEST["share"], within=HALF_UP, bounds=SHARE,
    ),
)  # fmt: skip
