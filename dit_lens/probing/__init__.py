"""Linear probes with their controls: what can be read, where and when, and whether it is used.

    tasks or runs -> Features -> grid(labels) -> the place to look at -> Probe -> causal check, export

One idea a file: ``features`` (activations by address, streamed to disk), ``labels``, ``splits``, ``ridge_moments`` and
``out_of_fold`` (ridge from sufficient statistics, or any estimator), ``scores``, ``controls``, ``probe_grid`` (a probe
at
every place), ``direction_similarity``, ``description_length``, ``fit`` (one place, for use), ``linear_probe``,
``concept_erasure``
and ``causal_check`` (is it used?), ``saving`` and ``safe_opening`` (with ``pickle_tree``, ``stored_numbers``,
``probe_manifest``, ``skops_file``, ``probe_card``), ``hub``.

Names are fetched when they are first used, so that opening a stored probe needs no model.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Eraser": "concept_erasure", "Features": "features", "Label": "labels", "Labels": "labels",
    "Leace": "concept_erasure", "Probe": "linear_probe", "causal": "causal_check", "collect": "features",
    "directions": "direction_similarity", "from_runs": "features", "grid": "probe_grid", "label": "labels",
    "leace": "concept_erasure", "load_probe": "safe_opening", "logistic": "fit", "mean_difference": "fit",
    "online_code": "description_length", "probe": "fit", "pull_probe": "hub", "push_probe": "hub", "ridge": "fit",
    "similarity": "direction_similarity", "summary": "causal_check",
}  # fmt: skip

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"dit_lens.probing.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dit_lens.probing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
