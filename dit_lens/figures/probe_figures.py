"""Figures of probes: decodability beside its control, best places, selectivity, similar directions, confusions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError
from dit_lens.figures.forest import forest
from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.lines import lines
from dit_lens.figures.theme import Mode

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAMES = {"auc": "area under the ROC curve", "balanced_accuracy": "balanced accuracy", "r2": "R²"}


def decodability(found: xr.Dataset, label: str, hook: str | None = None, *, mode: Mode = "light") -> go.Figure:
    """Score of a label by step and layer, beside the control task on the same scale.

    A dot marks places whose p, corrected over places and labels, is at most .05 and whose interval is above both the
    input's score at that step and the features without a model (position, majority): the model computed what a probe
    reads there.

    Args:
        found: From ``dit_lens.probing.grid``.
        label: The label.
        hook: The hook; the first one by default.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: The grid does not have the label.
    """
    part = _part(found, label, hook)
    name = NAMES[str(part["metric"].values)]
    data = part[["score", "low", "high"]].rename(score="value").assign(n=part["n"])
    data["value"].attrs = {"long_name": f"{label}: {name}", "units": f"chance {float(part['chance']):.2g}"}
    data.attrs |= {"value_name": "probe", "null_name": "control task (memory of scenes)"}
    handed = part["input"].clip(min=part["plain"].max("baseline"))  # (step,)
    mark = (part["low"] > handed) & (part["p_corrected"] <= 0.05 if "p_corrected" in part else True)
    ends = (min(float(part["chance"]), float(np.nanmin(part["control"].fillna(1)))), 1.0)
    null = part["control"] if np.isfinite(part["control"]).any() else None
    return heatmap(
        data, null=null, mark=mark.transpose(*data["value"].dims), mode=mode, limits=ends,
        mark_label="interval above input and position, corrected p ≤ .05",
    )  # fmt: skip


def selectivity(found: xr.Dataset, label: str, hook: str | None = None, *, mode: Mode = "light") -> go.Figure:
    """Score minus that of the control task, by step and layer.

    Args:
        found: From ``dit_lens.probing.grid``.
        label: The label.
        hook: The hook; the first one by default.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: The label has no control task.
    """
    part = _part(found, label, hook)
    if not np.isfinite(part["selectivity"]).any():
        raise FigureError(
            f"{label!r} has no control task: its scenes have one row each. Collect per frame or token, or with seeds=2"
        )
    data = part["selectivity"]
    data = data.drop_vars([c for c in data.coords if c not in (*data.dims, "sigma")])
    data.attrs = {"long_name": f"{label}: selectivity (score - control)", "units": "1", "n": int(part["n"])}
    return heatmap(data, mode=mode)


def best_places(found: xr.Dataset, *, mode: Mode = "light") -> go.Figure:
    """Every label at its best place, with its interval, beside the control task at that place.

    The best of many places is high by selection, too: ``p_corrected`` of ``found`` is corrected for that, its interval
    is not.

    Args:
        found: From ``dit_lens.probing.grid``.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.
    """
    flat = found.drop_dims("task", errors="ignore").stack(place=("hook", "step", "layer"))
    top = flat.isel(place=flat["score"].fillna(-np.inf).argmax("place"))
    rows = [
        f"{label}: step {step}, layer {layer}" + (f", {hook}" if found.sizes["hook"] > 1 else "")
        for label, (hook, step, layer) in zip(top["label"].values, top["place"].values, strict=True)
    ]
    parts = {"value": "score", "low": "low", "high": "high", "null": "control", "n": "n"}
    data = xr.Dataset({new: ("label", top[old].values) for new, old in parts.items()}, {"label": rows})
    names = {NAMES[str(metric)] for metric in np.atleast_1d(top["metric"].values)}
    data["value"].attrs = {"long_name": " or ".join(sorted(names))}
    if not np.isfinite(data["null"]).any():
        data = data.drop_vars("null")
    chances = set(np.atleast_1d(top["chance"].values).tolist())
    data.attrs["null_name"] = "control task (memory of scenes)"
    chance = chances.pop() if len(chances) == 1 else None
    return forest(data, chance=chance, title="Where each label is read best", mode=mode)


def by_layer(found: xr.Dataset, step: int, hook: str | None = None, *, mode: Mode = "light") -> go.Figure:
    """All labels at one step, by layer, with intervals."""
    hook = hook or str(found["hook"].values[0])
    data = found[["score", "low", "high"]].sel(step=step, hook=hook, drop=True).rename(score="value")
    data = data.drop_vars([c for c in data.coords if c not in data.dims])
    data["value"].attrs = {"long_name": f"score at step {step}", "units": "see the table for each label's measure"}
    return lines(data, x="layer", by="label", mode=mode)


def similar(cosine: xr.DataArray, *, mode: Mode = "light") -> go.Figure:
    """Similarity of directions along one axis.

    Args:
        cosine: From ``dit_lens.probing.similarity``, one row: (place, other place).
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: Several rows.
    """
    if cosine.ndim != 2:
        raise FigureError(f"choose one row of {cosine.dims[0]}, such as cosine.sel({cosine.dims[0]}=5)")
    plain = cosine.drop_vars([c for c in cosine.coords if c not in cosine.dims])
    return heatmap(plain, x=str(cosine.dims[1]), limits=(-1, 1), mode=mode)


def confusion(probe: Any, *, mode: Mode = "light") -> go.Figure:
    """Share of each true class that the probe assigns to each class, out of fold.

    Args:
        probe: A fitted classifier.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: The probe has no confusion table.
    """
    if "confusion" not in probe.scores:
        raise FigureError("this probe has no confusion table: it is a regression, or was not fitted by dit_lens.probe")
    counts = np.array(probe.scores["confusion"], dtype=float)
    names = [str(c) for c in probe.classes]
    share = xr.DataArray(
        counts / counts.sum(1, keepdims=True), dims=("true", "said"),
        coords={"true": names, "said": names, "n": ("true", counts.sum(1).astype(int))},
        attrs={"long_name": f"{probe.label}: share of the true class", "units": "1"},
    )  # fmt: skip
    return heatmap(share, x="said", limits=(0, 1), mode=mode)


def _part(found: xr.Dataset, label: str, hook: str | None) -> xr.Dataset:
    if label not in found["label"].values:
        raise FigureError(f"no label {label!r} in this grid: it has {[str(v) for v in found['label'].values]}")
    part = found.drop_dims("task", errors="ignore")
    return part.sel(label=label, hook=hook or str(found["hook"].values[0]), drop=False)
