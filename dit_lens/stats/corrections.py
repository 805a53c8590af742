"""Many numbers, one page: p-values that hold over all rows of a page, or over all cells of a sweep or map.

* Rows ask different questions: :func:`fdr` bounds the share of wrong ones among those that are called
  (Benjamini-Hochberg, or Benjamini-Yekutieli where rows may depend on each other in any way).
* Cells ask one question at many places, on the same tasks: :func:`max_statistic` bounds the chance that *any* cell
  without an effect is called. Under each flip of signs, the same for all cells, the largest |t| of all cells is taken;
  a cell's corrected p is the share of flips whose largest is at least its own (Westfall and Young 1993). What
  neighbouring cells have in common is in that null, so that 200 cells that move together cost no more than one.

When not to use: to choose what to look at. A corrected p is of the cells or rows that were asked, all of them; leaving
out those that did not work, and correcting the rest, corrects nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import false_discovery_control

from dit_lens.errors import MeasureError
from dit_lens.stats.intervals import by_task
from dit_lens.stats.sign_flips import sign_vectors, t_statistics
from dit_lens.stats.smallest_p import of_tasks

_AT_ONCE = 4_000_000  # numbers


def fdr(p: Any, *, any_dependence: bool = False) -> Any:
    """p-values corrected for the false discovery rate over all of them.

    Args:
        p: p-values, a sequence or an array of any shape, labelled or not; NaN (nothing was tested) stays NaN and does
            not count.
        any_dependence: Hold under any dependence between tests (Benjamini-Yekutieli), at the price of power. Without
            it the rate holds for independent and for positively dependent tests (Benjamini-Hochberg).

    Returns:
        Corrected p-values, labelled as ``p`` was, else a numpy array.

    Raises:
        MeasureError: For values outside 0 to 1.
    """
    values = np.asarray(p, dtype=float)
    seen = np.isfinite(values)
    if ((values[seen] < 0) | (values[seen] > 1)).any():
        raise MeasureError("p-values lie between 0 and 1: pass p, not statistics or logarithms")
    out = np.full(values.shape, np.nan)
    if seen.any():
        out[seen] = false_discovery_control(values[seen], method="by" if any_dependence else "bh")
    return p.copy(data=out) if isinstance(p, xr.DataArray) else out


def max_statistic(
    effect: xr.DataArray,
    null: xr.DataArray | float = 0.0,
    over: str | Sequence[str] = "task",
    *,
    step_down: bool = True,
    seed: int = 0,
) -> xr.Dataset:
    """Cells of a sweep or map that differ from their null, corrected over all of them by sign flips over tasks.

    Args:
        effect: Numbers along ``over`` and the dims of the cells; a task may be NaN in some cells.
        null: The same under the null on the same tasks, or a number.
        over: A dim, or several from the top level down; what is flipped is the top level.
        step_down: Take the maximum over the cells that are not yet called only (Westfall and Young), which loses
            nothing and finds more; False for the plain maximum over all cells.
        seed: For the random flips that stand in for all of them above twelve tasks.

    Returns:
        ``value`` (mean difference), ``t``, ``p`` (two-sided, of the cell alone), ``p_corrected`` and ``n`` over the
        dims of the cells. A cell with fewer than two tasks is NaN and does not count. ``attrs["smallest_p"]`` is the
        smallest p that so many tasks can give; where it lies above .05, ``attrs["no_mark"]`` says so in words.

    Raises:
        MeasureError: For arrays whose tasks or cells differ.
    """
    difference = by_task(paired_difference(effect, null, over), over)
    top = over if isinstance(over, str) else over[0]
    dims = [dim for dim in difference.dims if dim != top]
    x = difference.transpose(top, *dims).values
    shape = x.shape[1:]
    cells = x.reshape(len(x), -1)
    n = np.isfinite(cells).sum(0)
    asked = np.flatnonzero(n > 1)
    t, p, corrected = np.full((3, cells.shape[1]), np.nan)
    if len(asked):
        t[asked], p[asked], corrected[asked] = _flipped(cells[:, asked], sign_vectors(len(cells), seed), step_down)
    with np.errstate(invalid="ignore"):
        value = np.where(n > 0, np.nansum(cells, 0) / np.maximum(n, 1), np.nan)
    template = difference.isel({top: 0}, drop=True).transpose(*dims)
    found = {"value": value, "t": t, "p": p, "p_corrected": corrected, "n": n}
    data = {name: template.copy(data=array.reshape(shape)) for name, array in found.items()}
    attrs = {"interval_over": top, "cells": len(asked), "correction": "max |t|" + (", step-down" if step_down else "")}
    return xr.Dataset(data, attrs={**attrs, **of_tasks(int(n.max(initial=0)), top).attrs()})


def _flipped(cells: np.ndarray, signs: np.ndarray, step_down: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t, p and corrected p of cells (n, cells); flips are taken in parts, so that many cells fit in memory."""
    t = t_statistics(cells, signs[:1])[0]
    edge = np.abs(t) * (1 - 1e-9)
    order = np.argsort(-np.abs(t), kind="stable")
    alone, held = np.zeros((2, len(t)))  # how many flips reach a cell's |t|: by itself, and the largest of its rivals
    rows = max(1, _AT_ONCE // len(t))
    for start in range(0, len(signs), rows):
        size = np.abs(t_statistics(cells, signs[start : start + rows]))
        alone += (size >= edge).sum(0)
        if step_down:
            # Each cell against those that rank no higher: from the smallest up, the largest so far.
            rival = np.maximum.accumulate(size[:, order[::-1]], axis=1)[:, ::-1]
            held[order] += (rival >= edge[order]).sum(0)
        else:
            held += (size.max(1)[:, None] >= edge).sum(0)
    p, corrected = alone / len(signs), held / len(signs)
    if step_down:
        # No cell gets a smaller p than one with a larger |t|.
        corrected[order] = np.maximum.accumulate(corrected[order])
    return t, p, corrected


def paired_difference(
    effect: xr.DataArray, null: xr.DataArray | float, over: str | Sequence[str] = "task"
) -> xr.DataArray:
    """The difference effect - null of the same tasks in the same order, with the labels of ``effect``.

    Args:
        effect: Numbers along ``over`` and any other dims.
        null: The same under the null, or a number.
        over: A dim, or several; where both have labels along it, these must be equal.

    Raises:
        MeasureError: For arrays whose dims or tasks differ: an unpaired null has no paired difference.
    """
    if isinstance(null, xr.DataArray):
        levels = [over] if isinstance(over, str) else list(over)
        same = set(effect.dims) == set(null.dims) and effect.sizes == null.sizes
        for dim in levels if same else ():
            if dim in effect.coords and dim in null.coords:
                same = same and bool((effect[dim].values == null[dim].values).all())
        if not same:
            raise MeasureError(
                f"effect {dict(effect.sizes)} and null {dict(null.sizes)} are not of the same tasks and cells: measure "
                "both on the same tasks, and select() the same cells; a null of other tasks can only enter as a number"
            )
        other = null.transpose(*effect.dims).values
    else:
        other = np.asarray(float(null))
    return effect.astype(float).copy(data=effect.values.astype(float) - other)
