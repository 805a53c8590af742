"""What a method's numbers are worth on one plant: recall, false findings, AUC, error.

Over the cells of a method::

    members called            recall
    others called             false findings; of these, where a decoy stands: decoys believed
    AUC                       of members against all other cells, by the size of the difference from the null
    error                     mean distance from the exact effect, where it is known
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import xarray as xr
from sklearn.metrics import roc_auc_score

from dit_lens.planted.measuring import Found, Tasks
from dit_lens.planted.methods import Method, truth_of
from dit_lens.planted.planting import Planted
from dit_lens.stats import max_statistic

LEVEL = 0.05


def judge(found: Found, smallest: float, one_sided: bool = False) -> xr.Dataset:
    """Which cells are called.

    Args:
        found: What a method found.
        smallest: Smallest effect of interest.
        one_sided: Whether only more than the null counts.

    Returns:
        ``value`` (mean difference from the null), ``p`` (corrected) and ``called`` over the dims of the cells.
    """
    effect = found.effect
    null = xr.full_like(effect, found.null) if not isinstance(found.null, xr.DataArray) else found.null
    tested = max_statistic(effect, null, "task")
    p = tested["p_corrected"] if found.p is None else found.p.transpose(*tested["value"].dims)
    size = tested["value"] if one_sided else abs(tested["value"])
    called = (p <= LEVEL) & (size >= smallest)
    return xr.Dataset({"value": tested["value"], "p": p, "called": called})


def score(method: Method, made: Planted, tasks: Tasks, clock: Callable[[], float] = time.perf_counter) -> xr.Dataset:
    """Run a method on a plant and compare with the truth.

    Args:
        method: The method.
        made: The plant.
        tasks: What it is given.
        clock: For the time that it takes.

    Returns:
        Numbers ``recall``, ``false`` (share of the other cells that are called), ``any_false``, ``decoys`` (of these,
        the number in the layers of decoys), ``auc``, ``error``, ``cells``, ``members`` and ``seconds``. Cells that the
        method leaves undecided count nowhere.
    """
    began = clock()
    found = method.measure(made, tasks)
    seconds = clock() - began
    judged = judge(found, method.smallest, method.one_sided)
    value, called = judged["value"], judged["called"].values
    members, others, exact = truth_of(method, made, tasks, value)
    member, other = members.values, others.values
    rank = np.nan_to_num((value if method.one_sided else abs(value)).values)
    decoy = _in_decoys(value, made) & other
    counts = member | other
    with np.errstate(invalid="ignore"):
        numbers = {
            "recall": called[member].mean() if member.any() else np.nan,
            "false": called[other].mean() if other.any() else np.nan,
            "any_false": float(called[other].any()),
            "decoys": float((called & decoy).sum()),
            "auc": roc_auc_score(member[counts], rank[counts]) if member.any() and other.any() else np.nan,
            "error": np.nanmean(abs(value - exact).values) if np.isfinite(exact).any() else np.nan,
            "cells": float(counts.sum()),
            "members": float(member.sum()),
            "seconds": seconds,
        }
    return xr.Dataset({name: float(number) for name, number in numbers.items()})


def _in_decoys(value: xr.DataArray, made: Planted) -> np.ndarray:
    """Whether each cell lies in the layer of a decoy; all cells of a plant with one where a cell is no single layer."""
    layers = [part.layer for part in made.spec.decoys()]
    if "layer" not in value.dims or not np.issubdtype(value["layer"].dtype, np.integer):
        return np.full(value.shape, bool(layers))
    there = xr.broadcast(value["layer"], value)[0].transpose(*value.dims).values
    return np.isin(there, layers)
