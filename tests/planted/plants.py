"""One small spec of every kind, for tests."""

from __future__ import annotations

from dit_lens.planted import (
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
    StepPlant,
    UnusedLabel,
)

SMALL = {"n_layers": 4, "n_steps": 2}
SPECS = (
    LayerPlant(layer=2, component="attention", **SMALL),
    LayerPlant(layer=2, component="cross_attention", **SMALL),
    LayerPlant(layer=0, component="mlp", **SMALL),
    HeadPlant(layer=3, head=1, **SMALL),
    StepPlant(step=1, layer=2, **SMALL),
    StepPlant(step=0, layer=1, component="mlp", **SMALL),
    ExpertPlant(expert="high", layer=1, **SMALL),
    ExpertPlant(expert="low", layer=1, **SMALL),
    BranchPlant(branch="cond", layer=1, **SMALL),
    BranchPlant(branch="uncond", layer=1, **SMALL),
    LabelPlant(step=1, layer=1, **SMALL),
    LabelPlant(step=1, layer=1, used=False, **SMALL),
    BackupPlant(layers=(0, 2), **SMALL),
    CancellingPlant(layers=(0, 2), layer=1, **SMALL),
    AndPlant(layers=(0, 1), layer=2, **SMALL),
    RegionPlant(layer=2, decoy=1, **SMALL),
    LoudUpdate(layer=2, decoy=1, **SMALL),
    UnusedLabel(layer=2, decoy=1, **SMALL),
)


def named(spec: object) -> str:
    """A short name for test ids."""
    fields = {k: v for k, v in vars(spec).items() if k not in (*SMALL, "rest")}
    return f"{type(spec).__name__}({', '.join(f'{k}={v}' for k, v in fields.items())})"
