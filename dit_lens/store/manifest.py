"""The head of a folder of kept work: what kind of work lies there and every parameter that can change a number.

Work may be continued under equal parameters only. Every kept item carries the checksum of the parameters that it was
made under, so that a lost manifest costs nothing and nothing of other work is ever taken for ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_lens.errors import StoreError
from dit_lens.store.atomic import new_file
from dit_lens.store.identity import checksum, told

FORMAT = 1
FILE, ITEMS, PARTS, CLAIMS = "manifest.json", "items", "parts", ".claims"
#: The kinds of long work, and what each counts.
KINDS = {
    "sweep": "cells", "map": "parts", "probe grid": "places", "experiment": "cells", "findings": "experiments",
    "generation": "steps", "features": "scenes", "calibration": "measurements",
    "evaluation": "batches",
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What kept work belongs to.

    Attributes:
        kind: One of :data:`KINDS`.
        parameters: Everything that can change a number, as plain JSON values.
        sum: The checksum that every item carries.
    """

    kind: str
    parameters: Mapping[str, Any]
    sum: str

    @classmethod
    def of(cls, kind: str, parameters: Mapping[str, Any]) -> Manifest:
        """The manifest of some work, not yet on disk.

        Args:
            kind: One of :data:`KINDS`.
            parameters: Plain JSON values.
        """
        plain = json.loads(json.dumps(parameters))
        return cls(kind, plain, checksum(FORMAT, kind, plain))

    def inner(self, name: str) -> Manifest:
        """The same for a part of the work that keeps items of its own."""
        return Manifest(self.kind, self.parameters, checksum(self.sum, name))

    @property
    def unit(self) -> str:
        """What is counted, in the plural."""
        return KINDS[self.kind]


def begin(folder: Path, kind: str, parameters: Mapping[str, Any]) -> Manifest:
    """Open or begin a folder that belongs to some work.

    Args:
        folder: The place; made if it is not there.
        kind: One of :data:`KINDS`.
        parameters: Everything that can change a number, as plain JSON values.

    Returns:
        The manifest as it lies there.

    Raises:
        StoreError: The folder belongs to other parameters (with the difference) or other work, holds something else,
            or cannot be written.
    """
    wanted, file = Manifest.of(kind, parameters), folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if not file.exists():  # looked for after the rest: whoever else begins here writes the manifest first
            if names - {FILE} and ITEMS not in names:
                raise StoreError(f"{folder} holds something else than a {kind}: choose an empty folder")
            write(folder, wanted, once=True)  # the first of several processes sets the parameters
        found = read(folder)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot keep a {kind} in {folder}: {error}; choose a folder that can be written") from error
    if found.kind != kind:
        raise StoreError(f"{folder} holds a {found.kind}, and this is a {kind}: choose another folder")
    changed = told(found.parameters, wanted.parameters)
    if changed:
        raise StoreError(
            f"the {kind} in {folder} was begun under other parameters, and results of both cannot be mixed:{changed}\n"
            "Use the old parameters to go on, or another folder to begin anew"
        )
    return found


def write(folder: Path, manifest: Manifest, once: bool = False) -> None:
    """Put a manifest into a folder.

    Args:
        folder: The folder.
        manifest: The manifest.
        once: Leave one that is there already.
    """
    said = {"format": FORMAT, "kind": manifest.kind, "parameters": manifest.parameters, "sum": manifest.sum}
    with new_file(folder / FILE, once=once) as scratch:
        scratch.write_text(json.dumps(said, indent=1), encoding="utf-8")


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        StoreError: It is damaged, or of another format.
        OSError: It cannot be read.
    """
    file = folder / FILE
    cure = "remove this one file and run the same again (what is finished is kept if the parameters are the same)"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise StoreError(
                f"{file} has format {said['format']!r} and this version of dit_lens reads {FORMAT}: go on with the "
                "version that began it, or choose another folder"
            )
        found = Manifest.of(said["kind"], said["parameters"])
        if found.kind not in KINDS or said["sum"] != found.sum:
            raise StoreError(f"{file} is damaged (its checksum does not fit): {cure}")
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{file} is damaged ({error}): {cure}") from error
    return found
