"""Probes made by hand, and folders as a forger would write them: every checksum right, whatever is in the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.address import Address
from dit_lens.probing import mean_difference, probe_manifest
from dit_lens.probing.linear_probe import Probe

ADDRESS = Address(5, "cond", 7, "resid_post")
SCORES = {"score": 0.91, "majority": 0.5, "control": {"task": 0.55, "selectivity": 0.36}, "interval": [0.85, 0.97]}
ABOUT = {"model": "lab", "fingerprint": "ab" * 32, "data": {"task": "maze", "seeds": [0, 40], "groups": "scene"}}
ESTIMATORS = {
    "logistic": LogisticRegression,
    "ridge classifier": RidgeClassifier,
    "ridge": Ridge,
    "lda": LinearDiscriminantAnalysis,
    "mean difference": mean_difference,
}


def labels(kind: str, n: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """n labels of up to some classes, each class at least twice."""
    which = np.concatenate([np.tile(np.arange(classes), 2), rng.integers(0, classes, n - 2 * classes)])
    names = {
        "int": np.arange(classes) * 3 - 1,
        "bool": np.arange(classes) > 0,
        "text": np.array([f"class {i}é" for i in range(classes)]),
        "object": np.array([f"class {i}" for i in range(classes)], dtype=object),
        "float": np.arange(classes) - 1.0,
    }
    return names[kind][which]


def fitted(estimator: str = "logistic", kind: str = "text", classes: int = 3, d: int = 6, seed: int = 0) -> Pipeline:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, d)).astype(np.float32) * 3 + 1
    y = rng.normal(size=60) if estimator == "ridge" else labels(kind, 60, classes, rng)
    return make_pipeline(StandardScaler(), ESTIMATORS[estimator]()).fit(x, y)


def probe(pipeline: Pipeline | None = None, **more: Any) -> Probe:
    pipeline = fitted() if pipeline is None else pipeline
    classes = tuple(pipeline[-1].classes_.tolist()) if hasattr(pipeline[-1], "classes_") else ()
    return Probe(pipeline, **{"label": "wall", "address": ADDRESS, "unit": "token", "classes": classes,
                              "scores": SCORES, "about": ABOUT} | more)  # fmt: skip


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest and put in the checksums that fit the files beside it, as anyone can."""
    facts = json.loads((folder / probe_manifest.MANIFEST).read_text(encoding="utf-8")) | changes
    for name in (probe_manifest.PICKLE, probe_manifest.NUMBERS):
        facts["files"][name] = probe_manifest.sha256((folder / name).read_bytes())
    sign(folder, facts)


def sign(folder: Path, facts: dict[str, Any]) -> None:
    facts["digest"] = probe_manifest.digest(facts)
    (folder / probe_manifest.MANIFEST).write_text(json.dumps(facts), encoding="utf-8")


def forge(folder: Path, pickled: bytes) -> Path:
    """A folder like a saved probe's whose pickle is something else."""
    probe().save(folder)
    (folder / probe_manifest.PICKLE).write_bytes(pickled)
    rewrite(folder)
    return folder


def forge_numbers(folder: Path, numbers: bytes, kind: str = "logistic", /, **facts: Any) -> Path:
    """A folder like a saved probe's whose numbers, and entries of the manifest, are something else.

    Its versions are others, so that no pickle could be compared with the numbers.
    """
    probe(fitted(kind)).save(folder)
    (folder / probe_manifest.NUMBERS).write_bytes(numbers)
    rewrite(folder, versions={}, **facts)
    return folder
