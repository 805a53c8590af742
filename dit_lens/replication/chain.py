"""Claims about steps: what each step's x0_hat holds (paper, section 3, Figs 1 and 2; 2603.30043).

The null of what x0_hat shows is the ideal denoiser at the same states (:mod:`dit_lens.measures.ideal_denoiser`): an
average over the right answers, which does no reasoning. What it shows as well is "shown, and the placebo shows it too".
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.errors import MeasureError
from dit_lens.experiments.chain_of_steps import COMMITTED, chain_of_steps
from dit_lens.progress import Progress, prefixed, silent
from dit_lens.replication.row import DIFFERENCE, HALF_UP, SHARE, SMALLEST, Measured, Reading, Row, text
from dit_lens.stats.intervals import by_task
from dit_lens.wan.lens import Lens

EARLY = 0.125  # of the schedule: where the related work reads its commitment (step 5 of 40)
_by_task = partial(by_task, over=("task", "seed"))
_BOTH = ("motion", "fewest", "share", "kind", "together", "bound", "leads")  # of the network, and of the ideal denoiser
_READ = [*_BOTH, *(f"ideal_{name}" for name in _BOTH)]
_READ += ["ideal_likeliest", "wrong", "support", "blind_support", "apart", "agree", "solutions", "decoys"]


def measured(lens: Lens, n: int = 20, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the first task.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        ``films``, two noise seeds a task.
    """
    parts = []
    for name in puzzles.names():
        tell = prefixed(progress, name)
        parts.append(chain_of_steps(lens, puzzles.batch(name, n, seed), (0, 1), progress=tell))
    return {"films": xr.concat([part[_READ] for part in parts], "task", combine_attrs="drop")}


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
    motion, ideal = (_by_task(m["films"][name].isel(step=early)) for name in ("motion", "ideal_motion"))
    remark = (
        "with another puzzle's end, which tells puzzles apart: "
        f"{text(motion.sel(reference='other task'), DIFFERENCE)}; the ideal denoiser "
        f"with the own end: {text(ideal.sel(reference='final'), DIFFERENCE)}"
    )
    words = {"early": early, "steps": m["films"].sizes["step"]}
    return Reading(motion.sel(reference="final"), motion.sel(reference="other seed"), remark, words)


def _choice(m: Measured) -> Reading:
    several, _, early = _films(m)
    leads, ideal, likeliest = (_by_task(several[name]) for name in ("leads", "ideal_leads", "ideal_likeliest"))
    first = likeliest.sel(reference="final").isel(step=0)
    other = leads.sel(reference="other seed").isel(step=early)
    remark = (
        f"it is the final one of the other seed: {text(other, SHARE)}; the answer that the ideal denoiser finds "
        f"likeliest at step 0 is the final one: {text(first, SHARE)}; network and ideal show the same one best: "
        f"{text(_by_task(several['agree'].isel(step=early)), SHARE)}"
    )
    leads, ideal = (one.sel(reference="final").isel(step=early) for one in (leads, ideal))
    return Reading(leads, ideal, remark, {"early": early})


def _several(m: Measured) -> Reading:
    films = _films(m)[0].isel(step=0)
    wrong = _by_task((films["wrong"] >= 2).where(films["decoys"] >= 2))
    remark = (
        f"at least two wrong answers visible: {text(wrong, SHARE)}; total variation between network and ideal: "
        f"{text(_by_task(films['apart']), SHARE)}"
    )
    return Reading(_by_task(films["fewest"] >= 2), _by_task(films["ideal_fewest"] >= 2), remark)


def _support(m: Measured) -> Reading:
    films = m["films"].isel(step=0)
    return Reading(_by_task(films["support"]), _by_task(films["blind_support"]))


def _pruned(m: Measured) -> Reading:
    films = _films(m)[0]
    arms = [_by_task(films[name] >= 2) for name in ("fewest", "ideal_fewest")]
    ends = "; ".join(
        f"{who} {text(arm.isel(step=0), SHARE)} to {text(arm.isel(step=-1), SHARE)}"
        for who, arm in zip(("network", "ideal"), arms, strict=True)
    )
    fewer, ideal = (arm.isel(step=0) - arm.isel(step=-1) for arm in arms)
    return Reading(fewer, ideal, ends)


def _kind(m: Measured, kind: str) -> Reading:
    films = _films(m)[0]
    found, ideal = (_by_task((films[name] == kind).any("step")) for name in ("kind", "ideal_kind"))
    return Reading(found, ideal)


def _beyond(m: Measured) -> Reading:
    """From half-way between the bound of mixtures and two full drawings.

    The bound is of mixtures of pictures. Where the decoder is not linear an average of latents may exceed it, and the
    ideal denoiser, which is one, shows how often: the null is then not zero.
    """
    films = _films(m)[0]
    more, ideal = (
        _by_task((films[f"{who}together"] >= (films[f"{who}bound"] + 2) / 2).any("step")) for who in ("", "ideal_")
    )
    shared = _by_task(films["together"].isel(step=0))
    return Reading(more, ideal, f"summed contrast of the two strongest answers at step 0: {text(shared, None)}")


def _unfolds(m: Measured) -> Reading:
    missing, ideal = (_by_task(_films(m)[1][name] == 0) for name in ("share", "ideal_share"))
    return Reading(missing.isel(step=0), ideal.isel(step=0), f"at the last step: {text(missing.isel(step=-1), SHARE)}")


_IDEAL = "an average over the right answers (ideal denoiser)"
ROWS = (
    Row(
        "chain/motion",
        "The motion is settled within the first 10-15 % of the schedule (2603.30043: cosine .93)",
        "cosine of motion energy with the own end, at step {early} of {steps}",
        "cosine", "with the same puzzle's end at another seed", _motion,
        smallest=SMALLEST["correlation"], within=(COMMITTED, math.inf),
    ),
    Row(
        "chain/choice",
        "The choice among answers is made within the first 10-15 % of the schedule (2603.30043)",
        "share of runs whose best shown answer at step {early} is the final one, puzzles with several",
        "share", _IDEAL, _choice,
        smallest=SMALLEST["share"], within=(COMMITTED, math.inf), nothing=0.5, bounds=SHARE,
    ),
    Row(
        "chain/several",
        "Early steps hold several candidate answers (Figs 1, 2)",
        "share of runs with at least two right answers visible at step 0, puzzles with several",
        "share", _IDEAL, _several,
        smallest=SMALLEST["share"], nothing=0.0, bounds=SHARE,
    ),
    Row(
        "chain/support",
        "The candidates of early steps are plausible ones (Figs 1, 2)",
        "share of what x0_hat shows at step 0 that right answers show, beside wrong ones",
        "share", "an average over right and wrong answers, which knows only the state", _support,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    Row(
        "chain/pruned",
        "Later steps prune the candidates to one (Figs 1, 2)",
        "share of runs with at least two right answers visible at step 0 minus at the last step, puzzles with several",
        "share", _IDEAL, _pruned,
        smallest=SMALLEST["share"], nothing=0.0, bounds=DIFFERENCE,
    ),
    Row(
        "chain/multi-path",
        "Multi-path: several discrete answers stand side by side (Fig. 1)",
        "share of runs that at any step show several answers at separate places, puzzles with several",
        "share", _IDEAL, partial(_kind, kind="multi-path"),
        smallest=SMALLEST["share"], nothing=0.0, bounds=SHARE,
    ),
    Row(
        "chain/superposition",
        "Superposition: early steps blur several answers into one mixture (Fig. 2)",
        "share of runs that at any step show several answers on top of each other, puzzles with several",
        "share", _IDEAL, partial(_kind, kind="superposition"),
        smallest=SMALLEST["share"], nothing=0.0, bounds=SHARE,
    ),
    Row(
        "chain/beyond",
        "Candidates are explored in parallel, each of them drawn, and not only undecided (Figs 1, 2)",
        "share of runs that at any step show more of two answers than any average can hold, puzzles with several",
        "share", _IDEAL, _beyond,
        smallest=SMALLEST["share"], zero_null=True, bounds=SHARE,
    ),
    Row(
        "chain/unfolds",
        "Reasoning unfolds along the steps: the answer is not there at first",
        "share of runs in which the only right answer is not visible at step 0, puzzles with one",
        "share", _IDEAL, _unfolds,
        smallest=SMALLEST["share"], zero_null=True, within=HALF_UP, bounds=SHARE,
    ),
)  # fmt: skip
