"""Tables as HTML: the layer map (one row per layer, evidence with intervals, a verdict), and plain ones.

Every cell is escaped. Headers carry ``scope`` so that screen readers can name them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError
from dit_lens.figures.labelled_arrays import interval, number

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = ("_low", "_high", "_null", "_n", "_null_low", "_null_high", "_p")


def layer_table(data: xr.Dataset, *, verdict: str = "verdict") -> str:
    """The layer map: one row per layer (and expert), evidence columns with interval, placebo and n, and a verdict.

    Each numeric variable ``v`` is one column of evidence; ``v_low`` and ``v_high`` are its interval, ``v_null`` its
    placebo (another word: ``attrs["null_name"]`` of ``v``), ``v_null_low`` and ``v_null_high`` the placebo's range,
    ``v_p`` its p, ``v_n`` its count. Text variables (the verdict among them)
    become columns of words, the verdict last.

    Args:
        data: Dims (layer,) or (expert, layer) in any order. Coordinates along ``layer`` such as ``depth`` become
            columns.
        verdict: The variable that is the verdict.

    Returns:
        HTML (one <table>, escaped).

    Raises:
        FigureError: Other dims, or half an interval.
    """
    if not isinstance(data, xr.Dataset):
        raise FigureError(f"layer_table needs an xarray Dataset, got {type(data).__name__}.")
    if "layer" not in data.dims or set(data.dims) - {"layer", "expert"}:
        raise FigureError(
            f"layer_table needs dims (layer,) or (expert, layer), got {dict(data.sizes)}: select or reduce first."
        )
    names = [str(name) for name in data.data_vars]
    evidence = [
        v for v in names if _is_number(data[v]) and not any(v.endswith(s) and v[: -len(s)] in names for s in _SUFFIXES)
    ]
    words = [v for v in names if not _is_number(data[v]) and v != verdict]
    for v in evidence:
        if (v + "_low" in names) != (v + "_high" in names):
            raise FigureError(f"{v} has one end of an interval: give both {v}_low and {v}_high.")
    places = [c for c in ("expert", "layer", "depth") if c in data.coords or c in data.dims]
    head = [_head(data, c) for c in places] + [_head(data, v) for v in evidence + words]
    if verdict in names:
        head.append(_head(data, verdict))
    reach = {
        v: float(np.nanmax(np.abs(data[v].values))) if np.isfinite(data[v].values).any() else 0.0 for v in evidence
    }

    order = [d for d in ("expert", "layer") if d in data.dims]
    rows = []
    for at in np.ndindex(*(data.sizes[d] for d in order)):
        row = data.isel(dict(zip(order, at, strict=True)))
        cells = []
        for place in places:
            value = row[place].item() if place in row.coords else at[order.index(place)]
            tag = 'th scope="row"' if place == "layer" else "td"
            cells.append(f'<{tag} class="place">{number(value)}</{tag.split()[0]}>')
        cells += [_evidence(row, v, reach[v]) for v in evidence]
        cells += [f'<td class="words">{escape(_text(row[v].item()))}</td>' for v in words]
        if verdict in names:
            cells.append(f'<td class="verdict"><span>{escape(_text(row[verdict].item()))}</span></td>')
        rows.append("<tr>" + "".join(cells) + "</tr>")
    return _table(head, rows, "layers")


def plain_table(data: xr.Dataset | xr.DataArray | pd.DataFrame) -> str:
    """Any table, row by row: a DataFrame (a named index becomes columns), or xarray flattened over its dims."""
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or "value")
    frame = data.to_dataframe().reset_index() if isinstance(data, xr.Dataset) else data
    if any(name is not None for name in frame.index.names) and not isinstance(data, xr.Dataset):
        frame = frame.reset_index()
    head = [escape(str(column)) for column in frame.columns]
    numeric = [i for i, kind in enumerate(frame.dtypes) if kind.kind in "iufb"]
    rows = []
    for values in frame.itertuples(index=False):
        cells = [
            f'<td class="num">{number(v)}</td>' if _is_scalar(v) else f'<td class="words">{escape(_text(v))}</td>'
            for v in values
        ]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    return _table(head, rows, "plain", numeric)


def value_table(table: Mapping[str, list]) -> str:
    """The numbers of a figure (``labelled_arrays.listed``): the value on a cell's first line, its companions below."""
    rows = []
    for (name, *_), *cells in table["rows"]:
        said = "".join(
            f'<td class="num">{escape(value)}{"".join(f"<small>{escape(line)}</small>" for line in below)}</td>'
            for value, *below in cells
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{said}</tr>')
    return _table([escape(head) for head in table["head"]], rows, "plain", range(1, len(table["head"])))


def _table(head: list[str], rows: list[str], kind: str, numeric: Collection[int] = ()) -> str:
    """An HTML table; columns in ``numeric`` and their heads are aligned right."""
    heads = "".join(f'<th scope="col"{" class=num" if i in numeric else ""}>{h}</th>' for i, h in enumerate(head))
    return f'<table class="data {kind}"><thead><tr>{heads}</tr></thead><tbody>' + "\n".join(rows) + "</tbody></table>"


def _head(data: xr.Dataset, name: str) -> str:
    attrs = data[name].attrs if name in data.variables else {}
    text = escape(str(attrs.get("long_name") or name.replace("_", " ")))
    units = attrs.get("units")
    return f'{text} <span class="units">{escape(str(units))}</span>' if units not in (None, "", "1") else text


def _evidence(row: xr.Dataset, name: str, reach: float) -> str:
    """Value, interval, placebo and n in one cell, over a bar as long as its share of the column's largest."""
    value = float(row[name].item())
    if np.isnan(value):
        return '<td class="num missing">–</td>'
    parts = [f"<b>{number(value)}</b>"]
    if name + "_low" in row:
        parts.append(f'<span class="interval">{interval(row[name + "_low"].item(), row[name + "_high"].item())}</span>')
    small = []
    if name + "_null" in row:
        null_name = escape(str(row[name].attrs.get("null_name", "placebo")))
        ends = [float(row[f"{name}_null_{end}"].item()) for end in ("low", "high") if f"{name}_null_{end}" in row]
        band = f" ({number(ends[0])} to {number(ends[1])})" if len(ends) == 2 and ends[0] < ends[1] else ""
        small.append(f"{null_name} {number(float(row[name + '_null'].item()))}{band}")
    if name + "_p" in row and np.isfinite(row[name + "_p"].item()):
        small.append(f"p = {number(float(row[name + '_p'].item()))}")
    count = row[name + "_n"].item() if name + "_n" in row else row[name].attrs.get("n")
    if count is not None and np.isfinite(count):
        small.append(f"n = {number(int(count))}")
    if small:
        parts.append(f"<small>{' · '.join(small)}</small>")
    share = 100 * abs(value) / reach if reach else 0.0
    sign = "below" if value < 0 else "above"
    return f'<td class="num bar {sign}" style="--share:{share:.1f}%">{" ".join(parts)}</td>'


def _is_number(array: xr.DataArray) -> bool:
    return bool(np.issubdtype(array.dtype, np.number))


def _is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _text(value: object) -> str:
    return "–" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
