"""Tables of docs/calibration.json: to JSON and back, to Markdown, and pooled over plants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr


def packed(found: xr.Dataset) -> dict[str, Any]:
    """A table as plain JSON values: NaN as null, six digits."""
    dims = list(found.sizes)
    data = {}
    for name, values in found.data_vars.items():
        flat = np.asarray(values.values, float).ravel()
        data[str(name)] = {"dims": list(values.dims), "values": [float(f"{v:.6g}") if v == v else None for v in flat]}
    return {"coords": {str(d): found[d].values.tolist() for d in dims if d in found.coords}, "data": data}


def unpacked(kept: Mapping[str, Any]) -> xr.Dataset:
    """The table of :func:`packed`."""
    sizes = {dim: len(labels) for dim, labels in kept["coords"].items()}
    data = {
        name: (one["dims"], np.array(one["values"], float).reshape([sizes[d] for d in one["dims"]]))
        for name, one in kept["data"].items()
    }
    return xr.Dataset(data, coords=kept["coords"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table in Markdown, its first column (or those named) left and the others right."""
    lines = [f"| {' | '.join(head)} |", "|" + "".join("---|" if i in left else "---:|" for i in range(len(head)))]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def number(value: float, digits: int = 2) -> str:
    """A number without its leading zero; empty for none."""
    if not np.isfinite(value):
        return ""
    said = f"{value:.{digits}f}"
    return said.replace("0.", ".", 1) if said.startswith(("0.", "-0.")) else said


def small(value: float) -> str:
    """An error: as a power of ten where it is rounding."""
    if not np.isfinite(value):
        return ""
    return number(value, 3) if value >= 5e-4 else f"{value:.0e}"


def over(found: xr.Dataset, method: str, plants: Iterable[str]) -> xr.Dataset:
    """A method's numbers on some plants, as far as they are there."""
    there = [plant for plant in plants if plant in found["plant"].values]
    return found.sel(approach=method, plant=there)


def recall(one: xr.Dataset) -> float:
    """Share of all true cells that were called; NaN where there are none."""
    members = one["members"].where(one["recall"].notnull())
    return float((one["recall"] * members).sum() / members.sum()) if float(members.sum()) else float("nan")


def false(one: xr.Dataset) -> float:
    """Share of all other cells that were called; NaN where there are none."""
    others = (one["cells"] - one["members"]).where(one["false"].notnull())
    return float((one["false"] * others).sum() / others.sum()) if float(others.sum()) else float("nan")
