"""Sweeps on Ray actors: the same numbers as in one process, also when actors die. A real cluster on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeping import lens_and_puzzle, quiet

import dit_lens as dl
from dit_lens.runner import Ray, Sweep, ray_actors, work

STEPS = [0, 1, (1, 2)]


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    lens, puzzle, sampling = lens_and_puzzle()
    with lens, pytest.raises(dl.LoadError, match=r"pip install 'dit-lens\[ray\]'; or split the work with shard="):
        Sweep(lens, puzzle, "other_answer", sampling=sampling).run(progress=quiet, executor="ray")


@pytest.mark.parametrize("wanted", ["dask", 3])
def test_unknown_executors(wanted: Any) -> None:
    with pytest.raises(dl.MeasureError, match="choose 'serial', 'ray'"):
        work.executor_of(wanted)


def test_groups_are_handed_out_by_item() -> None:
    from dit_lens.runner.cells import Cell

    cells = [Cell(item, (step,), (0,), "update") for item in (0, 1) for step in (0, 1)]
    groups = work.grouped(cells)
    queue = ray_actors.Groups(groups)
    names = list(groups)
    assert [queue.take("1-7")[0] for _ in range(3)] == [names[2], names[3], names[0]]
    queue.put_back(names[0], groups[names[0]])
    assert queue.take("5-0") == (names[1], [cells[1]]) and queue.take("5-0") == (names[0], [cells[0]])
    assert queue.take("5-0") is None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is an optional extra: pip install 'dit-lens[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    found = lens_and_puzzle("i2v22")
    yield found
    found[0].close()


def load_tiny() -> Any:
    return lens_and_puzzle("i2v22")[0]


def load_other() -> Any:
    lens = load_tiny()
    with_other = lens.pipe.transformer.blocks[0].ffn.net[2].weight
    with_other.data[0, 0] += 1
    lens._weights._hash = ""
    return lens


def make(model: Any, **more: Any) -> Sweep:
    lens, puzzle, sampling = model
    arguments = {"seeds": [0, 1], "steps": STEPS, "layers": [0, 2], "horizon": "final", "sampling": sampling}
    return Sweep(lens, puzzle, "other_answer", **{**arguments, **more})


@pytest.mark.slow
def test_actors_measure_the_same_and_die_in_vain(cluster: Any, model: Any, tmp_path: Path) -> None:
    """Two actors, one of which is killed at its work; the numbers are those of one process, bit for bit."""
    serial = make(model).run(progress=quiet)
    killed: list[int] = []

    def kill_one(done: int, total: int, what: str) -> None:
        if done == 5 and not killed:
            alive = _workers()
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    sweep = make(model, folder=tmp_path)
    found = sweep.run(progress=kill_one, executor=Ray(load=load_tiny, actors=2, options={"num_cpus": 1}))
    assert killed
    assert found.equals(serial)
    assert len(list((tmp_path / "items").iterdir())) == len(sweep.cells)
    assert make(model, folder=tmp_path).run(progress=quiet).equals(serial)  # and the folder holds them


@pytest.mark.slow
def test_mistakes_come_back_as_they_are(cluster: Any, model: Any) -> None:
    def nothing(run: Any, base: Any, source: Any) -> float:
        return float("nan")

    one = Ray(load=load_tiny, options={"num_cpus": 1})
    with pytest.raises(dl.MeasureError, match="returned nan"):
        make(model, metric=nothing).run(progress=quiet, executor=one)
    with pytest.raises(dl.StoreError, match=r"model differs from the model that began(.|\n)*model: (.|\n)*load="):
        make(model).run(progress=quiet, executor=Ray(load=load_other, options={"num_cpus": 1}))


@pytest.mark.slow
def test_runs_travel_to_actors(cluster: Any, model: Any) -> None:
    lens, puzzle, sampling = model
    base = lens.generate(puzzle, seed=3, **sampling)
    source = lens.generate(puzzle.twin(""), seed=3, **sampling)
    sweep = Sweep(lens, base, source, steps=[1], layers=[1], placebo="none", metric=brightness)
    assert sweep.run(progress=quiet).equals(
        sweep.run(progress=quiet, executor=Ray(load=load_tiny, options={"num_cpus": 1}))
    )


def brightness(run: Any, base: Any, source: Any) -> float:
    """Needs a decoder, which a run leaves behind when it travels."""
    return float(run.video.mean())


@pytest.mark.slow
def test_a_group_that_kills_every_actor_stops_the_sweep(cluster: Any, model: Any, tmp_path: Path) -> None:
    def deadly(run: Any, base: Any, source: Any) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    sweep = make(model, metric=deadly, folder=tmp_path)
    with pytest.raises(dl.MeasureError, match="2 actors died at item 0 steps=0 layers=0"):
        sweep.run(progress=quiet, executor=Ray(load=load_tiny, options={"num_cpus": 1}, retries=1))
    assert not list(tmp_path.glob("items/*"))


def _workers() -> list[int]:
    """Process ids of the actors of this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::Worker"):
                found.append(int(entry.name))
    return found
