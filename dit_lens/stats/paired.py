"""An effect against its null on the same tasks: the paired difference, its interval, and the p of sign flips.

    stats.paired(swap, placebo)                      # value, low, high, p, n, sd, detectable

Arms of the same task resemble each other (the same picture, prompt and noise), so their difference is far steadier than
either. Comparing the arms' own intervals throws that away (docs/statistics.md has the numbers).

When not to use: with a null of other tasks, which has no pairs; for many cells at once, without
:func:`dit_lens.stats.max_statistic`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dit_lens.stats.corrections import paired_difference
from dit_lens.stats.intervals import by_task
from dit_lens.stats.pairs import Pairs
from dit_lens.stats.smallest_p import of_tasks


def paired(
    effect: xr.DataArray,
    null: xr.DataArray | float,
    over: str | Sequence[str] = "task",
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Mean paired difference with its interval and two-sided p, for every cell.

    Args:
        effect: Numbers along ``over`` and any other dims; a task that is NaN in either arm is left out.
        null: The same under the null on the same tasks, or a number that is known.
        over: A dim, or several from the top level down; lower levels are averaged within the first.
        level: Coverage.
        bounds: The least and the greatest value of an *arm*. Where arms only have these two values the interval is
            Newcombe's for paired shares; where all differences are equal it is what tasks not seen could change.
        seed: For the random flips that stand in for all of them above twelve tasks.

    Returns:
        ``value``, ``low``, ``high``, ``p`` (two-sided), ``n`` tasks, ``sd`` of the differences, and ``detectable``: the
        smallest difference that a test of this level would have found in 80 % of studies with this n and sd. Fewer
        than five tasks have no interval, and with five no p is below .0625, so that theirs is infinite. Without bounds,
        equal differences have neither interval nor ``detectable`` (NaN). ``attrs["smallest_p"]`` is the smallest p of
        sign flips over so many tasks, and ``attrs["no_mark"]`` says so where it lies above .05.

    Raises:
        MeasureError: For arrays of different tasks or cells.
    """
    difference = by_task(paired_difference(effect, null, over), over)
    top = over if isinstance(over, str) else over[0]
    dims = [str(dim) for dim in difference.dims if dim != top]
    template = difference.isel({top: 0}, drop=True).transpose(*dims)
    a = by_task(effect, over).transpose(top, *dims).values
    b = by_task(null, over).transpose(top, *dims).values if isinstance(null, xr.DataArray) else float(null)
    names = ("value", "low", "high", "p", "n", "sd", "detectable")
    out = {name: np.full(template.shape, np.nan) for name in names}
    for at in np.ndindex(template.shape):
        index = (slice(None), *at)
        one = Pairs(a[index], b[index] if isinstance(b, np.ndarray) else b, bounds, seed)
        found = (one.value, *one.interval(level), one.p(), one.n, one.sd, one.detectable(level))
        for name, number in zip(names, found, strict=True):
            out[name][at] = number
    data = {name: template.copy(data=values.astype(int) if name == "n" else values) for name, values in out.items()}
    for array in data.values():
        array.attrs = {}
    least = of_tasks(int(out["n"].max(initial=0)), top)
    below = (out["p"] < least.value * (1 - 1e-9)).any()  # an exact binomial test against a known share
    about = {"interval_over": top, "level": level, "method": "sign flips", **({} if below else least.attrs())}
    return xr.Dataset(data, attrs=about)
