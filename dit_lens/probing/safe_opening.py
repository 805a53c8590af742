"""Saved probes, opened without running anything that a file brings along.

    load_probe(folder)               the pickle, through an allow-list of a dozen names; nothing in it is called
    load_probe(folder, twin=True)    the skops file instead, for those who open no pickles at all
    load_probe(folder, trust=True)   the pickle as Python opens any pickle: runs whatever is in it

There is no way from one to another: what one refuses is an error, and never tried in another way. Files are read once,
so that what was checked is what is opened; links are not followed. Under another minor version of scikit-learn a probe
is opened with a warning, as its numbers are checked against the formula; another major version is refused.

When not to use: ``trust=True`` on a file that somebody else could have written. The checksum is next to it, and changed
as easily.
"""

from __future__ import annotations

import os
import pickle
import re
import stat
import warnings
from pathlib import Path
from typing import Any

import sklearn
from sklearn.pipeline import Pipeline

from dit_lens.errors import ProbeError
from dit_lens.probing import probe_manifest
from dit_lens.probing.linear_probe import Probe
from dit_lens.probing.pickle_tree import MAX_BYTES, REMEDY, Refused
from dit_lens.probing.probe_manifest import MANIFEST, MAX_MANIFEST, PICKLE, TWIN
from dit_lens.probing.skops_file import pipeline_from_twin
from dit_lens.probing.stored_numbers import classes_of, n_features, pipeline_from

_TRUST = "load_probe(folder, trust=True) opens it as a plain pickle, which runs whatever is in it"


def load_probe(folder: str | Path, *, trust: bool = False, twin: bool = False) -> Probe:
    """Read a probe written by ``probe.save(folder)``: checksums, versions, and contents all checked.

    trust: open the pickle as Python does, any estimator and version; only for files that you made. twin: open
    ``probe.skops`` instead of the pickle.
    Errors: :class:`ProbeError` for a folder that is missing, damaged, changed, of another format or scikit-learn, or
    that asks for anything but a linear probe.
    """
    if trust and twin:
        raise ProbeError("trust=True opens the pickle and twin=True the skops file: choose one")
    folder = Path(folder)
    facts = probe_manifest.read(_read(folder / MANIFEST, MAX_MANIFEST))
    contents = {PICKLE: _whole(folder, PICKLE, facts)}
    if twin or (folder / TWIN).exists():
        contents[TWIN] = _whole(folder, TWIN, facts)
    _versions(facts["versions"].get("scikit-learn", "an unknown version"), trust)
    if trust:
        pipeline = _trusted(contents[PICKLE])
    else:
        pipeline = pipeline_from_twin(contents[TWIN]) if twin else pipeline_from(contents[PICKLE])
    classes = _agree(pipeline, facts)
    return Probe(
        pipeline, facts["label"], probe_manifest.address_of(facts), facts["unit"], classes, facts["scores"],
        facts["about"]
    )


def _read(file: Path, limit: int) -> bytes:
    """A regular file's bytes, if there are not more than ``limit`` of them."""
    try:
        if file.is_symlink():
            raise ProbeError(f"{file} is a link, and a probe's files are not: copy the folder with what it points to")
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(file, flags), "rb") as opened:
            state = os.fstat(opened.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ProbeError(f"{file} is not a file: {REMEDY}")
            if state.st_size > limit:
                raise ProbeError(f"{file} is larger than the {limit >> 20} MB that a probe may take: {REMEDY}")
            return opened.read(state.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, ProbeError):
            raise
        raise ProbeError(
            f"{file.parent} holds no probe that can be read ({file.name}: {error}): give a folder written by "
            "probe.save(folder), or pull one with dit_lens.probing.pull_probe(...)"
        ) from error


def _whole(folder: Path, name: str, facts: dict[str, Any]) -> bytes:
    """A file's bytes, when they are those that the manifest speaks of."""
    entry = facts["files"][name]
    if entry is None:
        raise ProbeError(
            f"the probe in {folder} was saved without {name}: open the pickle, remove a {name} that somebody added, or "
            "save the probe again where skops is installed"
        )
    data = _read(folder / name, MAX_BYTES)
    if len(data) != entry["bytes"] or probe_manifest.sha256(data) != entry["sha256"]:
        raise ProbeError(f"{name} in {folder} is not what {MANIFEST} says was written: damaged or changed; {REMEDY}")
    return data


def _versions(written: str, trust: bool) -> None:
    here = sklearn.__version__
    pair = [(re.match(r"(\d+)\.(\d+)", version) or ("", "")) for version in (written, here)]
    if pair[0][1] == pair[1][1] and pair[0][0] == pair[1][0]:
        return
    text = f"this probe was written with scikit-learn {written} and {here} is installed"
    if pair[0][1] != pair[1][1] and not trust:
        wanted = f'`pip install "scikit-learn=={pair[0][0]}.*"`' if pair[0][0] else "the version that wrote it"
        raise ProbeError(f"{text}: use {wanted}, or fit it anew with dit_lens.probe(...); {_TRUST}")
    how = "opened as it is" if trust else "its predictions were checked against its coefficients"
    warnings.warn(f"{text}; {how}. Fit it anew to be rid of this", stacklevel=3)


def _trusted(data: bytes) -> Pipeline:
    try:
        found = pickle.loads(data)
    except Exception as error:  # whatever is in it runs, and fails as it likes
        raise ProbeError(f"{PICKLE} does not open as a pickle ({type(error).__name__}: {error}): {REMEDY}") from error
    if not isinstance(found, Pipeline):
        raise ProbeError(f"{PICKLE} holds a {type(found).__name__} and no scikit-learn Pipeline: {REMEDY}")
    return found


def _agree(pipeline: Pipeline, facts: dict[str, Any]) -> tuple[Any, ...]:
    """The classes, when pipeline and manifest say the same of each other."""
    try:
        estimator, width = type(pipeline[-1]).__name__, n_features(pipeline)
        classes = classes_of(pipeline) or tuple(getattr(pipeline[-1], "classes_", ()))
        same = [*map(_typed, classes)] == [*map(_typed, facts["classes"])]
    except Refused:
        raise
    except Exception as error:
        raise ProbeError(
            f"{PICKLE} does not hold a fitted probe ({type(error).__name__}: {error}): {REMEDY}"
        ) from error
    if not same or estimator != facts["estimator"] or width != facts["n_features"]:
        said = f"a {facts['estimator']} of {facts['n_features']} channels and {len(facts['classes'])} classes"
        raise ProbeError(
            f"{MANIFEST} speaks of {said}, and the pipeline is a {estimator} of {width} channels and {len(classes)} "
            f"{'' if same else 'other '}classes: the two files do not belong together; {REMEDY}"
        )
    return classes


def _typed(label: Any) -> tuple[type, Any]:
    value = label.item() if hasattr(label, "item") else label
    return type(value), value
