"""``maze``: walk from the blue agent to the green goal by a shortest way; some mazes have one, some several.

easy: 3 to 6 moves. hard: 8 to 14 moves through one-cell corridors, at least two of which lead nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import grid, walk
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.task import Score

PHRASES = (
    "solve the maze",
    "walk through the maze to the green goal",
    "find the shortest way to the green goal",
    "move the blue dot to the green square",
    "take the blue dot through the maze",
)
MORE_PHRASES = (
    *PHRASES,
    "find the way through the maze",
    "walk the maze by the shortest way",
    "cross the maze to the green goal",
    "lead the blue dot through the maze",
    "get through the maze in as few moves as you can",
    "the blue dot walks the maze to its goal",
    "out of the maze, by the shortest way",
)


@dataclass(frozen=True)
class Rules:
    """What a level asks of its mazes.

    Attributes:
        phrases: Wordings of the prompt.
        moves: Bounds of a shortest route's length.
        walls: Bounds of their share of the cells.
        dead_ends: At least so many corridors of two cells or more lead nowhere.
    """

    phrases: tuple[str, ...]
    moves: tuple[int, int]
    walls: tuple[float, float]
    dead_ends: int = 0

    def longest(self, size: Size) -> int:
        """The most moves that also fit into the video."""
        return min(self.moves[1], size.num_frames - 1)


AS_LAB = Rules(PHRASES, (3, 20), (0.15, 0.40))
EASY = Rules(MORE_PHRASES, (3, 6), (0.15, 0.40))
HARD = Rules(MORE_PHRASES, (8, 14), (0.12, 0.50), dead_ends=2)


@dataclass(frozen=True)
class MazeScene:
    """Walls, an agent and a goal.

    Attributes:
        walls: Sorted cells.
        start: The agent's first cell.
        goal: As many moves from the start as the rules say.
        route: The shortest route shown as truth.
        phrase: Which wording.
        size: Rows, columns and frames.
        rules: Those of its level.
    """

    walls: tuple[Cell, ...]
    start: Cell
    goal: Cell
    route: Route
    phrase: int
    size: Size = LAB
    rules: Rules = AS_LAB

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return self.rules.phrases[self.phrase]

    @property
    def truth(self) -> Route:
        """The route shown."""
        return self.route

    @property
    def free(self) -> int:
        """The set of cells without walls."""
        return self.size.full & ~grid.bits(self.walls)

    @property
    def serial_length(self) -> int:
        """Moves of a shortest route, each of which begins where the one before ends."""
        return len(self.route) - 1

    @cached_property
    def solutions(self) -> tuple[Route, ...]:
        """All shortest routes, each a tuple of (row, col) from start to goal."""
        return grid.shortest_routes(self.start, self.goal, self.free)

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2)."""
        return self.codes_of(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        """The codes of any walk from the start, right or wrong."""
        return walk.draw(self.walls, {self.goal: p.GREEN}, walk.check(answer, self.start, self.size), self.size)

    def decoy(self, rng: Random) -> Route | None:
        """A walk over free cells, as long as a solution and entering no cell twice, that is none.

        At hard, where there may be no such walk, every other one, and every one that fails, is the way to the end of a
        dead end.
        """
        if self.rules.dead_ends and rng.random() < 0.5:
            return self._astray(rng)
        for _ in range(200):
            route = walk.wander(self.start, len(self.route) - 1, self.free, rng)
            if route is not None and route[-1] != self.goal:
                return route
        return self._astray(rng) if self.rules.dead_ends else None

    def _astray(self, rng: Random) -> Route | None:
        """A shortest way to the end of a dead end that is not through the goal."""
        free = self.free & ~grid.bit(self.goal)
        near = sum(grid.layers(self.start, free)[1 : self.size.num_frames])
        on_way = sum(grid.stages(self.start, self.goal, self.free))
        ends = grid.cells_of(grid.corridors(self.free, on_way) & near)
        return grid.draw_route(self.start, rng.choice(ends), free, rng) if ends else None

    def regions(self) -> dict[str, np.ndarray]:
        """Regions of the walk, bool (F, R, C).

        Returns:
            background (bare floor now), walls, agent (now), goal, path (all cells of the truth), trail (left so far),
            other_paths (cells of other shortest routes that are not on the truth).
        """
        return walk.regions(self.codes(), self.goal, self.route, self.solutions, self.size)

    def answer(self, cells: np.ndarray) -> Route | None:
        """The route walked; see :func:`dit_lens.tasks.walk.answer`."""
        return walk.answer(cells)

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video; see :func:`dit_lens.tasks.walk.score`."""
        return walk.score(cells, self.codes(), self.start, self.goal, self.free)

    def twin(self, kind: str, rng: Random) -> MazeScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: same walls and start, the goal elsewhere. ``"same_answer"``: other walls, the same
                route is still shortest.
            rng: Draws among several.

        Returns:
            The twin.
        """
        return self._other_goal(rng) if kind == "other_answer" else self._other_walls(rng)

    def _other_goal(self, rng: Random) -> MazeScene:
        stages = grid.layers(self.start, self.free)
        on_way = grid.bits(c for route in self.solutions for c in route)
        taken = grid.bit(self.start) | grid.bit(self.goal)
        shortest = self.rules.moves[0]
        for lowest, avoid in ((shortest, on_way), (shortest, 0), (1, 0)):
            near_enough = 0
            for stage in stages[lowest : self.rules.longest(self.size) + 1]:
                near_enough |= stage
            goals = grid.cells_of(near_enough & ~taken & ~avoid)
            if goals:
                goal = rng.choice(goals)
                return replace(self, goal=goal, route=grid.draw_route(self.start, goal, self.free, rng))
        raise TaskError("this maze has no second cell to put the goal on; take another seed.")  # pragma: no cover

    def _other_walls(self, rng: Random) -> MazeScene:
        first, last, length = self.route[0], self.route[-1], len(self.route) - 1

        def keeps(free: int) -> bool:
            return grid.distance(first, last, free) == length and _misleads(free, first, last, self.rules.dead_ends)

        return replace(
            self, walls=other_walls(self.walls, grid.bits(self.route), self.rules.walls, rng, self.size, keeps)
        )


def other_walls(
    walls: tuple[Cell, ...],
    keep_free: int,
    share: tuple[float, float],
    rng: Random,
    size: Size,
    keeps: Callable[[int], bool],
) -> tuple[Cell, ...]:
    """Other walls under which the same answer holds: 200 random flips that never break that.

    keep_free: cells that stay free. share: bounds of the share of walls. keeps: whether the answer holds, given the set
    of cells without a wall.
    """
    mask = grid.bits(walls)
    first = mask
    low, high = (round(s * size.n) for s in share)
    for flip in range(400):
        if flip >= 200 and mask != first:
            break
        flipped = mask ^ size.singles[rng.randrange(size.n)]
        if flipped & keep_free or not low <= flipped.bit_count() <= high:
            continue
        if keeps(size.full & ~flipped):
            mask = flipped
    if mask == first:
        raise TaskError("no other walls keep this route a shortest one; take another seed.")
    return grid.cells_of(mask)


def _misleads(free: int, start: Cell, goal: Cell, dead_ends: int) -> bool:
    """Whether the free cells are connected and hold so many dead ends; always where none are asked for."""
    if not dead_ends:
        return True
    reached = sum(grid.layers(start, free))  # layers share no cell
    on_way = sum(grid.stages(start, goal, free))
    return reached == free and grid.corridors(free, on_way).bit_count() >= dead_ends


def _draw_open(rng: Random, size: Size, rules: Rules) -> MazeScene:
    """Random walls, then a distance uniformly among those on offer, then a goal at it."""
    while True:
        wall_mask = grid.draw_cells(rng, size.full, round(rng.uniform(*rules.walls) * size.n))
        free = size.full & ~wall_mask
        start = rng.choice(grid.cells_of(free))
        stages = grid.layers(start, free)[rules.moves[0] : rules.longest(size) + 1]
        if not stages:
            continue
        goal = rng.choice(grid.cells_of(rng.choice(stages)))
        route = grid.draw_route(start, goal, free, rng)
        return MazeScene(
            grid.cells_of(wall_mask), start, goal, route, rng.randrange(len(rules.phrases)), size, rules
        )  # fmt: skip


def _draw_dense(rng: Random, size: Size, rules: Rules) -> MazeScene:
    """Draw corridors of one cell's width with a few loops.

    In one half of the mazes the goal is where several shortest routes lead, in the other where one does; then a
    distance uniformly among those on offer.
    """
    several = rng.random() < 0.5
    shortest, longest = rules.moves[0], rules.longest(size)
    while True:
        free = _carve(rng, size)
        for _ in range(rng.randint(1, 3) if several else rng.randint(0, 1)):
            free |= grid.bit(rng.choice(grid.cells_of(size.full & ~free & grid.grow(free))))
        start = rng.choice(grid.cells_of(free))
        counts = grid.count_routes(start, free, longest)
        offers = [[cell for cell, n in layer.items() if (n > 1) == several] for layer in counts[shortest:]]
        offers = [cells for cells in offers if cells]
        if not offers:
            continue
        goal = rng.choice(rng.choice(offers))
        if _misleads(free, start, goal, rules.dead_ends):
            walls, route = grid.cells_of(size.full & ~free), grid.draw_route(start, goal, free, rng)
            return MazeScene(walls, start, goal, route, rng.randrange(len(rules.phrases)), size, rules)


def _carve(rng: Random, size: Size) -> int:
    """A random tree of corridors, one cell wide, that cannot be extended: the set of its cells."""
    at = rng.choice(size.singles).bit_length() - 1
    free = 1 << at
    tips = [at]
    while tips:
        tip = -1 if rng.random() < 0.75 else rng.randrange(len(tips))  # mostly onwards, which makes corridors long
        at = tips[tip]
        closed = grid.around(at) & size.full & ~free
        ways = []
        while closed:
            low = closed & -closed
            closed ^= low
            if (grid.around(low.bit_length() - 1) & free).bit_count() == 1:
                ways.append(low)
        if ways:
            way = rng.choice(ways)
            free |= way
            tips.append(way.bit_length() - 1)
        else:
            del tips[tip]
    return free


LEVELS = {
    "lab": Level(partial(_draw_open, rules=AS_LAB), LAB, PHRASES, lambda size: True),
    "easy": Level(partial(_draw_open, rules=EASY), LAB, MORE_PHRASES, lambda size: True),
    "hard": Level(
        partial(_draw_dense, rules=HARD),
        Size(6, 6, 17),
        MORE_PHRASES,
        lambda size: size.n >= 35 and size.num_frames >= 17,
    ),
}
