"""dit_lens: see and change what happens inside Wan video diffusion transformers while they reason.

    import dit_lens as dl
    lens = dl.load("lab")
    run = lens.generate(dl.tasks.load("maze", seed=3), record=dl.record("resid_post", reduce="token_norm"))

Importing this package loads neither torch nor diffusers; each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from dit_lens.address import Address, Call, Depth, Select
from dit_lens.errors import (
    AddressError,
    BypassError,
    DitLensError,
    DriftError,
    InterventionError,
    LoadError,
    MeasureError,
    ProbeError,
    RecordError,
    SamplerError,
    StoreError,
    TaskError,
)

__version__ = "0.1.0"

_LAZY = {
    "load": "dit_lens.loading",
    "record": "dit_lens.wan.record",
    "Lens": "dit_lens.wan.lens",
    "Run": "dit_lens.wan.run",
    "Plan": "dit_lens.wan.plan",
    "load_run": "dit_lens.store",
    "map": "dit_lens.atlas",
    "patch": "dit_lens.interventions",
    "ablate": "dit_lens.interventions",
    "noise": "dit_lens.interventions",
    "steer": "dit_lens.interventions",
    "ensemble": "dit_lens.interventions",
    "knockout": "dit_lens.interventions",
    "erase": "dit_lens.interventions",
    "sweep": "dit_lens.sweeps",
    "Sweep": "dit_lens.sweeps",
    "attribute": "dit_lens.sweeps.attribution",
    "probe": "dit_lens.probing",
    "load_probe": "dit_lens.probing",
}
_MODULES = {
    "interventions": "dit_lens.interventions",
    "tasks": "dit_lens.tasks",
    "lab": "dit_lens.lab",
    "figures": "dit_lens.figures",
    "measures": "dit_lens.measures",
    "experiments": "dit_lens.experiments",
    "sweeps": "dit_lens.sweeps",
    "probing": "dit_lens.probing",
    "reduce": "dit_lens.wan.reduce",
    "points": "dit_lens.wan.points",
}

__all__ = [
    "Address", "AddressError", "BypassError", "Call", "Depth", "DitLensError", "DriftError", "InterventionError",
    "LoadError", "MeasureError", "ProbeError", "RecordError", "SamplerError", "Select", "StoreError", "TaskError",
    *_LAZY, *_MODULES,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'dit_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
