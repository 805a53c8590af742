"""The scorers on all families, levels and sizes: right videos, wrong ones read as themselves, and unreadable ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens import tasks
from dit_lens.errors import TaskError
from dit_lens.tasks import catalog, grid
from dit_lens.tasks import palette as p

CHECKED = settings(deadline=None, max_examples=25)
LEVELS = tuple(name for name in tasks.listed() if name not in tasks.names())


@st.composite
def puzzles(draw, names=LEVELS):
    """A task of any level, at any of its sizes."""
    known = catalog.parse(draw(st.sampled_from(names)))
    size = draw(st.sampled_from(catalog.sizes(known.family, known.level)))
    return tasks.load(str(catalog.Kind(known.family, known.level, size)), draw(st.integers(0, 2000)))


def blend(a, b):
    return a.astype(float) / 510 + b.astype(float) / 510


@CHECKED
@given(puzzles(tasks.listed()), st.integers(0, 99))
def test_the_truth_is_solved_in_every_guise(task, seed):
    noise = np.random.default_rng(seed).normal(0, 0.08, task.frames.shape)
    noisy = (task.frames / 255 + noise).clip(0, 1)
    for frames in (task.frames, task.frames / 255, noisy, noisy * 0.97):
        score = task.score(frames)
        assert score.solved, score
        assert score.value == 1.0
        assert task.answer(frames) == task.truth


@CHECKED
@given(puzzles(tasks.listed()))
def test_every_solution_is_drawn_read_back_and_solved(task):
    assert np.array_equal(task.render(task.truth), task.frames)
    assert list(task.solutions) == sorted(set(task.solutions))
    for answer in task.solutions[:12]:
        frames = task.render(answer)
        assert task.answer(frames) == answer
        assert task.score(frames).solved
        assert np.array_equal(frames[0], task.first_frame)


@CHECKED
@given(puzzles(tasks.listed()), st.integers(0, 99))
def test_what_shows_no_answer_is_unsolved_and_unread(task, seed):
    still = np.repeat(task.frames[:1], task.num_frames, 0)
    assert task.score(still).value == 0
    noise = np.random.default_rng(seed).random(task.frames.shape)
    for frames in (still, np.full(task.frames.shape, 0.5), noise, np.ones(task.frames.shape)):
        assert not task.score(frames).solved
        assert task.answer(frames) is None


@CHECKED
@given(puzzles())
def test_decoys_are_wrong_and_read_as_themselves(task):
    decoys = task.decoys(5)
    assert decoys == task.decoys(5)
    assert not set(decoys) & set(task.solutions)
    for answer in decoys:
        frames = task.render(answer)
        assert task.answer(frames) == answer
        assert np.array_equal(frames[0], task.first_frame)
        score = task.score(frames)
        assert not score.solved
        assert score.value < 1


@pytest.mark.parametrize("name", LEVELS)
def test_nearly_every_puzzle_has_decoys(name):
    counts = [len(task.decoys(3)) for task in tasks.batch(name, 40)]
    assert np.mean([n > 0 for n in counts]) >= 0.9


@CHECKED
@given(puzzles())
def test_blends_are_unsolved_and_unread(task):
    """Half truth and half something else: another solution, a decoy, the twin's truth."""
    others = [answer for answer in task.solutions[:8] if answer != task.truth] + list(task.decoys(3))
    films = [task.render(answer) for answer in others] + [task.twin("other_answer").frames]
    for other in films:
        mixed = blend(task.frames, other)
        assert not task.score(mixed).solved
        assert task.answer(mixed) is None


@CHECKED
@given(puzzles(), st.integers(0, 3))
def test_other_answer_twins(task, seed):
    twin = task.twin("other_answer", seed)
    assert not set(twin.solutions) & set(task.solutions)
    assert twin.truth in twin.solutions
    assert twin.score(twin.frames).solved
    assert not task.score(twin.frames).solved
    assert tasks.load(task.name, task.seed, twin.split) == twin
    assert twin.num_frames == task.num_frames
    changed = (twin.codes[0] != task.codes[0]).any(-1).sum()
    if task.family in ("choose", "order"):
        assert changed == 0
        assert twin.prompt != task.prompt
    else:
        assert 1 <= changed <= (12 if task.family == "emerge" else 5)
        assert twin.prompt == task.prompt


@CHECKED
@given(puzzles())
def test_same_answer_twins(task):
    try:
        twin = task.twin("same_answer")
    except TaskError as error:
        assert "take another seed" in str(error)
        return
    assert twin.truth == task.truth
    assert twin.truth in twin.solutions
    assert twin.prompt == task.prompt
    assert not np.array_equal(twin.codes[0], task.codes[0])
    assert twin.score(twin.frames).solved
    if task.name.startswith("maze-hard"):
        on_way = grid.bits(cell for route in twin.solutions for cell in route)
        assert grid.corridors(twin.scene.free, on_way).bit_count() >= 2


@pytest.mark.parametrize("name", LEVELS)
def test_nearly_every_puzzle_has_both_twins(name):
    def has(task, kind):
        try:
            return bool(task.twin(kind))
        except TaskError:
            return False

    batch = tasks.batch(name, 40)
    assert all(has(task, "other_answer") for task in batch)
    assert np.mean([has(task, "same_answer") for task in batch]) >= 0.95


@CHECKED
@given(puzzles(tasks.listed()))
def test_regions_have_the_videos_size(task):
    assert "background" in task.regions
    for name, region in task.regions.items():
        assert region.shape == task.frames.shape[:3], name
        assert region.dtype == bool
        if name not in ("walls", "other_paths"):
            assert region.any(), name
    objects = {"agent", "ball", "tiles", "filled", "shown"} & set(task.regions)
    assert objects
    for name in objects:
        assert not (task.regions[name] & task.regions["background"]).any()


@CHECKED
@given(puzzles())
def test_a_changed_scene_is_not_solved(task):
    codes = task.codes.copy()
    r, c = np.argwhere((codes == p.BACKGROUND).all(-1).all(0))[0]
    codes[4:, r, c] = p.WALL
    score = task.score(p.render(codes))
    assert not score.solved
    assert not score.details["scene_kept"]


def test_every_rest_keeps_its_colour_over_time():
    """What the lossless linear codec of the lab models needs."""
    for name in tasks.listed():
        for task in tasks.batch(name, 20):
            for answer in (task.truth, *task.decoys(2)):
                rest = task.scene.codes_of(answer)[..., 1]
                assert (rest == rest[:1]).all()


def first(name, wanted):
    return next(task for task in (tasks.load(name, seed) for seed in range(300)) if wanted(task))


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("order-easy", ((0, 0),), "take one of task.solutions"),
        ("emerge-hard", (("green", "green", 0, 0),), "take one of task.solutions"),
        ("emerge-easy", (("blue", "green", 0, 0),), "colour before"),
        ("slide-easy", ((0, 0), (5, 5)), "take one of task.solutions"),
        ("slide-easy", "up", "take one of task.solutions"),
        ("bounce-easy", ("blue", 0, 0), "take one of task.solutions"),
    ],
)
def test_an_answer_that_cannot_be_drawn_is_refused(name, answer, hint):
    with pytest.raises(TaskError, match=hint):
        tasks.load(name, 0).render(answer)


# ---- choose and order


def test_the_goals_that_are_not_named_are_told_apart():
    for task in tasks.batch("choose-hard", 10):
        wrong = {task.answer(task.render(route))[-1] for route in task.decoys(30)}
        assert wrong == set(dict(task.scene.others)), "both of the other goals are among the decoys"
        for route in task.decoys(4):
            details = task.score(task.render(route)).details
            assert details["other_goal"]
            assert not details["reached"]
        assert task.cell_regions["other_goal"][0].sum() == 2


def test_an_order_is_not_the_other_one():
    for task in tasks.batch("order-hard", 10):
        swapped = task.twin("other_answer")
        score = task.score(swapped.frames)
        assert not score.details["connected"], "it touches the last goal too early"
        assert not score.details["reached"]
        assert not score.details["other_goal"]
        assert swapped.scene.first == task.scene.then
        words = swapped.prompt.replace(",", " ").replace(":", " ").split()
        assert words.index(p.NAMES[task.scene.then[1]]) < words.index(p.NAMES[task.scene.first[1]])


def test_going_straight_to_the_last_goal_is_no_tour():
    task = first("order-easy", lambda t: any(r[-1] == t.scene.then[0] for r in t.decoys(20)))
    route = next(r for r in task.decoys(20) if r[-1] == task.scene.then[0])
    score = task.score(task.render(route))
    assert score.details["reached"]
    assert not score.details["first_reached"]
    assert not score.details["connected"]
    assert not score.solved


def test_half_a_tour_has_partial_value():
    task = first("order-hard", lambda t: len(t.truth) == 13)
    values = []
    for moves in (3, 6, 9):
        frames = task.frames.copy()
        frames[moves:] = frames[moves]
        values.append(task.score(frames).value)
    assert values == pytest.approx([0.25, 0.5, 0.75])


def test_touching_the_unnamed_goal_is_told():
    def through(task):
        return next((r for r in task.decoys(30) if task.scene.more[0][0] in r), None)

    task = first("order-hard", through)
    score = task.score(task.render(through(task)))
    assert score.details["other_goal"]
    assert not score.solved


def test_a_hard_mazes_decoys_lead_into_dead_ends():
    def ends(task):
        on_way = grid.bits(cell for route in task.solutions for cell in route)
        return set(grid.cells_of(grid.corridors(task.scene.free, on_way)))

    assert sum(any(r[-1] in ends(t) for r in t.decoys(6)) for t in tasks.batch("maze-hard", 30)) >= 25


# ---- emerge


@pytest.mark.parametrize("name", ("emerge-easy", "emerge-hard"))
@pytest.mark.parametrize("seed", range(6))
def test_emerging_wrongly(name, seed):
    task = tasks.load(name, seed)
    scene, disc = task.scene, task.codes[..., 0]
    colour, lane = scene.colours[0], scene.lanes[0]
    other = next(c for c in p.BALLS if c not in scene.colours)
    frames = np.flatnonzero(scene.hidden(lane).any((1, 2)))
    late, never, early, twice, still_there, recoloured = (task.codes.copy() for _ in range(6))
    where = disc == colour
    late[..., 0][where & (np.arange(task.num_frames) > frames[-1])[:, None, None]] = other
    never[..., 0][where & (np.arange(task.num_frames) > frames[-1])[:, None, None]] = p.BACKGROUND
    early[(0, *lane.cells(scene.size)[0], 0)] = colour
    spare = tuple(np.argwhere((task.codes == p.BACKGROUND).all(-1).all(0))[0])
    twice[(-1, *spare, 0)] = colour
    still_there[(frames[1], *lane.cells(scene.size)[0], 0)] = colour
    recoloured[1, ..., 0][where[1]] = other  # by the gate it had another colour
    for codes, check in (
        (late, "colour_kept"), (never, "on_time"), (early, "alone"), (twice, "alone"), (still_there, "alone"),
        (recoloured, "colour_kept"),
    ):  # fmt: skip
        score = task.score(p.render(codes))
        assert not score.solved
        assert not score.details[check], check
        assert score.value < 1
    before, after, *_ = task.answer(p.render(late))[0]
    assert (before, after) == (p.NAMES[colour], p.NAMES[other]), "what it forgot is read"
    assert task.answer(p.render(never)) is None
    assert task.score(p.render(never)).value < 0.7
    assert task.score(p.render(late)).value < task.score(p.render(twice)).value


def test_balls_that_exchange_their_colours_are_read():
    for task in tasks.batch("emerge-hard", 6):
        (a, _, *first_end), (b, _, *second_end) = task.truth
        swapped = ((a, b, *first_end), (b, a, *second_end))
        frames = task.render(swapped)
        assert task.answer(frames) == swapped
        score = task.score(frames)
        assert not score.solved
        assert score.value < 0.3
        same = ((a, a, *first_end), (a, a, *second_end))
        assert not task.score(task.render(same)).details["different"]


def test_another_colour_is_as_right():
    from dataclasses import replace

    for task in tasks.batch("emerge-easy", 6):
        for colour in p.BALLS:
            other = tasks.Task(task.name, task.seed, task.split, replace(task.scene, colours=(colour,)))
            assert other.solutions == task.solutions
            assert np.array_equal(other.first_frame, task.first_frame)
            assert task.score(other.frames).solved


# ---- slide


@pytest.mark.parametrize("seed", range(8))
def test_sliding_wrongly(seed):
    task = tasks.load("slide-hard", seed)
    scene = task.scene
    route = task.truth
    board = task.cell_regions["board"][0]

    early = task.render(route[:-1])
    back = task.render((*route[:2], route[0], *route[1:]))
    score = task.score(early)
    assert task.answer(early) == route[:-1]
    assert score.details["legal"]
    assert not score.details["matches"]
    assert 0 < score.value < 1
    score = task.score(back)
    assert task.answer(back) == (*route[:2], route[0], *route[1:])
    assert score.details["matches"]
    assert not score.details["shortest"]
    assert not score.solved

    jump, swap, picture, recoloured = (task.codes.copy() for _ in range(4))
    jump[1:, board] = task.codes[-1, board]  # all moves in one frame
    assert not task.score(p.render(jump)).details["legal"]
    assert task.answer(p.render(jump)) is None
    tiles = np.argwhere(board & (task.codes[0, ..., 0] != 0))
    a = tuple(tiles[0])
    b = next(tuple(t) for t in tiles[1:] if task.codes[(0, *t, 0)] != task.codes[(0, *a, 0)])
    swap[(slice(2, None), *a)], swap[(slice(2, None), *b)] = task.codes[(2, *b)], task.codes[(2, *a)]
    assert not task.score(p.render(swap)).details["legal"]
    assert task.answer(p.render(swap)) is None
    cell = tuple(np.argwhere(task.cell_regions["goal"][0])[0])
    picture[(slice(5, None), *cell, 0)] = p.BACKGROUND
    assert not task.score(p.render(picture)).details["scene_kept"]
    last = tuple(np.argwhere(board & (task.codes[-1, ..., 0] != 0))[0])
    now = int(task.codes[(-1, *last, 0)])
    recoloured[(-1, *last, 0)] = next(c for c in p.BALLS if c != now)
    score = task.score(p.render(recoloured))
    assert not score.details["matches"]
    assert not score.details["legal"]
    assert task.answer(p.render(recoloured)) is None
    assert scene.tiles != scene.target


def test_waiting_between_slides_is_allowed():
    task = first("slide-easy", lambda t: len(t.truth) == 4)
    frames = np.concatenate([task.frames[:2], task.frames[1:-1]])
    assert task.score(frames).solved
    assert task.answer(frames) == task.truth


# ---- bounce


@pytest.mark.parametrize("seed", range(8))
def test_bouncing_wrongly(seed):
    task = tasks.load("bounce-hard", seed)
    scene = task.scene
    route, last = scene.route, len(scene.route) - 1
    for answer in task.decoys(3):
        score = task.score(task.render(answer))
        assert score.details["agent_kept"]
        assert score.details["starts"]
        assert score.details["wrong_end"]
        assert not score.details["on_course"]
        assert not score.details["hit"]
    half = task.codes.copy()
    half[last // 2 :] = half[last // 2]
    score = task.score(p.render(half))
    assert score.value == pytest.approx((last // 2) / last)
    assert task.answer(p.render(half)) is None
    through = task.codes.copy()  # it flies straight to the end, and comes there in time
    direct = scene._film((*[route[0]] * last, route[-1]))
    through[..., 0] = direct[..., 0]
    score = task.score(p.render(through))
    assert score.details["hit"]
    assert not score.details["on_course"]
    assert not score.solved
    assert score.value == 0
    gone = task.codes.copy()
    gone[3, ..., 0][gone[3, ..., 0] == p.AGENT] = p.BACKGROUND
    assert not task.score(p.render(gone)).details["agent_kept"]
    assert not task.score(p.render(gone)).solved


def test_a_missing_tail_is_told_but_not_demanded():
    task = tasks.load("bounce-easy", 1)
    codes = task.codes.copy()
    codes[1:, ..., 0][codes[1:, ..., 0] == p.TRAIL] = p.BACKGROUND
    score = task.score(p.render(codes))
    assert score.solved
    assert not score.details["tail_kept"]


def test_the_tail_decides():
    """Where a twin has the same start and another tail, nothing else tells the ends apart."""
    pairs = [(t, t.twin("other_answer")) for t in tasks.batch("bounce-easy", 20)]
    same = [(t, twin) for t, twin in pairs if t.scene.start == twin.scene.start]
    assert len(same) >= 5
    for task, twin in same:
        assert (task.codes[0] != twin.codes[0]).any(-1).sum() == 2
        assert task.truth != twin.truth
