"""What each layer does: the evidence by layer, a control model, and the cut into early, middle and late.

For every layer l of every expert, averaged over chosen steps, of the cond branch:

    attention   log2 of (attention of all tokens to the foreground / its size) - the same of random masks
    writing     log2 of (|update| on the foreground / elsewhere) - the same of random masks
    effect      x0_hat moved towards another answer by that answer's update - the same of the placebo
    readout     cosine(v_l, v) - cosine(v_{l-1}, v), layer lens without translator

and, where probes were fitted (on other tasks; :mod:`dit_lens.layer_map.decodability`),

    scene       gain in decodability of what stands in the first picture: walls, goals
    choice      gain in decodability of what the model decides: its path, which of several routes

All are what the layer itself adds, so that neighbours are not alike by construction. The words have no other meaning
here: a layer *perceives* as far as it makes the scene more decodable (without probes: as far as it attends to the
things in the scene more than to as many random tokens); it *decides* as far as its update, taken from a run with
another answer, moves x0_hat towards that answer; it *consolidates* as far as the velocity read out after it is nearer
to the final one than before it.

A network with nothing learned has depth trends of its own. So each number is taken again on the same tasks from the
same model with the entries of every weight tensor shuffled, and the cut is made in the difference: if layers of the two
models differ from each other no more than at random, the result says "no specialisation found".

When not to use: as the paper's claim tested on a large model from few tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.experiments.energy_by_depth import FOREGROUND
from dit_lens.experiments.local_effects import local_effects
from dit_lens.layer_map.segments import Segments, segments
from dit_lens.measures.energy import energy_ratio
from dit_lens.measures.layer_lens import layer_lens
from dit_lens.measures.region_attention import region_attention
from dit_lens.measures.token_masks import region_mask
from dit_lens.progress import Progress, silent
from dit_lens.runner.sweep import PLACEBO_SEED
from dit_lens.stats.intervals import mean_interval
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import Record, record
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import DEFAULT, Sampling
from dit_lens.wan.shuffled_weights import shuffled_weights

EVIDENCE = ("attention", "writing", "effect", "readout")
PROBED = ("scene", "choice")  # where probes were fitted
ROLES = {"perceives": "attention", "decides": "effect", "consolidates": "readout"}
LONG = {
    "attention": ("attention to the foreground", "log2, above random masks"),
    "writing": ("update on the foreground against elsewhere", "log2, above random masks"),
    "effect": ("local effect of the update", "0 = base, 1 = source; above placebo"),
    "readout": ("gain of the read-out", "cosine"),
    "scene": ("gain in decodability of the scene", "AUC"),
    "choice": ("gain in decodability of the decision", "AUC"),
}


def layer_evidence(
    lens: Lens,
    base: Run,
    source: Run,
    placebo: Run,
    steps: Sequence[int],
    effects: xr.DataArray | None = None,
    foreground: Sequence[str] = FOREGROUND,
    seed: int = 0,
) -> xr.Dataset:
    """The four kinds of evidence of one task, each beside its null.

    Args:
        lens: The model.
        base: Recorded ``update`` with ``token_norm`` in the cond branch at ``steps``.
        source: The run with another answer.
        placebo: The run of the same scene at another seed.
        steps: The steps.
        effects: ``local_effects`` at ``steps``, if they are at hand.
        foreground: Names of regions.
        seed: Seed of the random masks.

    Returns:
        (step, layer) for each evidence, and for the first three their null as ``<name>_null``.
    """
    mask = region_mask(base, foreground)
    tokens = tuple(int(i) for i in np.flatnonzero(mask))
    seen = region_attention(
        lens, base, queries="all", keys={"foreground": tokens}, steps=tuple(steps), branches="cond", seed=seed
    ).isel(branch=0, query=0, key=0, drop=True).mean("head")  # fmt: skip
    null = xr.DataArray(np.log2(seen["null"])).mean("draw")
    ratio = energy_ratio(base, mask, "update", seed=seed).isel(branch=0, drop=True).sel(step=list(steps))
    moved = local_effects(lens, base, source, placebo, steps) if effects is None else effects.sel(step=list(steps))
    read = layer_lens(lens, base, tuple(steps), entry=True)["cosine"].sel(reading="raw", drop=True)
    found = {
        "attention": xr.DataArray(np.log2(seen["enrichment"])) - null,
        "attention_null": null,
        "writing": ratio.sel(kind="region", drop=True) - ratio.sel(kind="null", drop=True),
        "writing_null": ratio.sel(kind="null", drop=True),
        "effect": moved.sel(kind="effect", drop=True) - moved.sel(kind="placebo", drop=True),
        "effect_null": moved.sel(kind="placebo", drop=True),
        "readout": read.diff("layer"),  # labelled by the later layer
    }
    plain = {k: v.transpose("step", "layer").reset_coords(drop=True) for k, v in found.items()}
    expert = [base.plan.at(s).expert for s in steps]
    return xr.Dataset(plain).assign_coords(step=list(steps), expert=("step", expert))


def puzzle_runs(
    lens: Lens, task: Any, seed: int, steps: Sequence[int], how: Sampling = DEFAULT, /, *also: Record
) -> tuple[Run, Run, Run]:
    """Generate base, source (the twin with another answer) and placebo of a task.

    Args:
        lens: The model.
        task: The task.
        seed: The noise seed.
        steps: Where the base records what the evidence needs.
        how: The sampling.
        *also: Further recordings of the base.

    Returns:
        Base, source and placebo.
    """
    update = record("update", reduce="token_norm", branches="cond", steps=tuple(steps))
    return (
        lens.generate(task, seed=seed, record=[update, *also], sampling=how),
        lens.generate(task.twin("other_answer"), seed=seed, sampling=how),
        lens.generate(task, seed=seed + PLACEBO_SEED, sampling=how),
    )


def control_evidence(
    lens: Lens,
    tasks: Sequence[Any],
    seeds: Sequence[int],
    steps: Sequence[int],
    progress: Progress = silent,
    seed: int = 0,
) -> list[xr.Dataset]:
    """The same evidence from the model with shuffled weights, an untrained control; one dataset a task."""
    found = []
    with shuffled_weights(lens, seed) as nothing:
        for i, (task, number) in enumerate(zip(tasks, seeds, strict=True)):
            progress(i, len(tasks), f"control, {getattr(task, 'name', task)} {number}")
            found.append(puzzle_evidence(nothing, task, number, steps, seed))
    return found


def puzzle_evidence(
    lens: Lens, task: Any, number: int, steps: Sequence[int], seed: int, how: Sampling = DEFAULT, /
) -> xr.Dataset:
    """Generate one task and take its :func:`layer_evidence`; ``how`` is the sampling."""
    return layer_evidence(lens, *puzzle_runs(lens, task, number, steps, how), steps, seed=seed)


def by_layer(rows: Sequence[xr.Dataset]) -> xr.Dataset:
    """Evidence of many tasks, (task, expert, layer): the mean over each expert's steps."""
    joined = xr.concat(rows, dim="task", coords="minimal", compat="override")
    order = [e for e in ("high", "low") if e in joined["expert"].values]
    parts = [joined.isel(step=np.flatnonzero(joined["expert"].values == e)).mean("step") for e in order]
    return xr.concat(parts, dim="expert").assign_coords(expert=order)


def with_probes(evidence: xr.Dataset, gains: xr.Dataset) -> xr.Dataset:
    """Add gains in decodability, (task, expert, layer), of other tasks to the result of :func:`by_layer`."""
    names = [f"patched {i}" for i in range(evidence.sizes["task"])]
    both = [evidence.assign_coords(task=names), gains.sel(expert=evidence["expert"].values)]
    return xr.merge([part.reset_coords(drop=True) for part in both], join="outer", compat="no_conflicts")


def roles(trained: xr.Dataset, control: xr.Dataset, draws: int = 2000, seed: int = 0) -> tuple[xr.Dataset, Roles]:
    """The layer table and the cut of each expert.

    Args:
        trained: From :func:`by_layer`, possibly with gains in decodability (:func:`with_probes`).
        control: The same of the control, on the same tasks.
        draws: Draws of permutations and bootstraps.
        seed: Their seed.

    Returns:
        The table, (expert, layer): every evidence with ``<name>_low, _high, _n``, the control's mean as
        ``<name>_null``, ``depth``, and ``part`` (early, middle, late, or "-" where no specialisation was found); and
        the roles.
    """
    n = trained.sizes["layer"]
    names = [*EVIDENCE, *(name for name in PROBED if name in trained)]
    meanings = ROLES | ({"perceives": "scene"} if "scene" in names else {})
    cuts = {}
    for expert in trained["expert"].values.tolist():
        above = (trained - control)[names].sel(expert=expert, drop=True).mean("task")
        # Two experts are two tests: the level is corrected for that.
        level = 0.05 / trained.sizes["expert"]
        cuts[expert] = segments(above.to_dataarray("evidence"), draws=draws, seed=seed, level=level)
    columns: dict[str, Any] = {}
    for name in names:
        mean = mean_interval(trained[name])
        columns[name] = mean["value"].assign_attrs(long_name=LONG[name][0], units=LONG[name][1], null_name="control")
        columns |= {f"{name}_low": mean["low"], f"{name}_high": mean["high"], f"{name}_n": mean["n"]}
        columns[f"{name}_null"] = control[name].mean("task")
    part = np.full((trained.sizes["expert"], n), "-", dtype=object)
    for i, cut in enumerate(cuts.values()):
        for word, run in zip(("early", "middle", "late"), cut.runs() if cut.found else (), strict=False):
            part[i, list(run)] = word
    columns["part"] = (("expert", "layer"), part.astype(str))
    centres = {
        expert: {role: _centre(trained, control, name, expert) for role, name in meanings.items()} for expert in cuts
    }
    depth = ("layer", np.arange(n) / n)
    return xr.Dataset(columns, coords={"expert": list(cuts), "layer": range(n), "depth": depth}), Roles(cuts, centres)


class Roles:
    """Depths of the roles. ``cuts``: expert -> :class:`Segments`; ``centres``: expert -> role -> depth [low, high]."""

    def __init__(self, cuts: Mapping[str, Segments], centres: Mapping[str, Mapping[str, tuple[float, ...]]]) -> None:
        self.cuts, self.centres = dict(cuts), {k: dict(v) for k, v in centres.items()}

    def sentences(self) -> list[str]:
        """The findings in sentences with numbers."""
        said = []
        for expert, cut in self.cuts.items():
            said.append(f"Expert {expert}: {cut}.")
            if cut.found:
                parts = [f"{r} at depth {m:.2f} [{a:.2f}, {b:.2f}]" for r, (m, a, b) in self.centres[expert].items()]
                said.append(f"Expert {expert}, centre of each role, more than in the control: {'; '.join(parts)}.")
        return said

    def __repr__(self) -> str:
        return "\n".join(self.sentences())


def _centre(trained: xr.Dataset, control: xr.Dataset, name: str, expert: str) -> tuple[float, float, float]:
    """Depth at which the mean profile's positive part is centred, with a bootstrap interval over tasks."""
    above = (trained[name] - control[name]).sel(expert=expert).transpose("task", "layer").values  # (tasks, L)
    above = above[np.isfinite(above).all(1)]
    rng = np.random.default_rng(0)
    draws = [float(centre(above[rng.integers(0, len(above), len(above))].mean(0))) for _ in range(1000)]
    return float(centre(above.mean(0))), *middle_95(draws)


def centre(profile: np.ndarray) -> np.ndarray:
    """The depth at which the positive part of profiles (L, ...) is centred; NaN where there is none."""
    depth = (np.arange(len(profile)) + 0.5) / len(profile)
    weight = np.clip(profile, 0, None)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.tensordot(depth, weight, 1) / weight.sum(0))


def middle_95(draws: Sequence[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of draws, without NaN."""
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return float(low), float(high)
