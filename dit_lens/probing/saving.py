"""A probe as files: a pickle for everyone with scikit-learn, a manifest, a skops twin and a card.

    probe.pkl     pickle (protocol 5) of a plain ``Pipeline(StandardScaler, linear estimator)``; no class of ours in it
    probe.json    what it is and where it comes from, with the checksums of the others (:mod:`.manifest`)
    probe.skops   the same pipeline for those who open no pickles; written where skops is installed
    README.md     the card

The pipeline is written in one canonical form: it is pickled, read back by the rules of :func:`load_probe`, and pickled
again. So whatever is saved can be opened, and the same probe gives the same bytes, also after loading.

When not to use: for other estimators than those of :mod:`.stock`. Keep such a pipeline with its own tools.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from dit_lens.errors import ProbeError
from dit_lens.probing import probe_manifest
from dit_lens.probing.linear_probe import Probe
from dit_lens.probing.pickle_tree import MAX_BYTES, PROTOCOL, Refused
from dit_lens.probing.probe_card import card
from dit_lens.probing.skops_file import twin_of
from dit_lens.probing.stored_numbers import check, classes_of, pipeline_from
from dit_lens.store.atomic import new_folder


def save_probe(probe: Probe, folder: str | Path) -> Path:
    """Write a probe to a folder of its own; an earlier probe there is replaced, anything else is refused.

    Errors: :class:`ProbeError` for a pipeline that is not stock, a manifest that JSON cannot hold, or a place that
    cannot be written.
    """
    folder = Path(folder)
    data = _canonical(probe)
    twin = twin_of(pipeline_from(data))
    about = probe_manifest.compose(
        probe.label, probe.unit, probe.address, classes_of(probe.pipeline), type(probe.pipeline[-1]).__name__,
        probe.n_features, probe.scores, probe.about, {probe_manifest.PICKLE: data, probe_manifest.TWIN: twin},
    )  # fmt: skip
    written = {
        probe_manifest.PICKLE: data,
        probe_manifest.TWIN: twin,
        probe_manifest.MANIFEST: about,
        probe_manifest.CARD: card(probe).encode(),
    }
    try:
        refuse_other(folder)
        with new_folder(folder) as scratch:
            for name, content in written.items():
                if content is not None:
                    (scratch / name).write_bytes(content)
    except OSError as error:
        raise ProbeError(f"cannot write a probe to {folder}: {error}; choose a folder that can be written") from error
    return folder


def refuse_other(folder: Path) -> None:
    """Errors: :class:`ProbeError` for a place that holds something else than one saved probe."""
    if not folder.exists() and not folder.is_symlink():
        return
    names = {p.name for p in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else {""}
    if names and (names - set(probe_manifest.FILES) or probe_manifest.MANIFEST not in names):
        raise ProbeError(f"{folder} exists and is not a saved probe: choose another folder, or remove it")


def _canonical(probe: Probe) -> bytes:
    try:
        check(probe.pipeline)
        data = pickle.dumps(pipeline_from(_dumps(probe.pipeline)), protocol=PROTOCOL)
    except Refused as error:
        raise ProbeError(
            f"the pipeline cannot be saved as a probe, because nobody could open it safely: {error.reason}. Fit "
            "make_pipeline(StandardScaler(), ...) with numbers and texts as its parameters"
        ) from error
    wanted, found = tuple(probe_manifest.plain(probe.classes, "classes")), classes_of(probe.pipeline)
    if wanted != found:
        raise ProbeError(
            f"the probe names {len(wanted)} classes and its pipeline {len(found)}, or in another order: give "
            "Probe(classes=tuple(pipeline.classes_.tolist())), and none for a regression"
        )
    return data


def _dumps(pipeline: Any) -> bytes:
    try:
        data = pickle.dumps(pipeline, protocol=PROTOCOL)
    except Exception as error:  # parameters of any kind, each with its own way of not being picklable
        raise Refused(f"it does not pickle ({type(error).__name__}: {error})") from error
    if len(data) > MAX_BYTES:
        raise ProbeError(
            f"the pipeline takes {len(data) >> 20} MB and at most {MAX_BYTES >> 20} are opened; what is large and not "
            "needed to predict is the covariance_ that LinearDiscriminantAnalysis keeps: del pipeline[-1].covariance_"
        )
    return data
