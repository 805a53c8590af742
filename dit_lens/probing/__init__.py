"""Linear probes with their controls: what can be read, where and when, and whether it is used.

    tasks or runs -> Features -> grid(labels) -> the place to look at -> Probe -> causal check, export

    features, labels, splits         rows by address, streamed to disk; what is read; folds by scene
    ridge_moments, out_of_fold       held-out decisions
    scores, controls                 how well they fit, and what a score is compared with
    description_length               code length of a label
    probe_grid                       a probe at every place
    direction_similarity             whether places share a direction
    fit, linear_probe                the probe of one place, for use
    label_pattern                    how activations differ with a label
    concept_erasure, causal_check    whether the model uses what is read
    saving, safe_opening, hub        files and the Hugging Face hub
    stored_numbers, probe_manifest, probe_card    what the files hold

Names are imported on first use, so that opening a stored probe loads no model.

When not to use: for nonlinear read-outs, or features that are learned without labels.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Eraser": "concept_erasure", "Features": "features", "Label": "labels", "Labels": "labels",
    "Leace": "concept_erasure", "Probe": "linear_probe", "causal": "causal_check", "collect": "features",
    "directions": "direction_similarity", "from_runs": "features", "grid": "probe_grid", "label": "labels",
    "leace": "concept_erasure", "load_probe": "safe_opening", "logistic": "fit", "mean_difference": "fit",
    "online_code": "description_length", "patterns": "label_pattern", "probe": "fit", "pull_probe": "hub",
    "push_probe": "hub", "ridge": "fit", "similarity": "direction_similarity", "summary": "causal_check",
}  # fmt: skip

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"dit_lens.probing.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dit_lens.probing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
