"""The plants that methods are calibrated on, by name.

``EXACT`` plants have one truth and every effect known. ``DECOYS`` add something that looks like a mechanism and is
none. ``HARD`` ones are built so that some methods must fail; they have a rest of .05, beside which effects of a
thousandth (LayerNorm's) are none. ``NOISY`` ones have it so that layers which do nothing have an energy. The truth of a
plant does not depend on the seed; directions and weights do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dit_lens.planted.specs import (
    AndPlant,
    BackupPlant,
    BranchPlant,
    CancellingPlant,
    ExpertPlant,
    HeadPlant,
    LabelPlant,
    LayerPlant,
    LoudUpdate,
    RegionPlant,
    Spec,
    StepPlant,
    UnusedLabel,
)

_SIZE: dict[str, Any] = {"n_layers": 6, "n_steps": 1}
_STEPS: dict[str, Any] = {"n_layers": 6, "n_steps": 2}

EXACT: Mapping[str, Spec] = {
    "attention of a layer": LayerPlant(layer=3, component="attention", **_STEPS),
    "cross-attention of a layer": LayerPlant(layer=1, component="cross_attention", **_SIZE),
    "feed-forward of a layer": LayerPlant(layer=4, component="mlp", **_SIZE),
    "first layer": LayerPlant(layer=0, component="mlp", **_SIZE),
    "last layer": LayerPlant(layer=5, component="attention", **_SIZE),
    "head": HeadPlant(layer=2, head=1, **_SIZE),
    "first step": StepPlant(step=0, layer=3, **_STEPS),
    "second step": StepPlant(step=1, layer=3, component="mlp", **_STEPS),
    "high expert": ExpertPlant(expert="high", layer=2, **_STEPS),
    "low expert": ExpertPlant(expert="low", layer=2, **_STEPS),
    "cond branch": BranchPlant(branch="cond", layer=3, **_SIZE),
    "uncond branch": BranchPlant(branch="uncond", layer=3, **_SIZE),
    "label from a step and layer on, used": LabelPlant(step=1, layer=2, **_STEPS),
}
DECOYS: Mapping[str, Spec] = {
    "unwritten attention": RegionPlant(layer=3, decoy=1, **_SIZE),
    "loud update": LoudUpdate(layer=3, decoy=1, **_SIZE),
    "unused label": UnusedLabel(layer=3, decoy=1, **_SIZE),
    "label from a step and layer on, unused": LabelPlant(step=1, layer=2, used=False, **_STEPS),
}
HARD: Mapping[str, Spec] = {
    "two redundant layers": BackupPlant(layers=(2, 4), rest=0.05, **_SIZE),
    "two layers that cancel": CancellingPlant(layers=(1, 2), layer=4, rest=0.05, **_SIZE),
    "and of two layers": AndPlant(layers=(1, 2), layer=4, rest=0.05, **_SIZE),
}
NOISY: Mapping[str, Spec] = {
    "feed-forward of a layer, in noise": replace(EXACT["feed-forward of a layer"], rest=0.05),
    "loud update, in noise": replace(DECOYS["loud update"], rest=0.05),
}
PLANTS: Mapping[str, Spec] = {**EXACT, **DECOYS, **HARD, **NOISY}

#: Strengths of the rest, and what stands in it.
RESTS = (0.0, 0.1, 0.25, 0.5, 1.0)
GRADED: Mapping[str, Spec] = {name: EXACT[name] for name in ("attention of a layer", "feed-forward of a layer")}
