"""``bounce``: a ball flies diagonally and bounces off walls until it hits one of four coloured cells.

It moves one cell a frame, is thrown back by walls and the board's edge, and rests on the cell that it hits. The pale
disc behind it tells in the first frame where it flies.

easy: 3 to 6 moves, one or two bounces. hard: 8 moves or more, three bounces or more.
"""

from __future__ import annotations

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
Way = tuple[int, int]  # rows and columns in one move
WAYS: tuple[Way, ...] = ((-1, -1), (-1, 1), (1, -1), (1, 1))
KING: tuple[Way, ...] = (*WAYS, (-1, 0), (1, 0), (0, -1), (0, 1))
ENDS = 4


@dataclass(frozen=True)
class Rules:
    """What a level asks of its flights.

    Attributes:
        phrases: Wordings of the prompt.
        moves: Bounds of the flight's length.
        bounces: Bounds of how often the ball is thrown back.
        walls: At most so many wall tiles on the board.
    """

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

    Args:
        at: The ball's cell.
        way: Rows and columns of its last move.
        free: The set of cells that may be entered.

    Returns:
        (cell, way, thrown back), or None.
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
    """A ball on its way to one of four ends.

    Attributes:
        walls: Sorted cells.
        start: The ball's first cell.
        way: Rows and columns of the first move.
        ends: The four coloured cells, as (cell, colour).
        phrase: Which wording.
        size: Rows, columns and frames.
        rules: Those of its level.
    """

    walls: tuple[Cell, ...]
    start: Cell
    way: Way
    ends: tuple[tuple[Cell, int], ...]
    phrase: int
    size: Size
    rules: Rules

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return self.rules.phrases[self.phrase]

    @property
    def free(self) -> int:
        """The set of cells without walls."""
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
    def serial_length(self) -> int:
        """Moves of the flight, each of which begins where the one before ends."""
        return len(self.route) - 1

    @property
    def solutions(self) -> tuple[tuple[str, int, int], ...]:
        """The one right answer."""
        return (self.truth,)

    @property
    def tail(self) -> Cell:
        """The cell behind the ball in the first frame."""
        return (self.start[0] - self.way[0], self.start[1] - self.way[1])

    def _named(self, end: Cell) -> tuple[str, int, int]:
        return (p.NAMES[dict(self.ends)[end]], *end)

    def codes(self) -> np.ndarray:
        """The flight as palette codes, uint8 (F, R, C, 2)."""
        return self._film(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        """The flight to the true end; to another one the ball leaves its course as late as it can."""
        route = self._flight_to(answer)
        if route is None:
            raise TaskError(
                f"{answer!r} cannot be drawn here: give the (colour name, row, column) of an end that the ball can get "
                "to; take one of task.solutions or task.decoys(n)."
            )
        return self._film(route)

    def _flight_to(self, answer: Any) -> Route | None:
        """A flight that ends there, over free cells that are no other end; None when there is none."""
        end = next((cell for cell, _ in self.ends if self._named(cell) == answer), None)
        if end is None:
            return None
        if end == self.route[-1]:
            return self.route
        free = self.free & ~grid.bits(dict(self.ends)) | grid.bit(end)
        crossed = len(self.route) - 1
        for longest in (crossed, self.size.num_frames - 1):
            for ways in (WAYS, KING):
                for k in range(crossed - 1, -1, -1):
                    rest = _way_to(self.route[k], end, free, ways)
                    if rest is not None and k + len(rest) - 1 <= longest:
                        return (*self.route[:k], *rest)
        return None

    def decoy(self, rng: Random) -> tuple[str, int, int] | None:
        """Another of the four ends."""
        others = [self._named(cell) for cell, _ in self.ends if cell != self.route[-1]]
        return rng.choice([answer for answer in others if self._flight_to(answer)] or [None])

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

    def regions(self) -> dict[str, np.ndarray]:
        """Regions of the flight, bool (F, R, C).

        Returns:
            background (bare floor now), walls, agent (the ball now), trail (the disc behind it now), goal (the end that
            it hits), other_goal (the other ends), path (all cells of its flight).
        """
        codes, size = self.codes(), self.size
        return {
            "background": (codes == p.BACKGROUND).all(-1),
            "walls": codes[..., 0] == p.WALL,
            "agent": codes[..., 0] == p.AGENT,
            "trail": codes[..., 0] == p.TRAIL,
            "goal": size.still(size.board([self.route[-1]])),
            "other_goal": size.still(size.board(cell for cell, _ in self.ends if cell != self.route[-1])),
            "path": size.still(size.board(self.route)),
        }

    def answer(self, cells: np.ndarray) -> tuple[str, int, int] | None:
        """The end on which the one ball of the last frame is, in the colour that it has there.

        Args:
            cells: A video's codes (F, R, C, 2).

        Returns:
            (colour name, row, column); None where the ball is on no coloured end, or never moved.
        """
        places = walk.agents(cells)
        end = places[-1]
        if end is None or end not in dict(self.ends) or len(walk.walked(places)) < 2:
            return None
        colour = int(cells[(-1, *end, 1)])
        return (p.NAMES[colour], *end) if colour in p.BALLS else None

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            The verdict. details: agent_kept (exactly one ball in every frame), starts, on_course (the cells that it
            crosses are those of the flight), on_time (it is on the right one in every frame), hit (the last frame has
            it on the right end), wrong_end (on another), scene_kept (walls, ends and floor in every frame),
            kept_fraction, tail_kept (the pale disc is behind it in every frame). All but wrong_end and the last two are
            needed for ``solved``. value: the share of the flight that was flown on time, times the kept share of scene
            and ball.
        """
        places = walk.agents(cells)
        last = len(self.route) - 1
        right = [place == self.route[min(f, last)] for f, place in enumerate(places)]
        flown = next((f for f, ok in enumerate(right) if not ok), len(right)) - 1
        kept = walk.scene_kept(cells, self.codes())
        share = sum(place is not None for place in places) / len(places)
        details = {
            "agent_kept": share == 1,
            "starts": right[0],
            "on_course": walk.walked(places) == self.route,
            "on_time": all(right),
            "hit": places[-1] == self.route[-1],
            "wrong_end": places[-1] != self.route[-1] and places[-1] in dict(self.ends),
            "scene_kept": bool(kept.all()),
            "kept_fraction": float(kept.mean()),
            "tail_kept": bool(np.array_equal(cells[..., 0] == p.TRAIL, self.codes()[..., 0] == p.TRAIL)),
        }
        needed = ("agent_kept", "starts", "on_course", "on_time", "hit", "scene_kept")
        solved = all(details[k] for k in needed)
        value = min(max(flown, 0), last) / last * kept.mean() * share
        return Score(solved, 1.0 if solved else float(min(0.99, value)), details)

    def twin(self, kind: str, rng: Random) -> BounceScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: the ball starts otherwise, with as few cells changed as can be, and hits another
                end; where no start does, two ends exchange their colours. ``"same_answer"``: it starts elsewhere, and
                hits the same end; where no other start does, the other ends lie elsewhere.
            rng: Draws among several.

        Returns:
            The twin.
        """
        options = []
        for start in grid.cells_of(self.free & ~grid.bits(dict(self.ends))):
            for way in WAYS:
                scene = replace(self, start=start, way=way)
                if scene == self or not scene._begins():
                    continue
                if (scene.truth == self.truth) == (kind == "same_answer"):
                    moved = {self.start, self.tail} ^ {start, scene.tail}
                    cost = len(moved) if kind == "other_answer" else 0
                    options.append(((not scene._fair(), cost), scene))
        if not options:
            return self._other_ends(kind, rng)
        least = min(cost for cost, _ in options)
        return rng.choice([scene for cost, scene in options if cost == least])

    def _other_ends(self, kind: str, rng: Random) -> BounceScene:
        """Another scene with the same flight."""
        ends, end = dict(self.ends), self.route[-1]
        others = [cell for cell in ends if cell != end]
        if kind == "other_answer":
            other = rng.choice(others)
            ends[end], ends[other] = ends[other], ends[end]
        else:
            taken = grid.bits((*self.route, *others, self.tail))
            places = _others(end, self.free & ~taken, rng)
            if not places:
                raise TaskError("this board has no place for another end; take another seed.")  # pragma: no cover
            gone = others[: len(places)]
            ends = {cell: colour for cell, colour in ends.items() if cell not in gone} | dict(
                zip(places, (ends[cell] for cell in gone), strict=True)
            )
        return replace(self, ends=tuple(sorted(ends.items())))

    def _begins(self) -> bool:
        """Whether the tail lies on free floor and the flight hits an end within the video."""
        ends = dict(self.ends)
        return not _closed(self.free, *self.tail) and self.tail not in ends and self.route[-1] in ends

    def _fair(self) -> bool:
        """Whether the flight is as the rules say."""
        moves = len(self.route) - 1
        bounces = fly(self.start, self.way, self.free, moves)[1][-1]
        lowest, highest = self.rules.bounces
        return self.rules.moves[0] <= moves <= self.rules.longest(self.size) and lowest <= bounces <= highest


def _way_to(start: Cell, end: Cell, free: int, ways: tuple[Way, ...]) -> Route | None:
    """A shortest way of such moves over free cells; None when there is none."""
    came: dict[Cell, Cell] = {start: start}
    front = [start]
    while front and end not in came:
        ahead = []
        for r, c in front:
            for dr, dc in ways:
                cell = (r + dr, c + dc)
                if not _closed(free, *cell) and cell not in came:
                    came[cell] = (r, c)
                    ahead.append(cell)
        front = ahead
    if end not in came:
        return None
    route = [end]
    while route[-1] != start:
        route.append(came[route[-1]])
    return tuple(reversed(route))


def _draw(rng: Random, size: Size, rules: Rules) -> BounceScene:
    """Draw walls and a flight, an end on it, and three other ends.

    The end is as far as the rules say and was not crossed before; the others lie off the flight, if possible where a
    ball could come in as many moves.
    """
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
    """Three other ends, or as many as there are places.

    Rows and columns as even or odd as the true one's come first, then cells of its diagonals' colour, then any.
    """
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
