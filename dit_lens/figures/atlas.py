"""The report of a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.report import Report


def write_report(found: Any, path: Path, films: int = 6) -> Path:
    """``report.html`` of a :class:`dit_lens.atlas.Map`, with the film of x0_hat of the first puzzles of each task."""
    layers = found.layers
    best = layers["effect"].stack(place=("expert", "layer"))
    top = best.isel(place=int(np.nanargmax(best.values)))
    clear = int((layers["verdict"] == "above placebo").sum())
    summary = [
        f"{found.about['solved']} puzzles solved by {found.about['model']}.",
        f"Largest local effect above placebo: expert {top['expert'].item()}, layer {top['layer'].item()}: "
        f"{float(top):.2f} (0 = base, 1 = source).",
        f"{clear} of {best.size} layers have a 95 % interval above their placebo. The intervals are for one layer at a "
        "time; they are not corrected for looking at all of them.",
    ]
    report = Report(
        f"Map of {found.about['model']}",
        subtitle="Which layers and steps do what: local update patches and token energy",
        summary=summary,
        methods=found.about,
    )
    report.table("Layers", layers, note="Effect of one block's update on x0_hat, minus its placebo; mean over puzzles.")
    report.figure(
        heatmap(found.effects, title="Local effect of a layer's update"),
        caption="Update of one block taken from the twin with another answer; placebo: same scene, other seed.",
    )
    for region in found.energy["region"].values.tolist():
        part = found.energy.sel(region=region, drop=True)
        if np.isfinite(part["value"]).any():
            report.figure(
                heatmap(part, title=f"Token energy: {region} against the rest"),
                caption=f"log2 of mean token norm in the {region} over the rest, within a layer. Beside it the "
                "same for masks shuffled within each frame. Only puzzles that have this region count.",
            )
    step = max(1, len(found.runs) // films)
    for run in found.runs[::step]:
        score = run.score
        shown = range(0, run.n_steps, max(1, run.n_steps // 10))
        report.puzzle(
            title=f"{run.task.name} {run.task.seed}",
            prompt=run.prompt,
            film=(run.film(shown) * 255).round().astype(np.uint8),
            sigmas=[run.sigmas[s] for s in shown],
            steps=list(shown),
            clip=run.video,
            truth=run.task.frames,
            verdict="solved" if score else "failed",
            details={k: str(v) for k, v in score.details.items()},
        )
    report.write(path)
    return path
