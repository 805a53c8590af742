"""Sliding tiles in themselves: all arrangements that a few moves reach, and the shortest ways to them.

Which arrangements those are does not depend on the tiles' colours, so they are found once for every shape and place of
the empty place, as permutations; the colours are then looked up in them (fast enough to draw tasks while training).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np

Shape = tuple[int, int]
Tiles = tuple[int, ...]  # colour codes in reading order, 0 the empty place
Path = tuple[int, ...]  # places of the empty place in reading order, from the first on

DEEPEST = 10  # moves; arrangements of 3 x 3 tiles that are so far away are a few hundred


@dataclass(frozen=True, eq=False)
class Moves:
    """All arrangements that a few moves reach from one.

    Attributes:
        order: Row k is what arrangement k takes from where, (arrangements, places).
        depth: Moves to it, ascending.
        paths: All shortest ways to it.
    """

    order: np.ndarray
    depth: np.ndarray
    paths: tuple[tuple[Path, ...], ...]


@cache
def neighbours(shape: Shape) -> tuple[tuple[int, ...], ...]:
    """For every place, in reading order, the places beside it."""
    rows, cols = shape
    out = []
    for i in range(rows * cols):
        r, c = divmod(i, cols)
        beside = ((r - 1, c), (r, c - 1), (r, c + 1), (r + 1, c))
        out.append(tuple(a * cols + b for a, b in beside if 0 <= a < rows and 0 <= b < cols))
    return tuple(out)


@cache
def moves_from(shape: Shape, blank: int) -> Moves:
    """All arrangements of different tiles within ten moves of one with its empty place at ``blank``."""
    first = tuple(range(shape[0] * shape[1]))
    seen = {first: 0}
    layer: dict[Tiles, tuple[Path, ...]] = {first: ((blank,),)}
    orders, depths, paths = [], [], []
    for depth in range(DEEPEST + 1):
        ahead: dict[Tiles, tuple[Path, ...]] = {}
        for order, ways in layer.items():
            orders.append(order)
            depths.append(depth)
            paths.append(ways)
            at = ways[0][-1]
            for to in neighbours(shape)[at]:
                moved = list(order)
                moved[at], moved[to] = moved[to], moved[at]
                after = tuple(moved)
                if seen.setdefault(after, depth + 1) == depth + 1:
                    ahead[after] = (*ahead.get(after, ()), *((*way, to) for way in ways))
        layer = ahead
    return Moves(np.array(orders), np.array(depths), tuple(paths))


def _numbers(tiles: Tiles, moves: Moves) -> np.ndarray:
    """A number for every arrangement, equal where the colours are, (arrangements,)."""
    colours = sorted(set(tiles))
    digits = np.array([colours.index(t) for t in tiles])
    return digits[moves.order] @ (5 ** np.arange(len(tiles)))


def draw_target(shape: Shape, tiles: Tiles, depth: int, rng: Random) -> tuple[Tiles, Path] | None:
    """Draw colours that are exactly ``depth`` moves away, and one of the shortest ways to them, without preference.

    Args:
        shape: Rows and columns of the tiles.
        tiles: Colour codes in reading order, 0 the empty place.
        depth: Moves.
        rng: Source of the draw.

    Returns:
        (tiles, path); None when no colours are so far away.
    """
    moves = moves_from(shape, tiles.index(0))
    numbers = _numbers(tiles, moves)
    near, far = moves.depth < depth, np.flatnonzero(moves.depth == depth)
    far = far[~np.isin(numbers[far], numbers[near])]
    if not len(far):
        return None
    number = rng.choice(sorted(set(numbers[far].tolist())))
    rows = far[numbers[far] == number]
    target = tuple(tiles[i] for i in moves.order[rows[0]])
    return target, rng.choice([path for row in rows for path in moves.paths[row]])


def shortest_paths(shape: Shape, tiles: Tiles, target: Tiles) -> tuple[Path, ...]:
    """All shortest ways from ``tiles`` to ``target``, sorted; empty when more than ten moves lie between."""
    moves = moves_from(shape, tiles.index(0))
    rows = np.flatnonzero((np.array(tiles)[moves.order] == np.array(target)).all(1))
    nearest = moves.depth[rows].min(initial=DEEPEST + 1)
    return tuple(sorted(path for row in rows if moves.depth[row] == nearest for path in moves.paths[row]))


def distance(shape: Shape, tiles: Tiles, target: Tiles) -> int | None:
    """Moves of a shortest way; None when it has more than ten."""
    paths = shortest_paths(shape, tiles, target)
    return len(paths[0]) - 1 if paths else None


def targets(shape: Shape, tiles: Tiles, nearest: int, farthest: int) -> list[tuple[Tiles, tuple[Path, ...]]]:
    """All arrangements that are so many moves away, each with all shortest ways to it."""
    moves = moves_from(shape, tiles.index(0))
    found: dict[Tiles, tuple[int, list[Path]]] = {}
    for order, depth, paths in zip(moves.order, moves.depth.tolist(), moves.paths, strict=True):
        first, ways = found.setdefault(tuple(tiles[i] for i in order), (depth, []))
        if first == depth:
            ways.extend(paths)
    return [(target, tuple(ways)) for target, (d, ways) in found.items() if nearest <= d <= farthest]
