"""Finished items by key, in a folder and in memory: the same bits back, nothing lost, mixed or done twice."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import dit_lens as dl
from dit_lens.store import base
from dit_lens.store import folder as store_folder
from dit_lens.store.base import Store
from dit_lens.store.folder import open_store, part_of
from dit_lens.store.items import Content

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
TENSORS = Content(
    {
        "bf16": torch.arange(3, dtype=torch.bfloat16),
        "nan": torch.tensor([float("nan"), -0.0], dtype=torch.float64),
        "cut": torch.arange(12).reshape(3, 4).T[1:],
        "a name, any": torch.tensor(True),
        "none": torch.empty(0, 3),
    },
    {"answer": ["left", None, 1.5]},
)
PLAIN: dict[str, Any] = {"value": 1 / 3, "list": [1, "a", None, True], "deep": {"x": {}}, "text": "ü \n"}


@pytest.fixture(params=["folder", "memory"])
def store(request: Any, tmp_path: Path) -> Store:
    return open_store(tmp_path / "store" if request.param == "folder" else None, "map", {"seed": 0})


def again(store: Store) -> Store:
    """The same store, opened once more."""
    return store if store.place is None else open_store(store.place, "map", {"seed": 0})


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Content):
        return a.header == b.header and all(
            v.dtype == b.tensors[k].dtype and v.shape == b.tensors[k].shape
            and np.array_equal(v.float().numpy(), b.tensors[k].float().numpy(), equal_nan=True)
            for k, v in a.tensors.items()
        )  # fmt: skip
    if a is TABLES:
        return all(table.identical(b[name]) for name, table in a.items()) and list(a) == list(b)
    return a == b


# -- items


@pytest.mark.parametrize("value", [PLAIN, TABLES, TENSORS, [], 0, "text", {}], ids=lambda v: type(v).__name__)
def test_what_is_put_comes_back(store: Store, value: Any) -> None:
    assert store.get("key") is None and store.get("key", 7) == 7 and "key" not in store
    store.put("key", value)
    for one in (store, again(store)):
        assert same(value, one.get("key")) and "key" in one and one.keys() == {"key"}
    if value is TABLES:
        assert np.signbit(store.get("key")["effect"]["value"].values[1, 1])
        for name, table in TABLES.items():
            for key, array in table.variables.items():
                assert store.get("key")[name][key].dtype == array.dtype or array.dtype.kind == "U"
    store.drop("key")
    store.drop("key")
    assert again(store).get("key") is None and "key" not in store


@pytest.mark.parametrize("key", ["a", "resid_post-5", "a.b.json", ".hidden", "step=9 hook=x", "a/b", "ü", "A%2F", "~"])
def test_any_text_is_a_key(store: Store, key: str) -> None:
    store.put(key, 1)
    assert again(store).keys() == {key} and again(store).get(key) == 1 and again(store).missing([key, "b"]) == ["b"]


@pytest.mark.parametrize("key", ["", "x" * 151])
def test_keys_that_no_file_can_have(key: str, tmp_path: Path) -> None:
    with pytest.raises(dl.StoreError, match="cannot be the key of an item: use up to 150"):
        open_store(tmp_path, "map", {}).put(key, 1)


def test_a_later_value_replaces_an_earlier_one(store: Store) -> None:
    for value in (1, TENSORS, {"a": 2}):
        store.put("key", value)
    assert again(store).get("key") == {"a": 2} and store.made == 1
    if store.place is not None:
        assert len(list((store.place / "items").iterdir())) == 1


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path, "map", {})
    with pytest.raises(dl.StoreError, match="a object cannot be kept: keep numbers, texts"):
        store.put("key", {"x": object()})
    assert not list((tmp_path / "items").iterdir())
    store.put("key", {"a": np.float32(0.5), "b": torch.tensor([1]), "c": Path("x")})
    assert store.get("key") == {"a": 0.5, "b": [1], "c": "x"}


def test_memory_needs_no_parameters() -> None:
    def never() -> Any:
        raise AssertionError("asked for")

    assert open_store(None, "map", never).keys() == set()


def test_once_makes_a_value_once(store: Store) -> None:
    calls: list[int] = []
    for one in (store, again(store)):
        assert one.once("key", lambda: calls.append(1) or 5) == 5
    assert calls == [1]


def test_messages_count_what_is_done(store: Store) -> None:
    with store.todo({"g": ["a", "b"]}) as todo:
        next(todo)
        store.put("a", 1)
        store.put("beside", 1)
    opened = again(store)
    where = "nothing was kept: give folder= to be able to go on"
    if opened.place is not None:
        assert opened.resumed() == "going on after 2 parts"
        where = f"run the same map with folder={str(opened.place)!r} to go on"
    said = f"stopped with 1 of 2 parts done; {where}"
    assert store.stopped() == said
    with pytest.raises(KeyboardInterrupt) as stopped, opened.todo({"g": ["a", "b"]}) as todo:
        for _ in todo:
            raise KeyboardInterrupt
    assert str(stopped.value) == said
    assert opened.resumed() == ("going on after 1 of 2 parts" if opened.place else "")
    with opened.claim("g") as ours:
        assert ours, "whoever still holds the exception"


# -- damage


@pytest.mark.parametrize("value", [PLAIN, TABLES, TENSORS], ids=["json", "nc", "safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "other key", "other work"])
def test_damage_is_set_aside_and_counts_as_not_done(value: Any, damage: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / "a", "map", {"seed": 0})
    store.put("key", value)
    store.put("other", 1)
    (file,) = (tmp_path / "a" / "items").glob("key.*")
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    elif damage == "other key":  # a whole file under the wrong name
        file = file.rename(file.with_name(file.name.replace("key", "moved")))
    elif damage == "other work":  # a whole file that was made under other parameters
        other = open_store(tmp_path / "b", "map", {"seed": 1})
        other.put("key", value)
        file.unlink()
        (theirs,) = (tmp_path / "b" / "items").glob("key.*")
        file = file.with_name(theirs.name)
        content = bytearray(theirs.read_bytes())
    else:
        del content[0 if damage == "empty" else len(content) - 1 :]
    file.write_bytes(content)
    key = "moved" if damage == "other key" else "key"
    opened = open_store(tmp_path / "a", "map", {"seed": 0})
    assert opened.found == 2 and opened.missing([key, "other"]) == [key] and opened.get(key) is None
    assert opened.found == opened.done == 1
    (aside,) = (tmp_path / "a" / "items").glob("*.damaged-*")
    assert aside.name.startswith(file.name) and aside.read_bytes() == content
    opened.put(key, value)
    assert same(value, open_store(tmp_path / "a", "map", {"seed": 0}).get(key))
    assert opened.keys() == {key, "other"}


def test_two_files_of_one_item_are_one_item(tmp_path: Path) -> None:
    """As two processes on a file system without locks write it; one of them damaged is no loss."""
    stores = [open_store(tmp_path, "map", {}) for _ in range(2)]
    for i, store in enumerate(stores):
        store.put("key", {"seconds": i})
    files = sorted((tmp_path / "items").iterdir())
    assert len(files) == 2
    assert open_store(tmp_path, "map", {}).get("key") == open_store(tmp_path, "map", {}).get("key")
    files[0].write_text("")
    assert open_store(tmp_path, "map", {}).get("key") in ({"seconds": 0}, {"seconds": 1})


def test_what_a_killed_process_left_is_no_item_and_goes_in_time(tmp_path: Path) -> None:
    store = open_store(tmp_path, "map", {})
    store.put("key", 1)
    scratch = tmp_path / "items" / ".key-0123"
    scratch.write_text("half")
    assert open_store(tmp_path, "map", {}).keys() == {"key"} and scratch.exists()
    os.utime(scratch, (time.time() - 2 * store_folder.STALE,) * 2)
    assert open_store(tmp_path, "map", {}).keys() == {"key"} and not scratch.exists()


# -- disks


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("value", [PLAIN, TABLES, TENSORS], ids=["json", "nc", "safetensors"])
def test_a_full_disk_loses_only_what_is_in_flight(
    call: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path, "map", {})
    store.put("a", value)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, call, full)
        said = r"keep b of a map .*No space left.*kept before is safe; make room, then run the same map"
        with pytest.raises(dl.StoreError, match=said):
            store.put("b", value)
    assert store.keys() == {"a"} and len(list((tmp_path / "items").iterdir())) == 1
    store.put("b", value)
    assert same(value, open_store(tmp_path, "map", {}).get("b"))


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, "map", {})

    def refuse(*args: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(dl.StoreError, match=r"Read-only file system.*kept before is safe; choose a folder that can"):
        store.put("b", 1)


def test_ten_thousand_items_open_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing is the index. Measured: .02 s to open, .5 s to read all; the bounds leave room for a busy machine."""
    store, keys = open_store(tmp_path, "sweep", {}), [f"{i:024x}" for i in range(10_000)]
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for key in keys:
        store.put(key, {"value": 0.5, "base": 0.0, "source": 1.0, "seconds": 0.1})
    began = time.perf_counter()
    opened = open_store(tmp_path, "sweep", {})
    assert opened.found == 10_000 and time.perf_counter() - began < 1
    assert all(opened.get(key)["value"] == 0.5 for key in keys) and time.perf_counter() - began < 5
    began = time.perf_counter()
    assert opened.missing(keys) == [] and time.perf_counter() - began < 1


# -- parts


def test_a_child_holds_what_is_kept_on_the_way(store: Store) -> None:
    child = store.child("long")
    child.put("a", 1)
    child.child("deeper").put("b", 2)
    assert store.keys() == set() and again(store).child("long").get("a") == 1
    assert again(store).child("long").child("deeper").get("b") == 2
    assert store.once("long", lambda: 3) == 3
    assert store.child("long").keys() == set() and store.child("long").child("deeper").keys() == set()
    if store.place is not None:
        assert {path.name for path in store.place.iterdir()} == {"manifest.json", "items"}


def test_items_of_a_child_are_no_items_of_its_parent(tmp_path: Path) -> None:
    store = open_store(tmp_path, "map", {})
    store.child("x").put("a", 1)
    (file,) = (tmp_path / "parts" / "x" / "items").iterdir()
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / file.name).write_bytes(file.read_bytes())
    assert store.get("a") is None


def test_a_child_may_hold_other_work(store: Store) -> None:
    """As a map's puzzle holds a sweep, with a manifest of its own."""
    inner = open_store(store.child("held"), "sweep", {"x": 1})
    inner.put("cell", 1)
    if store.place is None:
        assert inner.place is None
        return
    assert open_store(store.child("held"), "sweep", {"x": 1}).get("cell") == 1
    with pytest.raises(dl.StoreError, match="x: 1 -> 2"):
        open_store(store.child("held"), "sweep", {"x": 2})


def test_a_part_of_a_folder(tmp_path: Path, store: Store) -> None:
    assert part_of(None, "a") is None and part_of(str(tmp_path), "a") == tmp_path / "a"
    found = part_of(store, "a")
    assert isinstance(found, Store) and (found.place is None) == (store.place is None)


# -- several at once


def test_a_claim_is_for_one(store: Store) -> None:
    with store.claim("a") as first, again(store).claim("a") as second, again(store).claim("b") as third:
        assert (first, second, third) == (True, False, True)
    with pytest.raises(ZeroDivisionError), store.claim("a") as ours:
        assert ours
        raise ZeroDivisionError
    with store.claim("a") as ours:
        assert ours


def test_threads_share_a_store(store: Store) -> None:
    """Each key is made by one thread, and each thread ends with all of them."""
    made: list[str] = []
    keys = [f"{i}" for i in range(12)]

    def work() -> None:
        mine = again(store)
        with mine.todo({key: [key] for key in keys}) as todo:
            for key, _ in todo:
                made.append(key)
                time.sleep(0.01)
                mine.put(key, int(key))
        assert [mine.get(key) for key in keys] == list(range(12))

    failed: list[BaseException] = []

    def safely() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=safely) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed and sorted(made) == sorted(keys)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return pid


@needs_fork
def test_whoever_finds_all_the_rest_claimed_waits_and_reads(tmp_path: Path) -> None:
    ready, go = os.pipe()

    def slow() -> None:
        store = open_store(tmp_path, "map", {})
        with store.todo({"only": ["a"]}) as todo:
            for _ in todo:
                os.write(go, b".")
                time.sleep(0.5)
                store.put("a", os.getpid())

    pid = forked(slow)
    os.read(ready, 1)
    store, waits = open_store(tmp_path, "map", {}), []
    with store.todo({"only": ["a"]}, waiting=lambda: waits.append(1)) as todo:
        assert list(todo) == []
    assert store.get("a") == pid and waits and store.made == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_fork
def test_a_killed_process_gives_its_claim_back(tmp_path: Path) -> None:
    """And whoever waits does its work."""
    ready, go = os.pipe()

    def deadly() -> None:
        store = open_store(tmp_path, "map", {})
        with store.todo({"only": ["a", "b"]}) as todo:
            for _ in todo:
                store.put("a", 1)
                os.write(go, b".")
                time.sleep(60)

    pid = forked(deadly)
    os.read(ready, 1)
    store = open_store(tmp_path, "map", {})

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    seen = []
    with store.todo({"only": ["a", "b"]}, waiting=kill) as todo:
        for _, keys in todo:
            seen.append(keys)
            store.put("b", 2)
    assert seen == [["b"]] and (store.get("a"), store.get("b")) == (1, 2)


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available"),
                                   OSError(errno.ENOSYS, "Function not implemented")])  # fmt: skip
def test_without_locks_the_work_is_done_all_the_same(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(store_folder.FileLock, "acquire", refuse)
    stores = [open_store(tmp_path, "map", {}) for _ in range(2)]
    with stores[0].claim("a") as one, stores[1].claim("a") as two:
        assert one and two
    with stores[0].todo({"a": ["x"]}) as todo:
        for _ in todo:
            stores[1].put("x", 1)
            stores[0].put("x", 1)
    assert open_store(tmp_path, "map", {}).get("x") == 1 and len(list((tmp_path / "items").iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="flock is posix")
def test_a_lock_that_a_kill_would_leave_behind_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flock is missing, filelock may fall back to a mere file, which stays when its process is killed."""
    import fcntl

    def missing(*args: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with open_store(tmp_path, "map", {}).claim("a") as one, open_store(tmp_path, "map", {}).claim("a") as two:
        assert one and two


def test_the_pause_grows_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    store, pauses = open_store(None, "map", {}), []
    monkeypatch.setattr(base.time, "sleep", lambda seconds: pauses.append(seconds))

    def waiting() -> None:
        if len(pauses) == 9:
            store.put("a", 1)

    with store.claim("a"), store.todo({"a": ["a"]}, waiting=waiting) as todo:
        assert list(todo) == []
    assert pauses == sorted(pauses) and pauses[0] == base.WAIT and pauses[-1] == base.LONGEST


def test_a_folder_that_was_begun_for_nothing_can_be_tidied(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a", "map", {})
    with store.claim("x"):
        pass
    store.tidy()
    assert list((tmp_path / "a").iterdir()) == []
    store.put("x", 1)
    store.tidy()
    assert again(store) is not None and store.get("x") == 1
