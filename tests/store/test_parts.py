"""Parts of a long measurement on disk: the same bits back, or an error that says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from dit_lens.store.parts import HEAD, Part, Parts

import dit_lens as dl

TABLES = {
    "effect": xr.Dataset(
        {
            "value": (
                ("step", "kind"),
                np.float32([[0.1, np.nan], [1 / 3, -0.0]]),
                {"long_name": "effect", "units": "seconds"},
            )
        },
        coords={"step": [0, 5], "kind": ["effect", "placebo"], "expert": ("step", ["high", "low"]), "sigma": 0.5},
    ),
    "clips": xr.Dataset({"value": (("frame", "row"), np.arange(6, dtype=np.uint8).reshape(2, 3))}, attrs={"n": 3}),
    "none": xr.Dataset(coords={"label": []}),
}


def make() -> Part:
    return TABLES, ()


def never() -> Part:
    raise AssertionError("made again")


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    made, _ = Parts(tmp_path, {"seed": 0}, "map").get("a", make)
    back, runs = Parts(tmp_path, {"seed": 0}, "map").get("a", never)
    assert made is TABLES and runs == [] and back.keys() == TABLES.keys()
    for name, table in TABLES.items():
        assert back[name].identical(table)
        for key, array in table.variables.items():
            assert back[name][key].dtype == array.dtype or array.dtype.kind == "U"
    assert np.signbit(back["effect"]["value"].values[1, 1])


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = Parts(None, {}, "map")
    assert parts.get("a", make)[0] is TABLES and parts.within("a") is None
    assert parts.inner("a").get("b", make)[0] is TABLES
    assert not list(tmp_path.iterdir())


def test_what_was_kept_on_the_way_goes_when_the_part_is_kept(tmp_path: Path) -> None:
    parts = Parts(tmp_path, {"seed": 0}, "map")

    def stopped() -> Part:
        parts.inner("a").get("b", make)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.get("a", stopped)
    assert parts.get("a", lambda: (parts.inner("a").get("b", never)[0], ()))[0].keys() == TABLES.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nc", HEAD]
    (tmp_path / "a").mkdir()  # killed between the two
    parts.get("a", never)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_loses_only_the_part_in_flight(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path, {}, "map")
    parts.get("a", make)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, call, full)
        with pytest.raises(dl.StoreError, match=r"part b of a map .*No space left.*kept before is safe; make room"):
            parts.get("b", make)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nc", HEAD]
    parts.get("a", never)
    assert parts.get("b", make)[0] is TABLES


@pytest.mark.parametrize("damage", [b"", b"CDF", 1000])
def test_a_damaged_part_is_refused(damage: bytes | int, tmp_path: Path) -> None:
    parts, file = Parts(tmp_path, {}, "map"), tmp_path / "a.nc"
    parts.get("a", make)
    file.write_bytes(file.read_bytes()[:damage] if isinstance(damage, int) else damage)
    with pytest.raises(dl.StoreError, match="remove this one file"):
        parts.get("a", make)
    file.unlink()
    parts.get("a", make)
