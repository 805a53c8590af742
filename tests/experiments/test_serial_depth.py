"""Serial depth on planted models: one unfolds a posterior, the steps of one compute moves, those of one do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dit_lens as dl
from dit_lens import stats
from dit_lens.errors import MeasureError, StoreError, TaskError
from dit_lens.experiments import serial_depth as e
from dit_lens.measures.ideal_denoiser import IdealDenoiser
from dit_lens.measures.ideal_sampling import ideal_run
from dit_lens.measures.right_and_wrong import Choices, choices
from dit_lens.measures.step_gains import gain, pairs_by_length
from dit_lens.progress import silent

CHEAP = {"guidance_scale": 1.0, "progress": silent}
Knows = Callable[[Any, int, Choices], IdealDenoiser]


class Planted:
    """A lens whose network is a denoiser that is chosen by task and number of steps; the rest is the lab's."""

    def __init__(self, lens: Any, knows: Knows) -> None:
        self._lens, self._knows = lens, knows
        self._choices: dict[int, Choices] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lens, name)

    def generate(self, task: Any, **arguments: Any) -> Any:
        begun = self._lens.generate(task, stop_after=0, **arguments)
        if task.seed not in self._choices:
            self._choices[task.seed] = choices(task, self._lens)
        return ideal_run(self._lens, begun, self._knows(task, begun.plan.n_steps, self._choices[task.seed]))


def only_wrong(both: Choices) -> IdealDenoiser:
    prior = np.zeros(len(both.blind.answers))
    prior[-1] = 1
    return replace(both.blind, prior=prior)


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def pairs() -> tuple[list[Any], list[Any]]:
    return e.matched_lengths("maze", 6, (3, 3), (7, 12))


def contrast(lens: Any, pairs: tuple[list[Any], list[Any]], reading: str) -> stats.Verdict:
    found = e.solved_by_steps(lens, [*pairs[0], *pairs[1]], (2, 8), (0,), **CHEAP)
    short, long = pairs_by_length(gain(found, 2, 8, reading).sel(kind="excess", drop=True))
    return stats.verdict(long, short, smallest=0.1, bounds=(-2, 2))


# -- known models


def test_the_ideal_denoiser_as_a_model_has_no_excess(lens: Any, pairs: Any) -> None:
    ideal = Planted(lens, lambda task, steps, both: both.right)
    tasks = [*pairs[0], *pairs[1]]
    shown = e.support_by_step(ideal, tasks, (0,), steps=[0, 3], num_inference_steps=4, **CHEAP)
    np.testing.assert_allclose(shown["wrong"].sel(kind="network"), 0, atol=1e-3)
    assert (shown["nearest"].sel(kind="network") == 1).all()
    assert shown["wrong"].sel(kind="blind", step=0).mean() > 0.3  # less where right answers are many and wrong ones few
    found = e.solved_by_steps(ideal, tasks, (1, 4), (0,), **CHEAP)
    np.testing.assert_array_equal(found["solved"].sel(kind="network"), found["solved"].sel(kind="ideal"))
    assert (gain(found, 1, 4, "solved").sel(kind="excess") == 0).all()
    several = found["solutions"] > 1  # one pass over several right answers is their average, and no answer
    solved = found["solved"].sel(kind="ideal", num_inference_steps=1).isel(seed=0)
    np.testing.assert_array_equal(solved, (~several).astype(float))


def test_steps_that_compute_a_move_each_give_a_contrast(lens: Any, pairs: Any) -> None:
    """With s steps it knows routes of up to s + 1 moves: 2 steps do for 3 moves, 8 for 7 to 9."""
    near = [t for t in pairs[1] if t.serial_length <= 9]
    both = (pairs[0][: len(near)], near)
    computes = Planted(lens, lambda task, s, c: c.right if task.serial_length <= s + 1 else only_wrong(c))
    for reading in ("right", "solved"):
        judged = contrast(computes, both, reading)
        assert judged.difference > 0.9, judged
        assert judged.outcome == ("supported" if judged.n > 5 else "undecided")


def test_steps_that_do_nothing_give_none_even_where_long_tasks_fail(lens: Any, pairs: Any) -> None:
    """It knows short routes and not long ones, with any number of steps: depth is short, and steps are no depth."""
    shallow = Planted(lens, lambda task, s, both: both.right if task.serial_length <= 6 else only_wrong(both))
    judged = contrast(shallow, pairs, "right")
    assert judged.difference == 0 and judged.outcome != "supported"


def test_an_unfolding_posterior_gives_none(lens: Any, pairs: Any) -> None:
    """Steps choose among several right answers, and the ideal denoiser gains the same by them."""
    unfolds = Planted(lens, lambda task, s, both: both.right)
    assert contrast(unfolds, pairs, "solved").difference == 0


# -- pairs


def test_pairs_are_matched_by_length_and_number_of_answers(pairs: Any) -> None:
    short, long = pairs
    assert len(short) == len(long) == 6
    assert all(t.serial_length == 3 for t in short) and all(7 <= t.serial_length <= 12 for t in long)
    sorts = [[len(t.solutions) > 1 for t in side] for side in pairs]
    assert sorts[0] == sorts[1] == [False] * 3 + [True] * 3
    assert len({t.seed for t in [*short, *long]}) == 12


def test_the_control_is_paired_by_cells_to_draw() -> None:
    few, many = e.matched_lengths("pattern", 4, (1, 4), (7, 24), length=e.drawn_cells)
    assert all(e.drawn_cells(t) <= 4 for t in few) and all(e.drawn_cells(t) >= 7 for t in many)
    assert all(t.serial_length == 1 for t in [*few, *many])
    task = few[0]
    assert e.drawn_cells(task) == int((task.codes[-1] != task.codes[0]).any(-1).sum())


def test_pairs_that_there_are_not_are_refused() -> None:
    with pytest.raises(MeasureError, match="give two ranges, the first below the second"):
        e.matched_lengths("maze", 4, (3, 7), (7, 9))
    with pytest.raises(MeasureError, match="ask for fewer than 2, or for other lengths"):
        e.matched_lengths("maze", 2, (3, 4), (30, 40), most=50)


# -- layers


def test_acting_layers() -> None:
    found = e.acting_layers(12, (12, 4, 1))
    assert {found[12, kind, 1] for kind in e.WHICH} == {tuple(range(12))}
    assert found[4, "even", 0] == (0, 4, 7, 11) and found[4, "last", 0] == (8, 9, 10, 11)
    assert found[1, "even", 0] == (0,) and found[4, "even", 0] == found[4, "even", 1]
    assert found[4, "random", 0] != found[4, "random", 1] and found == e.acting_layers(12, (12, 4, 1))
    for wrong in (0, 13):
        with pytest.raises(MeasureError, match=f"n_layers={wrong}: give an integer"):
            e.acting_layers(12, (wrong,))


def test_a_skipped_layer_is_the_ablation_from_scratch(lens: Any) -> None:
    task = dl.tasks.load("maze", 7)
    found = e.solved_by_depth(lens, [task], (12, 11), (2,), which=("last",), draws=1, **CHEAP)
    seed = dl.runner.noise_seed(0, task, 0)
    how = {"seed": seed, "num_inference_steps": 2, "guidance_scale": 1.0}
    runs = [lens.generate(task, **how), lens.generate(task, interventions=[dl.ablate(layers=0)], **how)]
    assert found["solved"].squeeze().values.tolist() == [float(run.score.solved) for run in runs]
    near = [choices(task, lens).nearest_right(run.final) for run in runs]
    assert found["right"].squeeze().values.tolist() == near
    assert found["layers"].sel(n_layers=11).values.tolist() == [["1 2 3 4 5 6 7 8 9 10 11"]]


# -- results


def test_results_say_n_null_and_interval_and_go_on_in_their_folder(lens: Any, tmp_path: Path) -> None:
    tasks = dl.tasks.batch("maze", 2)
    first = e.solved_by_steps(lens, tasks, (1, 2), (0, 1), folder=tmp_path, **CHEAP)
    assert first["solved"].dims == ("task", "seed", "num_inference_steps", "kind")
    assert first.attrs["n"] == 2 and first.attrs["n_layers"] == 12 and "ideal" in first.attrs["null"]
    assert first["length"].values.tolist() == [t.serial_length for t in tasks]
    broken = Planted(lens, lambda task, s, both: 1 / 0)  # type: ignore[arg-type, return-value]
    again = e.solved_by_steps(broken, tasks, (1, 2), (0, 1), folder=tmp_path, **CHEAP)  # type: ignore[arg-type]
    assert again.equals(first)
    with pytest.raises(StoreError, match="num_inference_steps"):
        e.solved_by_steps(lens, tasks, (1, 3), (0, 1), folder=tmp_path, **CHEAP)


def test_models_side_by_side(lens: Any) -> None:
    tasks = dl.tasks.batch("maze", 2)
    one = e.solved_by_steps(lens, tasks, (1,), (0,), **CHEAP)
    other = one.assign_attrs(n_layers=40)
    joined = e.side_by_side_models({"lab": one, "lab40": other})
    assert joined["right"].dims[0] == "model" and joined["blocks"].values.tolist() == [12, 40]
    found = stats.mean_interval(joined["right"], over=("model", "task", "seed"), bounds=(0, 1))
    assert (found["n"] == 2).all() and found["low"].isnull().all() and "fewer than 5" in found.attrs["no_interval"]
    with pytest.raises(MeasureError, match="'lab40' was measured on other tasks than 'lab'"):
        e.side_by_side_models({"lab": one, "lab40": other.isel(task=[0])})
    with pytest.raises(MeasureError, match="no model's results"):
        e.side_by_side_models({})


def test_what_cannot_be_measured_is_refused(lens: Any) -> None:
    tasks = dl.tasks.batch("maze", 1)
    for call in (e.support_by_step, e.solved_by_steps):
        with pytest.raises(MeasureError, match="at least one task and one seed"):
            call(lens, [])
    with pytest.raises(MeasureError, match=r"which=\['first'\] are unknown: choose from"):
        e.solved_by_depth(lens, tasks, (12,), which=("first",))
    with pytest.raises(TaskError, match=r"no serial_length.*pass length="):
        e.support_by_step(lens, [type("Bare", (), {"solutions": (), "render": 0, "first_frame": 0})()])
