"""The map: every table, the cut in early, middle and late, the clips and the runs."""

from __future__ import annotations

from typing import Any

import dit_lens as dl
from golden_items.table import Numbers, flat, item


@item
def map_(lens: Any) -> Numbers:
    """Two puzzles of one family with probes, ensembles and the control."""
    found = dl.map(lens, ["choose"], n=2, steps=[0, 3], scenes=8, ensembles=True)
    cuts = {
        expert: {"starts": cut.starts, "explained": cut.explained, "p": cut.p}
        for expert, cut in found.roles.cuts.items()
    }
    clips = {f"{step}-{layer}": videos for (step, layer), videos in found.clips.items()}
    return flat({
        "tables": found.tables(), "cuts": cuts, "centres": found.roles.centres, "clips": clips,
        "final": [run.final for run in found.runs],
    })  # fmt: skip
