"""Linear probes with their controls: what can be read, where and when, and whether it is used.

    tasks or runs -> Features -> grid(labels) -> the place to look at -> Probe -> causal check, export

One idea a file: ``features`` (activations by address, streamed to disk), ``labels``, ``splits``, ``moments`` and
``reading`` (ridge from sufficient statistics, or any estimator), ``scores``, ``controls``, ``scan`` (a probe at every
place), ``evidence`` (for the map), ``alike`` (directions), ``mdl``, ``fit`` (one place, for use), ``fitted``,
``erasure`` and ``usage`` (is it used?), ``export`` and ``opening`` (safe loading; ``inert``, ``stock``, ``manifest``,
``twin``, ``card`` are its parts), ``hub``.

Names are fetched when they are first used, so that opening a stored probe needs no model.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Eraser": "erasure", "Features": "features", "Label": "labels", "Labels": "labels", "Leace": "erasure",
    "Probe": "fitted", "causal": "usage", "collect": "features", "decodability": "evidence",
    "directions": "alike", "from_runs": "features", "grid": "scan", "label": "labels", "leace": "erasure",
    "load_probe": "opening", "logistic": "fit", "mean_difference": "fit", "online_code": "mdl", "probe": "fit",
    "pull_probe": "hub", "push_probe": "hub", "ridge": "fit", "save_probe": "export", "similarity": "alike",
    "summary": "usage",
}  # fmt: skip

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"dit_lens.probing.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dit_lens.probing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
