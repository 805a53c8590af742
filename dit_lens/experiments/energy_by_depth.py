"""Layer energy over tasks (paper, Fig. 6a): does the energy of tokens move from the background to the foreground?

For every puzzle one generation is recorded in small (token norms, channel moments; the ``cond`` call of each step, as
the paper's tools take the first forward of a step). With e = ||h||_2 of a token and R the foreground::

    energy(s, l)   = log2 ( mean of e over R / mean of e over the rest )
    variance(s, l) = log2 ( total channel variance over R / over the rest )

Kinds: ``region``; ``null``, the mean over masks of the same size in every frame at random places; ``draw``, one such
mask. Layer -1 is what enters block 0: a preference that is there already was not made by any layer. The paper looks at
the stream after each block (``resid_post``), which holds all that was written before; ``update`` is what the block
itself adds.

When not to use: to say that a layer *attends* to something. Norms are dominated by a few channels, and a foreground
that was drawn in rare colours is large at the input already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.address import Indices
from dit_lens.errors import MeasureError, TaskError
from dit_lens.measures.energy import energy_ratio, layer_energy, profile_stability
from dit_lens.measures.token_maps import ChannelMoments, variance_ratio
from dit_lens.measures.token_masks import change_mask, proper, shuffled_mask
from dit_lens.progress import Progress, silent
from dit_lens.replication.claim import Claim, Verdict
from dit_lens.replication.rows import numbers
from dit_lens.stats.summary import summarise
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import DEFAULT_LIMIT, record
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import Sampling, SamplingArguments, SamplingLike, merged
from dit_lens.wan.token_grid import Grid, token_regions

#: What counts as foreground where a task has such regions: the things a prompt names, never floor and walls.
FOREGROUND = (
    "foreground", "object", "agent", "goal", "other_goal", "ball", "other_ball", "hidden", "shown", "filled",
)  # fmt: skip
SHIFT = 9 / 40  # the paper's layer 9 of 40, as depth
HOOKS = ("resid_post", "update")
INPUT = "patch_embed"
_NULLS = 4  # random masks whose channel variance is kept


def energy(
    lens: Lens,
    tasks: Sequence[Any],
    foreground: Sequence[str] | Callable[[Any], np.ndarray] = FOREGROUND,
    *,
    hooks: Sequence[str] = HOOKS,
    steps: Indices = "all",
    seed: int = 0,
    draws: int = 20,
    limit: int = DEFAULT_LIMIT,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Energy and channel variance of the foreground against the rest, one generation a puzzle.

    ``foreground``: names of task regions (their union; the first source), or a function from a task to a mask per
    pixel or per token. The second source is always the change from the run's first to its final frame. ``hooks``: the
    stream after each block and what the block adds, or other points of a block with video tokens. ``steps``: those to
    record. ``draws``: random masks of the energy null. ``limit``: bytes that a recording may hold.
    ``sampling``, or its arguments flat: see :class:`dit_lens.Sampling`. Puzzle i has seed ``seed + i``.

    Returns ``energy`` (puzzle, hook, source, step, layer, kind), ``variance`` (puzzle, hook, step, layer, kind), both
    log2 ratios, and ``norm`` (puzzle, hook, step, layer, frame), the mean token norm. A video in which nothing changed
    gives NaN for the second source.

    Errors: :class:`TaskError` for fewer than two tasks, :class:`MeasureError` for a task without foreground.
    """
    if len(tasks) < 2:
        raise TaskError(
            f"{len(tasks)} puzzle gives no interval: measure two or more, dit_lens.tasks.batch('maze', n=24)"
        )
    how, rows = merged(sampling, given, energy), []
    for i, task in enumerate(tasks):
        progress(i, len(tasks), f"{getattr(task, 'name', task)} {seed + i}")
        rows.append(_one(lens, task, foreground, hooks, steps, seed + i, draws, how, limit))
    progress(len(tasks), len(tasks), "done")
    names = [str(getattr(task, "name", i)) for i, task in enumerate(tasks)]
    found = xr.concat(rows, dim="puzzle", coords="minimal", compat="override").assign_coords(task=("puzzle", names))
    return found.assign_attrs(
        model=lens.name, weights=lens.fingerprint, first_seed=seed, draws=draws, steps=found.sizes["step"],
        foreground="own function" if callable(foreground) else ", ".join(foreground),
    )  # fmt: skip


def _one(
    lens: Lens,
    task: Any,
    foreground: Any,
    hooks: Sequence[str],
    steps: Indices,
    seed: int,
    draws: int,
    how: Sampling,
    limit: int,
) -> xr.Dataset:
    grid = lens.grid_of(task, how)
    mask = _mask(grid, task, foreground)
    rng = np.random.default_rng(seed)
    regions = {"region": mask} | {f"null {i}": shuffled_mask(mask, grid, rng) for i in range(_NULLS)}
    moments = ChannelMoments(tuple(regions))
    wanted = [
        record(hook, reduce=reduce, steps=steps, branches="cond", name=f"{what}_{hook}")
        for hook in (*hooks, INPUT)
        for what, reduce in (("norm", "token_norm"), ("moments", moments))
    ]
    run = lens.generate(task, seed=seed, regions=regions, record=wanted, sampling=how, limit=limit)
    try:
        changed = change_mask(run)
    except MeasureError:  # nothing changed in this video
        changed = None
    found = []
    for hook in hooks:
        ratio = _ratios(run, hook, mask, seed, draws)
        other = xr.full_like(ratio, np.nan) if changed is None else _ratios(run, hook, changed, seed, draws)
        variance = _with_input(lambda at: variance_ratio(run, f"moments_{at}"), hook)
        nulls = variance.sel(region=[r for r in regions if r != "region"])
        parts = [variance.sel(region="region", drop=True), nulls.mean("region"), nulls.isel(region=0, drop=True)]
        found.append(
            xr.Dataset(
                {
                    "energy": xr.concat([ratio, other], dim="source").assign_coords(source=["regions", "difference"]),
                    "variance": xr.concat(parts, dim="kind").assign_coords(kind=["region", "null", "draw"]),
                    "norm": _with_input(lambda at: layer_energy(run, f"norm_{at}"), hook),
                }
            )
        )
    joined = xr.concat(found, dim="hook", coords="minimal", compat="override").assign_coords(hook=list(hooks))
    return joined.assign_coords(
        depth=("layer", joined["layer"].values / lens.n_layers),
        expert=("step", [run.plan.at(int(s)).expert for s in joined["step"]]),
    )


def _mask(grid: Grid, task: Any, foreground: Any) -> np.ndarray:
    if callable(foreground):
        return proper(token_regions(grid, {"given": foreground(task)})["given"], "the given mask")
    regions = getattr(task, "regions", None) or {}
    named = {name: regions[name] for name in foreground if name in regions}
    if not named:
        raise MeasureError(
            f"{task!r} has none of the regions {list(foreground)}, only {sorted(regions)}: name its own with "
            "foreground=('name', ...), or give foreground=function from a task to a mask"
        )
    return proper(np.any(list(token_regions(grid, named).values()), axis=0), f"the regions {list(named)}")


def _ratios(run: Run, hook: str, mask: np.ndarray, seed: int, draws: int) -> xr.DataArray:
    """(step, layer, kind) with the kinds region, null and draw."""
    many = _with_input(lambda at: energy_ratio(run, mask, f"norm_{at}", draws, seed), hook)
    one = _with_input(lambda at: energy_ratio(run, mask, f"norm_{at}", 1, seed + 1), hook)
    return xr.concat([many, one.sel(kind=["null"]).assign_coords(kind=["draw"])], dim="kind")


def _with_input(measure: Callable[[str], xr.DataArray], hook: str) -> xr.DataArray:
    """A measure of the layers, with what enters block 0 put before them as layer -1; of the cond branch."""
    layers = measure(hook).isel(branch=0, drop=True)
    entry = measure(INPUT).isel(branch=0, drop=True).expand_dims(layer=[-1])
    return xr.concat([entry, layers], dim="layer", coords="minimal", compat="override").transpose("step", "layer", ...)


# -- the paper's claims


def claims(lens: Lens, n: int = 24, seed: int = 0, progress: Progress = silent, **arguments: Any) -> list[Claim]:
    """The paper's claims on layer energy, on ``n`` unseen puzzles of all families; see :func:`read_claims`."""
    return read_claims(energy(lens, puzzles.batch(puzzles.names(), n, seed), seed=seed, progress=progress, **arguments))


def read_claims(found: xr.Dataset) -> list[Claim]:
    """The claims from what :func:`energy` measured: of the stream, by both masks; of the updates, by task regions.

    Layers below depth .225 (9 of 40) are early, from 2/3 on deep.
    """
    rows = []
    for hook in found["hook"].values:
        part = found.sel(hook=hook, drop=True)
        named = WHAT.get(str(hook), str(hook))
        for source in found["source"].values if hook == found["hook"].values[0] else ["regions"]:
            rows += _shift(part["energy"].sel(source=source, drop=True), part["depth"], named, str(source))
        rows += [_growth(part["variance"], part["depth"], named), _stability(part, named)]
    return rows


WHAT = {"resid_post": "stream after the block", "update": "what the block adds"}


def _shift(ratio: xr.DataArray, depth: xr.DataArray, hook: str, source: str) -> list[Claim]:
    over = f"{hook}; foreground from " + ("task regions" if source == "regions" else "first against final frame")
    early, later = (depth >= 0) & (depth < SHIFT), depth >= SHIFT
    first, after = (ratio.sel(layer=part).mean(("layer", "step")) for part in (early, later))
    entry = summarise(ratio.sel(kind="region", layer=-1).mean("step"))
    return [
        _claim(
            "Layers 0 to 9 of 40 carry global structure and background (Fig. 6a).",
            f"log2 energy, foreground over the rest, mean over layers of depth below .225 and all steps; {over}",
            first,
            "supported when the interval lies below zero and below the null's",
            lambda a, b: a["high"] < min(0.0, b["low"]),
            f"At the input, before any layer: {_text(entry)}. {_by_task(first)}",
        ),
        _claim(
            "From about layer 9 of 40 on, energy shifts to the foreground and to the things the prompt names.",
            f"log2 energy, foreground over the rest: layers from depth .225 on minus layers below; {over}",
            after - first,
            _ABOVE,
            _above,
            f"From depth .225 on the ratio itself is {_text(summarise(after.sel(kind='region')))}. "
            f"{_by_task(after - first)}",
        ),
    ]


def _growth(variance: xr.DataArray, depth: xr.DataArray, hook: str) -> Claim:
    early, deep = (
        variance.sel(layer=part).mean(("layer", "step")) for part in ((depth >= 0) & (depth < SHIFT), depth >= 2 / 3)
    )
    before, at = (_text(summarise(v.sel(kind="region"))) for v in (early, deep))
    return _claim(
        "In deeper layers channel variance grows in the target regions.",
        "log2 channel variance over tokens, foreground over the rest: layers from depth 2/3 on minus layers below "
        f".225; {hook}; foreground from task regions",
        deep - early,
        _ABOVE,
        _above,
        f"The ratio itself below .225: {before}, from 2/3 on: {at}. {_by_task(deep - early)}",
    )


def _stability(part: xr.Dataset, hook: str) -> Claim:
    ratio = part["energy"].sel(source="regions", drop=True).sel(layer=part["depth"] >= 0)
    remarks = []
    _, count = np.unique(part["expert"].values, return_counts=True)
    for pairs in ("within", "across") if len(count) > 1 and max(count) > 1 else ():
        r = profile_stability(ratio, pairs)
        real, draw = (_text(summarise(r.sel(kind=kind))) for kind in ("region", "draw"))
        remarks.append(f"Of steps {pairs} {'one expert' if pairs == 'within' else 'experts'}: {real}, null {draw}.")
    return _claim(
        "The pattern over layers is stable across steps.",
        f"Pearson correlation of the layer profile of log2 energy between two steps, mean over pairs of steps; {hook}",
        profile_stability(ratio),
        "supported when the interval lies above .5 and above the null's",
        lambda a, b: a["low"] > max(0.5, b["high"]),
        " ".join(remarks),
        null="draw",
    )


_ABOVE = "supported when the interval lies above zero and above the null's"


def _above(a: dict[str, float], b: dict[str, float]) -> bool:
    return a["low"] > max(0.0, b["high"])


def _claim(
    paper: str,
    measure: str,
    values: xr.DataArray,
    rule: str,
    holds: Callable[[dict[str, float], dict[str, float]], bool],
    remark: str,
    null: str = "null",
) -> Claim:
    """A claim from values (puzzle, kind)."""
    a, b = (numbers(values.sel(kind=kind, drop=True)) for kind in ("region", null))
    verdict: Verdict = "supported" if holds(a, b) else "not supported"
    name = "one random mask of the same size in every frame" if null == "draw" else "random masks, same size per frame"
    unit = "Pearson r" if "Pearson" in measure else "log2 ratio"
    return Claim(
        paper, measure, unit, a["value"], a["low"], a["high"], int(a["n"]), b["value"], b["low"], b["high"], name, rule,
        verdict, remark.strip(),
    )  # fmt: skip


def _text(s: xr.Dataset) -> str:
    return f"{float(s['value']):.2f} [{float(s['low']):.2f}, {float(s['high']):.2f}]"


def _by_task(values: xr.DataArray) -> str:
    """The same number by task family, above the null."""
    above = values.sel(kind="region") - values.sel(kind="null")
    means = above.groupby("task").mean()
    parts = [f"{task} {float(means.sel(task=task)):.2f}" for task in means["task"].values]
    return f"Above the null by task: {', '.join(parts)}."
