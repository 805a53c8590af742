"""Written whole or not at all; and a folder belongs to the parameters that it was begun with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import dit_lens as dl
from dit_lens.store.atomic import begin, new_file


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt), new_file(file) as scratch:
        scratch.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with new_file(file) as scratch:
            assert scratch.parent == tmp_path and scratch.name.startswith(".")
            scratch.write_text(text)
    with new_file(file, once=True) as scratch:
        scratch.write_text("third")
    assert file.read_text() == "second" and list(tmp_path.iterdir()) == [file]


def test_a_folder_goes_on_under_the_same_parameters_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    kept = begin(folder, "head.json", {"steps": (0, 1), "seed": 0}, "map")
    assert kept == begin(folder, "head.json", {"seed": 0, "steps": [0, 1]}, "map") == {"seed": 0, "steps": [0, 1]}
    with pytest.raises(dl.StoreError, match=r"the map in .* was begun under other parameters.*\n  seed: 0 -> 1\n.*old"):
        begin(folder, "head.json", {"seed": 1, "steps": [0, 1]}, "map")


@pytest.mark.parametrize("marked", [True, False])
def test_a_lost_or_damaged_head(marked: bool, tmp_path: Path) -> None:
    """It may be written anew only where every file says itself what it was made under."""
    begin(tmp_path, "head.json", {"seed": 0}, "map", marked)
    (tmp_path / "cell").write_text("")
    (tmp_path / "head.json").write_text("{")
    with pytest.raises(dl.StoreError, match="remove this one file" if marked else "remove the folder"):
        begin(tmp_path, "head.json", {"seed": 0}, "map", marked)
    (tmp_path / "head.json").unlink()
    if marked:
        begin(tmp_path, "head.json", {"seed": 1}, "map", marked)
    else:
        with pytest.raises(dl.StoreError, match="something else than a map"):
            begin(tmp_path, "head.json", {"seed": 1}, "map", marked)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_many_begin_at_once(tmp_path: Path) -> None:
    """Whoever is first sets the parameters; the others with the same go on, and no one with others."""
    ready, go = os.pipe()
    pids = []
    for i in range(8):
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                os.close(go)
                os.read(ready, 1)  # until the parent closes its end
                begin(tmp_path / "folder", "head.json", {"seed": i % 2}, "map")
                (tmp_path / "folder" / f"{i}").write_text("")
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
