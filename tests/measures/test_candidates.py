"""Counting answers in planted clips: one, several apart, several overlapping, none; the laws behind the criteria."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.measures.candidates import Pool, _fewest, candidates, pool
from dit_lens.tasks.task import Task
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

SEVERAL = ("maze", "choose", "pattern")


@cache
def several(name: str, n: int = 6, most: int = 30) -> list[Task]:
    found = (tasks.load(name, seed) for seed in range(200))
    return list(itertools.islice((t for t in found if 1 < len(t.solutions) <= most), n))


def video(task: Task, answer: Any) -> np.ndarray:
    return task.render(answer) / 255


def mixture(task: Task, weights: dict[Any, float]) -> np.ndarray:
    return sum(w * video(task, a) for a, w in weights.items())  # type: ignore[return-value]


def side_by_side(task: Task, answers: list[Any]) -> np.ndarray:
    """Each answer drawn in full on one board; where they mark one place, the last one wins."""
    clip = np.repeat(task.first_frame[None] / 255, task.num_frames, 0)
    still = clip.copy()
    for answer in answers:
        shown = video(task, answer)
        clip = np.where((shown != still).any(-1, keepdims=True), shown, clip)
    return clip


def rivals(task: Task) -> list[Any]:
    """The two right answers that agree in the least."""
    apart = pool(task)
    own = (apart.makes & apart.deciding).astype(int)
    shared = own @ own.T + 1000 * np.eye(len(own), dtype=int)
    i, j = np.unravel_index(shared.argmin(), shared.shape)
    return [apart.answers[i], apart.answers[j]]


@pytest.mark.parametrize("name", SEVERAL)
def test_a_sharp_answer_is_one(name: str) -> None:
    for task in several(name):
        for answer in task.solutions[:5]:
            reading = pool(task).read(video(task, answer))
            assert reading.alive == (answer,)
            assert (reading.fewest, reading.kind) == (1, "one")
            assert reading.blur == pytest.approx(1, abs=1e-4)
            assert np.isnan(reading.together)
            assert reading.strongest == answer
            assert reading.strength == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", tasks.names())
def test_the_first_frame_held_still_shows_none(name: str) -> None:
    for task in tasks.batch(name, 6):
        reading = pool(task).read(np.repeat(task.first_frame[None], 13, 0) / 255)
        assert (reading.alive, reading.fewest, reading.kind) == ((), 0, "none")
        assert reading.blur == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", tasks.names())
def test_an_only_answer_is_found(name: str) -> None:
    task = next(t for t in (tasks.load(name, s) for s in range(50)) if len(t.solutions) == 1)
    assert pool(task).read(task.frames / 255).kind == "one"


@pytest.mark.parametrize("weight", [0.5, 0.35])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_blend_is_told_by_its_places_and_its_contrast_by_the_weights(name: str, weight: float) -> None:
    """Two routes stand apart and two colours of one blank do not, at whatever contrast."""
    for task in several(name):
        a, b = rivals(task)
        reading = pool(task).read(mixture(task, {a: 1 - weight, b: weight}))
        assert reading.kind == ("superposition" if name == "pattern" else "multi-path")
        assert {a, b} <= set(reading.alive)
        assert reading.fewest == 2
        assert reading.together == pytest.approx(1, abs=1e-3)
        assert reading.second >= weight - 1e-3  # a recombination of the two may be more even than they are
        if len(reading.alive) == 2:
            assert reading.first == pytest.approx(1 - weight, abs=1e-3)
        assert reading.bound == pytest.approx(1)
        assert reading.blur > 1.3
        assert reading.same_place == pytest.approx(1 if name == "pattern" else 0)


@pytest.mark.parametrize("name", ["maze", "choose"])
def test_two_drawn_in_full_are_more_than_a_mixture(name: str) -> None:
    for task in several(name):
        a, b = rivals(task)
        reading = pool(task).read(side_by_side(task, [a, b]))
        assert reading.kind == "multi-path"
        assert {a, b} <= set(reading.alive)
        assert reading.fewest == 2
        assert reading.together == pytest.approx(2, abs=1e-3)
        assert reading.blur == pytest.approx(1, abs=1e-3)
        assert reading.same_place == 0


def test_at_one_place_there_is_no_side_by_side() -> None:
    """Colours of one blank exclude each other: whatever is drawn over the other is a single answer."""
    for task in several("pattern"):
        assert pool(task).read(side_by_side(task, rivals(task))).kind == "one"


@pytest.mark.parametrize("name", SEVERAL)
def test_a_weak_rival_is_not_alive(name: str) -> None:
    for task in several(name):
        a, b = rivals(task)
        reading = pool(task).read(mixture(task, {a: 0.9, b: 0.1}))
        assert (reading.alive, reading.kind) == ((a,), "one")
        assert reading.strongest == a
        assert reading.strength == pytest.approx(0.9, abs=1e-3)
        assert pool(task).read(mixture(task, {a: 0.9, b: 0.1}), seen=0.05).fewest == 2


def test_a_mixture_of_many_is_told_from_an_empty_clip_by_its_blur() -> None:
    task = next(t for t in several("pattern", 20) if len(t.solutions) >= 5)
    reading = pool(task).read(mixture(task, dict.fromkeys(task.solutions, 1 / len(task.solutions))))
    assert reading.blur > 2


@pytest.mark.parametrize("name", SEVERAL)
def test_noise_on_the_pixels_changes_no_verdict(name: str) -> None:
    rng = np.random.default_rng(0)
    for task in several(name, 3):
        a, b = rivals(task)
        blend = "superposition" if name == "pattern" else "multi-path"
        for kind, clip in {"one": video(task, a), blend: mixture(task, {a: 0.5, b: 0.5})}.items():
            assert pool(task).read(clip + rng.normal(0, 0.05, clip.shape)).kind == kind


def test_another_colour_is_no_contrast() -> None:
    """Orange lies half way to yellow as seen from an empty blank, and is not yellow."""
    task = next(t for t in (tasks.load("pattern", s) for s in range(50)) if len(t.solutions) == 1)
    for decoy in task.decoys(10):
        reading = pool(task).read(video(task, decoy))
        wrong = [a != b for a, b in zip(np.ravel(task.truth), np.ravel(decoy), strict=True)]
        assert any(wrong) and not reading.alive


@cache
def planted() -> list[tuple[Task, Pool]]:
    return [(task, pool(task)) for name in SEVERAL for task in several(name, 4, 10)]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_no_mixture_exceeds_its_bound(data: st.DataObject) -> None:
    """p + p' <= bound for all weights; every mark's contrast is the weight of the answers that make it; and weights do
    not decide whether answers stand apart."""
    task, found = data.draw(st.sampled_from(planted()))
    raw = data.draw(st.lists(st.floats(0, 1), min_size=len(task.solutions), max_size=len(task.solutions)))
    weights = np.array(raw) + 1e-3
    weights /= weights.sum()
    reading = found.read(mixture(task, dict(zip(task.solutions, weights, strict=True))))
    np.testing.assert_allclose(reading.contrast, weights @ found.makes, atol=2e-3)
    assert reading.kind != ("multi-path" if task.family == "pattern" else "superposition")
    assert np.isnan(reading.together) or reading.together <= reading.bound + 5e-3
    assert reading.fewest <= len(reading.alive)


def test_crossing_routes_are_counted_from_below_and_above() -> None:
    """Two routes that cross show four: alive says four, fewest two."""
    found = 0
    for task in several("maze", 10, 5):
        both = pool(task)
        for a, b in itertools.combinations(task.solutions, 2):
            reading = both.read(mixture(task, {a: 0.5, b: 0.5}))
            assert reading.fewest == 2
            found += len(reading.alive) > 2
    assert found >= 3


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=6).filter(lambda r: any(map(any, r)))
)
def test_fewest_is_the_smallest_cover(rows: list[list[bool]]) -> None:
    own = np.array(rows)
    wanted = own.any(0)
    sizes = range(1, len(own) + 1)
    brute = next(
        k
        for k in sizes
        if any((own[list(c)].any(0) == wanted).all() for c in itertools.combinations(range(len(own)), k))
    )
    assert _fewest(own) == brute


@pytest.mark.parametrize("name", tasks.names())
def test_wrong_answers_are_seen_only_where_they_are(name: str) -> None:
    looked = 0
    for task in tasks.batch(name, 5):
        wrong = pool(task, task.decoys(4), decoys=True)
        weights = dict.fromkeys(task.solutions[:20], 1 / min(20, len(task.solutions)))
        assert not wrong.read(mixture(task, weights)).alive
        for decoy in wrong.answers:
            looked += 1
            assert wrong.read(video(task, decoy)).alive == (decoy,)
            assert not pool(task).read(video(task, decoy)).alive
    assert looked >= 4


def nested() -> Any:
    """A task whose answers do not exclude each other: the left light on, the right one, or both."""

    def render(answer: str) -> np.ndarray:
        frames = np.zeros((2, 16, 32, 3), np.uint8)
        frames[1, :, :16] = 255 * ("left" in answer)
        frames[1, :, 16:] = 255 * ("right" in answer)
        return frames

    return SimpleNamespace(
        solutions=("left", "right", "left right"), render=render, first_frame=np.zeros((16, 32, 3), np.uint8)
    )


def test_answers_that_hold_each_other_are_left_undecided() -> None:
    task = nested()
    reading = pool(task).read(task.render("left right") / 255)
    assert set(reading.alive) == set(task.solutions)
    assert reading.bound == pytest.approx(2)
    assert reading.kind == "undecided"
    assert reading.fewest == 1
    assert pool(task).read(task.render("left") / 255).kind == "one"


def shapes(**drawn: tuple[slice, slice]) -> Any:
    """A task whose answers fill rectangles of a board of 5 x 5 cells."""

    def render(answer: str) -> np.ndarray:
        frames = np.zeros((2, 80, 80, 3), np.uint8)
        rows, cols = drawn[answer]
        frames[1, rows, cols] = 255
        return frames

    return SimpleNamespace(solutions=tuple(drawn), render=render, first_frame=np.zeros((80, 80, 3), np.uint8))


def test_shapes_on_one_spot_overlap_and_shapes_apart_do_not() -> None:
    """The paper's Fig. 2: circles of several sizes around one centre blur into each other; Fig. 1: shelves do not."""
    whole, middle, dot = slice(0, 80), slice(16, 64), slice(36, 44)
    sizes = shapes(small=(dot, dot), large=(middle, middle))
    apart = shapes(left=(middle, slice(0, 32)), right=(middle, slice(48, 80)))
    lying = shapes(down=(whole, slice(0, 16)), across=(slice(0, 16), whole))  # an L: they share its corner
    for task, kind, overlap in ((sizes, "superposition", 1), (apart, "multi-path", 0), (lying, "multi-path", 0)):
        a, b = task.solutions
        for w in (0.5, 0.35):
            reading = pool(task).read((w * task.render(a) + (1 - w) * task.render(b)) / 255)
            assert (reading.kind, reading.alive) == (kind, (a, b))
            assert reading.same_place == pytest.approx(overlap)
        assert pool(task).read(task.render(a) / 255).kind == "one"


def test_places_of_all_that_is_alive_count_not_of_one_pair() -> None:
    """Three answers, two of which overlap: the kind does not hang on which pair happens to be strongest."""
    spot, grown = slice(36, 44), slice(16, 64)
    task = shapes(small=(spot, spot), large=(grown, grown), away=(slice(0, 16), slice(0, 80)))
    even = np.mean([task.render(a) for a in task.solutions], 0) / 255
    assert pool(task).read(even).same_place == pytest.approx(1 / 3, abs=0.02)


# -- on runs


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def run(lens: Lens) -> Run:
    return lens.generate(several("maze")[0], seed=0, num_inference_steps=6)


def test_the_last_step_shows_the_answer_of_the_run(run: Run) -> None:
    found = candidates(run)
    assert found.sizes == {"step": 6}
    assert run.score.solved
    assert (found.alive[-1], found.fewest[-1], found.kind[-1]) == (1, 1, "one")
    assert found.share[-1] == pytest.approx(1 / len(run.task.solutions))
    assert run.task.solutions[int(found.strongest[-1])] == run.task.answer(run.video)
    assert found.strength[-1] > 0.8
    assert ((found.null >= 0) & (found.null <= 1)).all()
    assert found.null[-1] == 0
    assert (found.fewest <= found.alive).all()
    assert found.attrs["solutions"] == len(run.task.solutions)


def test_a_film_at_hand_and_chosen_steps_give_the_same(run: Run) -> None:
    whole = candidates(run)
    some = candidates(run, steps=[0, -1])
    assert list(some.step) == [0, 5]
    assert some.identical(whole.isel(step=[0, 5]))
    assert candidates(run, film=run.film()).identical(whole)


def test_a_planted_film_is_read_step_by_step(run: Run) -> None:
    a, b = rivals(run.task)
    clips = [mixture(run.task, {a: 0.5, b: 0.5}), side_by_side(run.task, [a, b]), video(run.task, a)]
    found = candidates(run, film=np.stack(clips), steps=[0, 1, 2], decoys=0)
    assert list(found.kind.values) == ["multi-path", "multi-path", "one"]
    np.testing.assert_allclose(found.together[:2], [1, 2], atol=1e-3)
    assert np.isnan(found.null).all() and np.isnan(found.wrong).all()
    assert run.task.solutions[int(found.strongest[2])] == a


def test_mistakes_are_told_with_a_cure(run: Run) -> None:
    task = run.task
    with pytest.raises(MeasureError, match=r"dit_lens.tasks.load"):
        candidates(run, task=SimpleNamespace(prompt="x"))
    with pytest.raises(MeasureError, match="choose later ones"):
        pool(task, frames=(0,))
    with pytest.raises(MeasureError, match=r"frames=range\(task.num_frames\)"):
        pool(task, frames=(1,))
    assert len(pool(task, frames=range(task.num_frames)).answers) == len(task.solutions)
    with pytest.raises(MeasureError, match=r"task.decoys"):
        pool(task, ())
    with pytest.raises(MeasureError, match=r"run.film\(steps\)"):
        candidates(run, film=run.film([0]))
    with pytest.raises(MeasureError, match="do not divide"):
        pool(task, patch=(7, 16))
