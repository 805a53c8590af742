"""Kept work in a folder.

    manifest.json                    what the work is, and every parameter that can change a number
    items/<key>.<checksum>.<kind>    one file an item, committed by one rename
    parts/<name>/                    what is kept on the way to an item, in the same layout
    .claims/<group>.lock             locks of the processes at work

The checksum in a file's name is of its content, its key and the manifest's parameters. So one listing of the folder
says what is there, a damaged file or one of other work is never taken for an item, and processes that make the same
item at once do no harm. A damaged file is set aside and its item counts as not done.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

from dit_lens.errors import StoreError
from dit_lens.store import items, manifest
from dit_lens.store.atomic import new_file, set_aside
from dit_lens.store.base import Store
from dit_lens.store.manifest import CLAIMS, ITEMS, PARTS, Manifest
from dit_lens.store.memory import MemoryStore

STALE = 24 * 3600.0  # seconds after which a scratch file is one of a process that was killed
LONGEST_NAME = 150  # of a key in a file's name
_NAME = re.compile(r"(.+)\.([0-9a-f]{16})\.(json|nc|safetensors)")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: A lock that is a mere file stays when its process is killed, so that is no claim.
_HARD: dict[str, Any] = {k: False for k in ("fallback_to_soft",) if k in signature(FileLock.__init__).parameters}


def part_of(folder: str | Path | Store | None, name: str) -> Path | Store | None:
    """A place inside a folder for a part of its work: to be given as ``folder=`` on.

    Args:
        folder: Where the whole work is kept; None where nothing is.
        name: The part.
    """
    if folder is None or isinstance(folder, Store):
        return None if folder is None else folder.child(name)
    return Path(folder) / name


def _quoted(name: str) -> str:
    """A key as part of a file's name."""
    found = quote(name, safe=" ,=+").replace("~", "%7E")
    found = f"%2E{found[1:]}" if found.startswith(".") else found
    if not 0 < len(found) <= LONGEST_NAME:
        raise StoreError(f"{name[:40]!r} cannot be the key of an item: use up to {LONGEST_NAME} letters and digits")
    return found


def open_store(
    folder: str | Path | Store | None, kind: str, parameters: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
) -> Store:
    """Open or begin a store that belongs to some work.

    Args:
        folder: The place; None for memory; a child of another store for work that is a part of longer work.
        kind: One of :data:`dit_lens.store.manifest.KINDS`.
        parameters: Everything that can change a number, as plain JSON values (:func:`~.identity.describe`), or a
            function that returns them, which is not called for memory.

    Raises:
        StoreError: The folder belongs to other parameters (with the difference), holds something else, or cannot be
            written.
    """
    place = folder.place if isinstance(folder, Store) else folder
    if place is None:
        return MemoryStore(Manifest.of(kind, {} if callable(parameters) else parameters))
    head = manifest.begin(Path(place), kind, parameters() if callable(parameters) else parameters)
    return FolderStore(place, head)


class FolderStore(Store):
    """Items as files of one folder; see the module."""

    def __init__(self, place: str | Path, head: Manifest) -> None:
        super().__init__(head)
        self._place = Path(place)
        self._listed: set[str] = set()  # names of all files
        self._files: dict[str, list[str]] = {}  # key -> names of files, of which the first whole one counts
        self._whole: dict[str, str] = {}  # key -> the file that was found to be whole
        self._lock = threading.RLock()
        self._scan()
        self._at_first = set(self._files)

    @property
    def place(self) -> Path:
        """The folder."""
        return self._place

    # -- items

    def keys(self) -> set[str]:
        """See :class:`Store`."""
        with self._lock:
            self._scan()
            return set(self._files)

    def get(self, key: str, default: Any = None) -> Any:
        """See :class:`Store`."""
        file = self.file(key)
        if file is None:
            return default
        try:
            return items.read(file)
        except items.DAMAGE as error:  # whole by its checksum
            raise StoreError(f"{file} cannot be read ({error}): remove this file, and run the same again") from error

    def file(self, key: str) -> Path | None:
        """See :class:`Store`."""
        with self._lock:
            if key not in self._files:
                self._scan()
            name = self._checked(key)
            return None if name is None else self._place / ITEMS / name

    def put(self, key: str, value: Any) -> None:
        """See :class:`Store`."""
        folder, quoted = self._place / ITEMS, _quoted(key)
        name = ""

        def named(scratch: Path) -> str:
            nonlocal name
            name = f"{quoted}.{self._sum(key, scratch)}{items.suffix(value)}"
            return name

        try:
            folder.mkdir(parents=True, exist_ok=True)
            with new_file(folder / quoted, named=named) as scratch:
                items.write(value, scratch)
        except StoreError:  # the value cannot be kept, and says why
            raise
        except (TypeError, ValueError) as error:
            raise StoreError(f"{key} of a {self.manifest.kind} cannot be kept: {error}") from error
        except items.TROUBLE as error:
            raise self._trouble(f"cannot keep {key} of a {self.manifest.kind} in", error) from error
        with self._lock:
            others = [other for other in self._files.get(key, []) if other != name]
            self.made += not self._files.get(key)
            self._files[key], self._whole[key] = [name], name
        self._remove(others)

    def drop(self, key: str) -> None:
        """See :class:`Store`."""
        with self._lock:
            self._scan()
            names = self._files.pop(key, [])
            self._whole.pop(key, None)
        self._remove(names)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """See :class:`Store`."""
        with self._lock:
            if any(key not in self._whole for key in keys):
                self._scan()
            return [key for key in keys if self._checked(key) is None]

    # -- parts and claims

    def child(self, name: str) -> FolderStore:
        """See :class:`Store`."""
        return FolderStore(self._place / PARTS / _quoted(name), self.manifest.inner(name))

    def drop_child(self, name: str) -> None:
        """See :class:`Store`."""
        shutil.rmtree(self._place / PARTS / _quoted(name), ignore_errors=True)
        with suppress(OSError):  # only an empty folder can be removed so
            (self._place / PARTS).rmdir()

    def tidy(self) -> None:
        """See :class:`Store`."""
        with suppress(OSError):
            if self.keys():
                return
            shutil.rmtree(self._place / ITEMS, ignore_errors=True)
            if {path.name for path in self._place.iterdir()} <= {manifest.FILE, CLAIMS}:
                shutil.rmtree(self._place / CLAIMS, ignore_errors=True)
                (self._place / manifest.FILE).unlink()

    @contextmanager
    def claim(self, group: str) -> Iterator[bool]:
        """See :class:`Store`."""
        folder, name = self._place / CLAIMS, f"{_quoted(group)}.lock"
        lock, ours = FileLock(folder / name, thread_local=False, **_HARD), True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            ours = False
        except NotImplementedError:  # no locks here
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise self._trouble(f"cannot claim {group} of a {self.manifest.kind} in", error) from error
        try:
            yield ours
        finally:
            if lock.is_locked:
                lock.release()

    # -- files

    def _scan(self) -> None:
        """Look at what is there now."""
        try:
            with os.scandir(self._place / ITEMS) as listed:
                names = {entry.name for entry in listed}
        except FileNotFoundError:
            names = set()
        except OSError as error:
            raise StoreError(f"cannot read {self._place}: {error}; check that the folder may be read") from error
        for name in self._listed - names:
            if (matched := _NAME.fullmatch(name)) and name in self._files.get(unquote(matched[1]), ()):
                self._forget(unquote(matched[1]), name)
        for name in sorted(names - self._listed):
            if name.startswith("."):
                self._tidy(name)
            elif matched := _NAME.fullmatch(name):
                key = unquote(matched[1])
                self._files[key] = sorted({*self._files.get(key, ()), name})
        self._listed = names

    def _forget(self, key: str, name: str) -> None:
        self._files[key].remove(name)
        if not self._files[key]:
            del self._files[key]
        if self._whole.get(key) == name:
            del self._whole[key]

    def _tidy(self, name: str) -> None:
        """Remove what a process that was killed left behind."""
        file = self._place / ITEMS / name
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > STALE:
                file.unlink()

    def _checked(self, key: str) -> str | None:
        """The file of an item that holds what was written; those that do not are set aside."""
        if key in self._whole:
            return self._whole[key]
        for name in list(self._files.get(key, [])):
            file = self._place / ITEMS / name
            try:
                whole = name.rsplit(".", 2)[1] == self._sum(key, file)
            except FileNotFoundError:
                whole = False
            except OSError as error:
                raise StoreError(f"cannot read {file}: {error}; check that the folder may be read") from error
            if whole:
                self._whole[key] = name
                return name
            set_aside(file)
            self._forget(key, name)
        self._at_first.discard(key)
        return None

    def _sum(self, key: str, file: Path) -> str:
        """The checksum of an item: its content, its key, and what it was made under."""
        found = hashlib.sha256(f"{self.manifest.sum} {key}\n".encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                found.update(block)
        return found.hexdigest()[:16]

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(OSError):
                (self._place / ITEMS / name).unlink()

    def _trouble(self, what: str, error: Exception) -> StoreError:
        again = f"then run the same {self.manifest.kind} with the same folder to go on"
        number = getattr(error, "errno", None)
        cure = f"make room, {again}"
        if number not in _NO_ROOM and number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            cure = f"choose a folder that can be written, or make this one so, {again}"
        return StoreError(f"{what} {self._place}: {error}. Everything kept before is safe; {cure}")
