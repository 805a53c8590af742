"""Layer energy over tasks (paper, Fig. 6a): does the energy of tokens move from the background to the foreground?

For every task one generation is recorded in small (token norms, channel moments; the ``cond`` call of each step, as
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

from dit_lens.address import Indices
from dit_lens.errors import MeasureError, TaskError
from dit_lens.measures.energy import energy_ratio, layer_energy
from dit_lens.measures.token_maps import ChannelMoments, variance_ratio
from dit_lens.measures.token_masks import change_mask, proper, shuffled_mask
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import DEFAULT_LIMIT, record
from dit_lens.wan.run import Run
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
    **options: Unpack[Options],
) -> xr.Dataset:
    """Energy and channel variance of the foreground against the rest, one generation a task.

    Args:
        lens: The model.
        tasks: Two or more, with regions.
        foreground: Names of task regions (their union), or a function from a task to a mask per pixel or per token:
            ``region="regions"``. ``region="difference"`` is always the change from the run's first to its final frame.
        hooks: The stream after each block and what the block adds, or other points of a block with video tokens.
        steps: Those to record.
        seed: Task i is generated with ``seed + i``.
        draws: Random masks of the energy null.
        limit: Bytes that the recording of one task may hold.
        **options: Sampling and running (:class:`dit_lens.runner.Options`).

    Returns:
        ``energy`` (task, hook, region, step, layer, kind), ``variance`` (task, hook, step, layer, kind), both log2
        ratios, and ``norm`` (task, hook, step, layer, frame), the mean token norm. A video in which nothing changed
        gives NaN for ``region="difference"``. ``dit_lens.stats.summarise`` of two kinds gives intervals and
        corrected p.

    Raises:
        TaskError: Fewer than two tasks.
        MeasureError: A task without foreground.
    """
    if len(tasks) < 2:
        raise TaskError(f"{len(tasks)} task gives no interval: measure two or more, dit_lens.tasks.batch('maze', n=24)")

    def row(item: Item) -> xr.Dataset:
        return _one(item, foreground, hooks, steps, draws, limit)

    found = over_tasks(lens, tasks, row, seed=seed, options=options, of=energy)
    return found.assign_attrs(
        weights=lens.fingerprint, draws=draws,
        foreground="own function" if callable(foreground) else ", ".join(foreground),
    )  # fmt: skip


def _one(item: Item, foreground: Any, hooks: Sequence[str], steps: Indices, draws: int, limit: int) -> xr.Dataset:
    lens, task, seed = item.lens, item.task, item.seed
    grid = lens.grid_of(task, item.sampling)
    mask = _mask(grid, task, foreground)
    rng = np.random.default_rng(seed)
    regions = {"region": mask} | {f"null {i}": shuffled_mask(mask, grid, rng) for i in range(_NULLS)}
    moments = ChannelMoments(tuple(regions))
    wanted = [
        record(hook, reduce=reduce, steps=steps, branches="cond", name=f"{what}_{hook}")
        for hook in (*hooks, INPUT)
        for what, reduce in (("norm", "token_norm"), ("moments", moments))
    ]
    run = item.generate(regions=regions, record=wanted, limit=limit)
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
                    "energy": xr.concat([ratio, other], dim="region").assign_coords(region=["regions", "difference"]),
                    "variance": xr.concat(parts, dim="kind").assign_coords(kind=["region", "null", "draw"]),
                    "norm": _with_input(lambda at: layer_energy(run, f"norm_{at}"), hook),
                }
            )
        )
    joined = xr.concat(found, dim="hook", coords="minimal", compat="override").assign_coords(hook=list(hooks))
    return joined.assign_coords(depth=("layer", joined["layer"].values / lens.n_layers))


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
