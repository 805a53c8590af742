"""Measuring cells: everything that two cells share is computed once, and every cell equals the naive one bit for bit.

For the cells that begin at step s: the base is taken up to s once, its calls of step s are run once with the stream
kept at the entry of every layer that a cell begins at, and the sources' activations are kept likewise. A cell then runs
only the blocks from its first layer on, through the transformer's own forward, and as many later steps as the horizon
asks for. ``dit_lens.wan.reuse`` holds the rules that make this exact, ``chunks`` what is held at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from dit_lens.errors import InterventionError, MeasureError
from dit_lens.runner.cells import Cell
from dit_lens.runner.memory_chunks import Needs
from dit_lens.runner.metrics import Item, Reading
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.lens import Lens
from dit_lens.wan.reuse import Remembered, Reuse, capture
from dit_lens.wan.run import Run

#: Makes an intervention for a place; called with steps=, hook=, branches=, layers=, heads=, tokens=, as patch is.
Edit = Callable[..., Any]


@dataclass(frozen=True)
class Engine:
    """Measures cells on a lens. ``horizon``: whole steps run after the last patched one (None: to the end)."""

    lens: Lens
    plan: Plan
    edit: Edit
    placebo_edit: Edit
    reading: Reading
    horizon: int | None

    def last_step(self, cell: Cell) -> int:
        """The last step that a cell runs."""
        end = self.plan.n_steps - 1
        return end if self.horizon is None else min(cell.steps[-1] + self.horizon, end)

    def make(self, cell: Cell) -> Any:
        """The frozen intervention of a cell, without its source.

        Raises:
            InterventionError: The edit does not make an intervention for the cell's place.
        """
        edit = self.edit if cell.kind == "effect" else self.placebo_edit
        place = cell.arguments()
        try:
            made = edit(**place)
        except TypeError as error:
            raise InterventionError(
                f"the edit does not take a place ({error}): it is called with {', '.join(place)}. Wrap it and leave "
                "out what it does not use, as in edit=lambda steps, **_: dit_lens.noise(steps=steps); edits of the "
                "latents also need hooks=None"
            ) from error
        if not hasattr(made, "bind"):
            raise InterventionError(
                f"the edit returned a {type(made).__name__}: return an intervention, such as dit_lens.patch(...)"
            )
        if getattr(made, "together", False):
            raise InterventionError(
                f"{made} mixes the members of a batch, and a cell is one generation: repeat lens.generate(task, "
                "seed=[0, 1, 2], interventions=[...]) over the places that you want to compare"
            )
        where = getattr(made, "where", None)
        if where is not None and where.steps_of(self.plan.n_steps) != cell.steps:
            raise InterventionError(
                f"the edit made {made} where steps {cell.steps} were asked for: pass the steps that it is called with "
                "on to the intervention"
            )
        return made

    def intervention(self, cell: Cell, item: Item) -> Any:
        """The intervention of a cell, with its source."""
        made, run = self.make(cell), item.of(cell.kind)
        return made.from_(run) if run is not None and hasattr(made, "from_") else made

    def measure(self, item: Item, cells: Sequence[Cell], needs: Needs) -> Iterator[tuple[Cell, dict[str, float]]]:
        """Measure cells of one item that begin at the same step, sharing what can be shared."""
        with torch.no_grad(), self._held(cells):
            kept = capture(self.lens.replay, item.base, needs.base_calls, self.lens.n_layers)
            wanted = [(item.of(kind), call, found) for (kind, call), found in needs.taken.items()]
            remembered = Remembered(self.lens.replay, wanted)
            for cell in cells:
                began = time.perf_counter()
                run = self.run(item, cell, kept, remembered)
                yield cell, {**self.values(item, cell, run), "seconds": time.perf_counter() - began}

    def _held(self, cells: Sequence[Cell]) -> AbstractContextManager[None]:
        """Keep an offloaded expert on its device from cell to cell, where only one expert is used."""
        steps = range(cells[0].steps[0], max(map(self.last_step, cells)) + 1)
        one = len({self.plan.at(step).expert for step in steps}) == 1
        return self.lens._loaded() if one else nullcontext()

    def run(self, item: Item, cell: Cell, kept: Reuse | None = None, replay: Any = None) -> Run:
        """The patched run of a cell, as far as its horizon.

        Raises:
            InterventionError: The edit changed nothing, or other steps than the cell's.
        """
        last = self.last_step(cell)
        stop = None if last == self.plan.n_steps - 1 else last
        start = item.base.until(cell.steps[0])
        run = self.lens.fork(start, [self.intervention(cell, item)], stop_after=stop, reuse=kept, replay=replay)
        touched = run.fired[-1].touched
        if not touched:
            raise InterventionError(f"{cell}: the edit changed nothing here; check what it selects")
        if {place.step for place in touched} - set(cell.steps):
            raise InterventionError(f"{cell}: the edit changed other steps, too; pass the steps that it is called with")
        if cell.layers and cell.layers[0] > 0 and all(place.layer < 0 for place in touched):
            raise InterventionError(f"{cell}: this edit has no layer, so all layers would be one cell: give hooks=None")
        return run

    def values(self, item: Item, cell: Cell, run: Run) -> dict[str, float]:
        """The numbers of one cell.

        Raises:
            MeasureError: A metric that is not one finite number.
        """
        try:
            return dict(self.reading(run, item, cell.steps[-1], self.last_step(cell)))
        except MeasureError as error:
            raise MeasureError(f"{cell}: {error}") from error
