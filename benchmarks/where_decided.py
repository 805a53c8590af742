"""docs/experiments/where-decided.md: its table and figure, on the lab model.

    python benchmarks/where_decided.py                          # measure, about ten minutes of one core
    python benchmarks/where_decided.py --folder where-decided   # goes on where it was stopped

Sixteen unseen puzzles of ``choose`` with several right routes, 24 others to fit on, ten sampling steps. The picture is
drawn with plotly and taken by the system's Chromium (``--browser``).
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

import dit_lens as dl
from dit_lens import experiments as e
from dit_lens import stats
from dit_lens.figures.theme import SEQUENTIAL, template

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURE = DOCS / "experiments" / "where-decided.md", DOCS / "img" / "where-decided.png"
N, FIT, STEPS, AT, HELD = 16, 24, 10, (0, 2, 4, 6, 8), (2, 3, 4, 7, 11)
QUESTIONS = {"prompt": e.other_prompt, "noise": e.other_noise}
PANELS = (
    ("prompt", "decodable", "decodable"), ("prompt", "readable", "readable"), ("prompt", "used", "used"),
    ("prompt", "sufficient", "sufficient"), ("noise", "decodable", "decodable"), ("noise", "readable", "readable"),
)  # fmt: skip
KNOWN_NULL = {"readable": 0.5, "sufficient": 0.0}  # chance; a stream taken from the run itself changes nothing
ROWS = {"prompt": "which goal (the prompt decides)", "noise": "which way to it (the noise decides)"}


def measured(lens: Any, folder: Path | None) -> dict[str, xr.Dataset]:
    """Both questions on the same tasks."""
    train = (dl.tasks.load("choose", seed=i, split="train") for i in range(10_000))
    fit = [task for task, _ in zip((t for t in train if len(t.solutions) > 1), range(FIT), strict=False)]
    tasks = e.several("choose", N)
    return {
        name: e.where_decided(
            lens, tasks, fit, pair=pair, steps=AT, held_layers=list(HELD), num_inference_steps=STEPS,
            folder=None if folder is None else folder / name,
        )
        for name, pair in QUESTIONS.items()
    }  # fmt: skip


def table(found: dict[str, xr.Dataset]) -> str:
    """Means with intervals over tasks at some layers and steps."""
    layers = (-1, 0, 2, 3, 4, 7, 11)
    lines = [f"| decided by | question | step | {' | '.join(f'layer {layer}' for layer in layers)} |"]
    lines.append("|" + "---|" * (3 + len(layers)))
    for question, name, _ in PANELS:
        values = found[question][name]
        for step in (0, 4, 8):
            cells = [cell(values.sel(step=step, layer=layer), name) for layer in layers]
            lines.append(f"| {question} | {name} | {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: xr.DataArray, name: str) -> str:
    """One mean over tasks with its interval."""
    values = values.dropna("task")
    if not values.size:
        return "–"
    one = stats.mean_interval(values, bounds=None if name == "used" else (0, 1))
    return f"{float(one['value']):.2f} [{float(one['low']):.2f}, {float(one['high']):.2f}]"


def first_places(found: dict[str, xr.Dataset]) -> str:
    """For each question: the places that are called, corrected over all places by the largest statistic."""
    said = []
    for question, name, _ in PANELS:
        one = found[question]
        null = one[f"{name}_null"] if f"{name}_null" in one else KNOWN_NULL[name]
        tested = stats.max_statistic(one[name], null)
        called = (tested["p_corrected"] <= 0.05) & (tested["value"] > 0)
        at = [f"step {int(s)}: {runs(called.sel(step=s))}" for s in called["step"].values]
        said.append(f"| {question} | {name} | {int(tested['n'].max())} | {'; '.join(at)} |")
    head = "| decided by | question | n | layers above their null (corrected p at most .05) |\n|---|---|---|---|"
    return "\n".join([head, *said])


def runs(called: xr.DataArray) -> str:
    """Layers that are called, as ranges."""
    layers = [int(layer) for layer in called["layer"].values[called.values]]
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts) or "none"


def picture(found: dict[str, xr.Dataset]) -> go.Figure:
    """Six panels, layer upwards and step to the right, on one scale."""
    titles = [label for _, _, label in PANELS]
    fig = make_subplots(2, 4, subplot_titles=titles, horizontal_spacing=0.05, vertical_spacing=0.16,
                        shared_yaxes=True)  # fmt: skip
    for i, (question, name, _) in enumerate(PANELS):
        values = found[question][name].mean("task").transpose("layer", "step")
        z = values.values
        text = [[short(one) for one in row] for row in z]
        fig.add_trace(
            go.Heatmap(
                z=z, x=[f"{int(s)}" for s in values["step"]], y=[int(layer) for layer in values["layer"]], text=text,
                texttemplate="%{text}", textfont={"size": 10}, coloraxis="coloraxis", xgap=1, ygap=1,
            ),
            i // 4 + 1, i % 4 + 1,
        )  # fmt: skip
    for row, question in enumerate(QUESTIONS, 1):
        fig.update_yaxes(title_text=f"<b>{ROWS[question]}</b><br>layer", row=row, col=1)
    fig.update_yaxes(dtick=1)
    fig.update_xaxes(title_text="step of ten", type="category", showgrid=False)
    fig.update_yaxes(showgrid=False, zeroline=False)
    bar = {"title": "share, or effect", "thickness": 12}
    fig.update_layout(
        template=template("light"), width=1200, height=820, paper_bgcolor="white", plot_bgcolor="white",
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": bar}, margin={"l": 90, "t": 50, "b": 70},
    )  # fmt: skip
    return fig


def short(value: float) -> str:
    """Two decimals without a leading zero; nothing where there is no value."""
    if not np.isfinite(value):
        return ""
    text = f"{value:.2f}".replace("0.", ".", 1)
    return ".00" if text == "-.00" else text


def photographed(fig: go.Figure, file: Path, browser: str) -> None:
    """The figure as a PNG, as the browser draws it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser)
        tab = opened.new_page(viewport={"width": fig.layout.width, "height": fig.layout.height})
        tab.set_content(fig.to_html(include_plotlyjs=True, config={"displayModeBar": False}, default_width="100%"))
        tab.wait_for_selector(".main-svg")
        tab.screenshot(path=str(file))
        opened.close()


def main() -> None:
    """Measure, draw, and write the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where finished tasks are kept")
    parser.add_argument("--browser", default="/usr/bin/chromium", help="path of the system's Chromium")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with dl.load("lab") as lens:
        found = measured(lens, asked.folder)
    made = f"`python benchmarks/where_decided.py`, {date.today()}: {N} puzzles, {FIT} others to fit on, {STEPS} steps."
    page.write(PAGE, "where-decided", "\n\n".join([first_places(found), table(found), made]))
    photographed(picture(found), PICTURE, asked.browser)


if __name__ == "__main__":
    main()
