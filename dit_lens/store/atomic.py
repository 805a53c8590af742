"""Files and folders that are written whole or not at all.

What is written is made under a hidden name beside its place and then renamed into place. This is the only file of the
package that renames.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dit_lens.errors import StoreError

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def new_file(file: Path, once: bool = False, named: Callable[[Path], str] | None = None) -> Iterator[Path]:
    """A scratch path to write, which takes the place of a file when the block ends.

    The content is flushed to the disk first, so that no crash loses the file after the block. A link is followed: the
    file that it points to is replaced, and the link stays.

    Args:
        file: The place.
        once: Leave a file that is there already.
        named: Gives the file its name when its content is known, from the scratch path.
    """
    if file.is_symlink():
        file = file.resolve()
    scratch = _beside(file)
    try:
        yield scratch
        with scratch.open("rb+") as written:
            os.fsync(written.fileno())
        if named is not None:
            file = file.with_name(named(scratch))
        if not (once and _link(scratch, file)):
            os.replace(scratch, file)
        _flush(file.parent)
    finally:
        with suppress(OSError):
            scratch.unlink()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill, which takes the place of a folder when the block ends, and is removed if it fails.

    Args:
        folder: The place. What it may replace is for the caller to check (:func:`refuse_foreign`).

    Raises:
        StoreError: The place is a link or a file.
    """
    _refuse_link(folder)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: choose another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(folder)
    scratch.mkdir()
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                with path.open("rb+") as written:
                    os.fsync(written.fileno())
        _move(scratch, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_foreign(folder: Path, names: set[str], what: str) -> None:
    """Refuse to replace what is not ours: a link, a file, or a folder with other files in it.

    Args:
        folder: The place to be written.
        names: Files that may lie there, and be replaced.
        what: What is going to be written there, for the message: ``"a saved run"``.

    Raises:
        StoreError: Something else is there.
    """
    _refuse_link(folder)
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - names):
        raise StoreError(f"{folder} exists and is not {what}: choose another folder, or remove it")


def set_aside(file: Path) -> None:
    """Give a damaged file a name under which nothing reads it again, where that is possible."""
    with suppress(OSError):
        os.replace(file, file.with_name(f"{file.name}.damaged-{uuid.uuid4().hex[:8]}"))


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link to {os.readlink(folder)}, and a link is not replaced by a folder: give the folder "
            "itself, or remove the link"
        )


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
        if error.errno not in _NO_LINKS:
            raise
        return file.exists()
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
