"""Shortest routes on the 6 x 6 board, on sets of cells held as 36-bit integers (fast enough to draw puzzles while
training)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from random import Random

from dit_lens.tasks.palette import GRID

Cell = tuple[int, int]
Route = tuple[Cell, ...]

N = GRID * GRID
FULL = (1 << N) - 1
_LEFT = sum(1 << (r * GRID) for r in range(GRID))
_NOT_LEFT = FULL & ~_LEFT
_NOT_RIGHT = FULL & ~(_LEFT << (GRID - 1))


def bit(cell: Cell) -> int:
    """The one-cell set."""
    return 1 << (cell[0] * GRID + cell[1])


def bits(cells: Iterable[Cell]) -> int:
    """The set of several cells."""
    out = 0
    for cell in cells:
        out |= bit(cell)
    return out


def cells_of(mask: int) -> tuple[Cell, ...]:
    """The cells of a set, in reading order."""
    out = []
    while mask:
        low = mask & -mask
        out.append(divmod(low.bit_length() - 1, GRID))
        mask ^= low
    return tuple(out)


def grow(mask: int) -> int:
    """All cells one move away from a cell of the set (the set itself only where its cells touch)."""
    return ((mask << GRID) | (mask >> GRID) | ((mask & _NOT_RIGHT) << 1) | ((mask & _NOT_LEFT) >> 1)) & FULL


def layers(start: Cell, free: int) -> list[int]:
    """Breadth-first layers: entry d is the set of free cells at distance d from start."""
    front = bit(start)
    seen = front
    out = []
    while front:
        out.append(front)
        front = grow(front) & free & ~seen
        seen |= front
    return out


def distance(start: Cell, goal: Cell, free: int) -> int | None:
    """Length of a shortest route in moves, or None when there is none."""
    target = bit(goal)
    for d, layer in enumerate(layers(start, free)):
        if layer & target:
            return d
    return None


def _stages(start: Cell, goal: Cell, free: int) -> list[int]:
    """Entry d: the cells at move d of some shortest route."""
    target = bit(goal)
    stages = []
    for layer in layers(start, free):
        stages.append(layer)
        if layer & target:
            break
    else:
        return []
    stages[-1] = target
    for d in range(len(stages) - 2, -1, -1):
        stages[d] &= grow(stages[d + 1])
    return stages


@cache
def _around(index: int) -> int:
    return grow(1 << index)


def shortest_routes(start: Cell, goal: Cell, free: int) -> tuple[Route, ...]:
    """Every shortest route from start to goal, sorted; empty when the goal cannot be reached."""
    stages = _stages(start, goal, free)
    routes: list[list[Cell]] = [[start]] if stages else []
    for stage in stages[1:]:
        routes = [r + [c] for r in routes for c in cells_of(stage & grow(bit(r[-1])))]
    return tuple(sorted(tuple(r) for r in routes))


def draw_route(start: Cell, goal: Cell, free: int, rng: Random) -> Route:
    """One shortest route, uniformly among all of them (backward counts, then a weighted walk). The goal must be
    reachable."""
    stages = _stages(start, goal, free)
    counts: list[dict[int, int]] = [{goal[0] * GRID + goal[1]: 1}]
    for stage in stages[-2::-1]:
        ahead = counts[-1]
        now = {}
        for cell in cells_of(stage):
            index = cell[0] * GRID + cell[1]
            near = _around(index)
            now[index] = sum(n for i, n in ahead.items() if near >> i & 1)
        counts.append(now)
    counts.reverse()
    at = start[0] * GRID + start[1]
    route = [start]
    for options in counts[1:]:
        ways = [i for i in options if _around(at) >> i & 1]
        at = ways[0] if len(ways) == 1 else rng.choices(ways, [options[i] for i in ways])[0]
        route.append(divmod(at, GRID))
    return tuple(route)


def draw_cells(rng: Random, among: int, count: int) -> int:
    """A random set of `count` cells out of a set (all of them when there are fewer)."""
    cells = cells_of(among)
    return bits(rng.sample(cells, min(count, len(cells))))
