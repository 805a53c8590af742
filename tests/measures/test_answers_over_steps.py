"""Corrections, onsets and decoding on data whose answer is known, and on data that holds nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dit_lens.errors import MeasureError
from dit_lens.measures.answers_over_steps import (
    NONE,
    RIGHT,
    WRONG,
    after_errors,
    blind_flips,
    corrections,
    fade_in,
    onset,
    verdicts,
)
from dit_lens.measures.label_decoding import choice, decode, shuffled

STATES = hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(2, 6)), elements=st.integers(0, 2))


def puzzles(rows: Any) -> xr.DataArray:
    data = np.array(rows, np.int8)
    return xr.DataArray(data, dims=("task", "step"), coords={"step": range(data.shape[1])})


# -- corrections


def test_planted_corrections_are_counted_step_by_step() -> None:
    rows = [[WRONG, WRONG, RIGHT, RIGHT]] * 10 + [[RIGHT] * 4] * 10 + [[NONE, RIGHT, RIGHT, WRONG]] * 5
    found = corrections(puzzles(rows), resamples=20)
    assert found["count"].values.tolist() == [[5, 10, 10], [0, 10, 15], [0, 0, 25]]
    np.testing.assert_allclose(found["corrected"], [1, 1, np.nan])
    np.testing.assert_allclose(found["corrupted"], [0, 1 / 3, 0.2])
    np.testing.assert_allclose(found["sharpened"], [0, np.nan, np.nan])
    np.testing.assert_allclose(found["corrected_unrelated"], [0.8, 0.8, np.nan])
    np.testing.assert_allclose(found["corrupted_unrelated"], [0.2] * 3)
    assert found["transitions"][1].sel(verdict="wrong", other_verdict="right") == 10
    assert found["transitions"].sum() == 3 * 25
    # All flips of step 1 go one way, and blind ones would go both: the null knows only how many there were.
    assert (found["corrected"] - found["corrected_flips_high"])[1] > 0


def test_flips_of_two_verdicts_follow_the_odd_number_formula() -> None:
    rng = np.random.default_rng(0)
    data = rng.choice([WRONG, RIGHT], (60, 5))
    flips = np.array([(data[:, t] != data[:, t + 1]).mean() for t in range(4)])
    found = corrections(puzzles(data), resamples=2)
    for s in range(4):
        odd = (1 - np.prod(1 - 2 * flips[s:])) / 2  # the chance of an odd number of flips
        np.testing.assert_allclose(found["corrected_flips"][s], odd)
        np.testing.assert_allclose(found["corrupted_flips"][s], odd)


def test_blind_flips_show_no_correction() -> None:
    """A chain that flips blindly from an uneven start: half of the wrong end right, and that is all chance."""
    rng = np.random.default_rng(1)
    state = np.where(rng.random(2000) < 0.8, WRONG, RIGHT)
    rows = [state]
    for _ in range(6):
        state = np.where(rng.random(2000) < 0.15, WRONG + RIGHT - state, state)
        rows.append(state)
    found = corrections(puzzles(np.stack(rows, 1)), resamples=50)
    assert abs(found["corrected"] - found["corrected_flips"]).max() < 0.05
    assert abs(found["corrupted"] - found["corrupted_flips"]).max() < 0.06
    fate = after_errors(puzzles(np.stack(rows, 1)))
    assert abs(float((fate["corrected"] - fate["chance"]).mean())) < 0.05


def test_a_direction_shows_against_blind_flips() -> None:
    """Each step puts a fifth of the wrong ones right and nothing back."""
    rng = np.random.default_rng(2)
    state = np.where(rng.random(500) < 0.5, WRONG, RIGHT)
    rows = [state]
    for _ in range(6):
        state = np.where((state == WRONG) & (rng.random(500) < 0.2), RIGHT, state)
        rows.append(state)
    data = puzzles(np.stack(rows, 1))
    found = corrections(data, resamples=50)
    assert found["corrected_low"][0] > found["corrected_flips_high"][0]
    assert found["corrupted_high"][0] < found["corrupted_flips_low"][0]
    fate = after_errors(data)
    assert float((fate["corrected"] - fate["chance"]).mean()) > 0.2


@given(STATES)
@settings(deadline=None, max_examples=40)
def test_blind_flips_are_a_symmetric_chain(data: np.ndarray) -> None:
    chain = blind_flips(data)
    np.testing.assert_allclose(chain.sum(2), 1)
    np.testing.assert_allclose(chain, chain.swapaxes(1, 2))
    assert (chain >= -1e-12).all()
    still = np.repeat(data[:, :1], 4, axis=1)
    np.testing.assert_array_equal(blind_flips(still), np.broadcast_to(np.eye(3), (3, 3, 3)))


@given(STATES)
@settings(deadline=None, max_examples=20)
def test_shares_of_all_states_add_up_to_those_right_at_the_end(data: np.ndarray) -> None:
    found = corrections(puzzles(data), resamples=2)
    rights = found["count"].sel(verdict="right") * (1 - found["corrupted"]).fillna(0)
    rights = rights + found["count"].sel(verdict="wrong") * found["corrected"].fillna(0)
    rights = rights + found["count"].sel(verdict="none") * found["sharpened"].fillna(0)
    np.testing.assert_allclose(rights, (data[:, -1] == RIGHT).sum())


def test_nothing_that_changes_gives_nothing() -> None:
    always = puzzles([[RIGHT] * 4] * 6)
    assert all(np.isnan(values).all() for values in after_errors(always).values())
    np.testing.assert_allclose(corrections(always, resamples=3)["corrupted_flips"], 0)


def test_self_correction_is_asked_where_an_error_occurs() -> None:
    """By hand: two err at step 0, one of which is corrected; one errs at step 1; the fourth never, and is left out."""
    states = puzzles([[WRONG, RIGHT, RIGHT], [WRONG, WRONG, WRONG], [NONE, WRONG, RIGHT], [RIGHT, RIGHT, RIGHT]])
    fate = after_errors(states)
    np.testing.assert_array_equal(fate["first"], [0, 0, 1, np.nan])
    np.testing.assert_array_equal(fate["corrected"], [1, 0, 1, np.nan])
    # Step 1 to 2: one wrong becomes right of 2 wrong and 2 right, 1 / 4. From step 0: one of 2 and 1, 1 / 3; none with
    # wrong, 1 / 3 of 2 and 1. Right at the end from wrong at 0: 1/3 right stays 3/4, 1/3 wrong 1/4, 1/3 none 0.
    np.testing.assert_allclose(fate["chance"], [1 / 3, 1 / 3, 1 / 4, np.nan])
    # Tasks that are right all along do not dilute it.
    more = puzzles([*states.values.tolist(), *[[RIGHT] * 3] * 50])
    assert float(after_errors(more)["corrected"].mean()) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("bad", "cure"),
    [
        (xr.DataArray(np.zeros((2, 3)), dims=("task", "frame")), "xr.concat"),
        (puzzles(np.zeros((3, 1))), "at least a step and the end"),
        (puzzles([[0, 7]]), "0 .none., 1 .wrong. or 2 .right."),
    ],
)
def test_what_is_no_table_of_verdicts_is_refused(bad: xr.DataArray, cure: str) -> None:
    for measure in (corrections, after_errors):
        with pytest.raises(MeasureError, match=cure):
            measure(bad)


# -- verdicts


def fake_run(answers: list[Any], complete: bool = True, **more: Any) -> Any:
    """A run whose videos are single numbers: the place in ``answers`` of what they show."""
    task = SimpleNamespace(answer=lambda video: answers[int(video.flat[0])], solutions=("a", "b"))
    film = np.arange(len(answers), dtype=float).reshape(-1, 1, 1, 1, 1)
    about = {"task": task, "complete": complete, "n_steps": len(answers) - 1, "plan": SimpleNamespace(n_steps=9)}
    return SimpleNamespace(**about | {"film": lambda: film[:-1], "video": film[-1]} | more)


def test_verdicts_read_every_step_and_the_end() -> None:
    found = verdicts(fake_run([None, "c", "a", "b"]))
    assert found.values.tolist() == [NONE, WRONG, RIGHT, RIGHT]
    assert found["step"].values.tolist() == [0, 1, 2, 3]
    given_film = np.array([3.0, 0, 1, 2]).reshape(-1, 1, 1, 1, 1)
    assert verdicts(fake_run([None, "c", "a", "b"]), given_film).values.tolist() == [RIGHT, NONE, WRONG, RIGHT]


def test_verdicts_need_answers_and_the_end() -> None:
    with pytest.raises(MeasureError, match="needs answer"):
        verdicts(fake_run(["a", "b"], task=None))
    with pytest.raises(MeasureError, match="generate it to the end"):
        verdicts(fake_run(["a", "b"], complete=False))
    with pytest.raises(MeasureError, match="one for each of 1 steps and the final video"):
        verdicts(fake_run(["a", "b"]), np.zeros((5, 1, 1, 1, 1)))


# -- onsets


def curve(*rows: list[float]) -> xr.DataArray:
    return xr.DataArray(np.array(rows), dims=("task", "step"), coords={"step": range(10, 10 + len(rows[0]))})


def test_onset_is_where_a_curve_stays() -> None:
    found = onset(curve([0.1, 0.9, 0.2, 0.6, 0.5], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [np.nan] * 5), 0.5)
    np.testing.assert_array_equal(found, [13, 10, np.nan, np.nan])
    assert found.dims == ("task",)
    with pytest.raises(MeasureError, match="needs the dim 'step'"):
        onset(curve([1.0]).rename(step="frame"))


@given(hnp.arrays(float, 8, elements=st.floats(0, 1)), st.floats(0.05, 1))
def test_onset_law(values: np.ndarray, level: float) -> None:
    found = float(onset(xr.DataArray(values, dims="step", coords={"step": range(8)}), level))
    if np.isnan(found):
        assert values[-1] < level
    else:
        s = int(found)
        assert (values[s:] >= level).all() and (s == 0 or values[s - 1] < level)


def test_a_film_that_fades_in_is_its_own_null() -> None:
    rng = np.random.default_rng(0)
    first, last = rng.random((4, 4, 3)), rng.random((3, 4, 4, 3))
    film = np.stack([first + share * (last - first) for share in (0, 0.25, 0.5, 1)])
    np.testing.assert_allclose(fade_in(film, first), film, atol=1e-12)


def test_fading_in_keeps_the_distance_and_drops_the_order() -> None:
    """Left half first, right half later: the null shows both at once, as far in sum."""
    first, last = np.zeros((1, 2, 1)), np.ones((1, 1, 2, 1))
    film = np.array([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 1, 1, 2, 1)
    np.testing.assert_allclose(fade_in(film, first)[0].reshape(-1), [0.5, 0.5])
    np.testing.assert_allclose(fade_in(film, first)[1], last)
    with pytest.raises(MeasureError, match="nothing fades in"):
        fade_in(np.zeros((2, 1, 1, 2, 1)), first)


# -- decoding


def test_decoding_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 4
    groups = np.arange(80) // 2
    x = rng.normal(size=(80, 20))
    assert decode(x, y, groups).mean() < 0.5
    x[:, :4] += 6 * np.eye(4)[y]
    assert decode(x, y, groups).mean() == 1
    assert decode(x, shuffled(y), groups).mean() < 0.5
    assert sorted(shuffled(y)) == sorted(y)


def test_folds_never_split_a_scene() -> None:
    """Features that name the scene and nothing else would give its label away to a probe that had seen its twin."""
    rng = np.random.default_rng(1)
    scenes, copies = 40, 4
    groups = np.repeat(np.arange(scenes), copies)
    y = np.repeat(rng.permutation(np.arange(scenes) % 2), copies)
    x = np.repeat(rng.normal(size=(scenes, 60)) * 5, copies, axis=0)
    assert decode(x, y, groups).mean() < 0.7
    seen = decode(x, y, np.arange(len(y)) % copies, folds=copies)  # the mistake: a copy of each scene in every fold
    assert seen.mean() == 1


def test_choice_finds_the_candidate_that_differs() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, 60)
    x = rng.normal(size=(60, 6, 10))
    groups = np.arange(60) // 2
    assert choice(x, true, groups).mean() < 0.4
    x[np.arange(60), true, 0] += 8
    assert choice(x, true, groups).mean() == 1
    assert choice(x, shuffled(true), groups).mean() < 0.4


@pytest.mark.parametrize(
    ("x", "y", "groups", "cure"),
    [
        (np.zeros((6, 2)), [0, 1] * 3, range(5), "one of each per sample"),
        (np.zeros((6, 2)), [0, 1] * 3, [0, 0, 1, 1, 2, 2], "more scenes"),
        (np.full((6, 2), np.nan), [0, 1] * 3, range(6), "NaN or infinity"),
        (np.zeros((6, 2)), [1] * 6, range(6), "one kind only"),
    ],
)
def test_what_cannot_be_decoded_is_refused(x: np.ndarray, y: Any, groups: Any, cure: str) -> None:
    with pytest.raises(MeasureError, match=cure):
        decode(x, np.array(y), np.array(groups))


def test_a_choice_of_one_is_refused() -> None:
    with pytest.raises(MeasureError, match="two candidates"):
        choice(np.zeros((6, 1, 2)), np.zeros(6, int), np.arange(6))


def test_labels_of_tasks_stay_and_those_of_steps_go() -> None:
    states = puzzles([[0, 2, 2], [2, 2, 0]]).assign_coords(task=["maze 0", "maze 1"], family=("task", ["maze", "maze"]))
    found = after_errors(states.assign_coords(sigma=("step", [1.0, 0.5, 0.0])))
    assert set(found.coords) == {"task", "family"} and found["task"].values.tolist() == ["maze 0", "maze 1"]
