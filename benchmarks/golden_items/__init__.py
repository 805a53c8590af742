"""Golden items: what today's public calls give on the lab model, each item a function from a lens to named arrays.

When a call is renamed, only the call inside its item changes; the names of items and arrays, and the order of the dims,
stay.
"""

from __future__ import annotations

from golden_items import claims, experiments, interventions, layer_map, measures, probing, runs, sweeps, tasks
from golden_items.table import ITEMS, STEPS, Numbers, open_lens

__all__ = [
    "ITEMS", "STEPS", "Numbers", "claims", "experiments", "interventions", "layer_map", "measures", "open_lens",
    "probing",
    "runs", "sweeps", "tasks",
]  # fmt: skip
