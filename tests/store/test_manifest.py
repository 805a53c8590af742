"""A folder belongs to the parameters that it was begun with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import dit_lens as dl
from dit_lens.store.manifest import FILE, KINDS, Manifest, begin


def test_a_folder_goes_on_under_the_same_parameters_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    kept = begin(folder, "map", {"steps": (0, 1), "seed": 0})
    assert kept == begin(folder, "map", {"seed": 0, "steps": [0, 1]})
    assert kept.parameters == {"seed": 0, "steps": [0, 1]} and kept.unit == "parts"
    with pytest.raises(dl.StoreError, match=r"the map in .* was begun under other parameters.*\n  seed: 0 -> 1\n.*old"):
        begin(folder, "map", {"seed": 1, "steps": [0, 1]})
    with pytest.raises(dl.StoreError, match="holds a map, and this is a sweep: choose another folder"):
        begin(folder, "sweep", {"seed": 0, "steps": [0, 1]})


def test_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    """5 and 5.0 are one guidance scale: items of both belong together."""
    first, again = begin(tmp_path, "sweep", {"guidance": 5}), begin(tmp_path, "sweep", {"guidance": 5.0})
    assert first.sum == again.sum == Manifest.of("sweep", {"guidance": 5.0}).sum
    assert len({Manifest.of("sweep", {"x": x}).sum for x in (1, 1.5, "1", None, [1], {"1": 1})}) == 6


def test_a_long_difference_is_cut(tmp_path: Path) -> None:
    begin(tmp_path, "sweep", {"deep": {str(i): 0 for i in range(40)}, "seed": 0})
    with pytest.raises(dl.StoreError, match=r"\n  seed: 0 -> 1\n(.*\n)*  and 29 more\n"):
        begin(tmp_path, "sweep", {"deep": {str(i): 1 for i in range(40)}, "seed": 1})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"format": 1}', "changed", "kind"],
)
def test_a_damaged_manifest_may_be_removed(text: str, tmp_path: Path) -> None:
    begin(tmp_path, "map", {"seed": 0})
    (tmp_path / "items").mkdir()
    said = json.loads((tmp_path / FILE).read_text())
    if text == "changed":
        text = json.dumps({**said, "parameters": {"seed": 1}})
    elif text == "kind":
        text = json.dumps({**said, "kind": "letter", "sum": Manifest.of("letter", {"seed": 0}).sum})
    (tmp_path / FILE).write_text(text)
    with pytest.raises(dl.StoreError, match=r"manifest.json is damaged .*remove this one file and run the same again"):
        begin(tmp_path, "map", {"seed": 0})
    (tmp_path / FILE).unlink()
    begin(tmp_path, "map", {"seed": 0})


def test_another_format_says_so(tmp_path: Path) -> None:
    begin(tmp_path, "map", {"seed": 0})
    said = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**said, "format": 99}))
    with pytest.raises(dl.StoreError, match="has format 99 and this version of dit_lens reads 1: go on with"):
        begin(tmp_path, "map", {"seed": 0})


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_something_else(kind: str, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(dl.StoreError, match=f"something else than a {kind}: choose an empty folder"):
        begin(tmp_path, kind, {})
    with pytest.raises(dl.StoreError, match="choose a folder that can be written"):
        begin(tmp_path / "letter.txt", kind, {})
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_many_begin_at_once(tmp_path: Path) -> None:
    """Whoever is first sets the parameters; the others with the same go on, and no one with others."""
    ready, go = os.pipe()
    pids: list[Any] = []
    for i in range(8):
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                os.close(go)
                os.read(ready, 1)  # until the parent closes its end
                begin(tmp_path / "folder", "map", {"seed": i % 2})
                (tmp_path / "folder" / "items").mkdir(exist_ok=True)
                (tmp_path / "folder" / "items" / f"{i}").write_text("")
                code = 0
            except dl.StoreError as error:
                code = 1 if "seed: " in str(error) else 2
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(ready)
    os.close(go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes in ([0, 1] * 4, [1, 0] * 4)
