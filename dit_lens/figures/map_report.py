"""The report of a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.figures.forest import forest
from dit_lens.figures.frames import spread
from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.lines import lines
from dit_lens.figures.report import Report
from dit_lens.figures.run_page import add_run

_PERCEIVES = {
    True: "A layer perceives as far as a linear probe reads walls and goals better after it than before it; ",
    False: "A layer perceives as far as its attention writes the things in the scene into the rest of the video, more "
    "than as many random tokens; ",
}
_MEANING = (
    "it decides "
    "as far as its update, taken from the twin with another answer, moves x0_hat towards that answer more than the "
    "placebo does; it consolidates as far as the velocity read out after it is nearer to the final one than before it. "
    "Controls: models of the same build that learned nothing, weights shuffled or re-initialised, on the same tasks; "
    "their mean, and in brackets the least and the greatest of them. p: the model's rank among them, corrected over "
    "all layers; fewer than twenty controls give none, since tasks cannot stand in for networks. Intervals: 95 %, over "
    "tasks, for one cell at a time; none below five tasks. Part: the stages, or the one place, if smooth models of "
    "depth are rejected."
)


def write_report(found: Any, path: Path, films: int = 6) -> Path:
    """Write ``report.html`` of a :class:`dit_lens.layer_map.layer_map.Map`.

    Args:
        found: The map.
        path: The page.
        films: How many runs are shown with their film, over all families.

    Returns:
        The path.
    """
    report = Report(
        f"Map of {found.about['model']}",
        subtitle="Which layers and steps do what, beside placebos and models that learned nothing",
        summary=found.summary(),
        methods=found.about,
    )
    report.section("Layers").table("Layer by layer", found.layers, note=_PERCEIVES["scene" in found.layers] + _MEANING)
    report.section("Effects").figure(
        forest(found.held, title="Updates held over all steps: effect on the finished video"), caption=_HELD
    )
    report.figure(
        heatmap(found.effects, title="Local effect of a layer's update"),
        caption="One block's update at one step taken from the twin with another answer, read in x0_hat of that step. "
        "Placebo: the update of the same scene at another seed. Framed cells open their clips, of the first task.",
        cells=found.clips,
    )
    report.section("Attention").figure(
        lines(
            _named(found.layers, "attention"), x="layer", by="expert",
            title="What attention writes from the foreground by layer",
        ),
        caption="What self-attention writes from the foreground into all other tokens, in percent of the stream's "
        "length there, above random masks of the foreground's size. A layer that looks and writes nothing is at 0.",
    )
    if found.decodable.data_vars:
        report.section("Decodability", "What linear probes read after each layer, on separate tasks.")
    for label in found.decodable["label"].values.tolist() if found.decodable.data_vars else ():
        part = found.decodable.sel(label=label)
        kind = {"perception": "stands in the first picture", "decision": "the model had to find it"}[
            str(part["kind"].values)
        ]
        entering = ", ".join(
            f"{float(v):.2f} at step {int(s)}" for s, v in zip(part["step"], part["input"], strict=True)
        )
        report.figure(
            heatmap(
                part.drop_vars(["label", "kind", "metric", "input"]).assign_attrs(value_name="model"),
                title=f"Decodability: {label}",
                limits=(min(0.5, float(part["null"].min()), float(part["value"].min())), 1.0),  # alike for all labels
            ),
            caption=f"What a linear probe reads after each layer in scenes it was not fitted on ({label}: {kind}); "
            f"chance 0.5. From the network's input alone: {entering}. Control: a model with shuffled weights.",
        )
    if found.ensembles.data_vars:
        names = {"gain": "value", "gain_low": "low", "gain_high": "high", "n": "n", "null": "null"}
        gain = found.ensembles[list(names)].rename(names).assign_attrs(null_name="noises averaged")
        report.section("Ensembles").figure(forest(gain, title="Gain of ensembles of three seeds"), caption=_ENSEMBLES)
        report.table("Their scores", found.ensembles[["value", "low", "high", "n"]])
    report.section("Energy")
    for region in found.energy["region"].values.tolist():
        part = found.energy.sel(region=region, drop=True)
        if np.isfinite(part["value"]).any():
            report.figure(
                heatmap(part.assign_attrs(value_name=region), title=f"Token energy: {region} against the rest"),
                caption=f"log2 of mean token norm in the {region} over the rest, within a layer. Beside it the same "
                "for masks shuffled within each frame. Only tasks that have this region count.",
            )
    report.section("Generations", "x0_hat of each step: what the model expects the finished video to be.")
    for i in spread(len(found.runs), films):
        add_run(report, found.runs[i])
    report.write(path)
    return path


_ENSEMBLES = (
    "Scores when three seeds share latents in the third quarter of the layers at step 0 and the first goes on, beside "
    "the same seeds alone and controls at equal compute. Gain: above the same seed alone, paired; hollow: when "
    "the initial noises are averaged instead."
)
_HELD = (
    "The updates of these layers taken from the twin at every step, both branches; 0 = base video, 1 = the twin's. "
    "Placebo: from the same scene at another seed."
)


def _named(layers: xr.Dataset, name: str) -> xr.Dataset:
    """One evidence of the layer table, as a figure takes it."""
    columns = {name: "value", f"{name}_low": "low", f"{name}_high": "high", f"{name}_n": "n", f"{name}_null": "null"}
    data = layers[list(columns)].rename(columns)
    data = data.drop_vars([c for c in data.coords if c not in ("layer", "expert")])
    return data.assign_attrs(null_name="controls")
