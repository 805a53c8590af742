"""Points with their intervals, one row per category: conditions of an ensemble, arms of an experiment, labels, tasks.

    forest(scores, title="Ensembles of three seeds", chance=0.5)        # dims (condition,)
    forest(scores, rows="kind", by="when")                              # two points a row

When not to use: along steps, layers or anything else that has an order; `lines` shows how values go on from one to the
next.
"""

from __future__ import annotations

import html
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
from dit_lens.figures.theme import GREY, SYMBOLS, Mode, series_colors, template

if TYPE_CHECKING:
    import plotly.graph_objects as go


def forest(
    data: xr.DataArray | xr.Dataset,
    *,
    rows: str | None = None,
    by: str | None = None,
    null: xr.DataArray | None = None,
    chance: float | None = None,
    title: str | None = None,
    value: str | None = None,
    mode: Mode = "light",
) -> go.Figure:
    """Draw a point and its interval for every category, first one on top, with its placebo as a hollow mark below it.

    Args:
        data: Dims (rows,) or (rows, by) in any order, DataArray or Dataset as for ``heatmap``.
        rows: The dim whose values become rows (the only one by default).
        by: The dim whose values share a row.
        null: The placebo, of the same dims or fewer; by default the Dataset's ``null``, with its own interval if it has
            ``null_low`` and ``null_high``. ``attrs["null_name"]`` of ``data`` names it, where "placebo" is not the
            word.
        chance: The score of guessing, in the value's units: a dashed line.
        title: The title.
        value: The variable to draw, where a Dataset has several.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: Other dims, a placebo of other cells, one end of an interval, or nothing finite.
    """
    import plotly.graph_objects as go

    q = quantity(data, value)
    called = str(data.attrs.get("null_name", "placebo"))
    if null is not None:
        q = replace(q, null=null)
    given = [str(dim) for dim in q.value.dims]
    down = rows or (given[0] if len(given) == 1 else "")
    if set(given) != ({down} if by is None else {down, by}):
        raise FigureError(
            f"Points in rows of {rows!r} by {by!r} need just these dims, got {dict(q.value.sizes)}: name them with "
            "rows= and by=, and select or reduce the others first."
        )
    if q.null is not None:
        require_same_cells(q.null, q.value, "The placebo")

    names = [None] if by is None else ticks(q.value, by)
    colors = series_colors(len(names), False)
    found = grids(q, down) if by is None else grids(q, down, by)
    where, labels = places(q.value, down), [folded(number(at), 26) for at in ticks(q.value, down)]
    slot = 0.8 / len(names)  # of the row's height, which is 1
    fig = go.Figure()
    for i, name in enumerate(names):
        part = {key: grid if by is None else grid[:, i] for key, grid in found.items()}
        series = "" if name is None else number(name)
        at = np.arange(len(labels)) - 0.4 + slot * (i + 0.5) - (slot / 6 if "null" in part else 0)
        said = hovers(part, [f"{series} · {place}" if series else place for place in where], q.label, called)
        symbol = SYMBOLS[i % len(SYMBOLS)]
        look: dict[str, Any] = {"color": colors[i], "size": 9, "symbol": symbol}
        fig.add_trace(_points(part, "", at, said, marker=look, name=series, showlegend=bool(series)))
        if "null" in part:
            look = {"color": GREY, "size": 8, "symbol": symbol + "-open", "line": {"width": 1.6}}
            legend = {"name": html.escape(called, quote=False), "showlegend": i == 0, "legendrank": 2000}
            fig.add_trace(_points(part, "null", at + slot / 3, said, marker=look, **legend))
    if chance is not None:
        fig.add_vline(
            chance,
            layer="below",
            line={"width": 1.5, "dash": "dash"},
            annotation={"text": "chance", "yanchor": "bottom"},
        )
    below = folded(q.label, 34)
    top, foot = (26 if by is None and q.null is None else 46), (66 if "<br>" in below else 48)
    row = max(26, 13 * len(names) * (1 if q.null is None else 2))  # pixels
    fig.update_xaxes(title_text=below, showgrid=True, zeroline=True, showline=False)
    fig.update_yaxes(
        title={"text": folded(axis_label(q.value, down)), "standoff": 12},
        tickvals=list(range(len(labels))),
        ticktext=labels,
        range=[len(labels) - 0.5, -0.5],
        ticks="",
        showgrid=False,
        zeroline=False,
        showline=False,
    )
    fig.update_layout(
        template=template(mode),
        title_text=None if title is None else html.escape(title, quote=False),
        height=row * len(labels) + top + foot + 26,
        margin={"t": top + (30 if title else 0), "b": foot},
        legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0},
        meta={
            "kind": "forest",
            "name": html.unescape(q.label),
            "alt": _alt(q, down, found["value"]),
            "notes": _notes(q, called, chance),
            "table": listed(q, down, by, called),
        },
    )
    return fig


def _points(part: dict[str, np.ndarray], which: str, at: np.ndarray, said: list[str], **look: Any) -> go.Scatter:
    """One series of points, with their interval where it is known."""
    import plotly.graph_objects as go

    x = part[which or "value"]
    low, high = (part.get(f"{which}_{end}" if which else end) for end in ("low", "high"))
    bars = None
    if low is not None and high is not None:
        bars = {"type": "data", "array": high - x, "arrayminus": x - low, "thickness": 1.6, "width": 0}
    if not which and "p_corrected" in part:
        stars = ["*" if p <= LEVEL else "" for p in part["p_corrected"]]
        look |= {"mode": "markers+text", "text": stars, "textposition": "top center"}
    look = {"mode": "markers", **look}
    return go.Scatter(x=x, y=at, error_x=bars, hovertext=said, hoverinfo="text", **look)


def _alt(q: Quantity, down: str, values: np.ndarray) -> str:
    name = q.value.attrs.get("long_name") or q.value.name or "value"
    low, high = number(float(np.nanmin(values))), number(float(np.nanmax(values)))
    return f"Points of {name} for {len(values)} values of {down}; range {low} to {high}."


def _notes(q: Quantity, called: str, chance: float | None) -> list[str]:
    notes = intervals(q, "Bars")
    notes += counts(q, "point")
    if q.null is not None:
        notes.append(f"Hollow: {called}.")
    if said := outstanding(q, called, "point"):
        notes.append(f"Star: {said}")
    if chance is not None:
        notes.append(f"Dashed: chance, {number(float(chance))}.")
    return notes
