"""A probe as a folder of files: numbers, a pickle for everyone with scikit-learn, a manifest and a card.

    probe.safetensors   mean, scale, coef and intercept: all that prediction needs, and what is opened; and patterns
    probe.pkl           pickle (protocol 5) of a plain ``Pipeline(StandardScaler, linear estimator)``, for others
    probe.json          what it is and where it comes from, with the checksums of both (:mod:`.probe_manifest`)
    README.md           the card

The pickle is an export: it is made from the pipeline that :func:`.pipeline_of` builds from the numbers, never from the
user's object. So equal probes give equal bytes, also after loading, and whoever has the numbers and the same versions
can tell whether a pickle is the one that was written.

When not to use: for other estimators than those of :mod:`.stored_numbers`. Keep such a pipeline with its own tools.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from dit_lens.errors import ProbeError
from dit_lens.probing.probe_card import card
from dit_lens.probing.probe_manifest import (
    CARD,
    FILES,
    FORMAT,
    MANIFEST,
    MAX_BYTES,
    NUMBERS,
    PICKLE,
    WITH_PATTERNS,
    compose,
    plain,
)
from dit_lens.probing.stored_numbers import export, numbers_of, pipeline_of
from dit_lens.store.atomic import new_folder


def write_probe(
    folder: str | Path, pipeline: Pipeline, classes: tuple[Any, ...], patterns: np.ndarray | None = None, **facts: Any
) -> Path:
    """Write a probe to a folder of its own; an earlier probe there is replaced, anything else is refused.

    Args:
        folder: Where to; made if need be.
        pipeline: Fitted scaler and linear estimator.
        classes: The labels in the pipeline's order, () for a regression.
        patterns: How activations differ with the label, (k, d), if it is known.
        **facts: ``label``, ``unit``, ``address``, ``scores`` and ``about`` of the manifest.

    Returns:
        The folder.

    Raises:
        ProbeError: A pipeline of another kind, a value that JSON does not have, or a place that cannot be written.
    """
    folder = Path(folder)
    try:
        found, numbers = numbers_of(pipeline, patterns)
        pickled = export(pipeline_of(json.loads(json.dumps(found)), numbers))
    except Exception as error:  # parameters and attributes can be of any kind
        raise ProbeError(
            f"the pipeline cannot be saved as a probe: {error}. Fit make_pipeline(StandardScaler(), ...) with one of "
            "scikit-learn's linear estimators, and with numbers and texts as its parameters"
        ) from error
    if plain(classes, "classes") != found["classes"]:
        raise ProbeError(
            f"the probe names {len(classes)} classes and its pipeline {len(found['classes'])}, or in another order: "
            "give Probe(classes=tuple(pipeline.classes_.tolist())), and none for a regression"
        )
    if max(len(numbers), len(pickled)) > MAX_BYTES:
        raise ProbeError(
            f"the probe takes {len(numbers) >> 20} MB and at most {MAX_BYTES >> 20} are opened: fit fewer classes"
        )
    files = {NUMBERS: numbers, PICKLE: pickled}
    manifest = compose(facts | found, files, FORMAT if patterns is None else WITH_PATTERNS)
    files |= {MANIFEST: manifest, CARD: card(json.loads(manifest)).encode()}
    try:
        refuse_other(folder)
        with new_folder(folder) as scratch:
            for name, content in files.items():
                (scratch / name).write_bytes(content)
    except OSError as error:
        raise ProbeError(f"cannot write a probe to {folder}: {error}; choose a folder that can be written") from error
    return folder


def refuse_other(folder: Path) -> None:
    """Refuse a place that holds something else than one saved probe.

    Raises:
        ProbeError: There is another folder, a file or a link.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    names = {p.name for p in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else {""}
    if names and (names - {*FILES} or MANIFEST not in names):
        raise ProbeError(f"{folder} exists and is not a saved probe: choose another folder, or remove it")
