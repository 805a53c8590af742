"""Curves of a quantity along one dim, one per value of another, each with its interval as a band.

When not to use: over words (conditions, labels, arms). Nothing lies between them: `forest` draws points.
"""

from __future__ import annotations

import html
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError
from dit_lens.figures.labelled_arrays import (
    LEVEL,
    Quantity,
    axis_label,
    counts,
    folded,
    grids,
    hovers,
    intervals,
    listed,
    number,
    outstanding,
    places,
    quantity,
    require_same_cells,
    ticks,
)
from dit_lens.figures.theme import DASHES, GREY, SYMBOLS, Mode, series_colors, template

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

    Args:
        data: Dims (x,) or (x, by) in any order, DataArray or Dataset as for ``heatmap``.
        x: The dim along the curves.
        by: The dim with one curve per value.
        low: Lower ends of the intervals; the Dataset's ``low`` by default.
        high: Upper ends; the Dataset's ``high`` by default.
        null: The placebo, dims (x,) or (x, by); drawn grey and dashed, once per curve where it has ``by``;
            ``attrs["null_name"]`` of ``data`` names it, where "placebo" is not the word.
        title: The title.
        value: The variable to draw, where a Dataset has several.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: Other dims, words along ``x``, one end of an interval, or nothing finite.
    """
    import plotly.graph_objects as go

    q = quantity(data, value)
    called = str(data.attrs.get("null_name", "placebo"))
    if (low is None) != (high is None):
        raise FigureError("An interval needs both ends: give both low= and high=.")
    if low is not None:
        q = replace(q, low=low, high=high)
    if null is not None:
        q = replace(q, null=null)
    wanted = {x} if by is None else {x, by}
    if set(q.value.dims) != wanted:
        raise FigureError(f"Curves along {x!r} by {by!r} need dims {sorted(wanted)}, got {dict(q.value.sizes)}.")

    for name, other in (("low", q.low), ("high", q.high), ("The placebo", q.null)):
        if other is not None:
            require_same_cells(other, q.value, name)

    names = [None] if by is None else ticks(q.value, by)
    ordered = by is not None and all(isinstance(name, (int, float)) for name in names)
    colors = series_colors(len(names), ordered)
    along = ticks(q.value, x)
    if not all(isinstance(at, (int, float)) for at in along):
        also = "" if by is None else f", by={by!r}"
        raise FigureError(
            f"{x!r} holds words ({along[0]!r} first), and a curve would suggest values between them. Draw points "
            f"with their intervals: dit_lens.figures.forest(array, rows={x!r}{also})."
        )
    found = grids(q, x) if by is None else grids(q, x, by)
    where = places(q.value, x)
    fig = go.Figure()
    for i, name in enumerate(names):
        part = {key: grid if by is None else grid[:, i] for key, grid in found.items()}
        title_of = "" if by is None else f"{axis_label(q.value, by)} {number(name)}" if ordered else number(name)
        if "low" in part:
            fig.add_traces(_bands(along, part["low"], part["high"], colors[i], title_of))
        fig.add_trace(
            go.Scatter(
                x=along,
                y=part["value"],
                mode="lines+markers" if len(along) <= 60 or "p_corrected" in part else "lines",
                name=title_of,
                legendgroup=title_of,
                showlegend=name is not None,
                line={"color": colors[i], "width": 2, "dash": "solid" if ordered else DASHES[i % len(DASHES)]},
                marker={"size": 6, "symbol": _symbols(part, SYMBOLS[i % len(SYMBOLS)])},
                hovertext=hovers(part, [f"{title_of} · {at}" if title_of else at for at in where], q.label, called),
                hoverinfo="text",
            )
        )
    if q.null is not None:
        _add_null(fig, found["null"], names if by in q.null.dims else [None], along, called)
    fig.update_xaxes(
        title_text=axis_label(q.value, x),
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
        meta={
            "kind": "lines",
            "name": html.unescape(q.label),
            "alt": _alt(q, x, by, names),
            "notes": _notes(q, called),
            "table": listed(q, x, by, called),
        },
    )
    return fig


def _symbols(part: dict[str, np.ndarray], symbol: str) -> str | list[str]:
    """Hollow where a point was tested and does not stand out."""
    if "p_corrected" not in part:
        return symbol
    return [f"{symbol}-open" if p > LEVEL else symbol for p in part["p_corrected"]]


def _bands(along: list, low: np.ndarray, high: np.ndarray, color: str, group: str) -> list:
    """The interval as filled traces: one per stretch without gaps (plotly would fill across a NaN)."""
    import plotly.graph_objects as go

    good = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    bands = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        span = along[start:stop]
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


def _add_null(fig: go.Figure, null: np.ndarray, names: list, along: list, called: str) -> None:
    """The placebo of each curve, or the one that they share."""
    import plotly.graph_objects as go

    for i, name in enumerate(names):
        y = null.reshape(len(along), -1)[:, i]
        fig.add_trace(
            go.Scatter(
                x=along,
                y=y,
                mode="lines",
                name=html.escape(called),
                legendgroup="placebo",
                showlegend=i == 0,
                line={"color": GREY, "width": 1.4, "dash": "dash"},
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
    notes = intervals(q, "Bands")
    notes += counts(q, "point")
    if q.null is not None:
        notes.append(f"Grey dashes: {called}.")
    if said := outstanding(q, called, "point"):
        notes.append(f"{said} The others are hollow.")
    return notes
