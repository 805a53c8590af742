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
import itertools
from collections.abc import Iterable, Mapping, Sequence
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
AT = (0, 0.05, 0.11, 0.16, 0.26, 0.42, 0.63, 1)  # shares of the way from the first step to the last
LAYERS = (1.0, 0.75)  # shares of the layers that act
CONTROL = (1, 2, 4, 8, 20)  # steps of the control
BLANKS = ((1, 4), (7, 24))  # cells to draw in the control
Bins = tuple[tuple[int, int], tuple[int, int]]


def measured(lens: Any, asked: argparse.Namespace, folder: Path | None) -> dict[str, xr.Dataset]:
    """What the rows read, with more steps and layers, and the control."""
    how: dict[str, Any] = {"guidance_scale": asked.guidance}
    last = lens.plan(**how).n_steps - 1
    at = sorted({round(share * last) for share in AT})
    layers = sorted({round(share * lens.n_layers) for share in LAYERS}, reverse=True)
    found = dict(
        serial.measured(
            lens, asked.n, parts=[part for part in serial.PARTS if part in asked.parts], name=asked.name,
            short=tuple(asked.short), long=tuple(asked.long),
            num_inference_steps=asked.steps, depth_steps=(2, 8), n_layers=layers, support_steps=at,
            folder=folder, **how,
        )
    )  # fmt: skip
    if "control" not in asked.parts:
        return found
    pairs = e.matched_lengths("pattern", asked.n // 2, *BLANKS, length=e.drawn_cells)
    found["control"] = e.solved_by_steps(
        lens, [task for side in pairs for task in side], CONTROL, (0,), length=e.drawn_cells,
        folder=None if folder is None else folder / "control", **how,
    )  # fmt: skip
    return found


def sides(asked: argparse.Namespace) -> Bins:
    """The bins of lengths."""
    return (asked.short[0], asked.short[1]), (asked.long[0], asked.long[1])


def cell(one: xr.Dataset, digits: int = 2) -> str:
    """A mean with its interval."""
    value, low, high = (float(one[name]) for name in ("value", "low", "high"))
    if value != value:
        return "–"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def grid(head: str, columns: Iterable[Any], rows: Mapping[str, Sequence[str]]) -> str:
    """A table in markdown."""
    names = list(map(str, columns))
    lines = [f"| {head} | {' | '.join(names)} |", "|" + "---|" * (1 + len(names))]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def tables(name: str, found: dict[str, xr.Dataset], asked: argparse.Namespace) -> list[str]:
    """Verdicts and curves of one model."""
    parts = {"Verdicts": verdicts(found)}
    if "support" in found:
        parts["What is shown at each step"] = of_support(found["support"], sides(asked))
    if "steps" in found:
        parts["Finished videos by number of steps"] = of_steps(found["steps"], found.get("control"), sides(asked))
        parts["Solved with n passes in series and in parallel, long puzzles"] = of_passes(found["steps"])
    if "depth" in found:
        parts["Finished videos by number of layers that act"] = of_depth(found["depth"], sides(asked))
    return [f"### {name}", *(f"**{head}**\n\n{text}" for head, text in parts.items())]


def of_support(found: xr.Dataset, bins: Bins) -> str:
    """Right and wrong answers by step."""
    rows = {}
    for reading, told in (("wrong", "wrong"), ("nearest", "nearest is right")):
        curve = m.by_length(found[reading], bins)
        for kind, length in itertools.product(("network", "blind"), curve["length"].values):
            cells = [cell(curve.sel(kind=kind, length=length, step=s), 3) for s in curve["step"].values]
            rows[f"{told}, {kind}, {length} moves"] = cells
    heads = [f"step {s}" for s in found["step"].values]
    decoys = found["decoys"]
    ends = [float(found[reading].sel(kind="ideal").mean()) for reading in ("wrong", "nearest")]
    told = f"Wrong answers of a puzzle: {int(decoys.min())} to {int(decoys.max())}; without any there is no number. "
    told += f"The ideal denoiser at the same states: wrong {ends[0]:.3f}, nearest is right {ends[1]:.3f}."
    return f"{told}\n\n{grid('share', heads, rows)}"


def of_steps(found: xr.Dataset, control: xr.Dataset | None, bins: Bins) -> str:
    """Verdicts on finished videos by number of steps, and the control."""
    rows: dict[str, list[str]] = {}
    every = [("solved", "network"), ("solved", "ideal"), ("right", "network"), ("right", "ideal"), ("right", "blind")]
    for (reading, kind), (low, high) in itertools.product(every, bins):
        curve = m.by_length(found[reading], [(low, high)]).squeeze("length")
        rows[f"{reading}, {kind}, {low}-{high} moves"] = along(curve.sel(kind=kind))
    for kind, (low, high) in itertools.product(("network", "ideal"), () if control is None else BLANKS):
        assert control is not None
        curve = m.by_length(control["solved"], [(low, high)]).squeeze("length")
        cells = along(curve.sel(kind=kind).reindex(num_inference_steps=found["num_inference_steps"].values))
        rows[f"control (`pattern`): solved, {kind}, {low} to {high} cells"] = cells
    again = stats.mean_interval(m.redrawn(found).sel(kind="network"), bounds=(0, 1))
    rows["solved, network: another seed, another verdict"] = along(again)
    return grid("share", found["num_inference_steps"].values, rows)


def along(curve: xr.Dataset) -> list[str]:
    """A cell for each number of steps."""
    return [cell(curve.sel(num_inference_steps=n)) for n in curve["num_inference_steps"].values]


def of_passes(found: xr.Dataset) -> str:
    """Passes in series and in parallel."""
    made = m.passes(found.isel(task=slice(found.sizes["task"] // 2, None)))
    arms = {"series": "one video of n steps", "drawn": "one of two of n / 2", "best": "the better of two of n / 2"}
    rows = {
        f"{told}, {kind}": along(stats.mean_interval(made[arm].sel(kind=kind), bounds=(0, 1)))
        for kind, (arm, told) in itertools.product(("network", "ideal"), arms.items())
    }
    return grid("n", made["num_inference_steps"].values, rows)


def of_depth(found: xr.Dataset, bins: Bins) -> str:
    """Verdicts on finished videos by number of layers."""
    rows = {}
    for reading in ("solved", "right"):
        curve = m.by_length(found[reading].mean("draw"), bins)
        places = (curve["kind"].values, curve["num_inference_steps"].values, curve["length"].values)
        for kind, n, length in itertools.product(*places):
            one = curve.sel(kind=kind, num_inference_steps=n, length=length)
            cells = [cell(one.sel(n_layers=k)) for k in curve["n_layers"].values]
            rows[f"{reading}, {kind} layers, {n} steps, {length} moves"] = cells
    return grid("share", [f"{k} layers" for k in found["n_layers"].values], rows)


def verdicts(found: dict[str, xr.Dataset]) -> str:
    """Every row of the table of claims, corrected over all of them."""
    lines = ["| # | claim | measure | found | null | difference | n | seen | verdict |", "|" + "---|" * 9]
    notes = []
    judged = replication.judge({"serial": found})
    for number, row in enumerate((row for row in replication.TABLE["serial"] if row.id in judged), 1):
        read, v = row.read(found), judged[row.id]
        assert isinstance(read, replication.Reading) and isinstance(v, stats.Verdict)
        one = row.claim(read, v)
        difference, value, null = (
            f"{a:.3f} [{b:.3f}, {c:.3f}]" for a, b, c in (
                (v.difference, v.low, v.high), (one.value, one.low, one.high), (one.null, one.null_low, one.null_high)
            )
        )  # fmt: skip
        cells = (
            str(number), one.paper, one.measure, value, f"{null} ({one.null_name})", difference, str(v.n),
            f"{v.detectable:.2g}", f"**{v.outcome}**",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        notes.append(f"{number}. {one.remark[0].upper()}{one.remark[1:].rstrip('.')}.")
    return "\n".join([*lines, "", *notes])


def picture(found: dict[str, dict[str, xr.Dataset]], asked: argparse.Namespace) -> go.Figure:
    """A row a model: wrong answers by step, solved by steps, right by layers."""
    titles = ["wrong answers shown, by step", "solved, by number of steps", "nearest is right, by layers"]
    fig = make_subplots(
        len(found), 3, subplot_titles=titles + [""] * 3 * (len(found) - 1), horizontal_spacing=0.07,
        row_titles=list(found) if len(found) > 1 else None,
    )  # fmt: skip
    bins = sides(asked)
    colors = series_colors(2, False)
    for row, one in enumerate(found.values(), 1):
        panels = {}
        if "support" in one:
            panels[1] = one["support"]["wrong"], "step", (("network", "solid"), ("blind", "dot"))
        if "steps" in one:
            panels[2] = one["steps"]["solved"], "num_inference_steps", (("network", "solid"), ("ideal", "dash"))
        if "depth" in one:
            last = one["depth"]["right"].mean("draw").isel(num_inference_steps=-1)
            panels[3] = last, "n_layers", (("even", "solid"), ("random", "dot"))
        for col, (values, x, kinds) in panels.items():
            curve = m.by_length(values, bins)
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
    parts = (*serial.PARTS, "control")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts, help="what is measured, of all")
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
    told = f"{' '.join(asked.models)} --n {asked.n} --steps {' '.join(map(str, asked.steps))}"
    made = (
        f"`python benchmarks/serial_depth.py {told}`, {date.today()}: {asked.n} pairs of `{asked.name}` "
        f"({asked.short[0]} to {asked.short[1]} and {asked.long[0]} to {asked.long[1]} moves), two noise seeds for "
        f"numbers of steps and one for the rest, guidance {asked.guidance:g}. Means with 95 % intervals over puzzles, "
        "of one trained model each. *Seen*: the difference that would have been seen in 80 % of studies."
    )
    shown = f"![Wrong answers by step, solved by steps, right by layers](../img/{PICTURE.name})"
    parts = [part for name, one in found.items() for part in tables(name, one, asked)]
    page.write(PAGE, "serial-depth", "\n\n".join([made, shown, *parts]))
    photographed(picture(found, asked), PICTURE, asked.browser)


if __name__ == "__main__":
    main()
