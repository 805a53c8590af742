"""The truth of the levels and of the families that have only levels, against independent solvers."""

from __future__ import annotations

import hashlib
import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens import tasks
from dit_lens.errors import TaskError
from dit_lens.tasks import catalog, grid
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import Size

SEEDS = st.integers(0, 3000)
CHECKED = settings(deadline=None, max_examples=25)


def sizes(family, level):
    return st.sampled_from(catalog.sizes(family, level))


def load(family, level, size, seed):
    return tasks.load(
        family, seed, level=level, rows=size.rows, cols=size.cols, num_frames=size.num_frames
    )  # fmt: skip


def floor(scene, closed=()) -> nx.Graph:
    graph = nx.grid_2d_graph(scene.size.rows, scene.size.cols)
    graph.remove_nodes_from([*scene.walls, *closed])
    return graph


def shortest(graph, start, goal):
    return {tuple(path) for path in nx.all_shortest_paths(graph, start, goal)}


# ---- the four families as they were


GOLDEN = {
    "maze": "9f0705e49b8f6ada",
    "choose": "6c42c977177b3bc7",
    "occlude": "33cd3a2ae6bc6744",
    "pattern": "bfb70ded9aa26d2e",
}


def told(task) -> bytes:
    """All that a task says, as bytes."""
    out = [task.codes.tobytes(), task.frames.tobytes()]
    out += [repr(part).encode() for part in (task.prompt, task.truth, task.solutions, task.decoys(6))]
    for kind in tasks.KINDS:
        try:
            twin = task.twin(kind)
        except TaskError as error:
            out.append(str(error).encode())
        else:
            out += [twin.codes.tobytes(), repr((twin.prompt, twin.solutions, twin.split)).encode()]
    return b"".join(out)


@pytest.mark.parametrize("name", tasks.names())
def test_the_lab_models_puzzles_are_what_they_were(name):
    """The shipped model was trained on them, and every published number is of them."""
    digest = hashlib.sha256()
    for split in tasks.SPLITS:
        for seed in range(40):
            digest.update(told(tasks.load(name, seed, split)))
    assert digest.hexdigest()[:16] == GOLDEN[name]


# ---- sets of cells


@CHECKED
@given(st.integers(5, 8), st.integers(5, 8), st.randoms(use_true_random=False))
def test_sets_of_cells_agree_with_a_graph(rows, cols, rng):
    size = Size(rows, cols, 13)
    walls = grid.cells_of(grid.draw_cells(rng, size.full, rng.randint(0, size.n // 2)))
    free = size.full & ~grid.bits(walls)
    graph = nx.grid_2d_graph(rows, cols)
    graph.remove_nodes_from(walls)
    assert set(grid.cells_of(free)) == set(graph)
    start, goal = (rng.choice(grid.cells_of(free)) for _ in range(2))
    lengths = nx.single_source_shortest_path_length(graph, start)
    for d, layer in enumerate(grid.layers(start, free)):
        assert set(grid.cells_of(layer)) == {cell for cell, n in lengths.items() if n == d}
    assert grid.distance(start, goal, free) == lengths.get(goal)
    for d, counts in enumerate(grid.count_routes(start, free, 7)):
        for cell, n in counts.items():
            assert lengths[cell] == d
            assert n == len(shortest(graph, start, cell))
    part = set(nx.node_connected_component(graph, start))
    keep = set(rng.sample(sorted(part), min(5, len(part))))
    leaves = {
        cell for cell in part - keep
        if graph.degree(cell) == 1
        for beside in graph[cell]
        if beside not in keep and graph.degree(beside) == 2
    }  # fmt: skip
    assert set(grid.cells_of(grid.corridors(grid.bits(part), grid.bits(keep)))) == leaves


# ---- maze


@CHECKED
@given(sizes("maze", "hard"), SEEDS)
def test_hard_mazes(size, seed):
    task = load("maze", "hard", size, seed)
    scene, graph = task.scene, floor(task.scene)
    assert set(task.solutions) == shortest(graph, scene.start, scene.goal)
    assert task.truth in task.solutions
    assert 8 <= len(task.truth) - 1 <= 14
    assert nx.is_connected(graph)
    on_way = {cell for route in task.solutions for cell in route}
    assert len(blind_alleys(graph, on_way)) >= 2


def blind_alleys(graph, on_way):
    """Ends of corridors of two cells or more, off every shortest route."""
    found = []
    for end in (cell for cell in graph if graph.degree(cell) == 1 and cell not in on_way):
        corridor = [end]
        while graph.degree(corridor[-1]) <= 2:
            ahead = [cell for cell in graph[corridor[-1]] if cell not in corridor]
            if not ahead or ahead[0] in on_way:
                break
            corridor.append(ahead[0])
        if graph.degree(corridor[-1]) > 2:
            corridor.pop()
        if len(corridor) >= 2:
            found.append(end)
    return found


def test_about_half_of_the_hard_mazes_have_several_shortest_routes():
    for name in ("maze-hard", "maze-hard-8x8x21"):
        counts = [len(tasks.scene(name, seed, "train").solutions) for seed in range(200)]
        assert 0.4 <= np.mean([n > 1 for n in counts]) <= 0.6
        assert 1 in counts


@CHECKED
@given(sizes("maze", "easy"), SEEDS)
def test_easy_mazes(size, seed):
    task = load("maze", "easy", size, seed)
    assert set(task.solutions) == shortest(floor(task.scene), task.scene.start, task.scene.goal)
    assert 3 <= len(task.truth) - 1 <= 6


# ---- choose and order


@CHECKED
@given(sizes("choose", "hard"), SEEDS)
def test_hard_choices(size, seed):
    task = load("choose", "hard", size, seed)
    scene = task.scene
    goals = [(scene.goal, scene.colour), *scene.others]
    assert len(dict(goals)) == len({colour for _, colour in goals}) == 3
    for goal, _ in goals:
        graph = floor(scene, [other for other, _ in goals if other != goal])
        found = shortest(graph, scene.start, goal)
        assert 4 <= len(next(iter(found))) - 1 <= 12
        if goal == scene.goal:
            assert set(task.solutions) == found
    assert [name for name in p.NAMES if name in task.prompt] == [p.NAMES[scene.colour]]


def tours(scene):
    """All shortest tours, in a graph whose nodes also tell whether the first goal was visited."""
    first, then = scene.first[0], scene.then[0]
    before = floor(scene, [then, *dict(scene.more)])
    after = floor(scene, dict(scene.more))
    graph = nx.DiGraph()
    for half, visited in ((before, False), (after, True)):
        for a, b in half.edges:
            for u, v in ((a, b), (b, a)):
                graph.add_edge((u, visited), (v, visited or v == first))
    return {
        tuple(cell for cell, _ in path) for path in nx.all_shortest_paths(graph, (scene.start, False), (then, True))
    }


@CHECKED
@given(st.sampled_from(("easy", "hard")), st.data())
def test_tours(level, data):
    task = load("order", level, data.draw(sizes("order", level)), data.draw(SEEDS))
    scene = task.scene
    found = tours(scene)
    assert set(task.solutions) == found
    assert task.truth in found
    lowest, highest = {"easy": (4, 8), "hard": (8, 16)}[level]
    assert {lowest <= len(route) - 1 <= highest for route in found} == {True}
    assert len(scene.goals) == {"easy": 2, "hard": 3}[level]
    words = task.prompt.replace(",", " ").replace(":", " ").split()
    assert words.index(p.NAMES[scene.first[1]]) < words.index(p.NAMES[scene.then[1]])
    shown = {(r, c): int(task.codes[0, r, c, 1]) for r, c in np.argwhere(task.codes[0, ..., 1] > p.TRAIL).tolist()}
    assert shown == scene.goals


# ---- emerge


@CHECKED
@given(st.sampled_from(("easy", "hard")), st.data())
def test_what_emerges_is_in_neither_prompt_nor_first_frame(level, data):
    task = load("emerge", level, data.draw(sizes("emerge", level)), data.draw(SEEDS))
    balls = np.isin(task.codes[..., 0], p.BALLS)
    assert not balls[0].any()
    assert not np.isin(task.codes[0], p.BALLS).any()
    assert not any(p.NAMES[c] in task.prompt for c in p.BALLS)
    n = {"easy": 1, "hard": 2}[level]
    assert len(task.solutions) == {"easy": 4, "hard": 12}[level]
    films = [task.render(answer) for answer in task.solutions]
    assert all(np.array_equal(film[0], task.first_frame) for film in films)
    assert len({film.tobytes() for film in films}) == len(films)
    assert balls[1].sum() == n, "all balls are in by the gates"
    assert balls[-2:].sum() == 2 * n, "and all are out at the end, for two frames or more"
    for before, after, r, c in task.truth:
        assert before == after
        assert task.codes[-1, r, c, 0] == p.NAMES.index(before)


@CHECKED
@given(st.sampled_from(("easy", "hard")), st.data())
def test_what_emerges_is_hidden_in_between(level, data):
    task = load("emerge", level, data.draw(sizes("emerge", level)), data.draw(SEEDS))
    for lane, colour in zip(task.scene.lanes, task.scene.colours, strict=True):
        gone = ~(task.codes[..., 0] == colour).any((1, 2))
        frames = np.flatnonzero(gone)[1:]  # the first frame is before it comes in
        assert np.array_equal(frames, np.arange(frames[0], frames[0] + len(frames))), "hidden once"
        assert np.array_equal(task.scene.hidden(lane).any((1, 2)).nonzero()[0], frames)
        if level == "easy":
            assert len(frames) == 2
        else:
            assert len(frames) >= 6
            groups = [set(range(first, first + 4)) for first in range(1, task.num_frames, 4)]
            assert any(group <= set(frames.tolist()) for group in groups), "a whole latent frame"
            for group in groups:  # no token holds both sides
                seen = {f > frames[-1] for f in group - set(frames.tolist())}
                assert len(seen) <= 1


def test_all_colours_emerge_alike():
    for name in ("emerge-easy", "emerge-hard"):
        drawn = [task.truth for task in tasks.batch(name, 400, split="train")]
        first = [answer[0][0] for answer in drawn]
        assert all(abs(first.count(p.NAMES[c]) - 100) < 5 * 9 for c in p.BALLS)


# ---- slide


def slides(shape, start, target, longest):
    """All shortest solutions, as places of the empty one, by trying every sequence of moves."""
    rows, cols = shape
    beside = {
        i: [j for j in range(rows * cols) if abs(i // cols - j // cols) + abs(i % cols - j % cols) == 1]
        for i in range(rows * cols)
    }
    ways = [((start.index(0),), start)]
    for _ in range(longest + 1):
        found = {way for way, tiles in ways if tiles == target}
        if found:
            return found
        ahead = []
        for way, tiles in ways:
            for to in beside[way[-1]]:
                if way[-2:-1] != (to,):
                    moved = list(tiles)
                    moved[way[-1]], moved[to] = moved[to], 0
                    ahead.append(((*way, to), tuple(moved)))
        ways = ahead
    return set()


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(("easy", "hard")), st.data())
def test_slides(level, data):
    task = load("slide", level, data.draw(sizes("slide", level)), data.draw(SEEDS))
    scene = task.scene
    (r, c), cols = scene.at, scene.shape[1]
    lowest, highest = {"easy": (2, 4), "hard": (6, 10)}[level]
    found = slides(scene.shape, scene.tiles, scene.target, highest)
    assert {tuple((r + i // cols, c + i % cols) for i in way) for way in found} == set(task.solutions)
    assert task.truth in task.solutions
    assert lowest <= len(task.truth) - 1 <= min(highest, task.num_frames - 1)
    assert scene.tiles.count(0) == scene.target.count(0) == 1
    last = task.codes[-1]
    picture = last[scene.shown_at[0] :, scene.shown_at[1] :][: scene.shape[0], : scene.shape[1]]
    tiles = last[r:, c:][: scene.shape[0], : scene.shape[1]]
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(np.where(picture[..., 0] == p.SLOT, 0, picture[..., 0]), tiles[..., 0])
    changed = (task.codes[1:, ..., 0] != task.codes[:-1, ..., 0]).sum((1, 2))
    assert set(changed.tolist()) <= {0, 2}, "one move a frame"


def test_slides_use_both_shapes():
    shapes = {tasks.scene("slide-hard", seed, "train").shape for seed in range(40)}
    assert shapes == {(2, 3), (3, 2), (3, 3)}


# ---- bounce


def flight(scene):
    """Cells until an end is hit, by walking on a padded picture of the walls."""
    solid = np.ones((scene.size.rows + 2, scene.size.cols + 2), bool)
    solid[1:-1, 1:-1] = scene.size.board(scene.walls)
    at, way = np.array(scene.start) + 1, np.array(scene.way)
    ends, route, bounces = dict(scene.ends), [scene.start], 0
    while route[-1] not in ends and len(route) <= scene.size.num_frames:
        sides = np.array([solid[at[0] + way[0], at[1]], solid[at[0], at[1] + way[1]]])
        if not sides.any() and solid[tuple(at + way)]:
            sides[:] = True
        bounces += bool(sides.any())
        way = np.where(sides, -way, way)
        at = at + way
        assert not solid[tuple(at)]
        route.append((int(at[0]) - 1, int(at[1]) - 1))
    return tuple(route), bounces


@CHECKED
@given(st.sampled_from(("easy", "hard")), st.data())
def test_flights(level, data):
    task = load("bounce", level, data.draw(sizes("bounce", level)), data.draw(SEEDS))
    scene = task.scene
    route, bounces = flight(scene)
    colour, *end = task.truth
    assert task.solutions == (task.truth,)
    assert route[-1] == tuple(end)
    assert p.NAMES[task.codes[(0, *end, 1)]] == colour
    assert bounces in ((1, 2) if level == "easy" else range(3, 20))
    assert (3 if level == "easy" else 8) <= len(route) - 1 < task.num_frames
    for f, frame in enumerate(task.codes[..., 0]):
        assert np.argwhere(frame == p.AGENT).tolist() == [list(route[min(f, len(route) - 1)])]
        assert (frame == p.TRAIL).sum() == 1, "the tail tells the direction in every frame"
    ends = dict(scene.ends)
    assert len(ends) == len(set(ends.values())) == 4
    assert not set(ends) & ({*route[:-1], scene.tail} | set(scene.walls))


def test_without_walls_a_flight_is_a_triangle_wave():
    from dit_lens.tasks.bounce import WAYS, fly

    for rows, cols in itertools.product(range(5, 9), repeat=2):
        size = Size(rows, cols, 21)
        for way in WAYS:
            route, _ = fly((1, 2), way, size.full, 20)
            for t, cell in enumerate(route):
                at = zip((1, 2), way, (rows, cols), strict=True)
                assert cell == tuple(abs((i + d * t + n - 1) % (2 * n - 2) - (n - 1)) for i, d, n in at)
            assert len(route) == 21


# ---- how long the chain of an answer is


@pytest.mark.parametrize("name", tasks.listed())
def test_serial_length_is_that_of_the_chain(name):
    """Moves of a route, frames in which the ball of ``bounce`` moves, and 1 where nothing builds on anything."""
    for seed in range(6):
        task = tasks.load(name, seed)
        if task.family == "bounce":
            moving = (task.codes[1:, ..., 0] != task.codes[:-1, ..., 0]).any((1, 2))
            assert task.serial_length == int(moving.sum())
        elif task.family in ("maze", "choose", "order", "slide"):
            assert {len(answer) - 1 for answer in task.solutions} == {task.serial_length}
        else:
            assert task.serial_length == 1
