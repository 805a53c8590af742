"""`bounce`: a ball flies diagonally, one cell a frame, and is thrown back by walls and the board's edge until it hits
one of four coloured cells, on which it rests. The pale disc behind it tells in the first frame where it flies.

easy: 3 to 6 moves, one or two bounces. hard: 8 moves or more, three bounces or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import grid
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.level import Level

PHRASES = (
    "let the ball bounce to its end",
    "where does the bouncing ball stop",
    "follow the ball as it bounces",
    "the ball bounces off the walls",
    "bounce the ball until it hits a square",
    "let the ball fly and bounce",
    "which square does the bouncing ball hit",
    "keep the ball bouncing",
    "bounce on to the square that is hit first",
    "the ball flies, bounces and hits a square",
)
Way = tuple[int, int]  # rows and columns in one move, each -1 or 1
WAYS: tuple[Way, ...] = ((-1, -1), (-1, 1), (1, -1), (1, 1))
ENDS = 4


@dataclass(frozen=True)
class Rules:
    """moves, bounces: bounds. walls: at most so many wall tiles on the board."""

    phrases: tuple[str, ...]
    moves: tuple[int, int]
    bounces: tuple[int, int]
    walls: int

    def longest(self, size: Size) -> int:
        """The most moves that also fit into the video."""
        return min(self.moves[1], size.num_frames - 1)


EASY = Rules(PHRASES, (3, 6), (1, 2), 3)
HARD = Rules(PHRASES, (8, 16), (3, 99), 4)


def move(at: Cell, way: Way, free: int) -> tuple[Cell, Way, bool] | None:
    """The next cell, the way on from there, and whether the ball was thrown back; None where it would be stuck.

    A wall (or the edge) above or below turns the ball's rows round, one to the left or right its columns, one that it
    would hit with its corner both.
    """
    (r, c), (dr, dc) = at, way
    upright, sideways = _closed(free, r + dr, c), _closed(free, r, c + dc)
    if not upright and not sideways and _closed(free, r + dr, c + dc):
        upright = sideways = True
    dr, dc = -dr if upright else dr, -dc if sideways else dc
    if (upright or sideways) and _closed(free, r + dr, c + dc):
        return None
    return (r + dr, c + dc), (dr, dc), upright or sideways


def _closed(free: int, r: int, c: int) -> bool:
    return r < 0 or c < 0 or not free >> (r * grid.STRIDE + c) & 1


def fly(start: Cell, way: Way, free: int, moves: int) -> tuple[Route, tuple[int, ...]]:
    """The cells that the ball crosses, as many moves on as it can go, and how often it was thrown back until each."""
    route, bounces = [start], [0]
    at = start
    for _ in range(moves):
        step = move(at, way, free)
        if step is None:
            break
        at, way, thrown = step
        route.append(at)
        bounces.append(bounces[-1] + thrown)
    return tuple(route), tuple(bounces)


@dataclass(frozen=True)
class BounceScene:
    """ends: the four coloured cells, as (cell, colour). way: rows and columns of the first move."""

    walls: tuple[Cell, ...]
    start: Cell
    way: Way
    ends: tuple[tuple[Cell, int], ...]
    phrase: int
    size: Size
    rules: Rules

    @property
    def prompt(self) -> str:
        return self.rules.phrases[self.phrase]

    @property
    def free(self) -> int:
        return self.size.full & ~grid.bits(self.walls)

    @cached_property
    def route(self) -> Route:
        """The cells that the ball crosses, from its start to the end that it hits."""
        route, _ = fly(self.start, self.way, self.free, self.size.num_frames - 1)
        ends = dict(self.ends)
        hit = next((i for i, cell in enumerate(route) if cell in ends), len(route) - 1)
        return route[: hit + 1]

    @property
    def truth(self) -> tuple[str, int, int]:
        """(colour name, row, column) of the end that the ball hits."""
        return self._named(self.route[-1])

    @property
    def solutions(self) -> tuple[tuple[str, int, int], ...]:
        return (self.truth,)

    @property
    def tail(self) -> Cell:
        """The cell behind the ball in the first frame."""
        return (self.start[0] - self.way[0], self.start[1] - self.way[1])

    def _named(self, end: Cell) -> tuple[str, int, int]:
        return (p.NAMES[dict(self.ends)[end]], *end)

    def codes(self) -> np.ndarray:
        return self._film(self.route)

    def _film(self, route: Route) -> np.ndarray:
        codes = self.size.floor()
        for cell in self.walls:
            codes[(slice(None), *cell)] = p.WALL
        for cell, colour in self.ends:
            codes[(slice(None), *cell, 1)] = colour
        last = len(route) - 1
        for f in range(self.size.num_frames):
            step = min(f, last)
            codes[(f, *(route[step - 1] if step else self.tail), 0)] = p.TRAIL
            codes[(f, *route[step], 0)] = p.AGENT
        return codes


def _draw(rng: Random, size: Size, rules: Rules) -> BounceScene:
    """Walls and a flight; then an end on it that is as far as the rules say and was not crossed before; then three
    other ends off the flight, if possible where a ball could come in as many moves."""
    longest = rules.longest(size)
    while True:
        walls = grid.draw_cells(rng, size.full, rng.randint(0, rules.walls))
        free = size.full & ~walls
        start, way = rng.choice(grid.cells_of(free)), rng.choice(WAYS)
        tail = (start[0] - way[0], start[1] - way[1])
        if _closed(free, *tail):
            continue
        route, bounces = fly(start, way, free, longest)
        hits = [
            n
            for n in range(rules.moves[0], len(route))
            if rules.bounces[0] <= bounces[n] <= rules.bounces[1] and route[n] not in (tail, *route[:n])
        ]
        if not hits:
            continue
        route = route[: rng.choice(hits) + 1]
        others = _others(route[-1], free & ~grid.bits(route) & ~grid.bit(tail), rng)
        if len(others) < ENDS - 1:
            continue
        cells = sorted((route[-1], *others))
        ends = tuple(zip(cells, rng.sample(p.BALLS, ENDS), strict=True))
        return BounceScene(grid.cells_of(walls), start, way, ends, rng.randrange(len(rules.phrases)), size, rules)


def _others(end: Cell, places: int, rng: Random) -> list[Cell]:
    """Three other ends: rows and columns as even or odd as the true one's first, then cells of its diagonals' colour,
    then any."""
    cells = list(grid.cells_of(places))
    rng.shuffle(cells)
    return sorted(cells, key=lambda c: _unlike(c, end))[: ENDS - 1]


def _unlike(cell: Cell, end: Cell) -> int:
    dr, dc = (cell[0] - end[0]) % 2, (cell[1] - end[1]) % 2
    return 2 if dr != dc else dr


LEVELS = {
    "easy": Level(partial(_draw, rules=EASY), LAB, PHRASES, lambda size: True),
    "hard": Level(partial(_draw, rules=HARD), Size(6, 6, 17), PHRASES, lambda size: size.num_frames >= 13),
}
