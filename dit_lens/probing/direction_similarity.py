"""Directions of probes over steps and layers, and their cosines: is a label read along one direction everywhere?

At each place a ridge probe is fitted on each half of the scenes; u_a and u_b are their unit normals in the activation's
own coordinates. ``similarity`` is the cosine between the first half's direction at one place and the second half's at
another, so that noise in shared scenes does not make two places look alike. The diagonal is the reliability, an upper
limit of the cosine.

When not to use: to compare hooks that live in different bases (queries and the stream), or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.errors import ProbeError
from dit_lens.probing.features import Features
from dit_lens.probing.labels import Labels, label
from dit_lens.probing.ridge_moments import ALPHA, targets
from dit_lens.probing.splits import folds_of


def directions(
    features: Features, wanted: Any, hook: str | None = None, alpha: float = ALPHA, seed: int = 0
) -> xr.DataArray:
    """Fit the direction of a label at every place, on each half of the scenes.

    Args:
        features: Activations at the places.
        wanted: A label of two classes or a regression, as in :func:`dit_lens.probing.label`.
        hook: One of the features' hooks; the first by default.
        alpha: Strength of the ridge.
        seed: Seed of the halves.

    Returns:
        Unit vectors (part, step, layer, channel), ``part`` being the half of the scenes.

    Raises:
        ProbeError: A label of more classes, or a class that one half of the scenes lacks.
    """
    labels = wanted if isinstance(wanted, Labels) else label(features, wanted)
    hook = hook or features.hooks[0]
    if len(labels.classes) > 2:
        raise ProbeError(
            f"label {labels.name!r} has {len(labels.classes)} classes and no single direction: ask for one of them, "
            "as an array such as values == 'left'"
        )
    half = np.broadcast_to(folds_of(features.groups, 2, seed)[:, None], labels.used.shape)
    y = labels.values if labels.values is not None else targets(labels.codes, 2)[:, 0]
    parts = [labels.used & (half == i) for i in (0, 1)]
    if any(np.ptp(y[part]) == 0 for part in parts if part.any()) or not all(part.any() for part in parts):
        raise ProbeError(f"label {labels.name!r} does not vary in one half of the scenes: give more scenes")
    out: list[Any] = []
    for step in features.steps:
        rows = []
        for x in features.block(hook, step):  # (scenes, units, d)
            fits = [make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[part], y[part]) for part in parts]
            w = np.stack([fit[-1].coef_ / fit[0].scale_ for fit in fits])  # (2, d)
            rows.append(w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-12))
        out.append(rows)
    return xr.DataArray(
        np.moveaxis(np.array(out), 2, 0),
        dims=("part", "step", "layer", "channel"),
        coords={"part": [0, 1], "step": list(features.steps), "sigma": ("step", list(features.sigmas)),
                "layer": list(features.layers)},
        attrs={"label": labels.name, "hook": hook, "scenes": int(labels.used.any(1).sum())},
    )  # fmt: skip


def similarity(found: xr.DataArray, along: str) -> xr.DataArray:
    """Cosines between the directions of two places.

    Args:
        found: Result of :func:`directions`.
        along: ``"step"`` or ``"layer"``.

    Returns:
        (layer, step, other_step) or (step, layer, other_layer). Both orders of the halves are averaged, so that the
        matrix is symmetric.

    Raises:
        ProbeError: Another ``along``.
    """
    if along not in ("step", "layer"):
        raise ProbeError(f"along={along!r}: choose 'step' or 'layer'")
    a, b = found.sel(part=0, drop=True), found.sel(part=1, drop=True)
    other = f"other_{along}"
    one = xr.dot(a, b.rename({along: other}).drop_vars("sigma", errors="ignore"), dim="channel")
    two = xr.dot(b, a.rename({along: other}).drop_vars("sigma", errors="ignore"), dim="channel")
    rest = "layer" if along == "step" else "step"
    cosine = ((one + two) / 2).transpose(rest, along, other)
    cosine.attrs = {
        **found.attrs, "long_name": f"cosine of the directions that read {found.attrs['label']}", "units": "1"
    }  # fmt: skip
    return cosine
