"""Heatmaps of a quantity over two dims, such as step x layer, beside its placebo.

Steps run to the right and layers upwards, whatever the order of the array's dims. Values that cross zero get a
diverging scale that is symmetric around zero; values of one sign a sequential one. A blank cell was not measured. The
interval and the count of every cell are in its hover text and in the report's table.

When not to use: where the interval matters. A heatmap cannot draw one; put `lines` beside it.
"""

from __future__ import annotations

import html
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError
from dit_lens.figures.labelled_arrays import (
    Quantity,
    axis_label,
    counts,
    folded,
    grids,
    hovers,
    listed,
    number,
    outstanding,
    places,
    quantity,
    require_same_cells,
    ticks,
)
from dit_lens.figures.theme import Mode, template

if TYPE_CHECKING:
    import plotly.graph_objects as go


def heatmap(
    data: xr.DataArray | xr.Dataset,
    *,
    null: xr.DataArray | xr.Dataset | None = None,
    mark: xr.DataArray | None = None,
    mark_label: str = "marked",
    title: str | None = None,
    value: str | None = None,
    x: str | None = None,
    limits: tuple[float, float] | None = None,
    mode: Mode = "light",
) -> go.Figure:
    """Draw a quantity over two dims, with its placebo in a second panel on the same scale.

    Args:
        data: DataArray with exactly two dims, or a Dataset with a value and any of ``low``, ``high``, ``n``, ``null``,
            ``p_corrected`` (see ``labelled_arrays.quantity``). ``attrs["long_name"]`` and ``attrs["units"]`` label the
            axes and the colour bar.
        null: The placebo, with the same two dims (a Dataset may add its own interval); the Dataset's ``null`` by
            default. ``attrs["null_name"]`` of ``data`` names it, where "placebo" is not the word, and
            ``attrs["value_name"]`` names the value, where "effect" is not.
        mark: Boolean, same dims; true cells get a dot. By default those that stand out: ``p_corrected`` of the
            Dataset is at most .05.
        mark_label: What the dots mean ("above placebo, corrected p < .05").
        title: The title.
        value: The variable to draw, where a Dataset has several.
        x: The dim that runs to the right (``step`` by default where there is one, else the second dim).
        limits: Ends of the colour scale, in the value's units; by default from the data, symmetric when it crosses
            zero.
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The figure.

    Raises:
        FigureError: Another number of dims, text, infinities, or nothing finite.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    q = quantity(data, value)
    null_name = str(data.attrs.get("null_name", "placebo"))
    if q.value.ndim != 2:
        raise FigureError(
            f"A heatmap needs exactly two dims, got {dict(q.value.sizes)}. Select or reduce the others first, "
            f"for example array.sel(region='goal') or array.mean('seed')."
        )
    found = None
    if mark is None and (mark := q.stands_out) is not None:
        mark_label = f"differs from the {null_name}, p ≤ .05 corrected over all cells"
        found = outstanding(q, null_name, "cell")
    given = tuple(str(d) for d in q.value.dims)
    across = x or ("step" if "step" in given else given[1])
    if across not in given:
        raise FigureError(f"x={across!r} is not a dim of the array; it has {given}.")
    up = given[0] if across == given[1] else given[1]
    q = _with_null(q, null)
    name = str(data.attrs.get("value_name", "effect"))
    panels = [(name if q.null is not None else "", q.label, q)]
    if q.null is not None:
        twin = Quantity(q.null.broadcast_like(q.value), q.null_low, q.null_high, q.n)
        panels.append((null_name, html.escape(null_name, quote=False), twin))

    drawn = [grids(part, up, across)["value"] for _, _, part in panels]
    low, high, diverging = _limits(drawn, limits)
    columns, rows = ticks(q.value, across), ticks(q.value, up)
    fig = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[html.escape(panel, quote=False) for panel, _, _ in panels],
    )
    for col, (_, said, part) in enumerate(panels, start=1):
        trace = go.Heatmap(
            z=drawn[col - 1],
            x=columns,
            y=rows,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertext=_hover(part, up, across, said, null_name),
            hoverinfo="text",
            hoverongaps=True,
        )
        fig.add_trace(trace, row=1, col=col)
    if mark is not None:
        _add_marks(fig, mark, q.value, up, across, columns, rows, mark_label)
    for dim, line in ((across, fig.add_vline), (up, fig.add_hline)):
        for cut in _expert_cuts(q.value, dim):
            line(cut, line={"width": 1.5, "dash": "dot"})

    fig.update_xaxes(
        type="category", title_text=axis_label(q.value, across), showgrid=False, zeroline=False, showline=False
    )
    # explicit ranges, or the dots and rings of marked cells would widen one panel and not the other
    fig.update_xaxes(range=[-0.5, len(columns) - 0.5])
    fig.update_yaxes(range=[-0.5, len(rows) - 0.5])
    fig.update_yaxes(type="category", showgrid=False, zeroline=False, showline=False)
    fig.update_yaxes(title_text=folded(axis_label(q.value, up)), col=1)
    if len(panels) > 1:
        fig.update_yaxes(ticks="", col=2)
    fig.update_annotations(font_size=12.5)
    fig.update_layout(
        template=template(mode),
        title_text=None if title is None else html.escape(title, quote=False),
        height=int(np.clip(20 * len(rows) + 130, 260, 760)),
        margin={"t": (30 if len(panels) > 1 else 10) + (30 if title else 0)},
        showlegend=False,
        # autocolorscale lets the template decide, so that a dark page gets a scale made for it
        coloraxis={
            "cmin": low,
            "cmax": high,
            "autocolorscale": True,
            "colorbar": {"title": {"text": folded(q.label, 34)}},
        },
        meta={
            "kind": "heatmap",
            "name": html.unescape(q.label),
            "x": across,
            "y": up,
            "key": list(given),
            "panels": len(panels),
            "alt": _alt(q, drawn[0], across, up, columns, rows),
            "notes": _notes(q, drawn[0], diverging, None if mark is None else mark_label) + ([found] if found else []),
            "table": listed(q, up, across, null_name, flip=True),
        },
    )
    return fig


def _with_null(q: Quantity, null: xr.DataArray | xr.Dataset | None) -> Quantity:
    """Attach the placebo, refusing one whose dims or labels differ (xarray would silently align them)."""
    if null is None and q.null is None:
        return q
    twin = Quantity(q.null, q.null_low, q.null_high) if null is None else quantity(null)  # type: ignore[arg-type]
    require_same_cells(twin.value, q.value, "The placebo")
    return replace(q, null=twin.value, null_low=twin.low, null_high=twin.high)


def _limits(parts: list[np.ndarray], limits: tuple[float, float] | None) -> tuple[float, float, bool]:
    """Ends of the colour scale, and whether it is a diverging one."""
    values = np.concatenate([z.ravel() for z in parts])
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    if not low <= high:
        raise FigureError(f"limits={limits} are in the wrong order: give (low, high).")
    if low < 0 < high and limits is None:
        edge = max(-low, high)
        return -edge, edge, True
    if low == high:  # a constant: plotly needs some range, and zero must stay inside it
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    return low, high, low < 0 < high


def _hover(part: Quantity, up: str, across: str, name: str, null_name: str) -> list[list[str]]:
    """Hover text per cell: where, value, interval, placebo (in the effect's panel), n."""
    found = grids(part, up, across)
    columns = places(part.value, across)
    return [
        hovers({k: grid[i] for k, grid in found.items()}, [f"{column} · {row}" for column in columns], name, null_name)
        for i, row in enumerate(places(part.value, up))
    ]


def _add_marks(
    fig: go.Figure, mark: xr.DataArray, value: xr.DataArray, up: str, across: str, columns: list, rows: list, said: str
) -> None:
    """A dot on every marked cell of the first panel."""
    import plotly.graph_objects as go

    if mark.dtype != bool or set(mark.dims) != set(value.dims):
        raise FigureError(f"mark must be boolean over {dict(value.sizes)}, got {mark.dtype} over {dict(mark.sizes)}.")
    require_same_cells(mark, value, "mark")
    at = np.argwhere(mark.transpose(up, across).values)
    dots = go.Scatter(
        x=[columns[j] for _, j in at],
        y=[rows[i] for i, _ in at],
        mode="markers",
        # a white dot with a dark rim shows on every colour of every scale
        marker={"size": 5, "color": "#ffffff", "line": {"width": 1, "color": "#1f2328"}},
        name=html.escape(said, quote=False),
        hoverinfo="skip",
    )
    fig.add_trace(dots, row=1, col=1)


def _expert_cuts(value: xr.DataArray, dim: str) -> list[float]:
    """Positions between cells where the coordinate ``expert`` changes along a dim."""
    if "expert" not in value.coords or value.coords["expert"].dims != (dim,):
        return []
    names = value.coords["expert"].values
    return [i - 0.5 for i in range(1, len(names)) if names[i] != names[i - 1]]


def _alt(q: Quantity, z: np.ndarray, across: str, up: str, columns: list, rows: list) -> str:
    """A sentence for readers who do not see the picture."""
    top = np.unravel_index(np.nanargmax(np.abs(z)), z.shape)
    name = q.value.attrs.get("long_name") or q.value.name or "value"
    return (
        f"Heatmap of {name} over {len(columns)} values of {across} "
        f"and {len(rows)} of {up}; range {number(float(np.nanmin(z)))} to {number(float(np.nanmax(z)))}; "
        f"largest magnitude {number(float(z[top]))} at {across} {columns[top[1]]}, {up} {rows[top[0]]}."
    )


def _notes(q: Quantity, z: np.ndarray, diverging: bool, mark_label: str | None) -> list[str]:
    """The explanation below the picture."""
    notes = []
    if diverging:
        notes.append("Blue is below zero, red above; the scale is symmetric around zero.")
    notes += counts(q, "cell")
    if np.isnan(z).any():
        notes.append("Blank cells were not measured.")
    if mark_label is not None:
        notes.append(f"Dots: {mark_label}.")
    for dim in q.value.dims:
        if _expert_cuts(q.value, str(dim)):
            order = list(dict.fromkeys(str(name) for name in q.value.coords["expert"].values))
            notes.append(f"The dotted line is where the expert changes: {', then '.join(order)}.")
    return notes
