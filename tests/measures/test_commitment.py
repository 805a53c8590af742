"""Commitment on planted films: what agrees with the end, from when on, and with which end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.measures.commitment import commit_step, commitment, motion_energy, pixel_regions
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def runs(lens: Lens) -> tuple[Run, Run, Run]:
    """A maze, its twin with the goal elsewhere, another maze."""
    task = next(t for t in tasks.batch("maze", 20) if len(t.truth) >= 6)
    wanted = (task, task.twin("other_answer"), tasks.load("maze", 21))
    return tuple(lens.generate(t, seed=0, num_inference_steps=6) for t in wanted)  # type: ignore[return-value]


def still(run: Run) -> np.ndarray:
    return np.repeat(run.video[:1], len(run.video), 0)


# -- motion energy


def test_motion_energy_is_where_things_move() -> None:
    clip = np.zeros((4, 32, 48, 3))
    clip[1:, :16, 16:32] = 0.5  # one patch lights up once, over three changes of frame
    energy = motion_energy(clip)
    assert energy.shape == (2, 3)
    assert energy[0, 1] == pytest.approx(0.5 / 3)
    energy[0, 1] = 0
    assert not energy.any()


def test_motion_energy_counts_every_move() -> None:
    rng = np.random.default_rng(0)
    clip = rng.random((5, 16, 16, 3))
    assert motion_energy(clip)[0, 0] == pytest.approx(np.abs(np.diff(clip, axis=0)).mean())
    assert np.allclose(motion_energy(clip[::-1]), motion_energy(clip))


def test_one_frame_has_no_motion() -> None:
    with pytest.raises(MeasureError, match="num_frames"):
        motion_energy(np.zeros((1, 16, 16, 3)))


# -- commitment


def test_a_planted_film_agrees_with_each_end_where_it_should(runs: tuple[Run, Run, Run]) -> None:
    run, twin, other = runs
    assert run.score.solved and twin.score.solved
    film = np.stack([still(run), twin.video, run.video])
    found = commitment(run, {"twin": twin, "other": other}, film=film, steps=[0, 1, 2])
    assert found.sizes == {"reference": 3, "step": 3, "region": len(run.regions)}
    assert list(found.answer.sel(reference="final")) == [0, 0, 1]
    assert list(found.answer.sel(reference="twin")) == [0, 1, 0]
    assert list(found.readable) == [0, 1, 1]
    motion = found.motion
    assert np.isnan(motion.sel(step=0)).all()  # nothing moves
    assert motion.sel(reference="final", step=2) == pytest.approx(1)
    assert motion.sel(reference="twin", step=1) == pytest.approx(1)
    assert motion.sel(reference="final", step=1) < 0.95  # high, though the goal is elsewhere
    assert motion.sel(reference="other", step=2) < 0.9
    content = found.content.sel(region="path")
    assert content.sel(reference="final", step=2) == pytest.approx(1)
    assert content.sel(reference="final", step=1) < 0.9


def test_content_is_signed_and_knows_no_scale(runs: tuple[Run, Run, Run]) -> None:
    run = runs[0]
    change = run.video - still(run)
    film = np.stack([still(run) + k * change for k in (0.5, 1.0, -0.2)])
    content = commitment(run, film=film, steps=[0, 1, 2]).content.sel(reference="final", region="path")
    np.testing.assert_allclose(content, [1, 1, -1], atol=1e-6)


def test_content_is_held_against_the_first_frame_of_the_end(runs: tuple[Run, Run, Run]) -> None:
    """A film whose own first frame differs: term by term, the cosine of x0_hat - y_0 and y - y_0."""
    run = runs[0]
    film = np.random.default_rng(0).random((1, *run.video.shape))
    found = commitment(run, film=film, steps=[2]).content.sel(reference="final", region="path").item()
    inside = pixel_regions(run)["path"]
    a, b = ((clip - run.video[0])[inside].ravel() for clip in (film[0], run.video))
    assert found == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-5)


def test_a_region_in_which_nothing_happens_says_nothing(runs: tuple[Run, Run, Run]) -> None:
    found = commitment(runs[0])
    assert np.isnan(found.content.sel(region="walls")).all()
    assert np.isfinite(found.content.sel(region="path")).all()


def test_the_last_steps_agree_with_the_end_and_nulls_do_not(runs: tuple[Run, Run, Run]) -> None:
    run, twin, other = runs
    found = commitment(run, {"twin": twin, "other": other})
    last = found.isel(step=-1)
    assert last.answer.sel(reference="final") == 1
    assert last.motion.sel(reference="final") > 0.99
    assert last.motion.sel(reference="other") < 0.95
    assert last.answer.sel(reference="twin") == 0
    assert found.expert.values[0] == "high" and found.expert.values[-1] == "low"


def test_chosen_steps_and_a_film_at_hand_give_the_same(runs: tuple[Run, Run, Run]) -> None:
    run = runs[0]
    whole = commitment(run)
    assert commitment(run, steps=[1, -1]).identical(whole.isel(step=[1, 5]))
    assert commitment(run, film=run.film()).identical(whole)


def test_without_a_task_there_is_motion_and_no_answer(lens: Lens) -> None:
    task = tasks.load("occlude", 0)
    run = lens.generate(prompt=task.prompt, image=task.image, height=96, width=96, num_frames=13, num_inference_steps=3)
    found = commitment(run)
    assert np.isnan(found.answer).all() and np.isnan(found.readable).all()
    assert np.isfinite(found.motion).all()
    assert found.sizes["region"] == 0


def test_regions_in_pixels_hold_the_same_tokens(runs: tuple[Run, Run, Run]) -> None:
    run = runs[0]
    for name, mask in pixel_regions(run).items():
        assert mask.shape == (13, 96, 96)
        assert np.array_equal(run.grid.tokens(mask), run.regions[name])


def test_mistakes_are_told_with_a_cure(lens: Lens, runs: tuple[Run, Run, Run]) -> None:
    run = runs[0]
    with pytest.raises(MeasureError, match="generate it to the last step"):
        commitment(run.until(3))
    with pytest.raises(MeasureError, match="'half'"):
        commitment(run, {"half": run.until(3)})
    with pytest.raises(MeasureError, match=r"run.film\(steps\)"):
        commitment(run, film=run.film([0]))
    short = lens.generate(
        prompt="solve the maze", image=run.task.image, height=96, width=96, num_frames=5, num_inference_steps=1
    )
    with pytest.raises(MeasureError, match="one size"):
        commitment(run, {"short": short})


# -- commit step


def curve(values: list[float]) -> xr.DataArray:
    return xr.DataArray(values, dims="step", coords={"step": np.arange(len(values)) * 2})


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0, 1, 1, 1], 2),
        ([1, 0, 1, 1], 4),
        ([1, 1, 1, 1], 0),
        ([0, 0, 0, 1], 6),
        ([1, 1, 1, 0], np.nan),
        ([np.nan, 1, np.nan, 1], 6),
        ([np.nan] * 4, np.nan),
    ],
)
def test_commit_step_is_where_it_stays(values: list[float], step: float) -> None:
    np.testing.assert_equal(commit_step(curve(values)).item(), step)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 1))
def test_commit_step_is_the_first_from_which_all_hold(values: list[float], at_least: float) -> None:
    brute = next((2 * i for i in range(len(values)) if min(values[i:]) >= at_least), np.nan)
    np.testing.assert_equal(commit_step(curve(values), at_least).item(), brute)


def test_commit_step_keeps_the_other_dims() -> None:
    both = xr.concat([curve([0, 1, 1]), curve([1, 1, 1])], "seed")
    assert list(commit_step(both)) == [2, 0]
    with pytest.raises(MeasureError, match="'step'"):
        commit_step(both.isel(step=0))
    assert commit_step(both.transpose("step", "seed")).dims == ("seed",)
