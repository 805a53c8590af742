"""Ensemble of latents (paper, training-free ensemble): does sharing hidden states between K seeds raise the score?

Every condition runs the same K seeds of a task in lock-step, as one batch, through all steps, so all cost the same
number of denoiser calls, which is counted and reported. Conditions:

    alone           the K seeds without sharing
    random of K     one of the videos of ``alone``, drawn at random
    best of K       the one of ``alone`` with the best score: an oracle, the ceiling at the same compute
    fresh seeds     K further seeds without sharing, read as their mean: the null. Its expected gain is zero
    noise mean      the initial noises averaged at unit variance: still plain noise
    velocity mean   the velocities averaged at the chosen steps: no layer is needed for it
    <mode> <layers> hidden states shared, for each mode (dit_lens.interventions.ensemble_modes) and window of layers

Two ways to read a condition (``reading``): ``one``, the video of the first seed, as in the paper; ``all``, the mean
over the K videos, which is the expected score of a random one. The gain of a condition is the paired difference to
``alone``, read the same way::

    gain(c) = mean over tasks of [ score(c, task) - score(alone, task) ],  averaged over repeats first

The seeds of ``alone`` are as good as any others, so that a condition which does nothing has an expected gain of zero:
that is what the p of sign flips is about, over the tasks, and corrected over the conditions that share. ``fresh seeds``
measures that zero on the same tasks, and how far luck alone carries it.

When not to use: where single seeds nearly always succeed and there is nothing to gain; use fewer sampling steps or
harder tasks. And a null at step 0 of many is expected of a model that sees its picture at every step.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from scipy.stats import t as student
from torch import Tensor

from dit_lens.address import ALL, Address, Call, Depth
from dit_lens.errors import MeasureError, TaskError
from dit_lens.interventions.ensemble import PAPER_WINDOW
from dit_lens.interventions.ensemble_modes import EnsembleMode, ensemble_mode, noise_mean
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.runner.options import split_options
from dit_lens.stats import max_statistic, mean_interval, paired
from dit_lens.wan.editing import Context, Edit, Intervention
from dit_lens.wan.expert import Hook
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

Scorer = Callable[[Run], float]
READINGS = ("one", "all")  # the first seed's video, as in the paper; the mean over all of them
MODES = ("lockstep", "cached", "alpha", "updates")
PLACEBO = "noise mean"
FRESH = "fresh seeds"  # the null: seeds that no condition has seen
FRESH_FROM = 1_000_000  # added to a member's seed
SCORERS: Mapping[str, Scorer] = {
    "value": lambda run: float(run.score.value),
    "solved": lambda run: float(run.score.solved),
}


def ensembles(
    lens: Lens,
    tasks: Sequence[Any],
    k: int = 3,
    modes: Sequence[str | EnsembleMode] = MODES,
    *,
    steps: Any = 0,
    layers: Any = PAPER_WINDOW,
    other_layers: Sequence[Any] = (Depth(0, 0.25), ALL),
    alpha: float = 0.5,
    rescale: bool = False,
    branches: Any = ALL,
    repeats: int = 1,
    scorers: Mapping[str, Scorer] | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Score every mode in every window of layers, and its controls at equal compute, on every task.

    Args:
        lens: The model.
        tasks: Two or more.
        k: Members.
        modes: Names, each taken in every window, or ready :func:`ensemble_mode` values.
        steps: Where they share (the first, as in the paper).
        layers: The window asked about.
        other_layers: Windows to compare with.
        alpha: See :func:`ensemble_mode`.
        rescale: See :func:`ensemble_mode`.
        branches: Where they share.
        repeats: Sets of K seeds per task; set r of task i has seeds from ``seed + (i repeats + r) k``.
        scorers: name -> function of a run; the first one picks the best of K. Without them scores lie in 0 to 1, and
            so do intervals.
        seed: The first noise seed.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        A Dataset over (kind, reading, metric), where kinds are the conditions: ``score`` with ``low``, ``high``, ``n``
        over tasks; paired ``gain``, ``gain_low``, ``gain_high`` to ``alone`` with ``gain_p`` against zero, and
        ``gain_p_corrected`` over the conditions that share (NaN for the others); the gain of fresh seeds (``null``,
        ``null_low``, ``null_high``); ``repeat_mean`` per repeat with a t interval over repeats (``repeat_low``,
        ``repeat_high``); ``calls`` (kind), denoiser calls per task and repeat, counted per row; ``raw`` per repeat
        (``draw``) and task. Fewer than five tasks have no interval.

    Raises:
        MeasureError: Fewer than two members, members that came out equal, and latents with NaN.
        TaskError: Tasks without a scorer.
        InterventionError: An unknown mode or alpha.
    """
    if k < 2:
        raise MeasureError(f"k={k}: an ensemble needs at least two members; the paper takes k=3")
    if repeats < 1 or len(tasks) < 2:
        raise MeasureError(
            f"{len(tasks)} tasks x {repeats} repeats give no interval: give at least two tasks and one repeat"
        )
    judges = SCORERS if scorers is None else scorers
    mute = [task for task in tasks if not hasattr(task, "score")] if scorers is None else []
    if mute or not judges:
        raise TaskError(
            f"{mute[:1] or 'scorers'} cannot score a video: use tasks with score(video), or pass "
            "scorers={'name': function of a run}"
        )
    where = {"steps": steps, "branches": branches, "rescale": rescale}
    planned = _planned(modes, (layers, *other_layers), {**where, "alpha": alpha})
    edits, twins, remarks = _conditions(lens, planned, ensemble_mode("velocity", steps=steps, branches=branches))
    names = ["alone", f"random of {k}", f"best of {k}", *(name for name in edits if name != "alone"), *twins, FRESH]

    def row(item: Item) -> xr.Dataset:
        def scored(draw: int) -> dict[str, Any]:
            number = item.index * repeats + draw
            members = [seed + number * k + m for m in range(k)]
            scores: dict[str, np.ndarray] = {}  # (metric, member)
            calls: dict[str, int] = {}
            for name, edit in edits.items():
                runs, calls[name] = _lockstep(item, members, edit)
                scores[name] = np.array([[judge(run) for run in runs] for judge in judges.values()])
            for name, same in twins.items():
                scores[name], calls[name] = scores[same], calls[same]
            alone = scores["alone"]
            rng = np.random.default_rng(seed)
            blind = [int(rng.integers(k)) for _ in range(number + 1)][-1]
            for name, pick in ((f"random of {k}", blind), (f"best of {k}", int(alone[0].argmax()))):
                scores[name], calls[name] = alone[:, [pick]], calls["alone"]
            fresh, calls[FRESH] = _lockstep(item, [FRESH_FROM + member for member in members], None)
            # Their mean in both readings: what a fresh seed is expected to score.
            scores[FRESH] = np.array([[np.mean([judge(run) for run in fresh])] for judge in judges.values()])
            read = [[scores[name][:, 0], scores[name].mean(1)] for name in names]  # the first member's, the mean
            return {
                "raw": (("kind", "reading", "metric"), np.array(read)),
                "calls": ("kind", [calls[name] for name in names]),
            }

        labels = {"kind": names, "reading": list(READINGS), "metric": list(judges)}
        return item.sites(scored, draw=range(repeats)).assign_coords(labels)

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=ensembles)
    cells = found["raw"].transpose("kind", "reading", "metric", "draw", "task")
    calls = [_one(name, set(found["calls"].sel(kind=name).values.ravel().tolist())) for name in names]
    table = _table(cells, (0.0, 1.0) if scorers is None else None).assign(calls=("kind", calls))
    table["calls"].attrs = {"long_name": "denoiser calls per task and repeat", "units": "calls of one row"}
    plan = lens.plan(split_options(options)[0])
    about = {
        "model": lens.name, "weights": lens.fingerprint, "k": k, "steps": str(steps), "alpha": alpha,
        "rescale": int(rescale), "branches": str(branches), "first_seed": seed, "placebo": PLACEBO, "null_name": FRESH,
        "num_inference_steps": plan.n_steps, "scheduler": plan.scheduler, "remarks": remarks,
    }  # fmt: skip
    return table.assign_attrs(about)


def _planned(modes: Sequence[str | EnsembleMode], windows: Sequence[Any], how: Mapping[str, Any]) -> list[EnsembleMode]:
    """Every mode by name in every window, and ready interventions as they are."""
    alpha = how["alpha"]
    planned = []
    for mode in modes:
        if isinstance(mode, EnsembleMode):
            planned.append(mode)
            continue
        for window in windows:
            share = alpha if mode == "alpha" else None
            planned.append(ensemble_mode(mode, layers=window, **{**how, "alpha": share}))
    if any(edit.sources for edit in planned):
        raise MeasureError(
            "a cached mean from sources= runs their calls once more, so it cannot be compared at equal compute: use "
            "mode='cached' without sources here"
        )
    return planned


def _conditions(
    lens: Lens, planned: Sequence[EnsembleMode], velocity: EnsembleMode
) -> tuple[dict[str, Intervention | None], dict[str, str], list[str]]:
    """Conditions to run, conditions that equal another one, and remarks on both."""
    edits: dict[str, Intervention | None] = {"alone": None, PLACEBO: noise_mean(), "velocity mean": velocity}
    twins: dict[str, str] = {}
    remarks: list[str] = []
    found: dict[Any, str] = {}
    for edit in planned:
        where, only = edit.where, edit.only_layer(lens.n_layers)
        chosen = where.layers_of(lens.n_layers)
        name = f"{edit.mode} {chosen[0]}-{chosen[-1]}" if len(chosen) > 1 else f"{edit.mode} {chosen[0]}"
        name = str(edit) if name in edits or name in twins else name
        remark = edit.remark(lens.n_layers)
        remarks += [remark] if remark and remark not in remarks else []
        what = (edit.mode, chosen) if only is None else ("mean at", only)
        key = (*what, edit.alpha, edit.rescale, where.steps, where.branches)
        if key in found:
            twins[name] = found[key]
            remarks.append(f"{name} and {found[key]} are the same mean at layer {only}: run once, shown twice")
        else:
            edits[name], found[key] = edit, name
    return edits, twins, remarks


def _lockstep(item: Item, members: Sequence[int], edit: Intervention | None) -> tuple[list[Run], int]:
    """The runs of one condition, one per member, and the denoiser calls that they took."""
    meter = CallMeter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(lockstep|cached) mean over")  # it is in the result's remarks
        runs = item.generate(seed=members, interventions=[meter] if edit is None else [edit, meter])
    check_members(runs)
    return runs, meter.rows


def check_members(runs: Sequence[Run]) -> None:
    """Check that the members are finite and differ.

    Raises:
        MeasureError: A member has NaN, or two members are equal.
    """
    for i, run in enumerate(runs):
        if not torch.isfinite(run.final).all():
            raise MeasureError(
                f"the member with seed {run.seed} holds NaN or infinity, so the mean of the members would too: check "
                "the model's dtype, and the run with stop_after"
            )
        for other in runs[:i]:
            if torch.equal(run.final, other.final):
                raise MeasureError(
                    f"the members with seeds {other.seed} and {run.seed} came out equal, so they are one member: give "
                    "different seeds, and check that the pipeline uses them"
                )


class CallMeter:
    """An intervention that counts denoiser calls row by row, and changes nothing."""

    def __init__(self) -> None:
        self.rows = 0

    def bind(self, context: Context) -> Edit:
        """Prepare the counter for one generation."""
        return _Meter(self)


class _Meter(Edit):
    def __init__(self, meter: CallMeter) -> None:
        super().__init__("call_meter()")
        self.meter = meter

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        def count(x: Tensor, hook: Any) -> None:
            self.meter.rows += len(x)
            self.fired[Address(call.step, call.branch, -1, "velocity")] += 1

        return [("hook_velocity", count)]


def _one(name: str, counts: set[int]) -> int:
    if len(counts) != 1:
        raise MeasureError(f"{name}: tasks took different numbers of calls, {sorted(counts)}: run them separately")
    return counts.pop()


def _table(cells: xr.DataArray, bounds: tuple[float, float] | None = None) -> xr.Dataset:
    each = cells.mean("draw")  # repeats of a task are averaged first: the task is the unit
    alone = each.sel(kind="alone", drop=True).broadcast_like(each)
    whole, gain = mean_interval(each, bounds=bounds), paired(each, alone, bounds=bounds)
    found = {"score": whole["value"], "low": whole["low"], "high": whole["high"], "n": whole["n"]}
    found |= {"gain": gain["value"], "gain_low": gain["low"], "gain_high": gain["high"], "gain_p": gain["p"]}
    found["gain_p_corrected"] = _corrected(each, alone)
    null = gain.sel(kind=FRESH, drop=True)
    found |= {"null": null["value"], "null_low": null["low"], "null_high": null["high"]}
    by_repeat = cells.mean("task")
    r = by_repeat.sizes["draw"]
    # Few repeats: Student's t. One repeat has no interval (ppf with no degree of freedom is NaN).
    half = by_repeat.std("draw", ddof=1 if r > 1 else 0) * student.ppf(0.975, r - 1) / np.sqrt(r)
    found |= {"repeat_mean": by_repeat, "repeat_low": by_repeat.mean("draw") - half}
    found |= {"repeat_high": by_repeat.mean("draw") + half, "raw": cells}
    found["score"].attrs = {"long_name": "score", "units": "0 to 1"}
    found["gain"].attrs = {"long_name": "score above the same seeds alone", "units": "paired difference"}
    return xr.Dataset(found)


def _corrected(each: xr.DataArray, alone: xr.DataArray) -> xr.DataArray:
    """Corrected p of the gain over the conditions that share, by reading and metric; NaN for the others."""
    out = xr.full_like(each.isel(task=0, drop=True), np.nan)
    rest = ("alone", "random of ", "best of ", PLACEBO, FRESH)
    shared = [kind for kind in each["kind"].values if not str(kind).startswith(rest)]
    for place in itertools.product(each["reading"].values, each["metric"].values) if shared else ():
        at = {"kind": shared, **dict(zip(("reading", "metric"), place, strict=True))}
        out.loc[at] = max_statistic(each.sel(at), alone.sel(at))["p_corrected"]
    return out
