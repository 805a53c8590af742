"""Files and folders written whole or not at all, and folders that belong to the parameters they were begun with.

What is written is made under a hidden name beside its place and then moved there. A folder of work that can be gone on
with holds a *head*, a file with every parameter that can change a number; under others it is refused with what differs.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dit_lens.errors import StoreError
from dit_lens.store.identity import differences

MOST = 12  # differences that a message lists


@contextmanager
def new_file(file: Path, once: bool = False) -> Iterator[Path]:
    """A scratch path to write; flushed to the disk it takes the place of ``file`` when the block ends.

    After the block no crash loses the file. ``once``: one that is there already stays.
    """
    scratch = _beside(file)
    try:
        yield scratch
        with scratch.open("rb+") as written:
            os.fsync(written.fileno())
        if not (once and _link(scratch, file)):
            os.replace(scratch, file)
        _flush(file.parent)
    finally:
        with suppress(OSError):
            scratch.unlink()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill; it takes the place of ``folder`` when the block ends, and goes away if it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(folder)
    scratch.mkdir()
    try:
        yield scratch
        _move(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def begin(folder: Path, head: str, parameters: Mapping[str, Any], what: str, marked: bool = False) -> dict[str, Any]:
    """Open or begin a folder that belongs to ``parameters``; returns them as they are read back from its file ``head``.

    ``parameters``: plain JSON values; equal ones, and only they, may go on. ``what``: what lies there, for messages.
    ``marked``: each file there says itself which parameters it was made under, so that a lost head may be written anew.

    Errors: :class:`StoreError` when the folder belongs to other parameters (with the difference), holds something
    else, or cannot be written.
    """
    file, wanted = folder / head, json.loads(json.dumps(parameters))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = not marked and any(not path.name.startswith(".") for path in folder.iterdir())
        if not file.exists():  # looked for after the rest: whoever else begins here writes the head first
            if strange:
                raise StoreError(f"{folder} holds something else than a {what}: choose an empty folder")
            # Whoever links first sets the parameters; the other process reads them like any later one.
            with new_file(file, once=True) as scratch:
                scratch.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        found = json.loads(file.read_text(encoding="utf-8"))
    except StoreError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        cure = (
            f"remove this one file and run the same {what} again (what is finished is kept if the parameters are the "
            "same)"
            if marked
            else "remove the folder and begin again"
        )
        raise StoreError(f"{file} is damaged ({error}): {cure}") from error
    except OSError as error:
        raise StoreError(f"cannot keep a {what} in {folder}: {error}; choose a folder that can be written") from error
    changed = sorted(differences(found, wanted), key=lambda line: line.partition(":")[0].count("."))  # details last
    if changed:
        listed = changed[:MOST] + ([f"and {len(changed) - MOST} more"] if len(changed) > MOST else [])
        raise StoreError(
            f"the {what} in {folder} was begun under other parameters, and results of both cannot be mixed:\n  "
            + "\n  ".join(listed) + "\nUse the old parameters to go on, or another folder"
        )  # fmt: skip
    return wanted


def _beside(path: Path) -> Path:
    """A hidden name of its own in the same folder."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def _link(scratch: Path, file: Path) -> bool:
    """Give a file its name unless the name is taken; False where the file system has no links."""
    try:
        os.link(scratch, file)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        return False
    return True


def _flush(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
