"""One look for every figure: a plotly template light and dark, and scales that colour-blind readers can use.

Figures carry no colours of their own where it can be avoided: heatmaps ask for the template's sequential or diverging
scale, so that the report turns a figure dark by exchanging the template. Series colours are Okabe and Ito's, in an
order that keeps them at least 3:1 against both backgrounds for the first five.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from dit_lens.errors import FigureError

if TYPE_CHECKING:
    import plotly.graph_objects as go

Mode = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

#: Okabe & Ito (2008), without black (invisible when dark) and yellow (invisible when light).
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6BB1", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down")

#: What a placebo is drawn in: at least 3:1 against both pages.
GREY = "#80858c"

#: For many ordered series: blue to ochre (the axis that red-green blindness keeps), at a lightness both pages bear.
ORDERED = ("#2f7ed8", "#7d74d3", "#b565b5", "#d4627f", "#db7040", "#b98a10")

#: Colour-blind-safe, monotone in lightness: for values of one sign.
SEQUENTIAL = "Viridis"

#: Blue - neutral - red with equal lightness at equal distance from zero (after ColorBrewer's RdBu, reversed). The
#: middle is never the page's colour: a cell at zero still shows as a tile, and a blank cell means "not measured".
DIVERGING: dict[str, list[tuple[float, str]]] = {
    "light": [
        (0.0, "#0b3d77"),
        (0.125, "#2a6fb0"),
        (0.25, "#62a1cc"),
        (0.375, "#aecde1"),
        (0.5, "#eeece7"),
        (0.625, "#f3bfa3"),
        (0.75, "#dd7f62"),
        (0.875, "#b93a3a"),
        (1.0, "#720a24"),
    ],
    "dark": [
        (0.0, "#b5d8f4"),
        (0.125, "#7bb3e0"),
        (0.25, "#4485bb"),
        (0.375, "#315675"),
        (0.5, "#33373e"),
        (0.625, "#7a4235"),
        (0.75, "#bd5f45"),
        (0.875, "#e2937a"),
        (1.0, "#fbcdbd"),
    ],
}

INK = {
    "light": {"text": "#1f2328", "muted": "#59636e", "grid": "#e4e3de", "line": "#b9b7b0", "page": "#ffffff"},
    "dark": {"text": "#e6e4df", "muted": "#a0a4aa", "grid": "#2f343b", "line": "#555b64", "page": "#16191d"},
}


@cache
def template(mode: Mode = "light") -> go.layout.Template:
    """The plotly template of one mode; also registered with plotly as ``dit_lens`` and ``dit_lens_dark``.

    Backgrounds are transparent: the page (notebook or report) shows through.

    Args:
        mode: ``"light"`` or ``"dark"``.

    Returns:
        The template.

    Raises:
        FigureError: Another mode.
    """
    import plotly.graph_objects as go
    import plotly.io as pio

    if mode not in INK:
        raise FigureError(f"There is no {mode!r} mode: choose 'light' or 'dark'.")
    ink = INK[mode]
    axis = {
        "gridcolor": ink["grid"],
        "linecolor": ink["line"],
        "zerolinecolor": ink["line"],
        "tickcolor": ink["line"],
        "ticks": "outside",
        "ticklen": 4,
        "tickfont": {"size": 12, "color": ink["muted"]},
        "title": {"font": {"size": 13, "color": ink["text"]}},
        "automargin": True,
    }
    bar = {
        "outlinewidth": 0,
        "thickness": 12,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": ink["line"],
        "tickfont": {"size": 12, "color": ink["muted"]},
        "title": {"side": "right", "font": {"size": 12.5, "color": ink["text"]}},
    }
    made = go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink["text"]},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(SERIES),
            "colorscale": {
                "diverging": DIVERGING[mode],
                "sequential": SEQUENTIAL,
                "sequentialminus": SEQUENTIAL + "_r",
            },
            "coloraxis": {"colorbar": bar},
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 44, "b": 48},
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15, "color": ink["text"]}},
            "hoverlabel": {
                "bgcolor": ink["page"],
                "bordercolor": ink["line"],
                "font": {"family": FONT, "size": 12.5, "color": ink["text"]},
                "align": "left",
            },
            "legend": {"font": {"size": 12.5, "color": ink["text"]}, "bgcolor": "rgba(0,0,0,0)"},
            "annotationdefaults": {"font": {"size": 12.5, "color": ink["muted"]}, "arrowcolor": ink["line"]},
            "shapedefaults": {"line": {"color": ink["muted"]}},
            # without the button that would upload the figure to plotly's servers
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": ink["muted"],
                "activecolor": ink["text"],
                "remove": ["sendChartToCloud"],
            },
        }
    )
    pio.templates["dit_lens" if mode == "light" else "dit_lens_dark"] = made
    return made


def series_colors(count: int, ordered: bool) -> list[str]:
    """``count`` line colours: Okabe and Ito's while they last, samples of the ordered ramp for many numbered series."""
    if count <= len(SERIES) and not (ordered and count > 5):
        return list(SERIES[:count])
    from plotly.colors import sample_colorscale

    ramp = [[i / (len(ORDERED) - 1), color] for i, color in enumerate(ORDERED)]
    return list(sample_colorscale(ramp, [i / max(count - 1, 1) for i in range(count)]))
