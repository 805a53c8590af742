"""Where attention goes as layers deepen, and whether it matters (paper, Fig. 6a and its "from layer 9 on").

``attention_by_depth`` reads self-attention while each task is generated. With mass(n, r) the attention of token n to
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
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.wan.attention_sets import Kind
from dit_lens.wan.lens import Lens
from dit_lens.wan.token_grid import Grid, token_regions

#: Things of one kind of which the prompt names the first: (named, not named).
NAMED = (("goal", "other_goal"),)
STEPS = 4  # read by default, spread over the schedule


def attention_by_depth(
    lens: Lens,
    tasks: Sequence[Any],
    foreground: Sequence[str] = FOREGROUND,
    *,
    seed: int = 0,
    steps: Indices | None = None,
    draws: int = 3,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Enrichment of every region as keys of self-attention, one generation a task, ``cond`` branch.

    Args:
        lens: The model.
        tasks: Two or more, with regions.
        foreground: Names of task regions; their union is the key ``foreground``, all else ``rest``. Keys ``named`` and
            ``other`` are the named and the unnamed goal where a task has both, ``named first`` and ``other first`` the
            same in the first frame only.
        seed: Task i is generated with ``seed + i``.
        steps: Steps to read; four over the schedule by default.
        draws: Random masks for the null.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``enrichment`` (task, step, layer, head, query, key, kind), kinds ``region`` and ``null`` (mean over the random
        masks), and ``text`` (task, step, layer, head, region), the enrichment of prompt and padding in cross-attention.
        Regions that a task does not have are NaN. ``dit_lens.stats.summarise`` of the two kinds, in log2, gives
        intervals and corrected p.

    Raises:
        TaskError: Fewer than two tasks.
        MeasureError: A task without foreground.
    """
    if len(tasks) < 2:
        raise TaskError(f"{len(tasks)} task gives no interval: measure two or more, dit_lens.tasks.batch('maze', n=12)")

    def row(item: Item) -> xr.Dataset:
        last = item.plan.n_steps - 1
        wanted = sorted({round(q * last) for q in np.linspace(0, 1, STEPS)}) if steps is None else steps
        regions = _regions(item.lens.grid_of(item.task, item.sampling), item.task, foreground)
        keys = tuple(name for name, mask in regions.items() if mask.any() and not mask.all())
        watches = (
            watch_attention(("all", "rest"), keys, steps=wanted, branches="cond", draws=draws, seed=item.seed),
            watch_attention("all", kind="cross", steps=wanted, branches="cond", draws=1),
        )
        run = item.generate(regions=regions, interventions=list(watches))
        one, words = (watched_attention(run, watch).isel(branch=0, drop=True) for watch in watches)
        pair = xr.concat([one.enrichment, one.null.mean("draw")], "kind", coords="minimal", compat="override")
        seen = pair.assign_coords(kind=["region", "null"]).drop_vars("size")
        text = words.enrichment.isel(query=0, drop=True).drop_vars("size").rename(key="region")
        return xr.Dataset({"enrichment": seen, "text": text})

    return over_tasks(lens, tasks, row, seed=seed, options=options, of=attention_by_depth)


def _regions(grid: Grid, task: Any, foreground: Sequence[str]) -> dict[str, np.ndarray]:
    """The task's own regions per token, and those derived from them."""
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


# -- knockouts


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
    **options: Unpack[Options],
) -> xr.Dataset:
    """Whole generations with attention of the edges (from, to) cut, beside cuts to random tokens.

    Args:
        lens: The model.
        tasks: Two or more that read answers and have a scorer.
        edges: (queries, keys), names of regions.
        layers: name -> layers of a cut (``{"all": "all"}``).
        kind: ``"self"`` or ``"cross"``; with cross-attention ``to`` is ``"pad"`` or ``"text"``, and there is no random
            cut (NaN).
        steps: Where attention is cut, in both branches.
        seed: Task i is generated with ``seed + i``.
        regions: Your own masks, as ``lens.generate`` takes them.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        (task, edge, layer, kind) with kinds ``cut`` and ``random``: ``changed``, the answer differs from that without a
        cut; ``solved``; ``moved``, the distance of the video's latents to the uncut ones, in standard deviations of the
        uncut; and ``base_solved`` (task). ``dit_lens.stats.summarise`` of the two kinds gives intervals, and p
        corrected over the windows.

    Raises:
        TaskError: Fewer than two tasks, or tasks without a scorer.
        MeasureError: An unknown region.
    """
    if len(tasks) < 2 or not all(hasattr(task, "score") and hasattr(task, "answer") for task in tasks):
        raise TaskError("knockouts needs two or more tasks with score() and answer(), as dit_lens.tasks.batch gives")
    windows: dict[str, Any] = {"all": ALL} if layers is None else dict(layers)
    names = {f"{from_} -> {to}": (from_, to) for from_, to in edges}

    def row(item: Item) -> xr.Dataset:
        base, task = item.clean(), item.task
        answer = task.answer(base.video)
        rng = np.random.default_rng(item.seed)
        targets: dict[str, dict[str, Any]] = {}
        for name, (_, to) in names.items():
            targets[name] = {"cut": to}
            if kind == "self":
                if to not in base.regions:
                    raise MeasureError(
                        f"{to!r} is not a region of this task, which has {sorted(base.regions)}: cut one of these, so "
                        "that it can be compared with a random region of its size"
                    )
                random = elsewhere(base.regions[to], base.grid, rng)
                targets[name]["random"] = tuple(np.flatnonzero(random).tolist())
        cross = kind

        def cut(edge: str, layer: str, kind: str) -> dict[str, Any]:
            if kind not in targets[edge]:
                return dict.fromkeys(("changed", "solved", "moved"), np.float32(np.nan))
            edit = knockout(names[edge][0], targets[edge][kind], layers=windows[layer], steps=steps, kind=cross)
            run = item.generate(interventions=[edit])
            return {
                "changed": np.float32(task.answer(run.video) != answer),
                "solved": np.float32(bool(run.score)),
                "moved": np.float32((run.final - base.final).std() / base.final.std()),
            }

        found = item.sites(cut, edge=list(names), layer=list(windows), kind=("cut", "random"))
        return found.assign(base_solved=float(bool(base.score)))

    return over_tasks(lens, tasks, row, seed=seed, options=options, of=knockouts, regions=regions)


def elsewhere(mask: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Draw as many tokens in every frame as a mask has, at random places outside of it.

    Args:
        mask: bool (n_tokens,).
        grid: The token grid.
        rng: Source of randomness.

    Returns:
        bool (n_tokens,).

    Raises:
        MeasureError: A frame has no room for them.
    """
    found = np.zeros_like(mask).reshape(grid.frames, -1)
    for frame, chosen in zip(mask.reshape(grid.frames, -1), found, strict=True):
        free = np.flatnonzero(~frame)
        if len(free) < frame.sum():
            raise MeasureError(
                "a region of more than half a frame leaves no room for a random region of its size: cut a smaller one"
            )
        chosen[rng.choice(free, int(frame.sum()), replace=False)] = True
    return found.reshape(-1)


def shift(found: xr.Dataset, key: str, query: str = "all") -> xr.DataArray:
    """log2 enrichment of a key region before depth 9/40, and from there on.

    Args:
        found: From :func:`attention_by_depth`.
        key: The region.
        query: The region of queries.

    Returns:
        (task, kind, part).
    """
    level = np.log2(found.enrichment.sel(key=key, query=query, drop=True).mean("head")).mean("step")
    later = level["depth"] >= SHIFT
    parts = [level.where(~later).mean("layer"), level.where(later).mean("layer")]
    return xr.concat(parts, "part").assign_coords(part=["early", "later"]).dropna("task", how="all")
