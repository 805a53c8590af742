"""`slide`: a sliding puzzle of coloured tiles with one empty place; slide one tile a frame until it looks like the
picture.

The tiles are discs in outlined cells, the picture is of whole coloured cells. easy: 2 x 3 tiles, 2 to 4 moves. hard:
2 x 3 or 3 x 3, 6 to 10 moves.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.sliding import Shape, Tiles, draw_target, neighbours

PHRASES = (
    "slide the tiles into the order shown",
    "solve the sliding puzzle",
    "slide the tiles to match the picture",
    "make the tiles look like the picture",
    "slide until the tiles agree with the picture",
    "rebuild the small picture by sliding",
    "sort the tiles with the empty place",
    "push the tiles to their places",
    "copy the picture with the sliding tiles",
    "arrange the tiles as in the picture",
)


@dataclass(frozen=True)
class Rules:
    """moves: bounds of a shortest solution's length. shapes: of the puzzle, (rows, columns)."""

    phrases: tuple[str, ...]
    moves: tuple[int, int]
    shapes: tuple[Shape, ...]

    def longest(self, size: Size) -> int:
        """The most moves that also fit into the video."""
        return min(self.moves[1], size.num_frames - 1)


EASY = Rules(PHRASES, (2, 4), ((2, 3), (3, 2)))
HARD = Rules(PHRASES, (6, 10), ((2, 3), (3, 2), (3, 3)))


@dataclass(frozen=True)
class SlideScene:
    """shape: rows and columns of the puzzle. at, shown_at: top left cells of the tiles and of the picture. tiles,
    target: colour codes in reading order, 0 the empty place. route: the cells of the empty place, move by move."""

    shape: Shape
    at: Cell
    shown_at: Cell
    tiles: Tiles
    target: Tiles
    route: Route
    phrase: int
    size: Size
    rules: Rules

    @property
    def prompt(self) -> str:
        return self.rules.phrases[self.phrase]

    @property
    def truth(self) -> Route:
        """The cells of the empty place, from the first frame on."""
        return self.route

    def _cell(self, index: int, corner: Cell) -> Cell:
        r, c = divmod(index, self.shape[1])
        return (corner[0] + r, corner[1] + c)

    def _route(self, path: tuple[int, ...]) -> Route:
        return tuple(self._cell(i, self.at) for i in path)

    def codes(self) -> np.ndarray:
        return self.codes_of(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        """Any moves that slide one tile each."""
        path = self._path(answer)
        codes = self.size.floor()
        for i, colour in enumerate(self.target):
            codes[(slice(None), *self._cell(i, self.shown_at))] = colour or p.SLOT
        tiles = list(self.tiles)
        for i in range(len(tiles)):
            codes[(slice(None), *self._cell(i, self.at), 1)] = p.SLOT
            codes[(slice(None), *self._cell(i, self.at), 0)] = tiles[i]
        for frame, (a, b) in enumerate(itertools.pairwise(path), 1):
            tiles[a], tiles[b] = tiles[b], 0
            codes[(slice(frame, None), *self._cell(a, self.at), 0)] = tiles[a]
            codes[(slice(frame, None), *self._cell(b, self.at), 0)] = 0
        return codes

    def _path(self, answer: Any) -> tuple[int, ...]:
        """An answer as places of the puzzle, in reading order from 0."""
        cells = {self._cell(i, self.at): i for i in range(len(self.tiles))}
        fits = isinstance(answer, tuple) and 1 < len(answer) <= self.size.num_frames and set(answer) <= set(cells)
        path = tuple(cells[cell] for cell in answer) if fits else ()
        steps = all(b in neighbours(self.shape)[a] for a, b in itertools.pairwise(path))
        if not path or path[0] != self.tiles.index(0) or not steps:
            raise TaskError(
                f"{answer!r} cannot be drawn here: give the (row, col) cells of the empty place, from "
                f"{self._cell(self.tiles.index(0), self.at)} on, at most one move for each frame; take one of "
                "task.solutions or task.decoys(n)."
            )
        return path


@cache
def layouts(size: Size, shape: Shape) -> tuple[tuple[Cell, Cell], ...]:
    """Every pair of top left cells for tiles and picture that do not share a cell's edge."""
    h, w = shape
    corners = [(r, c) for r in range(size.rows - h + 1) for c in range(size.cols - w + 1)]
    out = []
    for a in corners:
        for b in corners:
            apart = abs(a[0] - b[0]) - h, abs(a[1] - b[1]) - w
            if max(apart) > 0 or apart == (0, 0):
                out.append((a, b))
    return tuple(out)


def _draw(rng: Random, size: Size, rules: Rules) -> SlideScene:
    """Tiles of at least three colours, then a number of moves uniformly among those on offer, then a picture that is
    so far away, then one of the shortest ways to it."""
    shape = rng.choice([shape for shape in rules.shapes if layouts(size, shape)])
    at, shown_at = rng.choice(layouts(size, shape))
    n = shape[0] * shape[1]
    longest = rules.longest(size)
    while True:
        tiles = [rng.choice(p.BALLS) for _ in range(n - 1)]
        if len(set(tiles)) < 3:
            continue
        blank = rng.randrange(n)
        tiles.insert(blank, 0)
        moves = rng.randint(rules.moves[0], longest)
        found = draw_target(shape, tuple(tiles), moves, rng)
        if found is None:
            continue
        target, path = found
        corner_row, corner_col = at
        route = tuple((corner_row + i // shape[1], corner_col + i % shape[1]) for i in path)
        phrase = rng.randrange(len(rules.phrases))
        return SlideScene(shape, at, shown_at, tuple(tiles), target, route, phrase, size, rules)


def _fits(size: Size, rules: Rules) -> bool:
    return size.num_frames > rules.moves[0] and any(layouts(size, shape) for shape in rules.shapes)


LEVELS = {
    "easy": Level(partial(_draw, rules=EASY), LAB, PHRASES, partial(_fits, rules=EASY)),
    "hard": Level(partial(_draw, rules=HARD), LAB, PHRASES, partial(_fits, rules=HARD)),
}
