"""Sweeps: local and final, over heads, regions, groups of layers and windows of steps."""

from __future__ import annotations

from typing import Any

import dit_lens as dl
from dit_lens.progress import silent
from golden_items.table import Numbers, flat, item, puzzles


@item
def sweep_local(lens: Any) -> Numbers:
    """Two tasks, steps by themselves and a window, layers by themselves and groups."""
    found = dl.sweep(
        lens, tasks=puzzles(), source="other_answer", steps=[0, 3, range(0, 3)],
        layers=[0, 6, range(2, 5), (1, 8), dl.Depth(0.5, 0.75)], hooks="update",
        branch=["all", "cond"], progress=silent,
    )  # fmt: skip
    return flat(found)


@item
def sweep_final(lens: Any) -> Numbers:
    """The finished video, heads by regions."""
    found = dl.sweep(
        lens, tasks=puzzles(), source="other_answer", steps=[range(0, 5), 1], layers=[3, range(4, 8)], hooks="z",
        heads=[3], regions=["agent", "goal"], horizon="final", progress=silent,
    )  # fmt: skip
    return flat(found)
