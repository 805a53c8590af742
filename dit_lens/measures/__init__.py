"""Measures: functions from runs to labelled arrays, each with n, an interval and, for effects, a placebo.

The most used are named here; the others live in modules of one idea each: ``dl.measures.layer_lens.layer_film(...)``.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from dit_lens.measures.attention_watch import region_attention, watch_attention, watched_attention
from dit_lens.measures.energy import energy_ratio, layer_energy, region_energy
from dit_lens.measures.local import local_effects
from dit_lens.measures.stats import beside, summarise

_FILES = [m.name for m in pkgutil.iter_modules(__path__)]
__all__ = [
    "beside", "energy_ratio", "layer_energy", "local_effects", "region_attention", "region_energy", "summarise",
    "watch_attention", "watched_attention", *_FILES,
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in _FILES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {sorted(__all__)}")
