"""``order``: two goals in a named order: "first green, then orange". The way to the first must not touch the second.

easy: two goals, 4 to 8 moves in all. hard: 8 to 16 moves, and a third goal that the prompt does not name and that must
not be touched at all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import grid, walk
from dit_lens.tasks import palette as p
from dit_lens.tasks.choose import Goal
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.maze import Rules, other_walls
from dit_lens.tasks.task import Score

PHRASES = (
    "first {}, then {}",
    "first {} and then {}",
    "go to {} and after that to {}",
    "visit {} before {}",
    "{} first, {} second",
    "walk to {}, then on to {}",
    "go to the {} square, then to the {} one",
    "touch {}, then end on {}",
    "start with {} and finish at {}",
    "by way of {} to {}",
    "the {} goal, and then the {} goal",
    "two goals: {}, then {}",
)
EASY = Rules(PHRASES, (4, 8), (0.0, 0.20))
HARD = Rules(PHRASES, (8, 16), (0.10, 0.30))
NEAREST = 2  # moves between start, first and second goal, at least


@dataclass(frozen=True)
class OrderScene:
    """Goals of different colours, two of which the prompt names in order.

    Attributes:
        walls: Sorted cells.
        start: The agent's first cell.
        first: The goal named first, as (cell, colour).
        then: The goal named second.
        more: Goals to leave alone.
        route: The shortest tour shown as truth.
        phrase: Which wording.
        size: Rows, columns and frames.
        rules: Those of its level.
    """

    walls: tuple[Cell, ...]
    start: Cell
    first: Goal
    then: Goal
    more: tuple[Goal, ...]
    route: Route
    phrase: int
    size: Size
    rules: Rules

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return self.rules.phrases[self.phrase].format(p.NAMES[self.first[1]], p.NAMES[self.then[1]])

    @property
    def truth(self) -> Route:
        """The tour shown."""
        return self.route

    @property
    def goals(self) -> dict[Cell, int]:
        """Every goal's cell -> its colour code."""
        return dict((self.first, self.then, *self.more))

    @property
    def free(self) -> int:
        """Cells that may be entered on the way from the first goal to the second."""
        return self.size.full & ~grid.bits(self.walls) & ~grid.bits(cell for cell, _ in self.more)

    @property
    def serial_length(self) -> int:
        """Moves of a shortest tour, each of which begins where the one before ends."""
        return len(self.route) - 1

    @cached_property
    def solutions(self) -> tuple[Route, ...]:
        """All shortest tours: to the first goal without touching the second, then to the second."""
        begin = grid.shortest_routes(self.start, self.first[0], self.free & ~grid.bit(self.then[0]))
        end = grid.shortest_routes(self.first[0], self.then[0], self.free)
        return tuple(sorted((*a, *b[1:]) for a in begin for b in end))

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2)."""
        return self.codes_of(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        """The codes of any walk from the start, right or wrong."""
        return walk.draw(self.walls, self.goals, walk.check(answer, self.start, self.size), self.size)

    def decoy(self, rng: Random) -> Route | None:
        """A shortest tour that the picture would allow under another prompt.

        It goes in the other order, by a goal that is not named, or straight to the last goal.
        """
        others = [pair for pair in itertools.permutations(self.goals, 2) if pair != (self.first[0], self.then[0])]
        for first, then in rng.sample(others, len(others)):
            if rng.random() < 0.3:
                free = self.size.full & ~grid.bits(self.walls) & ~grid.bits(set(self.goals) - {self.then[0]})
                if grid.distance(self.start, self.then[0], free) is not None:
                    return grid.draw_route(self.start, self.then[0], free, rng)
            route = self._tour(first, then, rng)
            if route is not None:
                return route
        return None

    def _tour(self, first: Cell, then: Cell, rng: Random) -> Route | None:
        """A shortest tour by two goals without touching the others; None when there is none that fits the video."""
        free = self.size.full & ~grid.bits(self.walls) & ~grid.bits(set(self.goals) - {first, then})
        length = tour_length(self.start, first, then, free)
        if length is None or length >= self.size.num_frames:
            return None
        begin = grid.draw_route(self.start, first, free & ~grid.bit(then), rng)
        return (*begin, *grid.draw_route(first, then, free, rng)[1:])

    def regions(self) -> dict[str, np.ndarray]:
        """As in ``maze``, with goal the last one, first_goal, and other_goal where there is one that is not named."""
        size = self.size
        out = walk.regions(self.codes(), self.then[0], self.route, self.solutions, size)
        out["first_goal"] = size.still(size.board([self.first[0]]))
        if self.more:
            out["other_goal"] = size.still(size.board(cell for cell, _ in self.more))
        return out

    def answer(self, cells: np.ndarray) -> Route | None:
        """The route walked, as in ``maze``, if every frame shows the agent.

        Tours of different lengths may end alike, and what two of them have in common, as in a blend, is no tour.
        """
        return None if None in walk.agents(cells) else walk.answer(cells)

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video as in ``maze``.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            The verdict, with reached for the last goal, and connected only if no goal is touched too early. details
            also hold first_reached, and other_goal (one that is not named is touched).
        """
        first, then = self.first[0], self.then[0]
        early = self.free & ~grid.bit(then)
        between = grid.distance(first, then, self.free) or 0

        def may_enter(route: Route, cell: Cell) -> bool:
            return bool((self.free if first in route else early) & grid.bit(cell))

        def left(route: Route) -> int | None:
            if first in route:
                return grid.distance(route[-1], then, self.free)
            begin = grid.distance(route[-1], first, early)
            return None if begin is None else begin + between

        score = walk.judge(cells, self.codes(), self.start, then, may_enter, left)
        route = score.details["route"]
        more = {"first_reached": first in route, "other_goal": any(cell in route for cell, _ in self.more)}
        return replace(score, details={**score.details, **more})

    def twin(self, kind: str, rng: Random) -> OrderScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: the same picture, the prompt names the goals in the other order.
                ``"same_answer"``: other walls; the same route stays a shortest tour.
            rng: Draws among several.

        Returns:
            The twin.
        """
        if kind == "other_answer":
            swapped = replace(self, first=self.then, then=self.first)
            route = self._tour(self.then[0], self.first[0], rng)
            if route is None:  # pragma: no cover
                raise TaskError("this order has no other way round; take another seed.")
            return replace(swapped, route=route)
        first, then, length = self.first[0], self.then[0], len(self.route) - 1
        others = grid.bits(cell for cell, _ in self.more)

        def keeps(free: int) -> bool:
            free &= ~others
            back = tour_length(self.start, then, first, free)
            lowest, highest = self.rules.moves[0], self.rules.longest(self.size)
            there = tour_length(self.start, first, then, free) == length
            return there and back is not None and lowest <= back <= highest

        keep_free = grid.bits(self.route) | grid.bits(self.goals)
        return replace(self, walls=other_walls(self.walls, keep_free, self.rules.walls, rng, self.size, keeps))


def tour_length(start: Cell, first: Cell, then: Cell, free: int) -> int | None:
    """Moves of a shortest tour; None when there is none, or its goals lie nearer than they may."""
    begin = grid.distance(start, first, free & ~grid.bit(then))
    end = grid.distance(first, then, free)
    return None if begin is None or end is None or min(begin, end) < NEAREST else begin + end


def _draw(rng: Random, size: Size, rules: Rules, goals: int) -> OrderScene:
    """A random scene in which the tour is as long as the rules say, in this order and in the other."""
    while True:
        wall_mask = grid.draw_cells(rng, size.full, round(rng.uniform(*rules.walls) * size.n))
        open_cells = size.full & ~wall_mask
        start, first, then, *others = rng.sample(grid.cells_of(open_cells), 1 + goals)
        free = open_cells & ~grid.bits(others)
        lengths = (tour_length(start, first, then, free), tour_length(start, then, first, free))
        if not all(n is not None and rules.moves[0] <= n <= rules.longest(size) for n in lengths):
            continue
        begin = grid.draw_route(start, first, free & ~grid.bit(then), rng)
        end = grid.draw_route(first, then, free, rng)
        placed = tuple(zip((first, then, *others), rng.sample(p.BALLS, goals), strict=True))
        phrase = rng.randrange(len(rules.phrases))
        return OrderScene(
            grid.cells_of(wall_mask), start, placed[0], placed[1], placed[2:], (*begin, *end[1:]), phrase, size, rules
        )  # fmt: skip


LEVELS = {
    "easy": Level(partial(_draw, rules=EASY, goals=2), LAB, PHRASES, lambda size: True),
    "hard": Level(partial(_draw, rules=HARD, goals=3), Size(6, 6, 17), PHRASES, lambda size: size.num_frames >= 13),
}
