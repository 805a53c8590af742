"""The report of a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.lines import lines
from dit_lens.figures.report import Report

_PERCEIVES = {
    True: "A layer perceives as far as a linear probe reads walls and goals better after it than before it; ",
    False: "A layer perceives as far as it attends to the things in the scene more than to as many random tokens; ",
}
_MEANING = (
    "it decides "
    "as far as its update, taken from the twin with another answer, moves x0_hat towards that answer more than the "
    "placebo does; it consolidates as far as the velocity read out after it is nearer to the final one than before it. "
    "Control: the same model with the entries of every weight tensor shuffled, on the same puzzles. "
    "Intervals: 95 %, over puzzles, for one cell at a time."
)


def write_report(found: Any, path: Path, films: int = 6) -> Path:
    """``report.html`` of a :class:`dit_lens.atlas.Map`, with films of x0_hat of ``films`` puzzles of all tasks."""
    report = Report(
        f"Map of {found.about['model']}",
        subtitle="Which layers and steps do what, beside placebos and a model that learned nothing",
        summary=_summary(found),
        methods=found.about,
    )
    report.section("Layers").table("Layer by layer", found.layers, note=_PERCEIVES["scene" in found.layers] + _MEANING)
    report.section("Effects").table(
        "Updates held over all steps: effect on the finished video", _flat(found.held), note=_HELD
    )
    report.figure(
        heatmap(found.effects, title="Local effect of a layer's update"),
        caption="One block's update at one step taken from the twin with another answer, read in x0_hat of that step. "
        "Placebo: the update of the same scene at another seed. Framed cells open their clips, of the first puzzle.",
        cells=found.clips,
    )
    report.section("Attention").figure(
        lines(_named(found.layers, "attention"), x="layer", by="expert", title="Attention to the foreground by layer"),
        caption="log2 of how much more attention all tokens pay to the foreground than to random masks of its size. ",
    )
    if found.decodable.data_vars:
        report.section("Decodability", "What linear probes read after each layer, on puzzles of their own.")
    for label in found.decodable["label"].values.tolist() if found.decodable.data_vars else ():
        part = found.decodable.sel(label=label)
        kind = {"perception": "stands in the first picture", "decision": "the model had to find it"}[
            str(part["kind"].values)
        ]
        entering = ", ".join(
            f"{float(v):.2f} at step {int(s)}" for s, v in zip(part["step"], part["input"], strict=True)
        )
        report.figure(
            heatmap(part.drop_vars(["label", "kind", "metric", "input"]), title=f"Decodability: {label}"),
            caption=f"What a linear probe reads after each layer in scenes it was not fitted on ({label}: {kind}); "
            f"chance 0.5. From the network's input alone: {entering}. Control: a model with shuffled weights.",
        )
    if found.ensembles.data_vars:
        report.section("Ensembles").table("Ensembles of three seeds", found.ensembles, note=_ENSEMBLES)
    report.section("Energy")
    for region in found.energy["region"].values.tolist():
        part = found.energy.sel(region=region, drop=True)
        if np.isfinite(part["value"]).any():
            report.figure(
                heatmap(part, title=f"Token energy: {region} against the rest"),
                caption=f"log2 of mean token norm in the {region} over the rest, within a layer. Beside it the same "
                "for masks shuffled within each frame. Only puzzles that have this region count.",
            )
    report.section("Puzzles", "x0_hat of each step: what the model expects the finished video to be.")
    step = max(1, len(found.runs) // films)
    for run in found.runs[::step]:
        score = run.score if hasattr(run.task, "score") else None  # a task of the user's own may judge nothing
        shown = range(0, run.n_steps, max(1, run.n_steps // 10))
        report.puzzle(
            title=f"{getattr(run.task, 'name', 'task')} {getattr(run.task, 'seed', run.seed)}",
            prompt=run.prompt,
            film=(run.film(shown) * 255).round().astype(np.uint8),
            sigmas=[run.sigmas[s] for s in shown],
            steps=list(shown),
            clip=run.video,
            truth=getattr(run.task, "frames", None),
            verdict="" if score is None else "solved" if score else "failed",
            details={k: str(v) for k, v in getattr(score, "details", {}).items()},
        )
    report.write(path)
    return path


_ENSEMBLES = (
    "Scores when three seeds share latents in the third quarter of the layers at step 0 and the first goes on, beside "
    "the same seeds alone and controls at equal compute. gain: above the same seed alone, paired; null: the gain when "
    "the initial noises are averaged instead."
)
_HELD = (
    "The updates of these layers taken from the twin at every step, both branches; 0 = base video, 1 = the twin's. "
    "Placebo: from the same scene at another seed."
)


def _summary(found: Any) -> list[str]:
    best = found.effects["value"].stack(place=("step", "layer"))
    top = int(np.nanargmax(best.values))
    step, layer = best["place"].values[top]
    cell = found.effects.sel(step=step, layer=layer)
    held = found.held.isel(layers=int(np.nanargmax(found.held["value"].values)))
    return [
        f"{found.about['solved']} puzzles solved by {found.about['model']}.",
        *found.roles.sentences(),
        f"Largest local effect: step {step}, layer {layer}: {_number(cell)}.",
        f"Largest effect on the finished video, held over all steps: layers {held['layers'].item()}: {_number(held)}.",
    ]


def _number(cell: xr.Dataset) -> str:
    value, low, high, null = (float(cell[k]) for k in ("value", "low", "high", "null"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}], placebo {null:.2f}, n = {int(cell['n'])} (0 = base, 1 = source)"


def _named(layers: xr.Dataset, name: str) -> xr.Dataset:
    """One evidence of the layer table, as a figure takes it."""
    columns = {name: "value", f"{name}_low": "low", f"{name}_high": "high", f"{name}_n": "n", f"{name}_null": "null"}
    data = layers[list(columns)].rename(columns)
    data = data.drop_vars([c for c in data.coords if c not in ("layer", "expert")])
    return data.assign_attrs(null_name="control")


def _flat(held: xr.Dataset) -> xr.Dataset:
    """Effects by group of layers as a layer table takes them."""
    names = {"value": "effect", "low": "effect_low", "high": "effect_high", "n": "effect_n", "null": "effect_null"}
    table = held.rename(names).rename({"layers": "layer"})
    table["effect"].attrs = {"long_name": "effect on the video", "units": "0 = base, 1 = source"}
    return table
