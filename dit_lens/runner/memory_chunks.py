"""Which cells are measured together, and what is kept for them: one account, used by the engine and by the plan.

Cells that begin at the same step of one item share the base's streams at the entries of their layers, the velocity of a
branch that a cell leaves alone, and the activations that they take from a source. All of that is held on the model's
device. Where it does not fit into the memory that was granted, the cells are cut into chunks, and each chunk runs the
shared calls anew. That costs time; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dit_lens.address import Call
from dit_lens.runner.cells import Cell, Kind
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.points import point
from dit_lens.wan.recording import update_paths

#: Bytes of one activation, by the short name of its hook.
Size = Callable[[str], int]


@dataclass
class Needs:
    """What a set of cells shares. ``entries``: base call -> layers; ``taken``: (kind, call) -> paths of the source."""

    entries: dict[Call, set[int]] = field(default_factory=dict)
    taken: dict[tuple[Kind, Call], set[str]] = field(default_factory=dict)
    spared: bool = False  # whether a cell leaves a branch alone, so that its velocity is kept

    def add(self, cell: Cell, plan: Plan, n_layers: int, takes: Collection[Kind]) -> None:
        """Add what one more cell shares."""
        entry = cell.entry(n_layers)
        for call in plan.of_step(cell.steps[0]):
            self.spared |= not cell.touches(call.branch)
            kept = self.entries.setdefault(call, set())
            if entry > 0 and cell.touches(call.branch):
                kept.add(entry)
        if cell.kind in takes:
            for step in cell.steps:
                for call in plan.of_step(step):
                    if cell.touches(call.branch):
                        self.taken.setdefault((cell.kind, call), set()).update(paths(cell))

    @property
    def base_calls(self) -> dict[Call, set[int]]:
        """The calls of the base that have to be run once more, with the layers to keep."""
        return self.entries if self.spared or any(self.entries.values()) else {}

    def calls(self) -> int:
        """Denoiser calls that are run to keep all this."""
        return len(self.base_calls) + len(self.taken)

    def size(self, size: Size) -> int:
        """Bytes held. A stream that leaves a block is the same tensor as the one that enters the next."""
        held = sum(len(layers) for layers in self.base_calls.values()) * size("resid_pre")
        for found in self.taken.values():
            held += sum(size(name) for _, name in {_tensor(path) for path in found})
        return held


def needs_of(cells: Iterable[Cell], plan: Plan, n_layers: int, takes: Collection[Kind]) -> Needs:
    """What cells of one item and first step share. ``takes``: the kinds of cell that take from a source."""
    needs = Needs()
    for cell in cells:
        needs.add(cell, plan, n_layers, takes)
    return needs


def chunks(
    cells: Sequence[Cell], plan: Plan, n_layers: int, takes: Collection[Kind], size: Size, memory: int
) -> list[tuple[Sequence[Cell], Needs]]:
    """Cut cells of one item and first step in halves until what each part needs fits; one cell is never refused."""
    needs = needs_of(cells, plan, n_layers, takes)
    if len(cells) == 1 or needs.size(size) <= memory:
        return [(cells, needs)]
    half = len(cells) // 2
    return [part for some in (cells[:half], cells[half:]) for part in chunks(some, plan, n_layers, takes, size, memory)]


def paths(cell: Cell) -> set[str]:
    """The points that a patch of this cell takes from its source."""
    if cell.hook is None:
        return set()
    if cell.hook == "update":
        return update_paths(cell.layers)
    return {point(cell.hook).at(layer) for layer in cell.layers or (-1,)}


def size_of(shapes: Callable[[Any], Sequence[int]], itemsize: int) -> Size:
    """Bytes of activations, from their shapes. Gated contributions are fp32 whatever the model is."""

    def size(name: str) -> int:
        p = point(name)
        total = 4 if p.name.endswith("_gated") else itemsize
        for axis in shapes(p):
            total *= axis
        return total

    return size


def _tensor(path: str) -> tuple[int, str]:
    parts = path.split(".")
    layer, name = (int(parts[1]), ".".join(parts[2:])) if parts[0] == "blocks" else (-1, path)
    return (layer + 1, "hook_resid_pre") if name == "hook_resid_post" else (layer, name)
