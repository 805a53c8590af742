"""Branches: what is counted, what is forked, what it is held against."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from dit_lens import tasks
from dit_lens.errors import AddressError, MeasureError
from dit_lens.experiments.branching import _seeds, branching, counted, fork, several
from dit_lens.runner import noise_seed
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load

STEPS = 4


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def mazes() -> list[tasks.Task]:
    return several("maze", 2)


@pytest.fixture(scope="module")
def found(lens: Lens, mazes: list[tasks.Task]) -> xr.Dataset:
    return branching(lens, mazes, (0, -1), 2, sampling={"num_inference_steps": STEPS})


def given(*answers: Any) -> list[Any]:
    """Runs that end in these answers; the answer is the video."""
    task = SimpleNamespace(answer=lambda video: video, score=None)
    return [SimpleNamespace(task=task, video=a, score=SimpleNamespace(solved=a == "x")) for a in answers]


@pytest.mark.parametrize(
    ("answers", "distinct", "differ", "changed", "answered", "solved"),
    [
        ("xxx", 1 / 3, 0, 0, 1, 1),
        ("xyz", 1, 1, 2 / 3, 1, 1 / 3),
        ("xxy", 2 / 3, 2 / 3, 1 / 3, 1, 2 / 3),
        ("yyy", 1 / 3, 0, 1, 1, 0),
        (("x", None, "y"), 1, 1, 1 / 2, 2 / 3, 1 / 3),
        (("x", None, None), 1, np.nan, 0, 1 / 3, 1 / 3),
        ((None, None), np.nan, np.nan, np.nan, 0, 0),
    ],
)
def test_answers_are_counted(
    answers: Any, distinct: float, differ: float, changed: float, answered: float, solved: float
) -> None:
    numbers = counted("x", given(*answers))
    wanted = [distinct, differ, changed, answered, solved]
    np.testing.assert_allclose([numbers[k] for k in ("distinct", "differ", "changed", "answered", "solved")], wanted)
    assert np.isnan(counted(None, given(*answers))["changed"])


def test_branches_are_forks_of_the_run(lens: Lens, mazes: list[tasks.Task]) -> None:
    base = lens.generate(mazes[0], seed=3, num_inference_steps=STEPS)
    a, b, same = fork(lens, base, 1, [0, 1, None])
    for run in (a, b, same):
        assert torch.equal(run.latents[:1], base.latents[:1])
        assert run.edited == (1,)
    assert not torch.equal(a.latents[1], b.latents[1])
    assert torch.equal(same.latents[1], base.latents[1])


def test_fresh_runs_are_the_next_seeds(lens: Lens, mazes: list[tasks.Task], found: xr.Dataset) -> None:
    task = mazes[1]
    runs = [lens.generate(task, seed=noise_seed(s, task, 1), num_inference_steps=STEPS) for s in range(3)]
    for name, value in counted(task.answer(runs[0].video), runs[1:]).items():
        np.testing.assert_equal(found[f"fresh_{name}"][1].item(), value)


def test_tasks_share_no_noise(lens: Lens, mazes: list[tasks.Task], found: xr.Dataset) -> None:
    """Neither the run's nor its branches', and a task keeps its own wherever it stands in the list."""
    assert found["noise_seed"].values.tolist() == [noise_seed(0, task, i) for i, task in enumerate(mazes)]
    assert len(set(found["noise_seed"].values.tolist())) == 2
    again = branching(lens, mazes[::-1], (0,), 2, placebo=False, sampling={"num_inference_steps": STEPS})
    for name in ("differ", "changed", "fresh_differ", "noise_seed"):
        first = found[name].sel(step=0) if "step" in found[name].dims else found[name]
        np.testing.assert_array_equal(again[name].squeeze(), first[::-1], err_msg=name)
    runs = [lens.generate(task, seed=noise_seed(0, task, 0), num_inference_steps=STEPS) for task in mazes]
    noises = []
    for run in runs:
        seeds = _seeds(run, 1, 2, partial(noise_seed, task=run.task, index=0))
        for branch in fork(lens, run, 1, seeds):
            state = branch.latents[1] - (1 - run.sigmas[1]) * run.x0_hat(1)
            noises.append((state / run.sigmas[1]).flatten())
    for i, one in enumerate(noises):
        assert float(one.std()) == pytest.approx(1, abs=0.05)
        assert all(abs(float(one @ other) / one.numel()) < 0.06 for other in noises[:i])


def test_at_the_last_step_everything_is_decided(found: xr.Dataset) -> None:
    last = found.isel(step=-1)
    assert (last["changed"] == 0).all()
    assert (last["differ"] == 0).all()
    assert (last["distinct"] == 0.5).all()
    assert (found["placebo_changed"] == 0).all()
    assert (last["answered"] == 1).all()


def test_the_dims_are_named(found: xr.Dataset) -> None:
    assert found["differ"].dims == ("task", "step")
    assert found["fresh_differ"].dims == ("task",)
    assert list(found.step) == [0, STEPS - 1]
    assert list(found.expert.values) == ["high", "low"]
    assert found["fresh_differ"].attrs["units"] == "share"
    assert (found.attrs["n"], found.attrs["n_steps"]) == (2, STEPS)


def test_several_finds_puzzles_with_a_choice() -> None:
    for name in ("maze", "choose", "pattern"):
        for task in several(name, 3, seed=4, answers=3):
            assert len(task.solutions) >= 3 and task.seed >= 4 and task.split == "test"
    with pytest.raises(MeasureError, match="'maze', 'choose' or 'pattern'"):
        several("occlude", 2)


def test_mistakes_are_told_with_a_cure(lens: Lens, mazes: list[tasks.Task]) -> None:
    with pytest.raises(MeasureError, match="at least two"):
        branching(lens, mazes, (1,), n=1)
    with pytest.raises(MeasureError, match=r"answer\(video\)"):
        branching(lens, [SimpleNamespace(prompt="x")], (1,))
    with pytest.raises(MeasureError, match=r"several\('maze', 20\)"):
        branching(lens, [], (1,))
    with pytest.raises(AddressError, match="use 0 to 3"):
        branching(lens, mazes, (9,), num_inference_steps=STEPS)
