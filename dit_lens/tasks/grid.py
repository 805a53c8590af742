"""A task's size, and shortest routes on its board.

Sets of cells are held as integers, fast enough to draw tasks while training. Cell (row, col) is bit 9 * row + col on
every board, so sets need no board to be read. Boards have at most eight columns: the ninth is a guard, into which a
move off the left or right edge falls, and no set of free cells holds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random

import numpy as np

from dit_lens.errors import TaskError

Cell = tuple[int, int]
Route = tuple[Cell, ...]

STRIDE = 9
SIDES = range(5, 9)
LENGTHS = (9, 13, 17, 21)


@dataclass(frozen=True, order=True)
class Size:
    """Rows and columns of the board in cells (5 to 8 each), and the number of frames (9, 13, 17 or 21)."""

    rows: int
    cols: int
    num_frames: int

    def __post_init__(self) -> None:
        whole = all(type(n) is int for n in (self.rows, self.cols, self.num_frames))
        if not whole or self.rows not in SIDES or self.cols not in SIDES or self.num_frames not in LENGTHS:
            raise TaskError(
                f"no board of {self.rows} x {self.cols} cells and {self.num_frames} frames: rows and cols are "
                f"{SIDES.start} to {SIDES.stop - 1} each, num_frames is one of {LENGTHS}."
            )

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}x{self.num_frames}"

    @property
    def n(self) -> int:
        """Cells of the board."""
        return self.rows * self.cols

    @cached_property
    def full(self) -> int:
        """The set of all cells."""
        return sum(((1 << self.cols) - 1) << (r * STRIDE) for r in range(self.rows))

    @cached_property
    def singles(self) -> tuple[int, ...]:
        """The one-cell sets, in reading order."""
        return tuple(bit(cell) for cell in cells_of(self.full))

    def holds(self, cell: Cell) -> bool:
        """Whether the cell lies on the board."""
        return 0 <= cell[0] < self.rows and 0 <= cell[1] < self.cols

    def floor(self) -> np.ndarray:
        """Codes of an empty video, zeros of uint8 (F, R, C, 2)."""
        return np.zeros((self.num_frames, self.rows, self.cols, 2), np.uint8)

    def board(self, cells: Iterable[Cell] = ()) -> np.ndarray:
        """A mask of the given cells, bool (R, C)."""
        out = np.zeros((self.rows, self.cols), bool)
        for cell in cells:
            out[cell] = True
        return out

    def still(self, board: np.ndarray) -> np.ndarray:
        """A board (R, C) repeated over all frames, (F, R, C)."""
        return np.broadcast_to(board, (self.num_frames, *board.shape))


LAB = Size(6, 6, 13)


def bit(cell: Cell) -> int:
    """The one-cell set."""
    return 1 << (cell[0] * STRIDE + cell[1])


def bits(cells: Iterable[Cell]) -> int:
    """The set of several cells."""
    out = 0
    for r, c in cells:
        out |= 1 << (r * STRIDE + c)
    return out


def cells_of(mask: int) -> tuple[Cell, ...]:
    """The cells of a set, in reading order."""
    out = []
    while mask:
        low = mask & -mask
        out.append(divmod(low.bit_length() - 1, STRIDE))
        mask ^= low
    return tuple(out)


def grow(mask: int) -> int:
    """All places one move away from a cell of the set, some of them off the board: intersect with a set of free cells.

    The set itself is in it only where its cells touch.
    """
    return (mask << STRIDE) | (mask >> STRIDE) | (mask << 1) | (mask >> 1)


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


def stages(start: Cell, goal: Cell, free: int) -> list[int]:
    """Entry d: the cells at move d of some shortest route; empty when the goal cannot be reached."""
    target = bit(goal)
    out = []
    for layer in layers(start, free):
        out.append(layer)
        if layer & target:
            break
    else:
        return []
    out[-1] = target
    for d in range(len(out) - 2, -1, -1):
        out[d] &= grow(out[d + 1])
    return out


@cache
def around(index: int) -> int:
    """As ``grow``, of the cell with this bit number."""
    return grow(1 << index)


def shortest_routes(start: Cell, goal: Cell, free: int) -> tuple[Route, ...]:
    """Every shortest route from start to goal, sorted; empty when the goal cannot be reached."""
    steps = stages(start, goal, free)
    routes: list[list[Cell]] = [[start]] if steps else []
    for stage in steps[1:]:
        routes = [r + [c] for r in routes for c in cells_of(stage & grow(bit(r[-1])))]
    return tuple(sorted(tuple(r) for r in routes))


def draw_route(start: Cell, goal: Cell, free: int, rng: Random) -> Route:
    """Draw one shortest route, uniformly among all of them (backward counts, then a weighted walk).

    Args:
        start: First cell.
        goal: Last cell; it must be reachable.
        free: The set of cells that may be entered.
        rng: Source of the draw.

    Returns:
        The cells from start to goal.
    """
    steps = stages(start, goal, free)
    counts: list[dict[int, int]] = [{goal[0] * STRIDE + goal[1]: 1}]
    for stage in steps[-2::-1]:
        ahead = counts[-1]
        now = {}
        for cell in cells_of(stage):
            index = cell[0] * STRIDE + cell[1]
            near = around(index)
            now[index] = sum(n for i, n in ahead.items() if near >> i & 1)
        counts.append(now)
    counts.reverse()
    at = start[0] * STRIDE + start[1]
    route = [start]
    for options in counts[1:]:
        ways = [i for i in options if around(at) >> i & 1]
        at = ways[0] if len(ways) == 1 else rng.choices(ways, [options[i] for i in ways])[0]
        route.append(divmod(at, STRIDE))
    return tuple(route)


def count_routes(start: Cell, free: int, longest: int) -> list[dict[Cell, int]]:
    """Entry d: every free cell at distance d from start -> the number of shortest routes to it; up to ``longest``."""
    counts = {bit(start).bit_length() - 1: 1}
    out = [counts]
    for layer in layers(start, free)[1 : longest + 1]:
        now = {}
        while layer:
            low = layer & -layer
            layer ^= low
            index = low.bit_length() - 1
            near = around(index)
            now[index] = sum(n for i, n in counts.items() if near >> i & 1)
        counts = now
        out.append(counts)
    return [{divmod(i, STRIDE): n for i, n in counts.items()} for counts in out]


def draw_cells(rng: Random, among: int, count: int) -> int:
    """A random set of ``count`` cells out of a set (all of them when there are fewer)."""
    cells = cells_of(among)
    return bits(rng.sample(cells, min(count, len(cells))))


def corridors(free: int, keep: int) -> int:
    """The dead ends of two cells or more.

    Args:
        free: The set of cells that may be entered, all connected.
        keep: The set of cells of the routes, which are no dead ends.

    Returns:
        The set of their last cells.
    """
    up, down = free << STRIDE, free >> STRIDE
    left, right = free << 1, free >> 1
    a, b = up ^ down, up & down
    c, d = left ^ right, left & right
    one = a ^ c  # lowest binary digit of the number of free neighbours
    two = (a & c) ^ b ^ d
    four = b & d & ~(a | c)
    off = free & ~keep
    leaf = off & one & ~two
    through = off & ~one & two & ~four
    return leaf & grow(through)
