"""A folder written whole or not at all: made under a hidden name beside its place, then moved there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill; it takes the place of ``folder`` when the block ends, and goes away if it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    scratch.mkdir()
    try:
        yield scratch
        _move(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move(scratch: Path, folder: Path) -> None:
    """Put a finished folder in its place. The old one is there, under this name or a hidden one, until the new one is.

    (A folder cannot be exchanged for another in one step everywhere.)
    """
    if not folder.exists():
        os.replace(scratch, folder)
        return
    old = folder.with_name(f".{folder.name}-old-{uuid.uuid4().hex}")
    os.replace(folder, old)
    try:
        os.replace(scratch, folder)
    except BaseException:
        with suppress(OSError):
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
