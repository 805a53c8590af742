"""Finished parts of a long measurement: each is made once, kept as soon as it is done, and read back from then on.

A folder belongs to the parameters that it was begun with (``parts.json``), and to one process at a time. A part is one
NetCDF file of tables, committed by one rename, with the runs that were made for it beside it. A part that takes long
may keep pieces of its own on the way. Without a folder nothing is kept.

When not to use: for many small cells; :mod:`dit_lens.runner.ledger` keeps those, with a claim on each.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import xarray as xr
from safetensors import SafetensorError

from dit_lens.errors import StoreError
from dit_lens.store.atomic import begin, new_file
from dit_lens.store.runs import load_run
from dit_lens.wan.run import Run

FORMAT, HEAD = 1, "parts.json"
Part = tuple[Mapping[str, xr.Dataset], Sequence[Run]]  # tables by name, and runs


class Parts:
    """The finished parts of one measurement. ``there``: how many of those asked for were there already."""

    def __init__(self, folder: str | Path | None, parameters: Mapping[str, Any], what: str) -> None:
        """Open or begin a folder. ``parameters``: plain JSON values; equal ones, and only they, may go on.

        Errors: :class:`StoreError` when the folder belongs to other parameters (with the difference), holds something
        else, or cannot be written.
        """
        self.folder = None if folder is None else Path(folder)
        self.parameters, self.what, self.there, self.made = parameters, what, 0, 0
        if self.folder is not None:
            begin(self.folder, HEAD, {"format": FORMAT, **parameters}, what)

    def get(self, name: str, make: Callable[[], Part]) -> Part:
        """What ``make()`` gives; with a folder it is kept there, and not made again. Runs come back without task and
        decoder.

        Errors: :class:`StoreError` for a part that cannot be written, or read.
        """
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.nc"
        if file.exists():
            self.there += 1
            self._clear(name)  # after a kill just here, below
            return self._read(name, file)
        tables, runs = make()
        try:
            for i, run in enumerate(runs):
                run.save(self._run(name, i))
            with new_file(file) as scratch:
                for key, table in tables.items():
                    table.to_netcdf(scratch, mode="a", group=key, engine="h5netcdf")
        except StoreError:
            raise
        except (OSError, RuntimeError, SafetensorError) as error:  # h5py and safetensors have errors of their own
            raise StoreError(
                f"cannot keep part {name} of a {self.what} in {self.folder}: {error}. Everything kept before is safe; "
                "make room, then ask for the same again with the same folder to go on"
            ) from error
        self.made += 1
        self._clear(name)
        return tables, runs

    def within(self, name: str) -> Path | None:
        """A folder for what is kept on the way to a part; it goes when the part is kept."""
        return None if self.folder is None else self.folder / name

    def inner(self, name: str) -> Parts:
        """The parts of a part that takes long, in such a folder."""
        return Parts(self.within(name), self.parameters, self.what)

    def stopped(self) -> str:
        """What ctrl-C says."""
        if self.folder is None:
            return "stopped; nothing was kept: give folder= to be able to go on"
        done = f"stopped with {self.there + self.made} parts done"
        return f"{done}; run the same {self.what} with folder={str(self.folder)!r} to go on"

    def _read(self, name: str, file: Path) -> Part:
        try:
            with h5netcdf.File(file, "r") as opened:
                keys = list(opened.groups)
            # Units of ours are no calendar.
            tables = {key: xr.load_dataset(file, group=key, engine="h5netcdf", decode_times=False) for key in keys}
            count = len(list(file.parent.glob(f"{name}-run-*")))
            return tables, [load_run(self._run(name, i)) for i in range(count)]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise StoreError(
                f"{file} or its runs cannot be read ({error}): remove this one file, and the same call makes that part "
                "again"
            ) from error

    def _clear(self, name: str) -> None:
        shutil.rmtree(Path(self.folder or "", name), ignore_errors=True)

    def _run(self, name: str, number: int) -> Path:
        return Path(self.folder or "", f"{name}-run-{number}")
