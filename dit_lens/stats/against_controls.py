"""A network against control networks: the test is over networks, not over tasks.

Any two networks differ, and on more tasks they differ more surely; tasks cannot stand in for networks. Under the null
the network is one more draw of its controls, say another shuffle of the same weights, so that all K + 1 are
exchangeable. With x_i(c) the number of network i in cell c, network 0 the one asked, mean and standard deviation over
all K + 1 networks::

    z_i(c)        = (x_i(c) - mean(c)) / sd(c)
    p(c)          = #{i = 0 .. K : |z_i(c)| >= |z_0(c)|} / (K + 1)
    p_corrected(c) = #{i = 0 .. K : max over cells |z_i| >= |z_0(c)|} / (K + 1)

z treats all networks alike, the one asked included, so that p is exact whatever the cells' distribution and however
they depend on each other: at most 5 % of networks that are no other than their controls have any cell below .05.

    stats.against_controls(own.mean("task"), controls.mean("task"))          # value, z, p, p_corrected

When not to use: with controls that differ from the network in more than is asked. A network that never was trained is
no shuffle of its weights, and this test says so.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats.smallest_p import FEWEST_CONTROLS, of_controls


def against_controls(
    own: xr.DataArray, controls: xr.DataArray, over: str = "control", *, one_sided: bool = False
) -> xr.Dataset:
    """Cells in which a network lies outside of its control networks, corrected over all cells.

    Args:
        own: A number of each cell; tasks are averaged beforehand.
        controls: The same of the control networks along ``over``, on the same tasks.
        over: The dim of the control networks.
        one_sided: Whether only more than the controls counts.

    Returns:
        ``value`` (difference from the controls' mean), ``z``, ``p`` (of the cell alone) and ``p_corrected``, over the
        dims of the cells. p is NaN with fewer than twenty controls, which ``attrs["no_mark"]`` says, and in cells that
        some network has no number in, which do not count. Attributes ``controls`` (how many), ``cells``,
        ``correction`` and ``smallest_p``.

    Raises:
        MeasureError: For controls of other cells, or without their dim.
    """
    if over not in controls.dims:
        raise MeasureError(f"controls have dims {list(controls.dims)} and none of {over!r}: name theirs with over=")
    if set(own.dims) != set(controls.dims) - {over} or any(own.sizes[d] != controls.sizes[d] for d in own.dims):
        raise MeasureError(
            f"own {dict(own.sizes)} and controls {dict(controls.sizes)} are not of the same cells: average tasks "
            'first, own.mean("task") and controls.mean("task"), and select() the same cells'
        )
    for dim in own.dims:
        if dim in own.coords and dim in controls.coords and not (own[dim].values == controls[dim].values).all():
            raise MeasureError(f"own and controls have other labels along {dim!r}: select() the same cells")
    numbers = own.astype(float)
    rest = controls.transpose(over, *own.dims).values.astype(float)  # (K, cells)
    count = len(rest)
    x = np.concatenate([numbers.values[None], rest]).reshape(count + 1, -1)
    there = np.isfinite(x).all(0)
    z, p, corrected = np.full((3, x.shape[1]), np.nan)
    if there.any():
        every = _standardised(x[:, there])
        every = every if one_sided else np.abs(every)
        mine = every[0] - 1e-9 * np.abs(every[0])
        z[there] = _standardised(x[:, there])[0]
        if count >= FEWEST_CONTROLS:
            p[there] = (every >= mine).mean(0)
            corrected[there] = (every.max(1)[:, None] >= mine).mean(0)
    value = numbers.values - rest.mean(0)
    found = {"value": value, "z": z, "p": p, "p_corrected": corrected}
    data = {name: numbers.copy(data=np.reshape(array, own.shape)).drop_attrs() for name, array in found.items()}
    most = "z" if one_sided else "|z|"
    about = {"interval_over": "network", "controls": count, "cells": int(there.sum()), "correction": f"max {most}"}
    return xr.Dataset(data, attrs={**about, **of_controls(count).attrs()})


def _standardised(x: np.ndarray) -> np.ndarray:
    """Z over the first axis; 0 in cells in which all networks are equal up to rounding."""
    mean, sd = x.mean(0), x.std(0)
    same = sd <= 1e-12 * np.abs(x).max(0)
    return np.asarray(np.where(same, 0.0, (x - mean) / np.where(same, 1.0, sd)))
