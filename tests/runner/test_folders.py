"""What a sweep keeps on disk: nothing redone, mixed or lost, whatever disks and other processes do."""

from __future__ import annotations

import errno
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from sweeping import Puzzle, lens_and_puzzle, quiet

import dit_lens as dl
from dit_lens.runner import Sweep
from dit_lens.runner.cell_engine import Engine
from dit_lens.store import folder as store_folder
from dit_lens.store.folder import open_store
from dit_lens.store.identity import describe
from dit_lens.wan.run import Run


@pytest.fixture(scope="module")
def model() -> Any:
    lens, puzzle, sampling = lens_and_puzzle()
    yield lens, lens.generate(puzzle, seed=3, **sampling), lens.generate(puzzle.twin(""), seed=3, **sampling)
    lens.close()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cells that are really measured."""
    found: list[Any] = []
    real = Engine.run
    monkeypatch.setattr(
        Engine, "run", lambda self, item, cell, *rest: found.append(cell) or real(self, item, cell, *rest)
    )
    return found


def metric(run: Run, base: Run, source: Run) -> float:
    return float((run.latents[-1] - base.latents[run.n_steps]).abs().sum())


def make(model: Any, folder: Path | None, **more: Any) -> Sweep:
    lens, base, source = model
    arguments = {"steps": [0, 1], "layers": [0, 2], "metric": metric, "placebo": "none", "folder": folder, **more}
    return Sweep(lens, base, source, **arguments)


def same(a: xr.Dataset, b: xr.Dataset) -> bool:
    return a.equals(b)


def test_resuming_measures_nothing_again(model: Any, tmp_path: Path, measured: list[Any]) -> None:
    told: list[tuple[int, int, str]] = []
    whole = make(model, tmp_path).run(progress=quiet)
    assert len(measured) == 4
    again = make(model, tmp_path).run(progress=lambda *what: told.append(what))
    assert len(measured) == 4 and same(whole, again)
    assert told == [(4, 4, "resumed")]
    assert same(whole, make(model, None).run(progress=quiet))  # without a folder: the same numbers


def test_resuming_after_ctrl_c(model: Any, tmp_path: Path, measured: list[Any]) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    told = "stopped with 3 of 4 cells done; run the same sweep with folder="
    with pytest.raises(KeyboardInterrupt, match=told) as held:
        make(model, tmp_path).run(progress=interrupt)
    assert torch.is_grad_enabled() and model[0]._working == 0, held  # whoever still holds the exception
    whole = make(model, tmp_path).run(progress=quiet)
    assert len(measured) == len(set(measured)) == 4
    assert same(whole, make(model, None).run(progress=quiet))
    with pytest.raises(KeyboardInterrupt, match="nothing was kept: give folder="):
        make(model, None).run(progress=interrupt)


DIRECTIONS = {"one": torch.arange(24.0), "other": torch.arange(24.0) + 1}


def steered(which: str, **place: Any) -> Any:
    return dl.steer(DIRECTIONS[which], **place)


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "layers": ({}, {"layers": [0, 1]}, "axes.layers"),
    "steps": ({}, {"steps": [0, (0, 1)]}, "axes.steps"),
    "hook": ({}, {"hooks": "mlp_out"}, "axes.hooks"),
    "horizon": ({}, {"horizon": 1}, "horizon: 0 -> 1"),
    "metric": ({}, {"metric": "projection"}, "metric"),
    "edit": ({}, {"edit": dl.ablate}, "made by"),
    "placebo": ({}, {"placebo": "seed"}, "placebo: 'none' -> 'seed'"),
    "sampling": ({}, {"sampling": {"max_sequence_length": 8}}, "sampling.max_sequence_length"),
    "value in an edit": (
        {"edit": partial(steered, "one"), "source": None},
        {"edit": partial(steered, "other"), "source": None},
        "edit.effect.direction",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_changed_parameters_are_refused_with_a_diff(what: str, model: Any, tmp_path: Path) -> None:
    before, after, named = CHANGES[what]
    lens, base, source = model
    common = {"steps": [0], "layers": [2], "metric": metric, "placebo": "none", "folder": tmp_path, "source": source}
    Sweep(lens, base, **{**common, **before}).run(progress=quiet)
    stored = {file: file.read_bytes() for file in (tmp_path / "items").iterdir()}
    with pytest.raises(dl.StoreError, match="begun under other parameters") as error:
        Sweep(lens, base, **{**common, **before, **after}).run(progress=quiet)
    assert named in str(error.value) and "another folder" in str(error.value)
    assert {file: file.read_bytes() for file in (tmp_path / "items").iterdir()} == stored


def test_changed_weights_seeds_and_prompts_are_refused(tmp_path: Path) -> None:
    lens, puzzle, sampling = lens_and_puzzle()
    common = {"steps": [0], "layers": [2], "placebo": "none", "folder": tmp_path, "sampling": sampling}
    with lens:
        Sweep(lens, puzzle, "other_answer", **common).run(progress=quiet)
        with pytest.raises(dl.StoreError, match=r"seeds: \[0\] -> \[1\]"):
            Sweep(lens, puzzle, "other_answer", **common, seeds=1).run(progress=quiet)
        with pytest.raises(dl.StoreError, match=r"tasks: .*blue"):
            Sweep(lens, Puzzle("a blue goal"), "other_answer", **common).run(progress=quiet)
        with torch.no_grad():
            lens.pipe.text_encoder.encoder.final_layer_norm.weight.add_(1)
        with pytest.raises(dl.StoreError, match="encoders: "):
            Sweep(lens, puzzle, "other_answer", **common).run(progress=quiet)
        with torch.no_grad():
            lens.pipe.text_encoder.encoder.final_layer_norm.weight.sub_(1)
            lens.pipe.transformer.blocks[1].ffn.net[2].weight[0, 0] += 1
        with pytest.raises(dl.StoreError, match="model: "):
            Sweep(lens, puzzle, "other_answer", **common).run(progress=quiet)


def test_identity_looks_into_functions() -> None:
    def scaled(by: float) -> Any:
        return lambda run, base, source: by * 2

    assert describe(scaled(1.0)) == describe(scaled(1.0)) != describe(scaled(2.0))
    assert describe(partial(metric, run=1)) != describe(partial(metric, run=2))

    class Own:
        def __init__(self, k: int) -> None:
            self.k = k

        def __call__(self, run: Run, base: Run, source: Run) -> float:
            return self.k

    assert describe(Own(1)) == describe(Own(1)) != describe(Own(2))
    assert describe(Own(1).__call__) != describe(Own(2).__call__)
    json.dumps(describe([Own(1), metric, {1: torch.ones(2)}, range(3), {3, 4}, dl.patch(step=1)]))
    assert "0x" not in json.dumps(describe([Own(1), scaled(1.0)]))


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"cell": 1}', "value", "of another sweep"],
    ids=["empty", "half", "bytes", "list", "keys", "value", "of another sweep"],
)
def test_a_damaged_cell_is_set_aside_and_measured_again(
    damage: bytes | str, model: Any, tmp_path: Path, measured: list[Any]
) -> None:
    whole = make(model, tmp_path).run(progress=quiet)
    file = sorted((tmp_path / "items").iterdir())[1]
    if damage == "value":
        record = json.loads(file.read_text())
        record["value"] += 1
        damage = json.dumps(record).encode()
    elif damage == "of another sweep":
        other = tmp_path / "other"
        make(model, other, metric="projection").run(progress=quiet)
        (same_cell,) = (other / "items").glob(f"{file.name.partition('.')[0]}.*")
        damage = same_cell.read_bytes()
    file.write_bytes(damage)
    measured.clear()
    assert same(make(model, tmp_path).run(progress=quiet), whole)
    assert len(measured) == 1
    (aside,) = (tmp_path / "items").glob("*.damaged-*")
    assert aside.read_bytes() == damage
    make(model, tmp_path).run(progress=quiet)
    assert len(measured) == 1


def test_a_damaged_head(model: Any, tmp_path: Path, measured: list[Any]) -> None:
    whole = make(model, tmp_path).run(progress=quiet)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(dl.StoreError, match="remove this one file"):
        make(model, tmp_path).run(progress=quiet)
    (tmp_path / "manifest.json").unlink()
    assert same(make(model, tmp_path).run(progress=quiet), whole) and len(measured) == 4
    # With the head gone, other parameters may begin here, and take nothing that was measured under these.
    (tmp_path / "manifest.json").unlink()
    make(model, tmp_path, metric="projection").run(progress=quiet)
    assert len(measured) == 8


def test_a_folder_that_cannot_be_written(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    measured: list[Any] = []
    monkeypatch.setattr(Engine, "run", lambda *args: measured.append(args))
    with monkeypatch.context() as m:
        m.setattr(Path, "mkdir", refuse)
        with pytest.raises(dl.StoreError, match="Read-only file system; choose a folder that can be written"):
            make(model, tmp_path / "new").run(progress=quiet)
    with monkeypatch.context() as m:
        m.setattr(os, "link", refuse)
        with pytest.raises(dl.StoreError, match="Read-only file system"):
            make(model, tmp_path / "new").run(progress=quiet)
    (tmp_path / "file").write_text("")
    with pytest.raises(dl.StoreError, match="choose a folder"):
        make(model, tmp_path / "file").run(progress=quiet)
    assert not measured


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_loses_only_the_cell_in_flight(
    call: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Any]
) -> None:
    sweep, real, left = make(model, tmp_path), getattr(os, call), [2]
    open_store(tmp_path, "sweep", sweep.identity())  # the manifest is there

    def full(*args: Any) -> Any:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return real(*args)

    with monkeypatch.context() as m:
        m.setattr(os, call, full)
        with pytest.raises(dl.StoreError, match="Everything kept before is safe; make room"):
            sweep.run(progress=quiet)
    stored = list((tmp_path / "items").iterdir())
    assert len(stored) == {"replace": 2, "fsync": 1}[call] and not [f for f in stored if f.name.startswith(".")]
    whole = make(model, tmp_path).run(progress=quiet)
    assert same(whole, make(model, None).run(progress=quiet))
    assert len(measured) - 4 == 4 + 1  # the one in flight was measured twice, nothing else


def test_too_little_disk_is_said_first(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from dit_lens.runner import cost

    monkeypatch.setattr(cost.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(dl.StoreError, match=r"1000 B left and the sweep needs 16.0 KiB: make room"):
        make(model, tmp_path).run(progress=quiet)


def test_file_systems_without_links_or_locks(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def unknown(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(store_folder.FileLock, "acquire", unknown)
    whole = make(model, tmp_path).run(progress=quiet)
    assert same(whole, make(model, None).run(progress=quiet))


@pytest.mark.parametrize("of", [2, 3, 7])
def test_shards_part_the_whole(of: int, model: Any, tmp_path: Path, measured: list[Any]) -> None:
    arguments = {"steps": [0, 1, (1, 2), 2], "hooks": ["update", "attn_out"]}
    whole = make(model, None, **arguments)
    parts = [make(model, tmp_path, shard=f"{i}/{of}", **arguments) for i in range(of)]
    dealt = [cell for part in parts for cell in part.mine]
    assert len(dealt) == len(set(dealt)) and set(dealt) == set(whole.cells) == set(whole.mine)
    for part in parts:
        if part.mine:
            partial_result = part.run(progress=quiet)
            assert int(partial_result["raw_effect"].notnull().sum()) == len(part.mine)
    assert len(measured) == len(whole.cells)
    union = make(model, tmp_path, **arguments).run(progress=quiet)
    assert len(measured) == len(whole.cells)  # gathered, not measured
    assert same(union, whole.run(progress=quiet))


@pytest.mark.parametrize("shard", ["1", "2/2", "a/b", (0, 0), "-1/2", None])
def test_wrong_shards(shard: Any, model: Any) -> None:
    with pytest.raises(dl.MeasureError, match="shard="):
        make(model, None, shard=shard)


def child(work: Any) -> int:
    """Run ``work()`` in a copy of this process, which has the model; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def test_two_processes_share_a_folder(model: Any, tmp_path: Path) -> None:
    """Each cell is measured by one of them, and both end with all of them."""
    folder, log = tmp_path / "sweep", tmp_path / "log"
    expected = make(model, None, steps=[0, 1, 2]).run(progress=quiet)

    def work() -> None:
        real = Engine.run

        def noted(self: Engine, item: Any, cell: Any, *rest: Any) -> Run:
            with log.open("a") as out:
                out.write(f"{os.getpid()} {cell.key}\n")
            time.sleep(0.02)
            return real(self, item, cell, *rest)

        Engine.run = noted  # type: ignore[method-assign]
        assert make(model, folder, steps=[0, 1, 2]).run(progress=quiet).equals(expected)

    pids = [child(work), child(work)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len({key for _, key in lines}) == 6
    assert not [f for f in (folder / "items").iterdir() if f.suffix != ".json"]
