"""dit_lens: see and change what happens inside Wan video diffusion transformers while they reason.

    import dit_lens as dl
    lens = dl.load("lab")
    run = lens.generate(dl.tasks.load("maze", seed=3), record=dl.record("resid_post", reduce="token_norm"))

Importing this package loads neither torch nor diffusers; each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dit_lens.address import Address, Call, Depth, Select
from dit_lens.errors import DitLensError

if TYPE_CHECKING:  # for editors and type checkers, which cannot see what is fetched later
    from dit_lens import (
        errors,
        experiments,
        figures,
        interventions,
        lab,
        measures,
        planted,
        probing,
        replication,
        runner,
        stats,
        tasks,
    )  # fmt: skip
    from dit_lens.interventions.ablate import ablate
    from dit_lens.interventions.ensemble import ensemble
    from dit_lens.interventions.erase import erase
    from dit_lens.interventions.knockout import knockout
    from dit_lens.interventions.noise import noise
    from dit_lens.interventions.patch import patch
    from dit_lens.interventions.steer import steer
    from dit_lens.layer_map.layer_map import map
    from dit_lens.probing import load_probe, probe
    from dit_lens.runner.attribution import attribute
    from dit_lens.runner.sweep import Sweep, sweep
    from dit_lens.saved_runs import load_run
    from dit_lens.wan import points, reduce
    from dit_lens.wan.call_plan import Plan
    from dit_lens.wan.expert import release
    from dit_lens.wan.lens import Lens
    from dit_lens.wan.loading import load
    from dit_lens.wan.recording import record
    from dit_lens.wan.run import Run
    from dit_lens.wan.sampling import Sampling

__version__ = "0.1.0"

_LAZY = {
    "load": "dit_lens.wan.loading",
    "record": "dit_lens.wan.recording",
    "Lens": "dit_lens.wan.lens",
    "Run": "dit_lens.wan.run",
    "Plan": "dit_lens.wan.call_plan",
    "Sampling": "dit_lens.wan.sampling",
    "release": "dit_lens.wan.expert",
    "load_run": "dit_lens.saved_runs",
    "map": "dit_lens.layer_map.layer_map",
    "patch": "dit_lens.interventions",
    "ablate": "dit_lens.interventions",
    "noise": "dit_lens.interventions",
    "steer": "dit_lens.interventions",
    "ensemble": "dit_lens.interventions",
    "knockout": "dit_lens.interventions",
    "erase": "dit_lens.interventions",
    "sweep": "dit_lens.runner",
    "Sweep": "dit_lens.runner",
    "attribute": "dit_lens.runner.attribution",
    "probe": "dit_lens.probing",
    "load_probe": "dit_lens.probing",
}
_MODULES = {
    "errors": "dit_lens.errors",
    "interventions": "dit_lens.interventions",
    "tasks": "dit_lens.tasks",
    "lab": "dit_lens.lab",
    "figures": "dit_lens.figures",
    "measures": "dit_lens.measures",
    "experiments": "dit_lens.experiments",
    "runner": "dit_lens.runner",
    "probing": "dit_lens.probing",
    "replication": "dit_lens.replication",
    "stats": "dit_lens.stats",
    "planted": "dit_lens.planted",
    "reduce": "dit_lens.wan.reduce",
    "points": "dit_lens.wan.points",
}

__all__ = [
    "Address", "Call", "Depth", "DitLensError", "Lens", "Plan", "Run", "Sampling", "Select", "Sweep", "ablate",
    "attribute", "ensemble", "erase", "errors", "experiments", "figures", "interventions", "knockout", "lab", "load",
    "load_probe", "load_run", "map", "measures", "noise", "patch", "planted", "points", "probe", "probing", "record",
    "reduce", "release", "replication", "runner", "stats", "steer", "sweep", "tasks",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name.endswith("Error") and hasattr(importlib.import_module("dit_lens.errors"), name):
        return getattr(importlib.import_module("dit_lens.errors"), name)  # they are listed there
    if name.startswith("__"):  # a protocol that asks, and no user
        raise AttributeError(f"module 'dit_lens' has no attribute {name!r}")
    import difflib

    near = difflib.get_close_matches(name, __all__, n=2, cutoff=0.6)
    meant = f"did you mean {' or '.join(f'dit_lens.{one}' for one in near)}?" if near else "dir(dit_lens) lists all"
    raise AttributeError(f"module 'dit_lens' has no attribute {name!r}: {meant}")


def __dir__() -> list[str]:
    return sorted(__all__)
