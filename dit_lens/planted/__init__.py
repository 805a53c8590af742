"""Networks with known mechanisms, and without any: how well each method of the toolkit does on them.

A sweep whose answer is known, beside ``made.truth.patch(made.tasks(8))``::

    made = dl.planted.plant(dl.planted.LayerPlant(layer=3, component="mlp"), seed=0)
    dl.sweep(made.lens, tasks=made.tasks(8), source="other_answer")
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "AndPlant": "specs", "BackupPlant": "specs", "BranchPlant": "specs", "CancellingPlant": "specs",
    "ExpertPlant": "specs", "HeadPlant": "specs", "LabelPlant": "specs", "LayerPlant": "specs", "LoudUpdate": "specs",
    "PlantTask": "pictures", "Planted": "planting", "RegionPlant": "specs", "Spec": "specs", "StepPlant": "specs",
    "Truth": "truth", "UnusedLabel": "specs", "plant": "planting", "Nothing": "whole_specs", "WholeMap": "whole_specs",
    "calibrate": "calibration", "Calibration": "calibration", "METHODS": "methods",
}  # fmt: skip

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"dit_lens.planted.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dit_lens.planted' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
