"""Runs on disk: what is read is what was written, to the bit; whatever is not whole is refused; nothing is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saving import assert_same, cut, edit, flip, retensor

import dit_lens as dl
from dit_lens.store import run_files
from dit_lens.wan.run import Run

# -- damage


DAMAGE: dict[str, tuple[Any, str]] = {
    "no tensors": (lambda f: (f / "run.safetensors").unlink(), "holds no run: it needs run.json and run.safetensors"),
    "no json": (lambda f: (f / "run.json").unlink(), "holds no run"),
    "tensors cut": (lambda f: cut(f / "run.safetensors", 0.9), "damaged.*generate it again"),
    "tensors empty": (lambda f: cut(f / "run.safetensors", 0), "damaged"),
    "one bit": (lambda f: flip(f / "run.safetensors"), "not what was written"),
    "json cut": (lambda f: cut(f / "run.json", 0.7), "damaged"),
    "json empty": (lambda f: cut(f / "run.json", 0), "damaged"),
    "json is a list": (lambda f: (f / "run.json").write_text("[1, 2]"), "damaged"),
    "json is not text": (lambda f: (f / "run.json").write_bytes(b"\xff\xfe\x00{"), "damaged"),
    "no format": (lambda f: (f / "run.json").write_text("{}"), "damaged"),
    "newer": (lambda f: edit(f, format=99), "format 99 .*reads 3: load it with the version that wrote it"),
    "older": (lambda f: edit(f, format=2), "format 2 "),
    "a field less": (lambda f: edit(f, plan={"calls": []}), "damaged"),
    "a field too many": (lambda f: edit(f, size={"height": 1, "width": 1, "num_frames": 1, "depth": 1}), "damaged"),
    "wrong kind": (lambda f: edit(f, fired=3), "damaged"),
    "seed is text": (lambda f: edit(f, seed="12"), "seed, size and grid are whole numbers"),
    "seed is a truth": (lambda f: edit(f, seed=True), "seed, size and grid are whole numbers"),
    "half a pixel": (lambda f: edit(f, size={"height": 1.5, "width": 1, "num_frames": 1}), "whole numbers"),
    "prompt is a number": (lambda f: edit(f, prompt=3), "the prompt is text"),
    "another grid": (lambda f: edit(f, grid={"frames": 1, "rows": 1, "cols": 1}), "a region is not of 1 tokens"),
    "a region cut": (lambda f: retensor(f, **{"region.left": torch.zeros(3, dtype=torch.bool)}), "not of 24 tokens"),
    "no latents": (lambda f: retensor(f, latents=None), "damaged"),
    "lengths": (lambda f: retensor(f, latents=torch.zeros(9, 2)), "do not fit"),
    "bad address": (lambda f: retensor(f, **{"activation.step=1": torch.zeros(1)}), "damaged"),
    "unknown condition": (lambda f: retensor(f, **{"conditions.sound": torch.zeros(1)}), "damaged"),
    "not safetensors": (
        lambda f: (
            (f / "run.safetensors").write_bytes(b"x" * 99),
            edit(f, tensors=hashlib.sha256(b"x" * 99).hexdigest()),
        ),
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(saved: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(saved)
    with pytest.raises(dl.StoreError, match=message):
        dl.load_run(saved)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_gets_through(rich: Run, data: Any) -> None:
    """Any one byte of either file changed, or cut anywhere: an error of ours, never another run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        rich.save(folder)
        file = folder / data.draw(st.sampled_from(["run.json", "run.safetensors"]))
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            del content[at:]
        file.write_bytes(content)
        try:
            back = dl.load_run(folder)
        except dl.StoreError:
            return
        assert file.suffix == ".json", "white space, or another spelling of the same text"
        assert_same(rich, back)


def test_places_that_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises(dl.StoreError, match="holds no run"):
            dl.load_run(place)
    (tmp_path / "odd" / "run.json").mkdir(parents=True)
    with pytest.raises(dl.StoreError, match="cannot read"):
        dl.load_run(tmp_path / "odd")


# -- overwriting, and being interrupted


def test_a_run_replaces_a_run_and_nothing_else(rich: Run, saved: Path) -> None:
    other = dataclasses.replace(rich, prompt="another", activations={})
    other.save(saved)
    assert dl.load_run(saved).prompt == "another" and [p.name for p in saved.parent.iterdir()] == ["run"]
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(dl.StoreError, match="is not a saved run: choose another folder"):
        rich.save(saved)
    assert (saved / "notes.txt").read_text() == "mine" and dl.load_run(saved).prompt == "another"
    (saved.parent / "file").write_text("mine")
    with pytest.raises(dl.StoreError, match="choose another folder"):
        rich.save(saved.parent / "file")
    (saved.parent / "empty").mkdir()
    rich.save(saved.parent / "empty")
    with pytest.raises(dl.StoreError, match=r"cannot write a run .*can be written"):
        rich.save(saved.parent / "file" / "below")
    error = run_files.SafetensorError("No space left on device (os error 28)")  # which is no OSError
    full = mock.patch.object(run_files, "save_file", mock.Mock(side_effect=error))
    with full, pytest.raises(dl.StoreError, match=r"No space.*can be written"):
        rich.save(saved.parent / "empty")


def test_a_link_is_never_replaced_by_a_folder(rich: Run, saved: Path) -> None:
    link = saved.parent / "link"
    link.symlink_to(saved, target_is_directory=True)
    with pytest.raises(dl.StoreError, match=r"is a link to .*: give the folder itself, or remove the link"):
        rich.save(link)
    assert link.is_symlink() and dl.load_run(saved).prompt == dl.load_run(link).prompt
    dangling = saved.parent / "dangling"
    dangling.symlink_to(saved.parent / "nowhere", target_is_directory=True)
    with pytest.raises(dl.StoreError, match="is a link to"):
        rich.save(dangling)


class Crash(BaseException):
    """As sudden as a signal: no handler of ours catches it."""


@pytest.mark.parametrize("before", [True, False], ids=["over a run", "new"])
def test_a_crash_at_any_point_leaves_the_old_run_or_none(
    rich: Run, tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = dataclasses.replace(rich, prompt="new")
    place = tmp_path / "run"
    if before:
        rich.save(place)

    def crash(*args: Any, **kwargs: Any) -> Any:
        raise Crash

    half = run_files.save_file

    def crash_in_the_middle(tensors: Any, file: Path) -> None:
        half(tensors, file)
        cut(file, 0.5)
        raise Crash

    moves = []

    def crash_at_the_second_move(a: Path, b: Path, move: Any = os.replace) -> None:
        moves.append((a, b))
        if Path(a).name.count("old") == 0 and Path(b) == place:
            raise Crash
        move(a, b)

    for target, name, how in (
        (run_files, "save_file", crash_in_the_middle), (Path, "write_text", crash), (run_files, "_digest", crash),
        (os, "replace", crash_at_the_second_move),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(target, name, how)
            with pytest.raises(Crash):
                new.save(place)
        assert [p.name for p in tmp_path.iterdir()] == (["run"] if before else []), name
        if before:
            assert_same(rich, dl.load_run(place))
    assert len(moves) == (3 if before else 1)  # away, in (fails), back
    new.save(place)
    assert dl.load_run(place).prompt == "new"


def test_killed_without_a_chance_to_tidy(rich: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with kill -9, nothing is cleaned: what lies there is hidden, is no run, and hinders nobody."""

    def crash(*args: Any, **kwargs: Any) -> Any:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        patch.setattr(Path, "write_text", crash)
        with pytest.raises(Crash):
            rich.save(tmp_path / "run")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".run-") and (left / "run.safetensors").is_file()
    with pytest.raises(dl.StoreError, match="holds no run"):
        dl.load_run(left)
    rich.save(tmp_path / "run")
    assert_same(rich, dl.load_run(tmp_path / "run"))


def test_what_json_cannot_say_is_refused_and_not_written_as_text(rich: Run, tmp_path: Path) -> None:
    numbers = {"a": np.float32(0.5), "b": np.arange(2), "c": torch.tensor(3), "d": tmp_path, "e": True}
    dataclasses.replace(rich, meta=numbers).save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").meta == {"a": 0.5, "b": [0, 1], "c": 3, "d": str(tmp_path), "e": True}
    with pytest.raises(dl.StoreError, match="a object cannot be kept: keep numbers, texts"):
        dataclasses.replace(rich, meta={"x": object()}).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


# -- opening runs nothing


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (f"{tempfile.gettempdir()}/dit_lens_bomb_{os.getpid()}",)


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a pickle was opened")

    bomb = pickle.dumps(Bomb())
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    dl.load_run(saved)
    (saved / "run.safetensors").write_bytes(bomb)
    edit(saved, tensors=hashlib.sha256(bomb).hexdigest())
    with pytest.raises(dl.StoreError, match="damaged"):
        dl.load_run(saved)
    assert not Path(tempfile.gettempdir(), f"dit_lens_bomb_{os.getpid()}").exists()


@pytest.mark.parametrize(
    "name", ["trap_module.Scheduler", "os.system", "DDIMScheduler", "__import__", "UniPCMultistepScheduler "]
)
def test_no_name_in_a_file_is_imported(saved: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("import os\nos.environ['DIT_LENS_TRAPPED'] = '1'\nclass Scheduler: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(saved, scheduler={"class": name, "config": {"_class_name": name}}, meta={"model": "trap_module"})
    with pytest.raises(dl.StoreError, match="unknown scheduler"):
        dl.load_run(saved)
    edit(saved, scheduler=None, task={"name": "trap_module", "seed": 0, "split": "test", "content": ""})
    with pytest.warns(UserWarning, match="unknown task 'trap_module'"):
        assert dl.load_run(saved).task is None
    known = {"class": "UniPCMultistepScheduler", "config": {"_class_name": name, "auto_map": {"x": name}}}
    edit(saved, scheduler=known, task=None)
    assert type(dl.load_run(saved).sampling.scheduler) is diffusers.UniPCMultistepScheduler
    assert "trap_module" not in sys.modules and "DIT_LENS_TRAPPED" not in os.environ
