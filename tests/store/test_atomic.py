"""Written whole or not at all, and never in place of what is not ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import dit_lens as dl
from dit_lens.store.atomic import new_file, new_folder, refuse_foreign, set_aside


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


def test_once_without_links_leaves_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for text in ("first", "second"):
        with new_file(tmp_path / "file", once=True) as scratch:
            scratch.write_text(text)
    assert (tmp_path / "file").read_text() == "first"


def test_a_file_may_be_named_by_its_content(tmp_path: Path) -> None:
    with new_file(tmp_path / "item", named=lambda scratch: f"item.{scratch.read_text()}") as scratch:
        scratch.write_text("abc")
    assert [path.name for path in tmp_path.iterdir()] == ["item.abc"]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_file(tmp_path / "link") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as scratch:
        (scratch / "half").write_text("")
        raise KeyboardInterrupt
    assert not list(folder.parent.iterdir())
    for text in ("first", "second"):
        with new_folder(folder) as scratch:
            (scratch / text).write_text(text)
    assert [path.name for path in folder.iterdir()] == ["second"] and list(folder.parent.iterdir()) == [folder]


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "run.json").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder", target_is_directory=True)
    refuse_foreign(tmp_path / "folder", {"run.json"}, "a run")
    refuse_foreign(tmp_path / "nothing", {"run.json"}, "a run")
    with pytest.raises(dl.StoreError, match="is not a run: choose another folder, or remove it"):
        refuse_foreign(tmp_path / "folder", {"probe.pkl"}, "a run")
    with pytest.raises(dl.StoreError, match="is not a run: choose another folder"):
        refuse_foreign(tmp_path / "file", {"run.json"}, "a run")
    with pytest.raises(dl.StoreError, match=r"is a link to .*folder.*remove the link"):
        refuse_foreign(tmp_path / "link", {"run.json"}, "a run")
    for name, said in (("link", "is a link to"), ("file", "is a file: choose another")):
        with pytest.raises(dl.StoreError, match=said), new_folder(tmp_path / name):
            pass
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "mine"


def test_setting_aside_keeps_the_content_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "item.json").write_text("damaged")
    set_aside(tmp_path / "item.json")
    set_aside(tmp_path / "item.json")  # gone already, by another process
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("item.json.damaged-") and left.read_text() == "damaged"
