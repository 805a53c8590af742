"""What a sweep costs, before it runs: denoiser blocks, in units of one block of one branch (one *block evaluation*).

With S steps, L blocks and both branches, a grid of all (step, layer) cells costs

    naive, every cell a generation      2 S^2 L^2
    finish the video, reuse             S L (S L + 1)
    metric on the patched step, reuse   S L (L + 1)

per kind (effect, placebo). Reuse: a cell that begins at step s and layer l runs blocks l .. L-1 of step s in the
branches that it touches, then min(horizon, S - 1 - s) whole steps. The cells of a window of steps run every step of the
window whole after the first.

Baselines: base, source and placebo are generated once for each item, to the last step that a cell runs (2 S L each
for a finished video). At every step where cells begin, the base's calls are run once more to keep its streams (2 L),
and so is every call of a source that cells take from (L). Where what is kept does not fit into ``memory``, that is
repeated for each part of the step's cells. An edit that hooks a block before its cell's layer runs from there, and
costs that much more than the estimate.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lens.errors import MeasureError, StoreError
from dit_lens.runner.cells import Cell
from dit_lens.runner.metrics import READS_VIDEO
from dit_lens.runner.progress_meter import human_size, human_time
from dit_lens.runner.work import grouped
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.run import Run

CELL_BYTES = 4096  # a small file takes a block


@dataclass(frozen=True)
class Cost:
    """Block evaluations of a sweep, and what they mean here. ``seconds`` is NaN without a calibration."""

    cells: int
    blocks: int  # of the cells
    baselines: int  # generations, and what is run once for cells to share
    naive: int  # the same cells, each generated from the start
    seconds: float
    memory: int  # bytes held for reuse
    disk: int  # bytes written

    @property
    def total(self) -> int:
        """All block evaluations: cells and baselines."""
        return self.blocks + self.baselines

    def __str__(self) -> str:
        time = "not calibrated" if math.isnan(self.seconds) else f"about {human_time(self.seconds)}"
        return (
            f"{self.cells:,} cells, {self.total:,} block evaluations ({self.blocks:,} of cells + {self.baselines:,} of "
            f"baselines; {self.naive / max(1, self.total):.1f} times fewer than one by one)\n"
            f"time: {time}; memory for reuse: {human_size(self.memory)}; disk: {human_size(self.disk)}"
        )


def cell_blocks(cell: Cell, plan: Plan, n_layers: int, horizon: int | None) -> int:
    """Block evaluations of one cell with reuse; ``horizon``: whole steps after the last patched one, None for all."""
    start, end = cell.steps[0], plan.n_steps - 1
    last = end if horizon is None else min(cell.steps[-1] + horizon, end)
    touched = sum(cell.touches(call.branch) for call in plan.of_step(start))
    later = sum(len(plan.of_step(step)) for step in range(start + 1, last + 1))
    return touched * (n_layers - cell.entry(n_layers)) + later * n_layers


def estimate(sweep: Any, cells: Sequence[Cell], rate: float = math.nan, per_cell: float = 0.0) -> Cost:
    """The cost of some cells of a :class:`dit_lens.runner.Sweep`, at ``rate`` seconds a block."""
    plan, n_layers = sweep.model_plan, sweep.lens.n_layers
    blocks = sum(cell_blocks(cell, plan, n_layers, sweep.engine.horizon) for cell in cells)
    whole = sum(len(plan.of_step(step)) for step in range(sweep.last_step + 1)) * n_layers
    baselines = sum(sweep.generated(item) for item in {cell.item for cell in cells}) * whole
    held = [0]
    for members in grouped(cells).values():
        for _, needs in sweep.chunks(members):
            baselines += needs.calls() * n_layers
            held.append(needs.size(sweep.size))
    seconds = rate * (blocks + baselines) + per_cell * len(cells)
    naive = len(cells) * len(plan.calls) * n_layers
    return Cost(len(cells), blocks, baselines, naive, seconds, max(held), len(cells) * CELL_BYTES)


def calibrated(sweep: Any) -> tuple[float, float]:
    """Seconds of one block evaluation, and what a cell takes besides: one call timed, and one decoding if need be."""
    lens, run = sweep.lens, sweep.base
    if not isinstance(run, Run):
        run = lens.generate(sweep.tasks[0], seed=sweep.seeds[0], sampling=sweep.sampling, stop_after=0)
    call = run.plan.of_step(0)[0]
    lens.replay(run, call)  # warm-up
    began = time.perf_counter()
    lens.replay(run, call)
    rate = (time.perf_counter() - began) / lens.n_layers
    if sweep.metric not in READS_VIDEO:
        return rate, 0.0
    began = time.perf_counter()
    run.decode(run.x0_hat(0))
    return rate, time.perf_counter() - began


def check_budget(sweep: Any, budget: float) -> None:
    """Refuse a sweep that takes longer than ``budget`` seconds, and list coarser ones.

    Raises:
        MeasureError: It takes longer.
    """
    rate, per_cell = calibrated(sweep)
    whole = estimate(sweep, sweep.mine, rate, per_cell)
    if whole.seconds <= budget:
        return
    lines, axes = [], sweep.axes
    for every in (2, 4, 8):
        steps, layers = set(axes.steps[::every]), {(), *axes.layers[::every]}
        some = estimate(sweep, [c for c in sweep.mine if c.steps in steps and c.layers in layers], rate, per_cell)
        if 0 < some.cells < whole.cells:
            said = {2: "second", 4: "fourth", 8: "eighth"}[every]
            lines.append(f"every {said} step and layer: {some.cells:,} cells, about {human_time(some.seconds)}")
    if sweep.engine.horizon != 0:
        local = sweep.but(horizon="local")
        some = estimate(local, local.mine, rate, per_cell)
        lines.append(f"horizon='local' on the whole grid: about {human_time(some.seconds)}")
    raise MeasureError(
        f"this sweep needs about {human_time(whole.seconds)}, more than the budget of {human_time(budget)}:\n{whole}\n"
        "Raise budget=, or go coarse to fine, measuring one of these and then all cells around its largest:\n  "
        + "\n  ".join(lines)
    )


def check_disk(folder: str | Path, needed: int) -> None:
    """Check that the disk has room for all cells.

    Args:
        folder: Where they are kept.
        needed: Bytes.

    Raises:
        StoreError: It has less.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreError(
            f"{folder} has {human_size(free)} left and the sweep needs {human_size(needed)}: make room, or "
            "choose "
            "another folder"
        )
