"""docs/experiments/serial-depth.md: its tables and figure, for any models.

    python benchmarks/serial_depth.py                          # the lab model, about a quarter of an hour of one core
    python benchmarks/serial_depth.py lab lab40 --folder kept  # several, beside each other; goes on where it stopped
    python benchmarks/serial_depth.py lab40 --n 24 --name maze-hard --short 8 9 --long 12 14

Pairs of short and long unseen puzzles, two noise seeds each; the control is ``pattern``, whose blanks can be filled at
once, short and long by the cells that there are to draw. Guidance is 1, since the ideal denoiser has none. The picture
is drawn with plotly and taken by the system's Chromium (``--browser``).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import page
import plotly.graph_objects as go
import torch
import xarray as xr
from plotly.subplots import make_subplots
from where_decided import photographed

import dit_lens as dl
from dit_lens import experiments as e
from dit_lens import measures as m
from dit_lens import replication, stats
from dit_lens.figures.theme import series_colors, template
from dit_lens.replication import serial

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURE = DOCS / "experiments" / "serial-depth.md", DOCS / "img" / "serial-depth.png"
STEPS = (1, 2, 3, 4, 6, 8, 12, 20, 40)
AT = (0, 1, 2, 3, 5, 8, 12, 19)
LAYERS = (1.0, 0.92, 0.75)  # shares of the layers that act
BLANKS = ((1, 4), (7, 24))  # cells to draw in the control
OVER = ("task", "seed")


def measured(lens: Any, asked: argparse.Namespace, folder: Path | None) -> dict[str, xr.Dataset]:
    """What the rows read, with more steps and layers, and the control."""
    how: dict[str, Any] = {"guidance_scale": asked.guidance}
    layers = sorted({round(share * lens.n_layers) for share in LAYERS}, reverse=True)
    found = dict(
        serial.measured(
            lens, asked.n, name=asked.name, short=tuple(asked.short), long=tuple(asked.long),
            num_inference_steps=asked.steps, depth_steps=(2, 8), n_layers=layers, support_steps=AT,
            folder=folder, **how,
        )
    )  # fmt: skip
    pairs = e.matched_lengths("pattern", asked.n // 2, *BLANKS, length=e.drawn_cells)
    found["control"] = e.solved_by_steps(
        lens, [task for side in pairs for task in side], asked.steps, (0,), length=e.drawn_cells,
        folder=None if folder is None else folder / "control", **how,
    )  # fmt: skip
    return found


def sides(asked: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    """The bins of lengths."""
    return tuple(asked.short), tuple(asked.long)


def cell(one: xr.Dataset) -> str:
    """A mean with its interval."""
    value, low, high = (float(one[name]) for name in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def grid(head: str, columns: Any, rows: Mapping[str, Any]) -> str:
    """A table in markdown."""
    columns = list(columns)
    lines = [f"| {head} | {' | '.join(map(str, columns))} |", "|" + "---|" * (1 + len(columns))]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)


def tables(name: str, found: dict[str, xr.Dataset], asked: argparse.Namespace) -> list[str]:
    """Verdicts and curves of one model."""
    said = [f"### {name}", "#### Verdicts", verdicts(found)]
    bins = sides(asked)
    support = {r: m.by_length(found["support"][r], bins) for r in ("wrong", "nearest")}
    at = found["support"]["step"].values
    rows = {
        f"{told}, {kind}, {length}": [cell(support[r].sel(kind=kind, length=length, step=s)) for s in at]
        for r, told in (("wrong", "wrong share"), ("nearest", "nearest is right"))
        for kind in ("network", "ideal", "blind")
        for length in support[r]["length"].values
        if not (kind == "ideal" and r == "nearest")
    }
    said += ["#### What is shown at each step", grid("by length, step", at, rows)]
    steps = found["steps"]["num_inference_steps"].values
    curves = {r: m.by_length(found["steps"][r], bins) for r in ("solved", "right")}
    rows = {
        f"{r}, {kind}, {length}": [cell(curves[r].sel(kind=kind, length=length, num_inference_steps=n)) for n in steps]
        for r, kind in (("solved", "network"), ("solved", "ideal"), ("right", "network"), ("right", "blind"))
        for length in curves[r]["length"].values
    }
    control = m.by_length(found["control"]["solved"], BLANKS)
    rows |= {
        f"control: pattern, solved, {kind}, {length} cells": [
            cell(control.sel(kind=kind, length=length, num_inference_steps=n)) for n in steps
        ]
        for kind in ("network", "ideal")
        for length in control["length"].values
    }
    said += ["#### Finished videos by number of steps", grid("by length, steps", steps, rows)]
    made = m.passes(found["steps"])
    half = m.passes(found["steps"].isel(task=slice(made.sizes["task"] // 2, None)))
    rows = {
        f"{told}, {kind}": [
            cell(stats.mean_interval(half[arm].sel(kind=kind, num_inference_steps=n), bounds=(0, 1)))
            for n in half["num_inference_steps"].values
        ]
        for kind in ("network", "ideal")
        for arm, told in (("series", "one video of n steps"), ("drawn", "one of two of n/2"), ("best", "best of two"))
    }
    said += [
        "#### Passes in series and in parallel, long puzzles, solved",
        grid("n", half["num_inference_steps"].values, rows),
    ]
    depth = found["depth"]
    rows = {}
    for r in ("solved", "right"):
        curve = m.by_length(depth[r].mean("draw"), bins)
        for kind in depth["kind"].values:
            for n in depth["num_inference_steps"].values:
                for length in curve["length"].values:
                    at_n = curve.sel(kind=kind, num_inference_steps=n, length=length)
                    rows[f"{r}, {kind} layers, {n} steps, {length}"] = [
                        cell(at_n.sel(n_layers=k)) for k in depth["n_layers"].values
                    ]
    said += ["#### Finished videos by number of layers that act", grid("layers", depth["n_layers"].values, rows)]
    return said


def verdicts(found: dict[str, xr.Dataset]) -> str:
    """The rows of the table of claims."""
    lines = ["| claim | measure | found | null | difference | n | verdict |", "|---|---|---|---|---|---|---|"]
    for one in replication.page({"serial": found}):
        v = one.judged
        assert v is not None
        difference = f"{v.difference:.3f} [{v.low:.3f}, {v.high:.3f}]"
        lines.append(
            f"| {one.paper} | {one.measure} | {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] | "
            f"{one.null:.3f} [{one.null_low:.3f}, {one.null_high:.3f}] ({one.null_name}) | {difference} | {v.n} | "
            f"**{v.outcome}**. {one.remark} |"
        )
    return "\n".join(lines)


def picture(found: dict[str, dict[str, xr.Dataset]], asked: argparse.Namespace) -> go.Figure:
    """A row a model: wrong answers by step, solved by steps, right by layers."""
    titles = ["wrong answers shown, by step", "solved, by number of steps", "nearest answer right, by layers that act"]
    fig = make_subplots(
        len(found), 3, subplot_titles=titles + [""] * 3 * (len(found) - 1), horizontal_spacing=0.07,
        row_titles=list(found) if len(found) > 1 else None,
    )  # fmt: skip
    bins = sides(asked)
    colors = series_colors(2, False)
    for row, one in enumerate(found.values(), 1):
        wrong = m.by_length(one["support"]["wrong"], bins)
        solved = m.by_length(one["steps"]["solved"], bins)
        right = m.by_length(one["depth"]["right"].mean("draw"), bins)
        last = right.isel(num_inference_steps=-1)
        panels = [
            (wrong, "step", (("network", "solid"), ("blind", "dot"))),
            (solved, "num_inference_steps", (("network", "solid"), ("ideal", "dash"))),
            (last, "n_layers", (("even", "solid"), ("random", "dot"))),
        ]
        for col, (curve, x, kinds) in enumerate(panels, 1):
            for i, length in enumerate(curve["length"].values):
                for kind, dash in kinds:
                    y = curve.sel(kind=kind, length=length)
                    ends = {"array": y["high"] - y["value"], "arrayminus": y["value"] - y["low"], "thickness": 1}
                    fig.add_trace(
                        go.Scatter(
                            x=y[x].values, y=y["value"].values, error_y=ends, mode="lines+markers",
                            name=f"{kind}, {length} moves", legendgroup=f"{kind} {length}", showlegend=row == 1,
                            line={"color": colors[i], "dash": dash, "width": 2}, marker={"size": 6},
                            legend=f"legend{col}" if col > 1 else "legend",
                        ),
                        row, col,
                    )  # fmt: skip
        fig.update_xaxes(title_text="step", row=row, col=1)
        fig.update_xaxes(title_text="number of steps", type="log", tickvals=list(asked.steps), row=row, col=2)
        fig.update_xaxes(title_text="layers", row=row, col=3)
        fig.update_yaxes(range=[-0.03, 1.05], title_text="share", row=row, col=1)
        fig.update_yaxes(range=[-0.03, 1.05], row=row, col=2)
        fig.update_yaxes(range=[-0.03, 1.05], row=row, col=3)
    legends = {
        f"legend{col}" if col > 1 else "legend": {
            "x": 0.36 * (col - 1),
            "y": -0.25,
            "yanchor": "top",
            "font": {"size": 11},
        }
        for col in (1, 2, 3)
    }
    fig.update_layout(
        template=template("light"), width=1200, height=160 + 330 * len(found), paper_bgcolor="white",
        plot_bgcolor="white", margin={"l": 60, "t": 50, "b": 150}, **legends,
    )  # fmt: skip
    return fig


def main() -> None:
    """Measure, draw, and write the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["lab"], help="names as dit_lens.load takes them")
    parser.add_argument("--folder", type=Path, help="where finished tasks are kept")
    parser.add_argument("--n", type=int, default=16, help="pairs of puzzles")
    parser.add_argument("--name", default="maze", help="their family")
    parser.add_argument("--short", type=int, nargs=2, default=serial.SHORT, help="least and greatest length")
    parser.add_argument("--long", type=int, nargs=2, default=serial.LONG)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--browser", default="/usr/bin/chromium", help="path of the system's Chromium")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in asked.models:
        with dl.load(name) as lens:
            found[name] = measured(lens, asked, asked.folder and asked.folder / name)
    told = " ".join(asked.models)
    made = (
        f"`python benchmarks/serial_depth.py {told} --n {asked.n}`, {date.today()}: {asked.n} pairs of `{asked.name}` "
        f"({sides(asked)[0]} and {sides(asked)[1]} moves), {asked.n // 2} pairs of `pattern`, guidance {asked.guidance:g}."
    )
    parts = [part for name, one in found.items() for part in tables(name, one, asked)]
    page.write(PAGE, "serial-depth", "\n\n".join([made, *parts]))
    photographed(picture(found, asked), PICTURE, asked.browser)


if __name__ == "__main__":
    main()
