"""`emerge`: balls that the first frame does not show come in by a gate, roll behind a grey screen and come out again.

Gate, lane and screen are in the first frame, and with them where and when each ball is; its colour is in neither prompt
nor first frame, and every colour is a right answer as long as the ball keeps it. So what is shown after the screen can
only be known from what was shown before it.

easy: one ball, one cell a frame, hidden for two frames. hard: two balls of different colours, one cell every two
frames, hidden for six frames or eight, among them all four of a latent frame, so that no token holds both sides of the
screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Size
from dit_lens.tasks.level import COLOURS, Level

ONE = (
    "a ball comes in and passes behind the screen",
    "a new ball rolls past the screen",
    "the ball that comes in must come out again",
    "let a ball roll in and out of sight",
    "wait for the ball and follow it",
    "something rolls in behind the screen",
    "a ball enters by the gate and crosses",
    "the gate lets a ball in",
    "keep the ball as it is behind the screen",
    "a ball appears, hides and appears again",
)
TWO = (
    "two balls come in and pass behind the screens",
    "two new balls roll past the screens",
    "both balls that come in must come out again",
    "let two balls roll in and out of sight",
    "wait for both balls and follow them",
    "two things roll in behind the screens",
    "two balls enter by the gates and cross",
    "the gates let two balls in",
    "keep both balls as they are behind the screens",
    "two balls appear, hide and appear again",
)
SIDES = ("left", "right", "top", "bottom")
STRAY = 4  # at most so many wall tiles as scenery, never in a lane


@dataclass(frozen=True)
class Rules:
    """pace: frames for each cell. screens: how many cells a screen may hide."""

    phrases: tuple[str, ...]
    balls: int
    pace: int
    screens: tuple[int, ...]


EASY = Rules(ONE, 1, 1, (2,))
HARD = Rules(TWO, 2, 2, (3, 4))


@dataclass(frozen=True)
class Lane:
    """A straight way across the board from the gate on one side, along row or column ``line``; cells ``screen`` to
    ``screen + hides - 1`` of it are behind a screen."""

    side: str
    line: int
    screen: int
    hides: int

    def cells(self, size: Size) -> tuple[Cell, ...]:
        """From the gate to the far edge."""
        if self.side in ("left", "right"):
            cells = [(self.line, c) for c in range(size.cols)]
        else:
            cells = [(r, self.line) for r in range(size.rows)]
        return tuple(cells if self.side in ("left", "top") else reversed(cells))

    def posts(self, size: Size) -> tuple[Cell, ...]:
        """The wall tiles beside the gate."""
        row, col = self.cells(size)[0]
        beside = ((-1, 0), (1, 0)) if self.side in ("left", "right") else ((0, -1), (0, 1))
        return tuple(c for dr, dc in beside if size.holds(c := (row + dr, col + dc)))

    def behind(self, index: int) -> bool:
        """Whether a ball on this cell of the lane is hidden."""
        return self.screen <= index < self.screen + self.hides


@dataclass(frozen=True)
class EmergeScene:
    """lanes, colours: one of each for every ball. scenery: wall tiles besides the posts of the gates."""

    lanes: tuple[Lane, ...]
    colours: tuple[int, ...]
    scenery: tuple[Cell, ...]
    phrase: int
    size: Size
    rules: Rules

    @property
    def prompt(self) -> str:
        return self.rules.phrases[self.phrase]

    @property
    def truth(self) -> tuple[str, ...]:
        """The colour of each ball."""
        return tuple(p.NAMES[c] for c in self.colours)

    @property
    def solutions(self) -> tuple[tuple[str, ...], ...]:
        """Every choice of (different) colours."""
        return tuple(sorted(permutations(COLOURS, len(self.lanes))))

    def place(self, lane: Lane, frame: int) -> int | None:
        """Which cell of its lane the ball is on; None in the first frame, in which it is not there yet."""
        last = len(lane.cells(self.size)) - 1
        return min(last, (frame - 1) // self.rules.pace) if frame else None

    @cached_property
    def empty(self) -> np.ndarray:
        """The scene without its balls, (R, C, 2)."""
        board = np.zeros((self.size.rows, self.size.cols, 2), np.uint8)
        for cell in self.scenery:
            board[cell] = p.WALL
        for lane in self.lanes:
            cells = lane.cells(self.size)
            for cell in lane.posts(self.size):
                board[cell] = p.WALL
            board[cells[0]][1] = p.SLOT
            for cell in cells[lane.screen : lane.screen + lane.hides]:
                board[cell] = p.SCREEN
        return board

    def codes(self) -> np.ndarray:
        return self.codes_of(self.truth)

    def codes_of(self, answer: Any) -> np.ndarray:
        """Any colours, also twice the same."""
        if not isinstance(answer, tuple) or len(answer) != len(self.lanes) or not set(answer) <= set(COLOURS):
            raise TaskError(
                f"{answer!r} cannot be drawn here: give a tuple of {len(self.lanes)} of the colours {COLOURS}; "
                "take one of task.solutions or task.decoys(n)."
            )
        codes = np.repeat(self.empty[None], self.size.num_frames, axis=0)
        for lane, name in zip(self.lanes, answer, strict=True):
            cells, code = lane.cells(self.size), p.NAMES.index(name)
            for f in range(1, self.size.num_frames):
                at = min(len(cells) - 1, (f - 1) // self.rules.pace)
                if not lane.behind(at):
                    codes[(f, *cells[at], 0)] = code
        return codes


def _latest(size: Size, rules: Rules, length: int) -> int:
    """The last cell of a lane on which a ball may come out: two frames before the end, and on the lane."""
    return min(length - 1, (size.num_frames - 3) // rules.pace)


def _screens(size: Size, rules: Rules, length: int) -> list[tuple[int, int]]:
    """Every (first cell, number of cells) of a screen on a lane of a length: before it the ball is seen, and after."""
    latest = _latest(size, rules, length)
    return [(s, n) for n in rules.screens for s in range(1, latest + 1 - n)]


def _draw(rng: Random, size: Size, rules: Rules) -> EmergeScene:
    """Lanes along one axis, at least one free row or column between two of them; colours without preference."""
    upright = rng.random() < 0.5
    sides = SIDES[2:] if upright else SIDES[:2]
    length, lines = (size.rows, size.cols) if upright else (size.cols, size.rows)
    places = [rng.randrange(lines)]
    if rules.balls == 2:
        places.append(rng.choice([i for i in range(lines) if abs(i - places[0]) > 1]))
    options = _screens(size, rules, length)
    lanes = tuple(Lane(rng.choice(sides), line, *rng.choice(options)) for line in places)
    colours = tuple(rng.sample(p.BALLS, rules.balls))
    return EmergeScene(
        lanes, colours, draw_scenery(rng, lanes, size), rng.randrange(len(rules.phrases)), size, rules
    )  # fmt: skip


def draw_scenery(rng: Random, lanes: tuple[Lane, ...], size: Size) -> tuple[Cell, ...]:
    """Up to four wall tiles in no lane and at no gate."""
    taken = {cell for lane in lanes for cell in (*lane.cells(size), *lane.posts(size))}
    cells = [(r, c) for r in range(size.rows) for c in range(size.cols) if (r, c) not in taken]
    return tuple(sorted(rng.sample(cells, rng.randint(0, STRAY))))


LEVELS = {
    "easy": Level(partial(_draw, rules=EASY), LAB, ONE, lambda size: True),
    "hard": Level(partial(_draw, rules=HARD), LAB, TWO, lambda size: size.num_frames >= 13),
}
