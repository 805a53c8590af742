"""``slide``: a sliding puzzle of coloured tiles; slide one tile a frame until it looks like the picture.

One place is empty. The tiles are discs in outlined cells, the picture is of whole coloured cells. easy: 2 x 3 tiles, 2
to 4 moves. hard: 2 x 3 or 3 x 3, 6 to 10 moves.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.sliding import Shape, Tiles, distance, draw_target, neighbours, shortest_paths, targets
from dit_lens.tasks.task import Score
from dit_lens.tasks.walk import partial_value

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
    """What a level asks of its tiles.

    Attributes:
        phrases: Wordings of the prompt.
        moves: Bounds of a shortest solution's length.
        shapes: Of the tiles, (rows, columns).
    """

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
    """Tiles with one empty place, and the picture that they have to match.

    Attributes:
        shape: Rows and columns of the tiles.
        at: Top left cell of the tiles.
        shown_at: Top left cell of the picture.
        tiles: Colour codes in reading order, 0 the empty place.
        target: Those of the picture.
        route: The cells of the empty place, move by move.
        phrase: Which wording.
        size: Rows, columns and frames.
        rules: Those of its level.
    """

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
        """What the model is told."""
        return self.rules.phrases[self.phrase]

    @property
    def truth(self) -> Route:
        """The cells of the empty place, from the first frame on."""
        return self.route

    def _cell(self, index: int, corner: Cell) -> Cell:
        r, c = divmod(index, self.shape[1])
        return (corner[0] + r, corner[1] + c)

    @property
    def serial_length(self) -> int:
        """Moves of a shortest solution, each of which finds the tiles as the one before left them."""
        return len(self.route) - 1

    @cached_property
    def solutions(self) -> tuple[Route, ...]:
        """All shortest ways to the picture."""
        paths = shortest_paths(self.shape, self.tiles, self.target)
        return tuple(sorted(tuple(self._cell(i, self.at) for i in path) for path in paths))

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2)."""
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
        """An answer as places of the tiles, in reading order from 0."""
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

    def _after(self, path: tuple[int, ...]) -> Tiles:
        """The tiles after the moves of a path."""
        tiles = list(self.tiles)
        for a, b in itertools.pairwise(path):
            tiles[a], tiles[b] = tiles[b], tiles[a]
        return tuple(tiles)

    def decoy(self, rng: Random) -> Route | None:
        """As many moves as a solution has, none of which takes the one before back, to another arrangement."""
        for _ in range(100):
            path = [self.tiles.index(0)]
            for _ in range(len(self.route) - 1):
                path.append(rng.choice([i for i in neighbours(self.shape)[path[-1]] if i not in path[-2:-1]]))
            if self._after(tuple(path)) != self.target:
                return tuple(self._cell(i, self.at) for i in path)
        return None

    def regions(self) -> dict[str, np.ndarray]:
        """Regions of the scene, bool (F, R, C).

        Returns:
            background, tiles (all but the empty place now), blank (the empty place now), board (both), goal (the
            picture), path (all places where the truth has the empty place).
        """
        codes, size = self.codes(), self.size
        board = size.board(self._cell(i, self.at) for i in range(len(self.tiles)))
        picture = size.board(self._cell(i, self.shown_at) for i in range(len(self.tiles)))
        tiles = np.isin(codes[..., 0], p.BALLS) & board
        return {
            "background": size.still(~board & ~picture),
            "tiles": tiles,
            "blank": board & ~tiles,
            "board": size.still(board),
            "goal": size.still(picture),
            "path": size.still(size.board(self.route)),
        }

    def _arrangements(self, cells: np.ndarray) -> list[Tiles | None]:
        """The tiles in each frame; None where a cell of them shows no colour, or not exactly one is empty."""
        (r, c), (h, w) = self.at, self.shape
        out: list[Tiles | None] = []
        for disc in cells[:, r : r + h, c : c + w, 0]:
            tiles = tuple(disc.ravel().tolist())
            out.append(tiles if tiles.count(0) == 1 and {0, *p.BALLS}.issuperset(tiles) else None)
        return out

    def answer(self, cells: np.ndarray) -> Route | None:
        """The moves that were made.

        Args:
            cells: A video's codes (F, R, C, 2).

        Returns:
            The cells of the empty place, if it moved, only ever to a neighbouring cell, and the last frame shows the
            tiles that these moves make; else None.
        """
        shown = self._arrangements(cells)
        path = _blanks(shown)
        legal = all(b in neighbours(self.shape)[a] for a, b in itertools.pairwise(path))
        ends = legal and path[:1] == (self.tiles.index(0),) and self._after(path) == shown[-1]
        return tuple(self._cell(i, self.at) for i in path) if ends and len(path) > 1 else None

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            The verdict. details: tiles_kept (every frame shows tiles and one empty place), starts, legal (from frame to
            frame nothing changes, or one tile slides), matches (the last frame has the tiles as in the picture),
            shortest, scene_kept (picture, outlines and floor in every frame), kept_fraction, moves (made until the
            first illegal one). All but the last two are needed for ``solved``. value: the share of the moves that legal
            moves have saved, times shortest / made moves, times the kept share of scene and tiles.
        """
        shown = self._arrangements(cells)
        whole = [tiles for tiles in shown if tiles is not None]
        path = _legal_path(self.shape, self.tiles, whole)
        after = self._after(path)
        best, left = (distance(self.shape, tiles, self.target) for tiles in (self.tiles, after))
        made = len(path) - 1
        legal = bool(whole) and whole[-1] == after and len(_blanks(shown)) == len(path)
        kept = self._scene_kept(cells)
        details = {
            "tiles_kept": len(whole) == len(shown),
            "starts": shown[0] == self.tiles,
            "legal": legal,
            "matches": shown[-1] == self.target,
            "shortest": legal and shown[-1] == self.target and made == best,
            "scene_kept": bool(kept.all()),
            "kept_fraction": float(kept.mean()),
            "moves": made,
        }
        needed = ("tiles_kept", "starts", "legal", "matches", "shortest", "scene_kept")
        if all(details[k] for k in needed):
            return Score(True, 1.0, details)
        care = kept.mean() * len(whole) / len(shown)
        return Score(False, partial_value(best, left, max(made, 1), care) if shown[0] == self.tiles else 0.0, details)

    def _scene_kept(self, cells: np.ndarray) -> np.ndarray:
        """Per cell and frame: the rest keeps its colour; discs too, but for the tiles', which show floor or a tile."""
        codes = self.codes()
        board = self.size.board(self._cell(i, self.at) for i in range(len(self.tiles)))
        tile = np.isin(cells[..., 0], (p.BACKGROUND, *p.BALLS))
        return (cells[..., 1] == codes[..., 1]) & np.where(board, tile, cells[..., 0] == codes[..., 0])

    def twin(self, kind: str, rng: Random) -> SlideScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: the same tiles, another picture, as little changed as it can be with no first move
                in common, if there is such a one. ``"same_answer"``: other tiles and another place of the picture; the
                same moves are a shortest solution.
            rng: Draws among several.

        Returns:
            The twin.
        """
        return self._other_target(rng) if kind == "other_answer" else self._other_tiles(rng)

    def _other_target(self, rng: Random) -> SlideScene:
        first = {route[1] for route in self.solutions}
        options = []
        for target, paths in targets(self.shape, self.tiles, self.rules.moves[0], self.rules.longest(self.size)):
            if target == self.target:
                continue
            shared = bool({self._cell(path[1], self.at) for path in paths} & first)
            changed = sum(a != b for a, b in zip(target, self.target, strict=True))
            options.append(((shared, changed), target, paths))
        least = min(cost for cost, _, _ in options)
        target, paths = rng.choice([(target, paths) for cost, target, paths in options if cost == least])
        return replace(self, target=target, route=tuple(self._cell(i, self.at) for i in rng.choice(paths)))

    def _other_tiles(self, rng: Random) -> SlideScene:
        path = self._path(self.route)
        shown_at = rng.choice([b for a, b in layouts(self.size, self.shape) if a == self.at])
        for _ in range(200):
            tiles = [rng.choice(p.BALLS) for _ in self.tiles]
            tiles[path[0]] = 0
            scene = replace(self, tiles=tuple(tiles), shown_at=shown_at)
            scene = replace(scene, target=scene._after(path))
            enough = len(set(tiles)) > 3 and scene.tiles != self.tiles
            if enough and distance(self.shape, scene.tiles, scene.target) == len(path) - 1:
                return scene
        raise TaskError("no other tiles make these moves a shortest solution; take another seed.")  # pragma: no cover


def _blanks(shown: list[Tiles | None]) -> tuple[int, ...]:
    """The places of the empty one in order, rests and unread frames left out."""
    places = [tiles.index(0) for tiles in shown if tiles is not None]
    return tuple(place for place, _ in itertools.groupby(places))


def _legal_path(shape: Shape, start: Tiles, shown: list[Tiles]) -> tuple[int, ...]:
    """The moves up to the first frame that does not follow from the one before it."""
    path, tiles = [start.index(0)], start
    for after in shown:
        if after == tiles:
            continue
        a, b = path[-1], after.index(0)
        moved = list(tiles)
        moved[a], moved[b] = moved[b], moved[a]
        if b not in neighbours(shape)[a] or tuple(moved) != after:
            break
        path.append(b)
        tiles = after
    return tuple(path)


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
    """Draw tiles of at least three colours, and a picture.

    The number of moves is uniform among those on offer, the picture is so far away, and the truth is one of the
    shortest ways to it.
    """
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
