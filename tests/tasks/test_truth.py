"""The generators' truth against independent solvers (networkx; brute force in other words), and the shape of a task."""

from __future__ import annotations

from itertools import product

import networkx as nx
import numpy as np
import pytest

from dit_lens import tasks
from dit_lens.errors import DitLensError, TaskError
from dit_lens.tasks import grid, palette
from dit_lens.tasks.task import Task, held_out

SEEDS = range(60)


def board(scene, closed=()) -> nx.Graph:
    graph = nx.grid_2d_graph(palette.GRID, palette.GRID)
    graph.remove_nodes_from(scene.walls)
    graph.remove_nodes_from(closed)
    return graph


def routes(graph, start, goal):
    return {tuple(p) for p in nx.all_shortest_paths(graph, start, goal)}


@pytest.mark.parametrize("seed", SEEDS)
def test_maze_solutions_are_all_shortest_paths(seed):
    task = tasks.load("maze", seed)
    scene = task.scene
    assert set(task.solutions) == routes(board(scene), scene.start, scene.goal)
    assert task.truth in task.solutions
    assert 3 <= len(task.truth) - 1 <= 12
    assert 0.15 <= len(scene.walls) / 36 <= 0.41


@pytest.mark.parametrize("seed", SEEDS)
def test_choose_solutions_avoid_the_other_goal(seed):
    task = tasks.load("choose", seed)
    scene = task.scene
    assert set(task.solutions) == routes(board(scene, [scene.other]), scene.start, scene.goal)
    assert task.truth in task.solutions
    assert palette.NAMES[scene.colour] in task.prompt
    assert palette.NAMES[scene.other_colour] not in task.prompt


def has_period(row):
    return any(all(row[i] == row[i + p] for i in range(len(row) - p)) for p in (1, 2, 3))


@pytest.mark.parametrize("seed", SEEDS)
def test_pattern_solutions_are_all_periodic_completions(seed):
    task = tasks.load("pattern", seed)
    colours = [palette.NAMES[c] for c in palette.BALLS]
    options = []
    for shown in task.scene.shown:
        head = tuple(palette.NAMES[c] for c in shown)
        tails = product(colours, repeat=palette.GRID - len(head))
        options.append([head + tail for tail in tails if has_period(head + tail)])
    assert set(task.solutions) == set(product(*options))
    assert task.truth in task.solutions


@pytest.mark.parametrize("seed", SEEDS)
def test_occlude_ball_crosses_behind_the_screen(seed):
    task = tasks.load("occlude", seed)
    scene = task.scene
    discs = task.codes[..., 0]
    columns = [np.flatnonzero(f[scene.row] == scene.colour).tolist() for f in discs]
    assert [] in columns, "never hidden"
    assert columns[0] == ([0] if scene.left else [5])
    assert columns[-1] == ([5] if scene.left else [0])
    assert scene.row != scene.other_row
    assert scene.colour != scene.other_colour
    assert all((f == scene.other_colour).sum() == 1 for f in discs)


def test_some_puzzles_have_one_answer_and_some_several():
    for name in ("maze", "choose", "pattern"):
        counts = [len(t.solutions) for t in tasks.batch(name, 60)]
        assert min(counts) == 1 < max(counts)


def test_routes_are_drawn_uniformly():
    from random import Random

    rng = Random(0)
    free = grid.LAB.full & ~grid.bits([(1, 1), (2, 2), (3, 0)])
    every = grid.shortest_routes((0, 0), (4, 3), free)
    drawn = [grid.draw_route((0, 0), (4, 3), free, rng) for _ in range(400 * len(every))]
    counts = [drawn.count(r) for r in every]
    assert sum(counts) == len(drawn)
    assert all(abs(c - 400) < 5 * 20 for c in counts)


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_is_complete_and_repeatable(name):
    for seed in range(10):
        task, again = tasks.load(name, seed), tasks.load(name, seed)
        assert task == again
        assert hash(task) == hash(again)
        assert np.array_equal(task.frames, again.frames)
        assert task.frames.shape == (13, 96, 96, 3)
        assert task.frames.dtype == np.uint8
        assert np.array_equal(np.asarray(task.image), task.frames[0])
        assert len(task.prompt.encode()) < 64
        assert {"background", "walls"} <= set(task.regions)
        for region in task.regions.values():
            assert region.shape == (13, 96, 96)
            assert region.dtype == bool
        assert not (task.regions["background"] & task.regions["walls"]).any()
        with pytest.raises(ValueError, match="read-only"):
            task.frames[0] = 0
    assert tasks.load(name, 0) != tasks.load(name, 1)


def test_regions_follow_the_agent():
    task = tasks.load("maze", 1)
    for f, cell in enumerate(task.truth):
        at = np.zeros((6, 6), bool)
        at[cell] = True
        assert np.array_equal(task.cell_regions["agent"][f], at)
        assert task.cell_regions["trail"][f].sum() == f
    assert task.cell_regions["path"][0].sum() == len(task.truth)
    several = next(t for t in tasks.batch("maze", 30) if len(t.solutions) > 1)
    union = {c for r in several.solutions for c in r}
    shown = several.cell_regions["other_paths"][0] | several.cell_regions["path"][0]
    assert {tuple(map(int, c)) for c in np.argwhere(shown)} == union


@pytest.mark.parametrize("name", tasks.names())
def test_splits_share_no_first_frame(name):
    for seed in range(25):
        assert held_out(tasks.load(name, seed, "test").codes)
        assert not held_out(tasks.load(name, seed, "train").codes)


@pytest.mark.parametrize("name", tasks.names())
def test_other_answer_twin(name):
    for task in tasks.batch(name, 15):
        for seed in range(2):
            twin = task.twin("other_answer", seed)
            assert not set(twin.solutions) & set(task.solutions)
            assert twin.score(twin.frames).solved
            assert not task.score(twin.frames).solved
            changed = (twin.codes[0] != task.codes[0]).any(-1)
            if name in ("choose", "occlude"):
                assert not changed.any()
                assert twin.prompt != task.prompt
            else:
                assert 1 <= changed.sum() <= 5
                assert twin.prompt == task.prompt
            assert task.twin("other_answer", seed) == twin
            assert tasks.load(name, task.seed, twin.split) == twin


@pytest.mark.parametrize("name", tasks.names())
def test_same_answer_twin(name):
    for task in tasks.batch(name, 15):
        twin = task.twin("same_answer")
        assert twin.truth == task.truth
        assert twin.truth in twin.solutions
        assert twin.prompt == task.prompt
        assert not np.array_equal(twin.codes[0], task.codes[0])
        assert twin.score(twin.frames).solved


def test_batch_takes_families_in_turn():
    drawn = tasks.batch(["maze", "choose"], 5, seed=7)
    assert [(t.name, t.seed) for t in drawn] == [("maze", 7), ("choose", 7), ("maze", 8), ("choose", 8), ("maze", 9)]
    assert all(isinstance(t, Task) for t in drawn)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: tasks.load("labyrinth"), "'maze'"),
        (lambda: tasks.load("maze", split="validation"), "'test'"),
        (lambda: tasks.load("maze", seed=-1), "seed"),
        (lambda: tasks.load("maze", split="test/mirror-0"), "'other_answer'"),
        (lambda: tasks.load("maze", split="test/other_answer"), "names no twin"),
        (lambda: tasks.load("maze").twin("mirror"), "'other_answer'"),
        (lambda: tasks.batch([], 3), "family"),
        (lambda: tasks.load("maze").score(np.zeros((5, 96, 96, 3), np.uint8)), "num_frames=13"),
        (lambda: tasks.load("maze").score(np.zeros((1, 13, 96, 96, 3), np.uint8)), "not a batch"),
        (lambda: tasks.load("maze").score(np.full((13, 96, 96, 3), 200.0)), "0-1"),
        (lambda: tasks.load("maze").score(np.full((13, 96, 96, 3), np.nan)), "NaN"),
        (lambda: tasks.load("maze").score(np.zeros((13, 96, 96, 3), int)), "uint8"),
    ],
)
def test_mistakes_are_told_with_a_cure(call, hint):
    with pytest.raises(TaskError, match=hint) as caught:
        call()
    assert isinstance(caught.value, DitLensError)


def test_import_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, dit_lens.tasks as t; t.load('maze').frames; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
