"""docs/experiments/development.md: its tables and figure, from the checkpoints of a training.

    python benchmarks/development.py --folder development                       # measure; goes on where it was stopped
    python benchmarks/development.py --folder development --names maze-hard --n 20 --of lab40
    python benchmarks/development.py --folder development --draw                # page and figure from kept numbers

All checkpoints ``<of>@<iterations>`` of the lab that are here, then the model itself. Cost for each of them and each
puzzle: one generation, and for the layers four denoiser calls a step read. The picture is drawn with plotly and taken
by the system's Chromium (``--browser``).
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import page
import plotly.graph_objects as go
import torch
import xarray as xr
from plotly.subplots import make_subplots
from where_decided import photographed

import dit_lens as dl
from dit_lens import experiments as e
from dit_lens import stats
from dit_lens.figures.theme import DASHES, GREY, SERIES, template
from dit_lens.lab import models

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURE = DOCS / "experiments" / "development.md", DOCS / "img" / "development.png"
NAMES = ("maze-easy", "maze-hard", "choose-hard", "order-hard", "emerge-hard", "slide-easy", "bounce-hard", "pattern")
KEPT = "development.nc"
PROFILES = {"writing": "log2, update on the foreground / elsewhere", "readout": "gain of the read-out, cosine"}


def checkpoints(of: str) -> list[str]:
    """Names of a training's checkpoints, by iteration, and last of what it ended in."""
    found = [name for name in models.names() if name.startswith(f"{of}@") and name.partition("@")[2].isdecimal()]
    return [*sorted(found, key=lambda name: int(name.partition("@")[2])), of]


def measured(names: list[str], puzzles: list[str], n: int, at: list[int], end: float, folder: Path) -> xr.Dataset:
    """The study, kept in a folder."""
    tasks = [task for puzzle in puzzles for task in dl.tasks.batch(puzzle, n)]
    found = e.development(names, tasks, at, iterations={names[-1]: end}, folder=folder)
    found.attrs = {k: v for k, v in found.attrs.items() if isinstance(v, int | float | str)}
    found.to_netcdf(folder / KEPT, engine="h5netcdf")
    return found


def part(values: xr.DataArray, family: str) -> xr.DataArray:
    """The tasks of one family and level."""
    return values.isel(task=np.flatnonzero(values["family"].values == family))


def families(found: xr.Dataset) -> list[str]:
    """Families and levels, in their order."""
    return list(dict.fromkeys(found["family"].values.tolist()))


def text(one: xr.Dataset) -> str:
    """A number with its interval."""
    value, low, high = (float(one[k]) for k in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(low) else f"{value:.2f}" if np.isfinite(value) else "–"


def solved_table(found: xr.Dataset) -> str:
    """Shares of solved puzzles by family and level, with intervals over puzzles."""
    names = families(found)
    lines = [f"| model | iteration | {' | '.join(names)} |", "|" + "---|" * (2 + len(names))]
    for model in found["model"].values.tolist():
        one = found.sel(model=model)
        cells = [text(stats.share_interval(part(one["solved"], name))) for name in names]
        lines.append(f"| `{model}` | {float(one['iteration']):.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown_table(found: xr.Dataset) -> str:
    """Support of candidates beside its null, and where in depth the profiles lie."""
    steps = found["step"].values.tolist()
    head = [f"support, step {s}" for s in steps] + [f"not knowing the task, step {s}" for s in steps]
    head += [f"depth of {name}" for name in PROFILES]
    lines = [f"| model | {' | '.join(head)} |", "|" + "---|" * (1 + len(head))]
    for model in found["model"].values.tolist():
        one = found.sel(model=model)
        cells = [
            text(stats.mean_interval(one[name].sel(step=step), bounds=(0, 1)))
            for name in ("support", "blind_support") for step in steps
        ]  # fmt: skip
        cells += [text(stats.mean_interval(centre(one[name]), bounds=(0, 1))) for name in PROFILES]
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def centre(profile: xr.DataArray) -> xr.DataArray:
    """Mean depth of a profile's positive part, averaged over steps before; NaN where it has none."""
    weight = profile.mean("step").clip(min=0)
    total = weight.sum("layer")
    return (weight * profile["depth"]).sum("layer") / total.where(total > 0)


def by_depth(profile: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (model, layer) on the layers of the deepest model: depths, and values (model, depth)."""
    most = profile.sizes["layer"]
    depths = np.arange(most) / most
    layers = np.floor(depths * profile["n_layers"].values[:, None] + 1e-9).astype(int)  # (model, depth)
    return depths, np.take_along_axis(profile.transpose("model", "layer").values, layers, axis=1)


def picture(found: xr.Dataset, role: str) -> go.Figure:
    """Three panels over training: solved, support, and the profile of a role over depth."""
    steps = found["step"].values.tolist()
    titles = ["solved", "shown by right answers", PROFILES[role]]
    fig = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.08)
    x = found["iteration"].values
    for i, name in enumerate(families(found)):
        one = stats.share_interval(part(found["solved"], name))
        curve(fig, 1, x, one, name, SERIES[i % len(SERIES)], DASHES[i % len(DASHES)])
    for i, step in enumerate(steps):
        for variable, called in (("support", f"step {step}"), ("blind_support", f"not knowing the task, step {step}")):
            one = stats.mean_interval(found[variable].sel(step=step), bounds=(0, 1))
            colour = SERIES[i % len(SERIES)] if variable == "support" else GREY
            curve(fig, 2, x, one, called, colour, DASHES[i % len(DASHES)], band=variable == "support")
    depths, values = by_depth(found[role].mean(["task", "step"]))
    names = [str(m).rpartition("@")[2] for m in found["model"].values]
    fig.add_trace(go.Heatmap(z=values.T, x=names, y=depths, coloraxis="coloraxis"), 1, 3)
    for column in (1, 2):
        fig.update_xaxes(type="log", title_text="training iteration", row=1, col=column)
        fig.update_yaxes(range=[-0.03, 1.03], row=1, col=column)
    fig.update_xaxes(type="category", title_text="training iteration", showgrid=False, row=1, col=3)
    fig.update_yaxes(title_text="depth", showgrid=False, row=1, col=3)
    fig.update_layout(
        template=template("light"), width=1500, height=620, paper_bgcolor="white", plot_bgcolor="white",
        coloraxis={"colorbar": {"thickness": 12}}, legend={"orientation": "h", "y": -0.18}, margin={"t": 50, "b": 160},
    )  # fmt: skip
    return fig


def curve(fig: go.Figure, column: int, x: np.ndarray, one: xr.Dataset, name: str, colour: str, dash: str,
          band: bool = True) -> None:  # fmt: skip
    """One curve with its interval as bars."""
    up, down = (one["high"] - one["value"]).values, (one["value"] - one["low"]).values
    error = {"array": up, "arrayminus": down, "thickness": 1, "width": 2} if band else None
    line = {"color": colour, "dash": dash, "width": 2}
    fig.add_trace(go.Scatter(x=x, y=one["value"].values, name=name, mode="lines+markers", line=line, error_y=error),
                  1, column)  # fmt: skip


def section(found: xr.Dataset, made: str) -> str:
    """What the page gets."""
    parts = [f"![Solved, support and a profile over training](../img/{PICTURE.name})", solved_table(found),
             shown_table(found), made]  # fmt: skip
    return "\n\n".join(parts)


def main() -> None:
    """Measure, draw, and write the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where finished tasks are kept")
    parser.add_argument("--of", default="lab40", help="the training")
    parser.add_argument("--names", nargs="*", default=list(NAMES), help="families and levels")
    parser.add_argument("--n", type=int, default=12, help="puzzles of each")
    parser.add_argument("--at", type=int, nargs="*", default=[0, 2, 5], help="steps that are read")
    parser.add_argument("--end", type=float, default=13_000, help="iterations behind the finished model")
    parser.add_argument("--role", choices=PROFILES, default="writing", help="profile of the third panel")
    parser.add_argument("--draw", action="store_true", help="from kept numbers alone")
    parser.add_argument("--browser", default="/usr/bin/chromium", help="path of the system's Chromium")
    asked: Any = parser.parse_args()
    torch.set_num_threads(1)
    if asked.draw:
        found = xr.load_dataset(asked.folder / KEPT, engine="h5netcdf")
    else:
        found = measured(checkpoints(asked.of), asked.names, asked.n, asked.at, asked.end, asked.folder)
    counted = f"{found.sizes['model']} models, {found.sizes['task']} unseen puzzles ({', '.join(families(found))})"
    made = f"`python benchmarks/development.py`, {date.today()}: {counted}; 95 % intervals over puzzles."
    page.write(PAGE, "development", section(found, made))
    photographed(picture(found, asked.role), PICTURE, asked.browser)


if __name__ == "__main__":
    main()
