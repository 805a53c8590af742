"""``probe.json``: what a saved probe is, in JSON that anyone can read, written and read by the same rules.

    format      number of this layout: 2, or 3 where ``probe.safetensors`` also holds patterns
    label, unit, address
    estimator, params, classes, dtype, n_features, order      of the pipeline (:mod:`.stored_numbers`)
    scores      what was measured at the fit: score, controls, baselines, intervals
    about       model and fingerprint, generation, data recipe
    versions    python, scikit-learn, numpy and dit_lens that wrote the probe
    files       sha256 of probe.safetensors and probe.pkl
    digest      sha256 of everything else in this file

The checksums show that a folder is whole and belongs together. They do not show who made it: whoever changes a file can
write the checksum that fits. Safety comes from how a probe is opened (:mod:`.safe_opening`).

When not to use: for values that JSON does not have. NaN and infinity are written as null; arrays become lists.
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

FORMAT, WITH_PATTERNS = 2, 3  # two, so that who reads only the first says what is wrong
PICKLE, NUMBERS, MANIFEST, CARD = "probe.pkl", "probe.safetensors", "probe.json", "README.md"
FILES = (PICKLE, NUMBERS, MANIFEST, CARD)
MAX_MANIFEST = 2**20  # bytes
MAX_BYTES = 64 * 2**20  # of each other file; a probe of 100 classes on 5,120 channels takes 4 MB
REMEDY = "get the probe again from where it was published, or fit it anew with dit_lens.probe(...)"
_MAX_CLASSES, _MAX_TEXT = 10_000, 500
_KEYS: dict[str, type] = {
    "format": int, "label": str, "unit": str, "address": str, "estimator": str, "params": dict, "classes": list,
    "dtype": str, "n_features": int, "order": str, "scores": dict, "about": dict, "versions": dict, "files": dict,
    "digest": str,
}  # fmt: skip


def compose(facts: Mapping[str, Any], files: Mapping[str, bytes], layout: int = FORMAT) -> bytes:
    """Write a manifest; the same values give the same bytes.

    Args:
        facts: Every entry but ``format``, ``versions``, ``files`` and ``digest``.
        files: Contents of the files beside it, by name.
        layout: ``FORMAT`` or ``WITH_PATTERNS``.

    Raises:
        ProbeError: A value that JSON does not have, or that :func:`read` refuses.
    """
    wanted = {"format": layout, **{name: plain(value, name) for name, value in facts.items()}, "versions": versions()}
    wanted["files"] = {name: sha256(data) for name, data in files.items()}
    try:
        wanted["digest"] = digest(wanted)
        data = json.dumps(wanted, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        read(data)
    except (ProbeError, UnicodeEncodeError) as error:
        raise ProbeError(f"this probe cannot be saved: {error}") from error
    return data


def read(data: bytes) -> dict[str, Any]:
    """The entries of a manifest, each of its type.

    Args:
        data: The file's bytes.

    Raises:
        ProbeError: Anything but a manifest of this format that nobody changed.
    """
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
    if facts["format"] not in (FORMAT, WITH_PATTERNS):
        raise ProbeError(
            f"the probe has format {facts['format']} and this version of dit_lens reads {FORMAT} and {WITH_PATTERNS}: "
            "load it with the version that wrote it, or fit it anew with dit_lens.probe(...)"
        )
    wrong = sorted(name for name, kind in _KEYS.items() if type(facts.get(name)) is not kind)
    if wrong or (unknown := sorted(facts.keys() - _KEYS)):
        raise ProbeError(
            f"{MANIFEST} has missing, unknown or wrong entries {[n[:50] for n in wrong or unknown][:10]}: {REMEDY}"
        )
    if digest(facts) != facts["digest"]:
        raise ProbeError(f"{MANIFEST} was changed after it was written: {REMEDY}")
    _check(facts)
    return facts


def digest(facts: Mapping[str, Any]) -> str:
    """sha256 of every entry but the digest itself."""
    rest = {name: value for name, value in facts.items() if name != "digest"}
    try:
        return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    except (ValueError, RecursionError) as error:
        raise ProbeError(f"the manifest holds a number that JSON has not, or nests too deeply: {REMEDY}") from error


def sha256(data: bytes) -> str:
    """Checksum as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def versions() -> dict[str, str]:
    """What decides the bytes of a pickled pipeline, as it is installed here."""
    python, numpy = platform.python_version(), np.__version__
    return {"python": python, "scikit-learn": sklearn.__version__, "numpy": numpy, "dit_lens": dit_lens.__version__}


def plain(value: Any, place: str) -> Any:
    """A value as JSON holds it: numbers of other libraries as Python's, tuples and arrays as lists, NaN as null.

    Args:
        value: The value.
        place: Names it in messages.

    Raises:
        ProbeError: A value of another kind, or a key that is no text.
    """
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
    if any(not text or len(text) > _MAX_TEXT or not text.isprintable() for text in shown):
        raise ProbeError(
            f"a probe's label, unit, address and names of scores are printable texts of up to {_MAX_TEXT} characters"
        )
    classes = facts["classes"]
    if len(classes) > _MAX_CLASSES or any(
        type(c) not in (str, int, float, bool) or len(str(c)) > _MAX_TEXT for c in classes
    ):
        raise ProbeError(f"the classes of a probe are up to {_MAX_CLASSES} numbers or texts: {REMEDY}")
    if facts["files"].keys() != {PICKLE, NUMBERS}:
        raise ProbeError(f"{MANIFEST} does not say which files belong to the probe: {REMEDY}")
    try:
        address = str(Address.parse(facts["address"]))
    except (AddressError, ValueError) as error:
        raise ProbeError(f"{MANIFEST} holds no address: {error}; {REMEDY}") from error
    if address != facts["address"]:
        raise ProbeError(f"{MANIFEST} holds the address {facts['address']!r}, which reads as {address}: {REMEDY}")
