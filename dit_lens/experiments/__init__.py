"""Experiments: a lens, some tasks and a question in, a labelled dataset with its placebo out.

A measure reads runs; an experiment also makes them. Each module holds one experiment of the paper with its controls,
and ``claims``, which states what the paper said beside what was found: ``dl.experiments.energy.energy(lens, tasks)``,
``dl.experiments.energy.claims(lens)``.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

__all__ = [m.name for m in pkgutil.iter_modules(__path__)]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
