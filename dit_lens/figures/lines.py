"""Curves of a quantity along one dim, one per value of another, each with its interval as a band."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError
from dit_lens.figures.arrays import (
    Quantity,
    axis_label,
    companions,
    folded,
    interval,
    number,
    quantity,
    require_same_cells,
    ticks,
)
from dit_lens.figures.theme import DASHES, SYMBOLS, Mode, series_colors, template

if TYPE_CHECKING:
    import plotly.graph_objects as go


def lines(
    data: xr.DataArray | xr.Dataset,
    *,
    x: str,
    by: str | None = None,
    low: xr.DataArray | None = None,
    high: xr.DataArray | None = None,
    null: xr.DataArray | None = None,
    title: str | None = None,
    value: str | None = None,
    mode: Mode = "light",
) -> go.Figure:
    """Draw curves along ``x``, one per value of ``by``, with interval bands.

    data: dims (x,) or (x, by) in any order, DataArray or Dataset as for ``heatmap``.
    low, high: ends of the interval, in the value's units; default: the Dataset's ``low`` and ``high``.
    null: the placebo, dims (x,) or (x, by); drawn grey and dashed, once per curve where it has ``by``;
        ``attrs["null_name"]`` of ``data`` says what it is, where "placebo" is not the word.

    Raises FigureError for other dims, one end of an interval, or nothing finite.
    """
    import plotly.graph_objects as go

    q = quantity(data, value)
    called = str(data.attrs.get("null_name", "placebo"))
    if (low is None) != (high is None):
        raise FigureError("An interval needs both ends: give both low= and high=.")
    if low is not None:
        q = Quantity(q.value, low, high, q.n, q.null)
    if null is not None:
        q = Quantity(q.value, q.low, q.high, q.n, null)
    wanted = {x} if by is None else {x, by}
    if set(q.value.dims) != wanted:
        raise FigureError(f"Curves along {x!r} by {by!r} need dims {sorted(wanted)}, got {dict(q.value.sizes)}.")

    for name, other in (("low", q.low), ("high", q.high), ("The placebo", q.null)):
        if other is not None:
            require_same_cells(other, q.value, name)

    names = [None] if by is None else ticks(q.value, by)
    ordered = by is not None and all(isinstance(name, (int, float)) for name in names)
    colors = series_colors(len(names), ordered)
    grid = ticks(q.value, x)
    numeric = all(isinstance(g, (int, float)) for g in grid)
    fig = go.Figure()
    for i, name in enumerate(names):
        part = {key: _row(getattr(q, key), by, i, q.value) for key in ("value", "low", "high", "n")}
        title_of = "" if by is None else f"{axis_label(q.value, by)} {number(name)}" if ordered else number(name)
        if part["low"] is not None and part["high"] is not None:
            fig.add_traces(_bands(grid, part["low"], part["high"], colors[i], title_of))
        fig.add_trace(
            go.Scatter(
                x=grid,
                y=part["value"],
                mode="lines+markers" if len(grid) <= 60 else "lines",
                name=title_of,
                legendgroup=title_of,
                showlegend=name is not None,
                line={"color": colors[i], "width": 2, "dash": "solid" if ordered else DASHES[i % len(DASHES)]},
                marker={"size": 6, "symbol": SYMBOLS[i % len(SYMBOLS)]},
                hovertext=_hover(q, x, part, title_of),
                hoverinfo="text",
            )
        )
    if q.null is not None:
        _add_null(fig, q, x, by, names, grid, called)
    fig.update_xaxes(
        title_text=axis_label(q.value, x),
        type=None if numeric else "category",
        showgrid=False,
        zeroline=False,
        showline=True,
    )
    fig.update_yaxes(title_text=folded(q.label, 34))
    fig.update_layout(
        template=template(mode),
        title_text=None if title is None else html.escape(title, quote=False),
        height=360,
        margin={"t": 60 if title else 30},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        meta={"kind": "lines", "alt": _alt(q, x, by, names), "notes": _notes(q, called)},
    )
    return fig


def _row(array: xr.DataArray | None, by: str | None, i: int, like: xr.DataArray) -> np.ndarray | None:
    if array is None:
        return None
    array = array.broadcast_like(like)
    return np.asarray((array if by is None else array.isel({by: i})).values, dtype=float)


def _bands(grid: list, low: np.ndarray, high: np.ndarray, color: str, group: str) -> list:
    """The interval as filled traces: one per stretch without gaps (plotly would fill across a NaN)."""
    import plotly.graph_objects as go

    good = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    bands = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        span = grid[start:stop]
        bands.append(
            go.Scatter(
                x=span + span[::-1],
                y=np.concatenate([high[start:stop], low[start:stop][::-1]]),
                mode="lines",
                line={"width": 0, "color": color},
                fill="toself",
                opacity=0.22,
                fillcolor=color,
                legendgroup=group,
                showlegend=False,
                hoverinfo="skip",
            )
        )
    return bands


def _hover(q: Quantity, x: str, part: dict, title: str) -> list[str]:
    extra = companions(q.value, x)
    out = []
    for j, at in enumerate(ticks(q.value, x)):
        more = ", ".join(f"{key} {number(values[j])}" for key, values in extra.items())
        said = [
            (title + " · " if title else "") + f"{axis_label(q.value, x)} {number(at)}" + (f" ({more})" if more else "")
        ]
        text = f"{q.label}: <b>{number(float(part['value'][j]))}</b>"
        if part["low"] is not None:
            text += " " + interval(part["low"][j], part["high"][j])
        said.append(text)
        if part["n"] is not None and np.isfinite(part["n"][j]):
            said.append(f"n = {number(int(part['n'][j]))}")
        out.append("<br>".join(said))
    return out


def _add_null(fig: go.Figure, q: Quantity, x: str, by: str | None, names: list, grid: list, called: str) -> None:
    import plotly.graph_objects as go

    assert q.null is not None
    many = by is not None and by in q.null.dims
    for i, name in enumerate(names if many else [None]):
        y = np.asarray(
            (q.null.isel({by: i}) if many else q.null).broadcast_like(q.value[{by: 0}] if by else q.value).values
        )
        fig.add_trace(
            go.Scatter(
                x=grid,
                y=y,
                mode="lines",
                name=html.escape(called),
                legendgroup="placebo",
                showlegend=i == 0,
                line={"color": "#8a8f96", "width": 1.4, "dash": "dash"},
                hovertext=[
                    f"{html.escape(called)}{'' if name is None else ' of ' + number(name)}: {number(float(v))}"
                    for v in y
                ],
                hoverinfo="text",
            )
        )


def _alt(q: Quantity, x: str, by: str | None, names: list) -> str:
    curves = "One curve" if by is None else f"{len(names)} curves, one per {by},"
    name = q.value.attrs.get("long_name") or q.value.name or "value"
    low, high = float(np.nanmin(q.value.values)), float(np.nanmax(q.value.values))
    return f"{curves} of {name} along {q.value.sizes[x]} values of {x}; range {number(low)} to {number(high)}."


def _notes(q: Quantity, called: str) -> list[str]:
    notes = ["Bands are intervals."] if q.low is not None else []
    if q.n is not None:
        n = np.unique(q.n.values)
        notes.append(f"n = {n[0]:g} per point." if len(n) == 1 else f"n = {n[0]:g} to {n[-1]:g} per point.")
    if q.null is not None:
        notes.append(f"Grey dashes: {html.escape(called)}.")
    return notes
