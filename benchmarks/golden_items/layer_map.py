"""The map: every table, the model of depth, the centres, the clips and the runs."""

from __future__ import annotations

from typing import Any

import dit_lens as dl
from golden_items.table import Numbers, flat, item


@item
def map_(lens: Any) -> Numbers:
    """Two puzzles of one family with probes, ensembles and two controls."""
    found = dl.map(lens, ["choose"], n=2, steps=[0, 3], scenes=8, ensembles=True, controls=2)
    models = {
        expert: {"starts": model.starts, "p": model.p, "rho": model.rho, "power": model.power}
        for expert, model in found.roles.models.items()
    }
    centres = {
        expert: {role: [vars(place.centre), vars(place.width)] for role, place in places.items()}
        for expert, places in found.roles.centres.items()
    }
    clips = {f"{step}-{layer}": videos for (step, layer), videos in found.clips.items()}
    return flat({
        "tables": found.tables(), "models": models, "centres": centres, "clips": clips,
        "final": [run.final for run in found.runs],
    })  # fmt: skip
