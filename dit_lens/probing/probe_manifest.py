"""``probe.json``: what a saved probe is, in JSON that anyone can read, written and read by the same rules.

    format      number of this layout
    label, unit, address, classes, estimator, n_features
    scores      what was measured at the fit: score, controls, baselines, intervals
    about       model and fingerprint, generation, data recipe
    versions    python, scikit-learn, numpy, dit_lens that wrote the pickle
    files       sha256 and size of probe.pkl, and of probe.skops (null where skops was not installed)
    digest      sha256 of everything else in this file

The checksums show that a folder is whole and belongs together. They do not show who made it: whoever changes a pickle
can write the checksum that fits. Safety comes from how files are opened (:mod:`.inert`).

When not to use: for values that JSON has not. NaN and infinity are written as null; arrays become lists.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

import dit_lens
from dit_lens.address import Address
from dit_lens.errors import AddressError, ProbeError
from dit_lens.probing.pickle_tree import REMEDY

FORMAT = 1
PICKLE, MANIFEST, TWIN, CARD = "probe.pkl", "probe.json", "probe.skops", "README.md"
FILES = (PICKLE, MANIFEST, TWIN, CARD)
MAX_MANIFEST = 2**20
_MAX_CLASSES = 10_000
_KEYS: dict[str, type] = {
    "format": int, "label": str, "unit": str, "address": str, "classes": list, "estimator": str, "n_features": int,
    "scores": dict, "about": dict, "versions": dict, "files": dict, "digest": str,
}  # fmt: skip


def compose(
    label: str, unit: str, address: Address, classes: tuple[Any, ...], estimator: str, n_features: int,
    scores: Mapping[str, Any], about: Mapping[str, Any], files: Mapping[str, bytes | None],
) -> bytes:  # fmt: skip
    """The manifest's bytes; the same values give the same bytes. Errors: :class:`ProbeError` for what JSON has not."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        "label": label,
        "unit": unit,
        "address": str(address),
        "classes": list(classes),
        "estimator": estimator,
        "n_features": n_features,
        "scores": plain(scores, "scores"),
        "about": plain(about, "about"),
        "versions": {
            "python": platform.python_version(),
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "dit_lens": dit_lens.__version__,
        },
        "files": {name: data and {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()},
    }
    facts["digest"] = _digest(facts)
    try:
        data = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        read(data)
    except (ProbeError, UnicodeEncodeError) as error:
        raise ProbeError(f"this probe cannot be saved: {error}") from error
    return data


def read(data: bytes) -> dict[str, Any]:
    """The facts in a manifest, every one of its type. Errors: :class:`ProbeError` for anything else."""
    if len(data) > MAX_MANIFEST:
        raise ProbeError(
            f"{MANIFEST} is larger than 1 MB: keep arrays and long lists out of scores and about; {REMEDY}"
        )
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProbeError(f"{MANIFEST} is damaged ({type(error).__name__}): {REMEDY}") from error
    if type(facts) is not dict or type(facts.get("format")) is not int:
        raise ProbeError(f"{MANIFEST} is not the manifest of a probe: {REMEDY}")
    if facts["format"] != FORMAT:
        raise ProbeError(
            f"the probe has format {facts['format']} and this version of dit_lens reads {FORMAT}: load it with the "
            "version that wrote it, or fit it anew with dit_lens.probe(...)"
        )
    wrong = sorted(name for name, kind in _KEYS.items() if type(facts.get(name)) is not kind)
    if wrong or (unknown := sorted(facts.keys() - _KEYS)):
        raise ProbeError(
            f"{MANIFEST} has missing, unknown or wrong entries {[n[:50] for n in wrong or unknown][:10]}: {REMEDY}"
        )
    if _digest({name: value for name, value in facts.items() if name != "digest"}) != facts["digest"]:
        raise ProbeError(f"{MANIFEST} was changed after it was written: {REMEDY}")
    _check(facts)
    return facts


def address_of(facts: Mapping[str, Any]) -> Address:
    """Where the probe reads. Errors: :class:`ProbeError` for a text that is no address."""
    try:
        address = Address.parse(facts["address"])
    except (AddressError, ValueError) as error:
        raise ProbeError(f"{MANIFEST} holds no address: {error}; {REMEDY}") from error
    if str(address) != facts["address"]:
        raise ProbeError(f"{MANIFEST} holds the address {facts['address'][:200]!r}, which reads as {address}: {REMEDY}")
    return address


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plain(value: Any, place: str) -> Any:
    """A value as JSON holds it: numbers of other libraries as its own, tuples and arrays as lists, NaN as null."""
    if isinstance(value, Mapping):
        if bad := [k for k in value if not isinstance(k, str)]:
            raise ProbeError(f"{place} has the key {bad[0]!r}; keys in a probe's {place.split('.')[0]} are texts")
        return {str(k): plain(v, f"{place}.{k}") for k, v in value.items()}
    if hasattr(value, "__array__"):  # numpy, torch, xarray
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [plain(v, place) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str | Path | Address):
        return str(value)
    raise ProbeError(
        f"{place} is a {type(value).__name__}, which a probe's manifest cannot hold: give numbers, texts, lists and "
        "mappings of these"
    )


def _check(facts: dict[str, Any]) -> None:
    shown = [facts["label"], facts["unit"], facts["address"], facts["estimator"], *facts["scores"]]
    if any(not text or len(text) > 500 or not text.isprintable() for text in shown):
        raise ProbeError(
            "a probe's label, unit, address and names of scores are printable texts of up to 500 characters"
        )
    classes = facts["classes"]
    if len(classes) > _MAX_CLASSES or any(type(c) not in (str, int, float, bool) for c in classes):
        raise ProbeError(f"the classes of a probe are up to {_MAX_CLASSES} numbers or texts: {REMEDY}")
    if any(type(v) is not str or len(v) > 100 or not v.isprintable() for v in facts["versions"].values()):
        raise ProbeError(f"{MANIFEST} names versions that are none: {REMEDY}")
    files = facts["files"]
    if files.keys() != {PICKLE, TWIN} or files[PICKLE] is None or not all(map(_is_entry, files.values())):
        raise ProbeError(f"{MANIFEST} does not say which files belong to the probe: {REMEDY}")
    address_of(facts)


def _is_entry(entry: Any) -> bool:
    if type(entry) is not dict:
        return entry is None
    return {name: type(value) for name, value in entry.items()} == {"sha256": str, "bytes": int}


def _digest(facts: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ProbeError(f"the manifest holds a number that JSON has not, or nests too deeply: {REMEDY}") from error
    return sha256(text.encode())
