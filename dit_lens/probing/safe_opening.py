"""Saved probes, opened from their numbers: no pickle is read, and no code of a file's choosing can run.

    probe = load_probe(folder)

The pipeline is built by the installed scikit-learn from four arrays in a safetensors file and the manifest, and run
once on made-up rows; a fifth array, the patterns, stands beside it. ``probe.pkl`` is an export for people with
scikit-learn alone. Why not read that, through an allow-list of names? A pickle is a program: each class, opcode and
``__setstate__`` that is let through has to be shown harmless anew for each version of Python, numpy and scikit-learn.
skops decides by a list of types as well, and would be a dependency more for the same arrays.

What is lost: a bare ``probe.pkl`` without its folder does not open here (the error says what to do). What is gained: a
probe opens under other versions of scikit-learn (tested by hand: 1.6.1, 1.7.2, 1.9.1), up to rounding.

The pickle has to have the checksum that the manifest names. Where Python and all packages have the versions that wrote
it, it also has to be byte for byte what the numbers give, so that other contents are refused even when their checksum
fits. Under other versions this cannot be told, and the pickle is as safe as its origin. Files are read once, so that
what was checked is what is opened; links are not followed.

When not to use: to learn who made a probe; a checksum is changed as easily as the file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from dit_lens.address import Address
from dit_lens.errors import ProbeError
from dit_lens.probing import probe_manifest
from dit_lens.probing.linear_probe import Probe
from dit_lens.probing.probe_manifest import MANIFEST, MAX_BYTES, MAX_MANIFEST, NUMBERS, PICKLE, REMEDY, WITH_PATTERNS
from dit_lens.probing.stored_numbers import export, patterns_of, pipeline_of


def load_probe(folder: str | Path) -> Probe:
    """Read a probe that ``probe.save(folder)`` wrote: checksums and contents are checked, and nothing in it is run.

    Args:
        folder: The probe's folder, with ``probe.json``, ``probe.safetensors`` and ``probe.pkl``.

    Returns:
        The probe, with the predictions and patterns that it was saved with.

    Raises:
        ProbeError: The folder is missing, damaged, changed, of another format, or holds anything but a linear probe.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ProbeError(
            f"{folder} is a file, and load_probe takes the folder that probe.save(folder) wrote: give that folder. A "
            "pickle alone is not opened, because that runs whatever is in it; one of your own becomes a probe with "
            "dit_lens.probing.Probe(pickle.load(file), label=..., address=..., unit=..., classes=...).save(folder)"
        )
    facts = probe_manifest.read(_read(folder / MANIFEST, MAX_MANIFEST))
    contents = {name: _whole(folder / name, facts["files"][name]) for name in (NUMBERS, PICKLE)}
    try:
        pipeline = pipeline_of(facts, contents[NUMBERS])
        patterns = patterns_of(facts, contents[NUMBERS], wanted=facts["format"] == WITH_PATTERNS)
        same = facts["versions"] != probe_manifest.versions() or contents[PICKLE] == export(pipeline)
    except Exception as error:  # entries and arrays of any kind
        reason = str(error)[:300] if isinstance(error, ProbeError) else type(error).__name__
        raise ProbeError(f"{NUMBERS} and {MANIFEST} in {folder} do not make a probe: {reason}; {REMEDY}") from error
    if not same:
        raise ProbeError(
            f"{PICKLE} in {folder} is not the pickle that {NUMBERS} gives under the versions that wrote it. Do not "
            f"open it in another way: {REMEDY}"
        )
    about = {name: facts[name] for name in ("label", "unit", "scores", "about")}
    address, classes = Address.parse(facts["address"]), tuple(facts["classes"])
    return Probe(pipeline, address=address, classes=classes, patterns=patterns, **about)


def _whole(file: Path, wanted: Any) -> bytes:
    """A file's bytes, when they are those that the manifest names."""
    data = _read(file, MAX_BYTES)
    if probe_manifest.sha256(data) != wanted:
        raise ProbeError(f"{file} is not what {MANIFEST} says was written: damaged or changed; {REMEDY}")
    return data


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
    except ProbeError:
        raise
    except (OSError, ValueError) as error:
        raise ProbeError(
            f"{file.parent} holds no probe that can be read ({file.name}: {error}): give a folder written by "
            "probe.save(folder), or pull one with dit_lens.probing.pull_probe(...)"
        ) from error
