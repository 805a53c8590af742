"""The report of a sweep: a step x layer heatmap whose cells open the clips behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.errors import FigureError
from dit_lens.figures.heatmap import heatmap
from dit_lens.figures.labelled_arrays import COMPANIONS, interval, outstanding, quantity
from dit_lens.figures.report import Report


def write_sweep(sweep: Any, effects: xr.Dataset, path: str | Path, cells: int = 8, item: int = 0) -> Path:
    """Write the report of a sweep: a heatmap beside its placebo, clips, and every parameter.

    The clips are generated again. They show what the horizon reached, so the last x0_hat of a stopped run.

    Args:
        sweep: The sweep.
        effects: What ``sweep.run()`` returned.
        path: The page.
        cells: How many of the largest effects open base, source, patched and placebo clips.
        item: The item whose clips are shown.

    Returns:
        The path.

    Raises:
        FigureError: Axes beside step and layer are left: select from ``effects`` first.
    """
    value = effects["value"]
    if set(value.dims) != {"step", "layer"}:
        raise FigureError(
            f"the effects have dims {value.dims}: select from the others first, effects.sel(hook='update'), and give "
            "the sweep of that part, sweep.but(hooks='update')"
        )
    drawn = effects[[v for v in ("value", *COMPANIONS) if v in effects]]
    drawn = drawn.transpose("step", "layer") if drawn["value"].dims != ("step", "layer") else drawn
    order = np.argsort(-np.abs(np.nan_to_num(drawn["value"].values)), axis=None)[:cells]
    clips: dict[tuple, dict[str, np.ndarray]] = {}
    for place in zip(*np.unravel_index(order, drawn["value"].shape), strict=True):
        step, layer = (drawn[dim].values[i].item() for dim, i in zip(("step", "layer"), place, strict=True))
        runs = sweep.clips(item, step=step, layer=layer)
        clips[step, layer] = {name: run.video for name, run in runs.items()}
    best = next(iter(clips))
    top = drawn.sel(step=best[0], layer=best[1])
    report = Report(
        f"Sweep of {sweep.lens.name}",
        subtitle=f"{effects.attrs.get('metric', 'effect')}, horizon: {effects.attrs.get('horizon', 'stated below')}",
        summary=[
            f"Largest effect: step {best[0]}, layer {best[1]}: {float(top['value']):.2f} "
            f"{interval(float(top['low']), float(top['high']))}, placebo {float(top['null']):.2f}, "
            f"n = {int(top['n'])}, corrected p = {float(top['p_corrected']):.3g}.",
            *filter(None, [outstanding(quantity(drawn), "placebo", "cell")]),
            f"Intervals are 95 % over {effects.attrs['interval_over']}s, for one cell at a time: the largest of "
            f"{drawn['value'].size} cells is large by selection, too, and p is corrected for that.",
        ],
        methods={
            **sweep.identity(),
            "tasks": "; ".join(map(repr, sweep.tasks)),
        },  # their pictures stand as hashes there
    )
    report.figure(
        heatmap(drawn, title="Effect by step and layer"),
        caption=f"Framed cells open their clips: task {item // len(sweep.seeds)}, seed "
        f"{sweep.seeds[item % len(sweep.seeds)]}.",
        cells=clips,
    )
    report.write(Path(path))
    return Path(path)
