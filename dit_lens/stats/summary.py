"""An effect beside its null on the same tasks: both means, their paired difference, and p corrected over the cells.

    stats.summarise(swapped, placebo)      # value, low, high, n, null, ..., difference, ..., p, p_corrected

Figures draw the result as it is, and mark the cells that stand out: those whose ``p_corrected`` is at most .05.

When not to use: for a mean without a null (:func:`dit_lens.stats.mean_interval`), or to judge a claim
(:func:`dit_lens.stats.verdict`, which knows the smallest effect of interest).
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats.corrections import max_statistic
from dit_lens.stats.intervals import mean_interval
from dit_lens.stats.paired import paired


def summarise(
    effect: xr.DataArray,
    null: xr.DataArray,
    over: str | Sequence[str] = "task",
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Means of an effect and of its null, and their paired difference in every cell.

    Args:
        effect: Numbers along ``over`` and the dims of the cells; NaN entries are left out.
        null: The same under the null on the same tasks, over the same cells or fewer dims.
        over: A dim, or several from the top level down; lower levels are averaged within the first.
        level: Coverage.
        bounds: The least and the greatest value of an arm, (0, 1) for shares and scores.
        seed: For the random flips that stand in for all of them above twelve tasks.

    Returns:
        ``value, low, high, n`` of the effect; ``null, null_low, null_high``; the paired difference ``difference,
        difference_low, difference_high``; ``p`` (two-sided, sign flips, of the cell alone) and ``p_corrected`` over all
        cells (:func:`dit_lens.stats.max_statistic`). Attributes as of :func:`dit_lens.stats.mean_interval`, and
        ``cells``: over how many p is corrected; ``smallest_p``: the smallest that so many tasks can give, and where it
        lies above .05 ``no_mark``, which says that nothing can stand out.

    Raises:
        MeasureError: For dims that the arrays do not have, a null of other tasks or cells, or bounds that they leave.
    """
    if extra := set(null.dims) - set(effect.dims):
        raise MeasureError(f"the null has dims {sorted(map(str, extra))} that the effect has not: select one of each")
    rest = {dim: effect.sizes[dim] for dim in effect.dims if dim not in null.dims}
    other = null.drop_attrs().expand_dims(rest).transpose(*effect.dims)
    found, nothing = (mean_interval(arm, over, level=level, bounds=bounds) for arm in (effect, other))
    apart = paired(effect, other, over, level=level, bounds=bounds, seed=seed)
    cells = max_statistic(effect, other, over, seed=seed)
    whole = found[["value", "low", "high", "n"]].assign(
        null=nothing["value"], null_low=nothing["low"], null_high=nothing["high"],
        difference=apart["value"], difference_low=apart["low"], difference_high=apart["high"],
        p=cells["p"], p_corrected=cells["p_corrected"],
    )  # fmt: skip
    about = {"cells": cells.attrs["cells"], "correction": f"{cells.attrs['correction']} over cells, sign flips"}
    about |= {name: cells.attrs[name] for name in ("smallest_p", "no_mark") if name in cells.attrs}
    return whole.assign_attrs(about)
