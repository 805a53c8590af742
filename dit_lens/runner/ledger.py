"""Finished cells on disk: each committed by one atomic rename, so that nothing but the cell in flight can be lost.

A folder holds ``sweep.json`` (what is measured: every parameter that can change a number) and ``cells/<key>.json``, one
file a cell, each with a checksum of its content and of those parameters. A file that does not hold what was written is
set aside and its cell counts as not done. Opening a folder under other parameters is refused with the difference.

Two processes may share a folder: a file is written under a name of its own and renamed into place, and both would write
the same content; ``claim`` keeps them from doing the same work twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dit_lens.errors import StoreError
from dit_lens.runner.cells import Cell
from dit_lens.store.atomic import begin, new_file

FORMAT = 1
HEAD, CELLS, CLAIMS = "sweep.json", "cells", "claims"


class Ledger:
    """The finished cells of one sweep."""

    def __init__(self, folder: str | Path, parameters: Mapping[str, Any]) -> None:
        """Open or begin a folder. ``parameters``: plain JSON values; equal ones, and only they, may resume.

        Errors: :class:`StoreError` when the folder belongs to other parameters (with the difference), holds something
        else, or cannot be written.
        """
        self.folder = Path(folder)
        try:
            (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
            (self.folder / CLAIMS).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot keep a sweep in {self.folder}: {error}; choose a folder that can be written"
            ) from error
        kept = begin(self.folder, HEAD, {"format": FORMAT, **parameters}, "sweep", marked=True)
        self.parameters = _checksum(kept)  # a cell measured under others is never taken for one of ours

    def done(self, cell: Cell) -> dict[str, Any] | None:
        """What was measured, or None when the cell is not done."""
        file = self._file(cell)
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["sum"] == _checksum(self.parameters, str(cell), record["result"]):
                return record["result"]
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError):
            pass  # not what was written: done again below
        except OSError as error:
            raise StoreError(f"cannot read {file}: {error}; check that the folder may be read") from error
        with contextlib.suppress(OSError):
            os.replace(file, file.with_suffix(f".damaged-{uuid.uuid4().hex[:8]}"))
        return None

    def commit(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Write what was measured; after this returns, no crash loses it."""
        said = json.loads(json.dumps(dict(result)))  # as it will be read back
        record = {"cell": str(cell), "result": said, "sum": _checksum(self.parameters, str(cell), said)}
        try:
            with new_file(self._file(cell)) as scratch:
                scratch.write_text(json.dumps(record), encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"cannot store a finished cell in {self.folder}: {error}. Everything stored before is safe; make room, "
                "then run the same sweep with the same folder to go on"
            ) from error

    @contextlib.contextmanager
    def claim(self, group: str) -> Iterator[bool]:
        """Whether this process may work on a group of cells: False while another one does. Ends with the process."""
        lock = FileLock(self.folder / CLAIMS / f"{group}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        except NotImplementedError:  # a file system without locks: the same work may be done twice, with one result
            yield True
            return
        except OSError as error:
            raise StoreError(f"cannot keep a sweep in {self.folder}: {error}; choose another folder") from error
        try:
            yield True
        finally:
            lock.release()

    def _file(self, cell: Cell) -> Path:
        return self.folder / CELLS / f"{cell.key}.json"


def _checksum(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
