"""Where attention goes as layers deepen, and whether it matters (paper, Fig. 6a and its "from layer 9 on").

``attention_by_depth`` reads self-attention while each puzzle is generated. With mass(n, r) the attention of token n to
region r (:mod:`dit_lens.measures.attention`) and Q all tokens::

    enrichment(l, r) = mean_{n in Q, heads} mass(n, r) / (|r| / N)      1: as much as the region's size
    shift(r)         = mean over layers of depth >= 9/40 of log2 enrichment  -  mean over the layers before

beside the same of random masks of the same size in every frame (``null``), and of tokens outside the foreground only
(query ``rest``), which leaves out that things attend to themselves.

``knockouts`` cuts attention from one region to another and asks whether the *answer* changes, beside a cut from the
same queries to as many tokens, in every frame, at random places outside the region (``random``).

When not to use: enrichment by itself is no evidence of use; and a cut that changes nothing may mean that the same
information flows another way (the picture is in the channels of the first frame's tokens at every step).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.address import ALL, Indices
from dit_lens.errors import MeasureError, TaskError
from dit_lens.experiments.energy_by_depth import FOREGROUND, SHIFT
from dit_lens.interventions.knockout import knockout
from dit_lens.measures.region_attention import watch_attention, watched_attention
from dit_lens.progress import Progress, silent
from dit_lens.stats.summary import task_names
from dit_lens.wan.attention_sets import Kind
from dit_lens.wan.lens import Lens
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged
from dit_lens.wan.token_grid import Grid, token_regions

#: Things of one kind of which the prompt names the first: (named, not named).
NAMED = (("goal", "other_goal"),)
STEPS = 4  # read unless told otherwise, spread over the schedule


def attention_by_depth(
    lens: Lens,
    tasks: Sequence[Any],
    foreground: Sequence[str] = FOREGROUND,
    *,
    seed: int = 0,
    steps: Indices | None = None,
    draws: int = 3,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Enrichment of every region as keys of self-attention, one generation a puzzle, ``cond`` branch.

    ``foreground``: names of task regions; their union is the key ``foreground``, all else ``rest``. Keys ``named`` and
    ``other`` are the named and the unnamed goal where a task has both, ``named first`` and ``other first`` the same in
    the first frame only. ``steps``: four over the schedule. ``sampling``, or its arguments flat: see
    :class:`dit_lens.Sampling`. Puzzle i has seed ``seed + i``.

    Returns ``enrichment`` (task, step, layer, head, query, key, kind), kinds ``region`` and ``null`` (mean over
    ``draws`` random masks), and ``text`` (task, step, layer, head, key), the enrichment of prompt and padding in
    cross-attention. Regions that a puzzle does not have are NaN.

    Errors: :class:`TaskError` for fewer than two tasks, :class:`MeasureError` for a task without foreground.
    """
    if len(tasks) < 2:
        raise TaskError(
            f"{len(tasks)} puzzle gives no interval: measure two or more, dit_lens.tasks.batch('maze', n=12)"
        )
    how = merged(sampling, given, attention_by_depth)
    plan = lens.plan(how)
    wanted = sorted({round(q * (plan.n_steps - 1)) for q in np.linspace(0, 1, STEPS)}) if steps is None else steps
    found, texts = [], []
    for i, task in enumerate(tasks):
        progress(i, len(tasks), f"attention, {getattr(task, 'name', task)} {seed + i}")
        regions = _regions(lens.grid_of(task, how), task, foreground)
        keys = tuple(name for name, mask in regions.items() if mask.any() and not mask.all())
        watches = (
            watch_attention(("all", "rest"), keys, steps=wanted, branches="cond", draws=draws, seed=seed + i),
            watch_attention("all", kind="cross", steps=wanted, branches="cond", draws=1),
        )
        run = lens.generate(task, seed=seed + i, sampling=how, regions=regions, interventions=list(watches))
        one, words = (watched_attention(run, watch).isel(branch=0, drop=True) for watch in watches)
        pair = xr.concat([one.enrichment, one.null.mean("draw")], "kind", coords="minimal", compat="override")
        found.append(pair.assign_coords(kind=["region", "null"]).drop_vars("size"))
        texts.append(words.enrichment.isel(query=0, drop=True).drop_vars("size"))
    progress(len(tasks), len(tasks), "done")
    data = {"enrichment": _join(found), "text": _join(texts).rename(key="bucket")}
    return xr.Dataset(data).assign_coords(
        task=task_names(tasks), family=("task", [str(getattr(t, "name", "")) for t in tasks])
    )


def _join(rows: Sequence[xr.DataArray]) -> xr.DataArray:
    return xr.concat(rows, "task", join="outer", coords="minimal", compat="override")


def _regions(grid: Grid, task: Any, foreground: Sequence[str]) -> dict[str, np.ndarray]:
    """The task's own regions per token, and the ones made from them."""
    own = token_regions(grid, getattr(task, "regions", None) or {})
    things = [own[name] for name in foreground if name in own]
    if not things or not np.any(things) or np.all(np.any(things, 0)):
        raise MeasureError(
            f"{task!r} has none of the regions {list(foreground)}, or only empty ones: name its own with "
            f"foreground=('name', ...), of {sorted(own)}"
        )
    regions = {"foreground": np.any(things, 0), "rest": ~np.any(things, 0), **own}
    first = np.arange(grid.n_tokens) < grid.rows * grid.cols
    for named, other in NAMED:
        if named in own and other in own:
            regions |= {"named": own[named], "other": own[other]}
            regions |= {"named first": own[named] & first, "other first": own[other] & first}
    return regions


# -- does it matter


def knockouts(
    lens: Lens,
    tasks: Sequence[Any],
    edges: Sequence[tuple[str, str]] = (("all", "goal"), ("agent", "goal")),
    layers: Mapping[str, Any] | None = None,
    *,
    kind: Kind = "self",
    steps: Indices = ALL,
    seed: int = 0,
    regions: Mapping[str, Any] | None = None,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> xr.Dataset:
    """Whole generations with attention of the edges (from, to) cut, beside cuts to random tokens.

    ``layers``: name -> layers of a cut (``{"all": "all"}``). ``kind="cross"``: ``to`` is ``"pad"`` or ``"text"``, and
    there is no random cut (NaN). Both branches, the ``steps`` given. ``tasks`` can answer and score. ``regions``: masks
    of your own, as ``lens.generate`` takes them. ``sampling``, or its arguments flat: see :class:`dit_lens.Sampling`.

    Returns, by (task, edge, window, kind) with kinds ``cut`` and ``random``: ``changed``, the answer is another one
    than without a cut; ``solved``; ``moved``, how far the video's latents went, in standard deviations of the uncut;
    and ``base_solved`` (task).

    Errors: :class:`TaskError` for fewer than two tasks or tasks that cannot be scored; those of ``knockout``.
    """
    if len(tasks) < 2 or not all(hasattr(task, "score") and hasattr(task, "answer") for task in tasks):
        raise TaskError("knockouts needs two or more tasks with score() and answer(), as dit_lens.tasks.batch gives")
    asked = merged(sampling, given, knockouts)
    windows = {"all": ALL} if layers is None else dict(layers)
    shape = (len(tasks), len(edges), len(windows), 2)
    values = {name: np.full(shape, np.nan, np.float32) for name in ("changed", "solved", "moved")}
    base_solved, total = [], len(tasks) * len(edges) * len(windows)
    for i, task in enumerate(tasks):
        how: dict[str, Any] = {"seed": seed + i, "regions": regions, "sampling": asked}
        base = lens.generate(task, **how)
        answer = task.answer(base.video)
        base_solved.append(float(bool(base.score)))
        rng = np.random.default_rng(seed + i)
        for e, (from_, to) in enumerate(edges):
            targets: list[Any] = [to]
            if kind == "self":
                if to not in base.regions:
                    raise MeasureError(
                        f"{to!r} is no region of this puzzle, which has {sorted(base.regions)}: cut one of these, so "
                        "that a random region of its size stands beside it"
                    )
                targets.append(tuple(np.flatnonzero(elsewhere(base.regions[to], base.grid, rng)).tolist()))
            for w, chosen in enumerate(windows.values()):
                progress((i * len(edges) + e) * len(windows) + w, total, f"knockout {from_} -> {to}, puzzle {i}")
                for j, target in enumerate(targets):
                    cut = knockout(from_, target, layers=chosen, steps=steps, kind=kind)
                    run = lens.generate(task, interventions=[cut], **how)
                    at = i, e, w, j
                    values["changed"][at] = task.answer(run.video) != answer
                    values["solved"][at] = bool(run.score)
                    values["moved"][at] = float((run.final - base.final).std() / base.final.std())
    progress(total, total, "done")
    dims = ("task", "edge", "window", "kind")
    return xr.Dataset(
        {**{name: (dims, v) for name, v in values.items()}, "base_solved": ("task", base_solved)},
        {
            "task": task_names(tasks), "family": ("task", [str(getattr(t, "name", "")) for t in tasks]),
            "edge": [f"{a} -> {b}" for a, b in edges], "window": list(windows), "kind": ["cut", "random"],
        },
    )  # fmt: skip


def elsewhere(mask: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """As many tokens in every frame as ``mask`` has, at random places outside of it, bool (n_tokens,).

    Errors: :class:`MeasureError` where a frame has no room for them.
    """
    found = np.zeros_like(mask).reshape(grid.frames, -1)
    for frame, chosen in zip(mask.reshape(grid.frames, -1), found, strict=True):
        free = np.flatnonzero(~frame)
        if len(free) < frame.sum():
            raise MeasureError(
                "a region of more than half a frame has no random region of its size beside it: cut a smaller one"
            )
        chosen[rng.choice(free, int(frame.sum()), replace=False)] = True
    return found.reshape(-1)


def shift(found: xr.Dataset, key: str, query: str = "all") -> xr.DataArray:
    """log2 enrichment of a key region, (task, kind, part): layers before depth 9/40, and from there on."""
    level = np.log2(found.enrichment.sel(key=key, query=query, drop=True).mean("head")).mean("step")
    later = level["depth"] >= SHIFT
    parts = [level.where(~later).mean("layer"), level.where(later).mean("layer")]
    return xr.concat(parts, "part").assign_coords(part=["early", "later"]).dropna("task", how="all")
