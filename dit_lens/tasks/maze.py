"""`maze`: walk from the blue agent to the green goal by a shortest way; some mazes have one, some several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import grid, walk
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import Cell, Route
from dit_lens.tasks.task import Score

PHRASES = (
    "solve the maze",
    "walk through the maze to the green goal",
    "find the shortest way to the green goal",
    "move the blue dot to the green square",
    "take the blue dot through the maze",
)
SHORTEST, LONGEST = 3, p.FRAMES - 1
WALLS = (0.15, 0.40)


@dataclass(frozen=True)
class MazeScene:
    """walls: sorted cells. start, goal: cells 3 to 12 moves apart. route: the shortest route shown as truth. phrase:
    which wording."""

    walls: tuple[Cell, ...]
    start: Cell
    goal: Cell
    route: Route
    phrase: int

    @property
    def prompt(self) -> str:
        return PHRASES[self.phrase]

    @property
    def truth(self) -> Route:
        return self.route

    @property
    def free(self) -> int:
        return grid.FULL & ~grid.bits(self.walls)

    @cached_property
    def solutions(self) -> tuple[Route, ...]:
        """All shortest routes, each a tuple of (row, col) from start to goal."""
        return grid.shortest_routes(self.start, self.goal, self.free)

    def codes(self) -> np.ndarray:
        return self.codes_of(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        return walk.draw(self.walls, {self.goal: p.GREEN}, walk.check(answer, self.start))

    def decoy(self, rng: Random) -> Route | None:
        """A walk over free cells, as long as a solution and entering no cell twice, that is none."""
        for _ in range(200):
            route = walk.wander(self.start, len(self.route) - 1, self.free, rng)
            if route is not None and route[-1] != self.goal:
                return route
        return None

    def regions(self) -> dict[str, np.ndarray]:
        """background (bare floor now), walls, agent (now), goal, path (all cells of the truth), trail (left so far),
        other_paths (cells of other shortest routes that are not on the truth)."""
        return walk.regions(self.codes(), self.goal, self.route, self.solutions)

    def answer(self, cells: np.ndarray) -> Route | None:
        return walk.answer(cells)

    def score(self, cells: np.ndarray) -> Score:
        return walk.score(cells, self.codes(), self.start, self.goal, self.free)

    def twin(self, kind: str, rng: Random) -> MazeScene:
        """other_answer: same walls and start, the goal elsewhere. same_answer: other walls, the same route is still
        shortest."""
        return self._other_goal(rng) if kind == "other_answer" else self._other_walls(rng)

    def _other_goal(self, rng: Random) -> MazeScene:
        stages = grid.layers(self.start, self.free)
        on_way = grid.bits(c for route in self.solutions for c in route)
        taken = grid.bit(self.start) | grid.bit(self.goal)
        for lowest, avoid in ((SHORTEST, on_way), (SHORTEST, 0), (1, 0)):
            near_enough = 0
            for stage in stages[lowest : LONGEST + 1]:
                near_enough |= stage
            goals = grid.cells_of(near_enough & ~taken & ~avoid)
            if goals:
                goal = rng.choice(goals)
                return replace(self, goal=goal, route=grid.draw_route(self.start, goal, self.free, rng))
        raise TaskError("this maze has no second cell to put the goal on; take another seed.")  # pragma: no cover

    def _other_walls(self, rng: Random) -> MazeScene:
        walls = other_walls(self.walls, self.route, grid.bits(self.route), 0, WALLS, rng)
        return replace(self, walls=walls)


def other_walls(
    walls: tuple[Cell, ...], route: Route, keep_free: int, closed: int, share: tuple[float, float], rng: Random
) -> tuple[Cell, ...]:
    """Other walls under which `route` is still a shortest route: 200 random flips that never break that.

    keep_free: cells that stay free. closed: free cells that a route may not enter. share: bounds of the share of walls.
    """
    mask = grid.bits(walls)
    first = mask
    length = len(route) - 1
    low, high = (round(s * grid.N) for s in share)
    for flip in range(400):
        if flip >= 200 and mask != first:
            break
        flipped = mask ^ (1 << rng.randrange(grid.N))
        if flipped & keep_free or not low <= flipped.bit_count() <= high:
            continue
        if grid.distance(route[0], route[-1], grid.FULL & ~flipped & ~closed) == length:
            mask = flipped
    if mask == first:
        raise TaskError("no other walls keep this route a shortest one; take another seed.")
    return grid.cells_of(mask)


def draw(rng: Random) -> MazeScene:
    """A random maze: 15-40 % walls, then a distance of 3 to 12 moves uniformly among those on offer, then a goal at
    it."""
    while True:
        wall_mask = grid.draw_cells(rng, grid.FULL, round(rng.uniform(*WALLS) * grid.N))
        free = grid.FULL & ~wall_mask
        start = rng.choice(grid.cells_of(free))
        stages = grid.layers(start, free)[SHORTEST : LONGEST + 1]
        if not stages:
            continue
        goal = rng.choice(grid.cells_of(rng.choice(stages)))
        route = grid.draw_route(start, goal, free, rng)
        return MazeScene(grid.cells_of(wall_mask), start, goal, route, rng.randrange(len(PHRASES)))
