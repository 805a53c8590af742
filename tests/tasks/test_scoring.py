"""The scorers against planted videos: right ones in several guises, and every kind of wrong one we could think of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dit_lens import tasks
from dit_lens.tasks import grid, walk
from dit_lens.tasks import palette as p

WALKS = ("maze", "choose")


def film(codes):
    return p.render(codes)


def first(name, wanted):
    """The first unseen puzzle for which `wanted(task)` holds."""
    return next(t for t in (tasks.load(name, s) for s in range(500)) if wanted(t))


def redrawn(task, route):
    """The task's scene with the agent walking another route."""
    goals = {
        cell: int(task.codes[0][(*cell, 1)]) for cell in map(tuple, np.argwhere(task.codes[0, ..., 1] > 3).tolist())
    }
    return film(walk.draw(task.scene.walls, goals, route))


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("seed", range(8))
def test_truth_is_solved_in_every_guise(name, seed):
    task = tasks.load(name, seed)
    rng = np.random.default_rng(seed)
    noisy = (task.frames / 255 + rng.normal(0, 0.08, task.frames.shape)).clip(0, 1)
    for frames in (task.frames, task.frames / 255, (task.frames / 255).astype(np.float32), noisy, noisy * 0.97):
        score = task.score(frames)
        assert score.solved, score
        assert bool(score)
        assert score.value == 1.0
        assert task.answer(frames) == task.truth


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("seed", range(8))
def test_a_still_first_frame_is_worth_nothing(name, seed):
    task = tasks.load(name, seed)
    still = np.repeat(task.frames[:1], 13, 0)
    score = task.score(still)
    assert not score.solved
    assert score.value == 0
    assert task.answer(still) is None


@pytest.mark.parametrize("name", tasks.names())
def test_grey_noise_and_blends_are_not_solved(name):
    task = tasks.load(name, 3)
    rng = np.random.default_rng(0)
    grey = np.full(task.frames.shape, 0.5)
    noise = rng.random(task.frames.shape)
    blend = task.frames / 510 + task.twin("other_answer").frames / 510
    for frames in (grey, noise, blend):
        assert not task.score(frames).solved
        assert task.answer(frames) is None


@pytest.mark.parametrize("name", tasks.names())
def test_a_changed_scene_is_not_solved(name):
    task = first(name, lambda t: t.regions["walls"].any())
    codes = task.codes.copy()
    wall = tuple(np.argwhere(codes[0, ..., 0] == p.WALL)[0])
    codes[(6, *wall)] = p.BACKGROUND  # a wall tile is gone in one frame
    score = task.score(film(codes))
    assert not score.solved
    assert not score.details["scene_kept"]
    assert score.details["kept_fraction"] > 0.99
    codes = task.codes.copy()
    floor = tuple(np.argwhere((codes == p.BACKGROUND).all(-1).all(0))[0])
    codes[(slice(4, None), *floor)] = p.WALL  # a wall tile has grown
    assert not task.score(film(codes)).details["scene_kept"]


# ---- maze and choose


@pytest.mark.parametrize("name", WALKS)
def test_every_shortest_route_is_solved_and_read_back(name):
    task = first(name, lambda t: len(t.solutions) >= 3)
    for route in task.solutions:
        frames = redrawn(task, route)
        assert task.score(frames).solved
        assert task.answer(frames) == route


@pytest.mark.parametrize("name", WALKS)
def test_waiting_on_the_way_is_allowed(name):
    task = first(name, lambda t: len(t.truth) <= 8)
    frames = np.concatenate([task.frames[:1], task.frames[:-1]])
    assert task.score(frames).solved


@pytest.mark.parametrize("name", WALKS)
def test_detour_is_connected_but_not_shortest(name):
    def detours(task):
        free, truth = task.scene.free, task.truth
        for i, (a, b) in enumerate(itertools.pairwise(truth)):
            for c in grid.cells_of(free & grid.grow(grid.bit(a)) & ~grid.bits(truth)):
                for d in grid.cells_of(free & grid.grow(grid.bit(c)) & grid.grow(grid.bit(b)) & ~grid.bits(truth)):
                    yield (*truth[: i + 1], c, d, *truth[i + 1 :])

    task = first(name, lambda t: len(t.truth) <= 10 and next(detours(t), None))
    route = next(detours(task))
    frames = redrawn(task, route)
    score = task.score(frames)
    assert not score.solved
    assert score.details["connected"]
    assert score.details["reached"]
    assert not score.details["shortest"]
    assert 0.4 < score.value < 1
    assert task.answer(frames) == route


@pytest.mark.parametrize("name", WALKS)
def test_jump_is_not_connected(name):
    task = first(name, lambda t: len(t.truth) >= 7)
    route = (*task.truth[:3], *task.truth[5:])
    score = task.score(redrawn(task, route))
    assert not score.solved
    assert not score.details["connected"]
    assert score.details["reached"]
    assert task.answer(redrawn(task, route)) is None
    assert score.value < 0.6


@pytest.mark.parametrize("name", WALKS)
def test_walking_through_a_wall_is_not_solved(name):
    def through(task):
        start, goal = task.scene.start, task.scene.goal
        closed = 0 if name == "maze" else grid.bit(task.scene.other)
        route = grid.shortest_routes(start, goal, grid.LAB.full & ~closed)[0]
        return route if len(route) < len(task.truth) else None

    task = first(name, through)
    codes = walk.draw((), {}, through(task))
    codes[..., 1] = task.codes[..., 1]
    empty = codes[..., 0] == p.BACKGROUND
    codes[..., 0] = np.where(empty, np.where(task.codes[..., 0] == p.WALL, p.WALL, 0), codes[..., 0])
    score = task.score(film(codes))
    assert not score.solved
    assert not score.details["connected"]
    assert not score.details["scene_kept"]


@pytest.mark.parametrize("name", WALKS)
def test_vanished_doubled_and_recoloured_agents(name):
    task = first(name, lambda t: len(t.truth) >= 6)
    gone, double, orange = task.codes.copy(), task.codes.copy(), task.codes.copy()
    gone[3, ..., 0][gone[3, ..., 0] == p.AGENT] = p.BACKGROUND
    double[(8, *task.truth[0], 0)] = p.AGENT
    orange[4:, ..., 0][orange[4:, ..., 0] == p.AGENT] = p.ORANGE
    for codes in (gone, double, orange):
        score = task.score(film(codes))
        assert not score.solved
        assert not score.details["agent_kept"]


@pytest.mark.parametrize("name", WALKS)
def test_stopping_early_has_partial_value(name):
    task = first(name, lambda t: len(t.truth) == 9)
    values = []
    for moves in (2, 4, 6):
        frames = np.concatenate([task.frames[: moves + 1], np.repeat(task.frames[moves : moves + 1], 12 - moves, 0)])
        score = task.score(frames)
        assert not score.solved
        assert not score.details["reached"]
        assert score.details["connected"]
        values.append(score.value)
    assert values == pytest.approx([0.25, 0.5, 0.75])


@pytest.mark.parametrize("name", WALKS)
def test_a_missing_trail_is_told_but_not_demanded(name):
    task = tasks.load(name, 2)
    codes = task.codes.copy()
    codes[..., 0][codes[..., 0] == p.TRAIL] = p.BACKGROUND
    score = task.score(film(codes))
    assert score.solved
    assert not score.details["trail_kept"]
    assert task.score(task.frames).details["trail_kept"]


def test_starting_elsewhere_is_not_solved():
    task = first("maze", lambda t: len(t.truth) >= 6)
    score = task.score(redrawn(task, task.truth[2:]))
    assert not score.solved
    assert not score.details["starts"]
    assert score.value == 0


def test_maze_twins_answer_is_read_as_another_answer():
    task = tasks.load("maze", 4)
    twin = task.twin("other_answer")
    assert task.answer(redrawn(task, twin.truth)) == twin.truth
    assert not task.score(redrawn(task, twin.truth)).details["reached"]


@pytest.mark.parametrize("seed", range(8))
def test_choose_the_other_goal_is_told_apart(seed):
    task = tasks.load("choose", seed)
    twin = task.twin("other_answer")
    score = task.score(twin.frames)
    assert not score.solved
    assert score.details["other_goal"]
    assert not score.details["reached"]
    assert not task.score(task.frames).details["other_goal"]
    assert task.answer(twin.frames) in twin.solutions


def test_choose_passing_through_the_other_goal_is_not_solved():
    def through(task):
        s = task.scene
        open_too = grid.LAB.full & ~grid.bits(s.walls)
        routes = [r for r in grid.shortest_routes(s.start, s.goal, open_too) if s.other in r]
        return routes[0] if routes else None

    task = first("choose", through)
    score = task.score(redrawn(task, through(task)))
    assert not score.solved
    assert not score.details["connected"]


# ---- occlude


def roll(task, columns):
    """The scene with the named ball at the given column in each frame (None: not to be seen)."""
    s = task.scene
    codes = task.codes.copy()
    codes[..., 0][codes[..., 0] == s.colour] = p.BACKGROUND
    for f, c in enumerate(columns):
        if c is not None:
            codes[f, s.row, c, 0] = s.colour
    return film(codes)


def seen_columns(task):
    out = []
    for f in task.codes[..., 0]:
        found = np.flatnonzero(f[task.scene.row] == task.scene.colour)
        out.append(int(found[0]) if len(found) else None)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_occlude_wrong_ways(seed):
    task = tasks.load("occlude", seed)
    s = task.scene
    right = seen_columns(task)
    assert task.score(roll(task, right)).solved
    never_out = [c if c in (right[0], None) or f < 4 else None for f, c in enumerate(right)]
    jumps = [right[0] if f < 6 else right[-1] for f in range(13)]
    backwards = [*right[:-1], right[-2] + (-1 if s.left else 1)]
    vanishes = [*right[:-1], None]
    both = task.codes.copy()
    both[-1, s.row, right[0], 0] = s.colour
    for frames, check in (
        (roll(task, never_out), "came_out"),
        (roll(task, jumps), "went_behind"),
        (roll(task, backwards), "came_out"),
        (roll(task, vanishes), "came_out"),
        (film(both), "came_out"),
    ):
        score = task.score(frames)
        assert not score.solved
        assert not score.details[check]
        assert score.value < 1


@pytest.mark.parametrize("seed", range(6))
def test_occlude_wrong_ball_colour_and_row(seed):
    task = tasks.load("occlude", seed)
    s = task.scene
    swapped = task.score(task.twin("other_answer").frames)
    assert not swapped.solved
    assert not swapped.details["came_out"]
    assert not swapped.details["other_stays"]
    assert swapped.value == 0

    other = next(c for c in p.BALLS if c not in (s.colour, s.other_colour))
    codes = task.codes.copy()
    late = codes[8:, ..., 0]
    late[late == s.colour] = other  # it comes out in another colour
    score = task.score(film(codes))
    assert not score.solved
    assert not score.details["colour_kept"]
    assert task.answer(film(codes))[0] == p.NAMES[other]

    codes = task.codes.copy()
    row = next(r for r in range(6) if r not in (s.row, s.other_row) and codes[0, r, 0 if not s.left else 5, 0] == 0)
    end = 5 if s.left else 0
    codes[8:, s.row][codes[8:, s.row] == s.colour] = p.BACKGROUND
    codes[9:, row, end, 0] = s.colour  # it comes out in another row
    assert not task.score(film(codes)).solved
    assert task.answer(film(codes)) == (p.NAMES[s.colour], row, end)


def test_occlude_other_ball_must_stay_and_screen_must_stand():
    task = tasks.load("occlude", 0)
    s = task.scene
    home = (s.other_row, 0 if s.other_left else 5)
    codes = task.codes.copy()
    codes[(slice(5, None), *home, 0)] = p.BACKGROUND
    assert not task.score(film(codes)).details["other_stays"]
    codes = task.codes.copy()
    codes[5, 2, s.screen] = p.BACKGROUND
    assert not task.score(film(codes)).details["scene_kept"]


# ---- pattern


def test_pattern_every_solution_is_solved():
    task = first("pattern", lambda t: 3 <= len(t.solutions) <= 30)
    number = {name: i for i, name in enumerate(p.NAMES)}
    for solution in task.solutions:
        codes = task.codes.copy()
        for place, row in zip(task.scene.places, solution, strict=True):
            drawn = np.isin(codes[:, place, :, 0], p.BALLS)
            codes[:, place, :, 0] = np.where(drawn, [number[c] for c in row], codes[:, place, :, 0])
        assert task.score(film(codes)).solved
        assert task.answer(film(codes)) == solution


@pytest.mark.parametrize("seed", range(8))
def test_pattern_wrong_ways(seed):
    task = tasks.load("pattern", seed)
    s = task.scene
    place, shown = s.places[0], s.shown[0]
    last = int(task.codes[-1, place, 5, 0])
    valid = {row[5] for row in ([*map(p.NAMES.index, r[0])] for r in task.solutions)}
    wrong = next((c for c in p.BALLS if c not in valid and c != last), None)

    unfilled, flicker, overwritten, early = (task.codes.copy() for _ in range(4))
    unfilled[:, place, 5, 0] = p.BACKGROUND
    flicker[-2, place, len(shown), 0] = next(c for c in p.BALLS if c != s.rows[0][len(shown)])
    overwritten[5, place, 0, 0] = next(c for c in p.BALLS if c != shown[0])
    early[0, place, len(shown), 0] = s.rows[0][len(shown)]
    cases = [(unfilled, "filled"), (flicker, "stable"), (overwritten, "scene_kept"), (early, "blank_first")]
    if wrong is not None:
        miscoloured = task.codes.copy()
        miscoloured[..., place, 5, 0] = np.where(miscoloured[..., place, 5, 0] == last, wrong, 0)
        cases.append((miscoloured, "periodic"))
    for codes, check in cases:
        score = task.score(film(codes))
        assert not score.solved
        assert not score.details[check], check
        assert score.value < 1
    assert task.answer(film(unfilled)) is None


def test_pattern_value_counts_rows():
    task = first("pattern", lambda t: len(t.scene.places) == 2 and len({len(s) for s in t.scene.shown}) == 1)
    codes = task.codes.copy()
    codes[:, task.scene.places[0], 5, 0] = p.BACKGROUND
    score = task.score(film(codes))
    assert score.details["rows_right"] == 1
    assert score.value == pytest.approx(0.5)


# ---- reading colours


def test_palette_colours_are_well_apart():
    colours = p.PALETTE.astype(float)
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e9 * np.eye(len(colours))
    assert gaps.min() > 1.8 * p.TOLERANCE


def test_reading_inverts_drawing():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, len(p.NAMES), (13, 6, 6, 2)).astype(np.uint8)
    assert np.array_equal(p.read(p.render(codes)), codes)
    assert np.array_equal(p.read(p.render(codes) / 255), codes)
