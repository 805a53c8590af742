"""Rows of experiments: places in order and with their labels, seeds of tasks, runs that are kept, and going on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sweeping import Puzzle, lens_and_puzzle, quiet

import dit_lens as dl
from dit_lens.runner import task_rows
from dit_lens.runner.task_rows import Item, TaskRows, over_tasks, side_by_side, task_names


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    found = lens_and_puzzle("i2v22")
    yield found
    found[0].close()


def measured(model: Any, row: Any, n: int = 2, **more: Any) -> xr.Dataset:
    lens, puzzle, sampling = model
    tasks = [Puzzle(f"a {'red ' * i}agent", puzzle.image) for i in range(n)]
    options = {"sampling": sampling, "progress": quiet, **more.pop("options", {})}
    return over_tasks(lens, tasks, row, options=options, **more)


def test_every_combination_of_places_at_its_label(model: Any) -> None:
    seen: list[tuple[int, str]] = []

    def row(item: Item) -> xr.Dataset:
        def at(step: int, kind: str) -> dict[str, Any]:
            seen.append((step, kind))
            curve = xr.DataArray([0.0, step, len(kind)], dims="frame", coords={"frame": [5, 6, 7]})
            return {"number": 10 * step + len(kind), "curve": curve}

        return item.sites(at, step=[2, 0], kind=["a", "bb", "ccc"])

    found = measured(model, row, n=1).squeeze("task")
    assert seen == [(2, "a"), (2, "bb"), (2, "ccc"), (0, "a"), (0, "bb"), (0, "ccc")]
    assert found["number"].dims == ("step", "kind") and found["curve"].dims == ("step", "kind", "frame")
    assert found["step"].values.tolist() == [2, 0] and found["frame"].values.tolist() == [5, 6, 7]
    for step, kind in seen:
        place = found.sel(step=step, kind=kind)
        assert int(place["number"]) == 10 * step + len(kind)
        assert place["curve"].values.tolist() == [0, step, len(kind)]


@pytest.mark.parametrize("axes", [{}, {"step": []}, {"step": [0], "kind": ()}, {"kind": range(0), "step": [0, 1]}])
def test_an_axis_without_entries_is_refused(model: Any, axes: dict[str, Any]) -> None:
    called: list[Any] = []
    with pytest.raises(dl.MeasureError, match=r"nothing to measure: .* has no entry: give at least one"):
        measured(model, lambda item: item.sites(lambda **place: called.append(place) or {"x": 0.0}, **axes))
    assert not called


def test_steps_have_their_noise_level_and_expert(model: Any) -> None:
    plan = model[0].plan(model[2])
    steps = [plan.n_steps, *range(plan.n_steps)]  # the end, too, which no expert runs

    found = measured(model, lambda item: item.sites(lambda step: {"x": float(step)}, step=steps))
    assert found["sigma"].values.tolist() == [plan.sigmas[step] for step in steps]
    assert found["expert"].values.tolist() == ["", *(plan.at(step).expert for step in range(plan.n_steps))]
    assert set(found["expert"].values) == {"", "high", "low"} and found.attrs["n_steps"] == plan.n_steps


def test_each_task_has_its_seed_and_its_neighbour(model: Any) -> None:
    def row(item: Item) -> xr.Dataset:
        own, following, other = item.clean(), item.clean(1), item.clean(seed=50)
        assert own.prompt == item.task.prompt and other.prompt == own.prompt and following.prompt != own.prompt
        assert torch.equal(own.latents, item.generate().latents) and item.generate(seed=50).seed == other.seed == 50
        return xr.Dataset({"own": own.seed, "following": following.seed, "seed": item.seed})

    found = measured(model, row, n=3, seed=7)
    assert found["own"].values.tolist() == found["seed"].values.tolist() == [7, 8, 9]
    assert found["following"].values.tolist() == [8, 9, 7]  # of the last task the first, with the first's own seed
    assert found.attrs["seed"] == 7


def test_a_fork_goes_on_from_its_step(model: Any) -> None:
    def row(item: Item) -> xr.Dataset:
        base = item.clean()
        same, changed = item.fork(base, 1), item.fork(base, 1, dl.ablate(step=1, layers=1))
        assert torch.equal(same.latents, base.latents)
        assert torch.equal(changed.latents[:2], base.latents[:2]) and not torch.equal(changed.final, base.final)
        return xr.Dataset({"x": 0.0})

    measured(model, row, n=1)


def test_the_last_clean_runs_are_kept(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lens, _, sampling = model
    made: list[int] = []

    def generate(task: Any, *, seed: int, **_: Any) -> int:
        made.append(seed)
        return seed

    monkeypatch.setattr(type(lens), "generate", lambda self, task, **more: generate(task, **more))
    rows = TaskRows(lens, [Puzzle()], lambda item: xr.Dataset(), 0, lens.sampling(sampling))
    item = Item(rows, 0, None)  # type: ignore[arg-type]
    for seed in range(task_rows.HELD):
        item.clean(seed=seed)
    item.clean(seed=0)  # is there, and was used last now
    assert made == list(range(task_rows.HELD)) and len(rows._runs) == task_rows.HELD
    item.clean(seed=99)
    item.clean(seed=0)
    assert made == [*range(task_rows.HELD), 99], "the one that was used longest ago went"
    item.clean(seed=1)
    item.clean(seed=1, record=dl.record("z"))
    assert made[task_rows.HELD + 1 :] == [1, 1], "with a recording it is another run"


class Stopping(Puzzle):
    """Tells what was measured and stops the fourth measurement; what a task does is no part of the identity."""

    told: list[tuple[int, int]]
    stop = 3

    def measured(self, index: int, step: int) -> dict[str, float]:
        if len(self.told) == self.stop:
            raise KeyboardInterrupt
        self.told.append((index, step))
        return {"x": 10.0 * index + step}


def test_a_task_goes_on_at_the_place_where_it_stopped(model: Any, tmp_path: Path) -> None:
    lens, puzzle, sampling = model
    told: list[tuple[int, int]] = []
    tasks = [Stopping(prompt, puzzle.image) for prompt in ("a red agent", "a blue agent")]
    for task in tasks:
        object.__setattr__(task, "told", told)

    def row(item: Item) -> xr.Dataset:
        return item.sites(lambda step: item.task.measured(item.index, step), step=[0, 1])

    options = {"sampling": sampling, "folder": tmp_path, "progress": quiet}
    with pytest.raises(KeyboardInterrupt):
        over_tasks(lens, tasks, row, options=options)
    assert told == [(0, 0), (0, 1), (1, 0)]
    for task in tasks:
        object.__setattr__(task, "stop", 99)
    found = over_tasks(lens, tasks, row, options=options)
    assert told == [(0, 0), (0, 1), (1, 0), (1, 1)], "nothing twice"
    assert found["x"].values.tolist() == [[0, 1], [10, 11]]
    assert over_tasks(lens, tasks, row, options=options).identical(found) and len(told) == 4


def test_too_few_tasks_are_refused(model: Any) -> None:
    with pytest.raises(dl.MeasureError, match=r"1 task\(s\), and this needs at least 2: give more"):
        measured(model, lambda item: xr.Dataset(), n=1, least=2)
    with pytest.raises(dl.MeasureError, match=r"0 task\(s\)"):
        measured(model, lambda item: xr.Dataset(), n=0)
    assert measured(model, lambda item: xr.Dataset({"x": 1.0}), n=2, least=2).sizes["task"] == 2


def test_a_shard_without_a_finished_task_says_so(model: Any) -> None:
    rows = TaskRows(model[0], [Puzzle()], lambda item: xr.Dataset(), 0, model[0].sampling(model[2]))
    with pytest.raises(dl.MeasureError, match="no task is finished yet: run all shards"):
        rows.gather({})


def test_labels_that_a_row_lacks_are_nan() -> None:
    one = xr.Dataset({"x": ("region", [1.0, 2.0])}, {"region": ["a", "b"]})
    other = xr.Dataset({"x": ("region", [3.0])}, {"region": ["b"]})
    found = side_by_side([one, other])["x"].sel(region=["a", "b"])
    np.testing.assert_array_equal(found.transpose("task", "region"), [[1, 2], [np.nan, 3]])


def test_names_of_tasks() -> None:
    class Named:
        name, seed = "maze", 4

    assert task_names([Named(), object()]) == ["maze 4", "task 1"]
