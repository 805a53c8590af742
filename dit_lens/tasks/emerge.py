"""``emerge``: balls that the first frame does not show come in by a gate, roll behind a grey screen and come out again.

Gate, lane and screen are in the first frame, and with them where and when each ball is; its colour is in neither prompt
nor first frame, and every colour is a right answer as long as the ball keeps it. So what is shown after the screen can
only be known from what was shown before it. An answer therefore tells, for each ball, both colours.

easy: one ball, one cell a frame, hidden for two frames. hard: two balls of different colours, one cell every two
frames, hidden for six frames or eight, among them all four of a latent frame, so that no token holds both sides of the
screen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Size
from dit_lens.tasks.level import COLOURS, Level
from dit_lens.tasks.task import Score

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
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
Ball = tuple[str, str, int, int]
STRAY = 4  # at most so many wall tiles as scenery, never in a lane


@dataclass(frozen=True)
class Rules:
    """What a level asks of its balls.

    Attributes:
        phrases: Wordings of the prompt.
        balls: How many come in.
        pace: Frames for each cell.
        screens: How many cells a screen may hide.
    """

    phrases: tuple[str, ...]
    balls: int
    pace: int
    screens: tuple[int, ...]


EASY = Rules(ONE, 1, 1, (2,))
HARD = Rules(TWO, 2, 2, (3, 4))


@dataclass(frozen=True)
class Lane:
    """A straight way across the board, with a gate at one end and a screen over some of its cells.

    Attributes:
        side: Where the gate is.
        line: Row or column of the lane.
        screen: The first cell behind the screen, counted from the gate.
        hides: How many cells are behind it, ``screen`` to ``screen + hides - 1``.
    """

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
    """Balls that come in by gates and pass behind screens.

    Attributes:
        lanes: One for every ball.
        colours: One colour code for every ball.
        scenery: Wall tiles besides the posts of the gates.
        phrase: Which wording.
        size: Rows, columns and frames.
        rules: Those of its level.
    """

    lanes: tuple[Lane, ...]
    colours: tuple[int, ...]
    scenery: tuple[Cell, ...]
    phrase: int
    size: Size
    rules: Rules

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return self.rules.phrases[self.phrase]

    @property
    def truth(self) -> tuple[Ball, ...]:
        """For each ball its colour before the screen and after it, and the (row, column) where the video ends."""
        return self._shown(tuple(p.NAMES[c] for c in self.colours))

    @property
    def serial_length(self) -> int:
        """1: where a ball is at a frame follows from the first frame alone."""
        return 1

    @property
    def solutions(self) -> tuple[tuple[Ball, ...], ...]:
        """Every choice of (different) colours."""
        return tuple(sorted(self._shown(names) for names in permutations(COLOURS, len(self.lanes))))

    def _shown(self, names: tuple[str, ...]) -> tuple[Ball, ...]:
        return tuple((name, name, *end) for name, end in zip(names, self.ends, strict=True))

    @property
    def ends(self) -> tuple[Cell, ...]:
        """Where each ball is in the last frame."""
        return tuple(lane.cells(self.size)[self.place(lane, self.size.num_frames - 1)] for lane in self.lanes)

    def place(self, lane: Lane, frame: int) -> int:
        """Which cell of its lane the ball is on; -1 in the first frame, in which it is not there yet."""
        last = len(lane.cells(self.size)) - 1
        return min(last, (frame - 1) // self.rules.pace) if frame else -1

    def seen(self, lane: Lane) -> np.ndarray:
        """Where a ball can be seen, bool (F, R, C)."""
        return self._visit(lane, behind=False)

    def hidden(self, lane: Lane) -> np.ndarray:
        """Where a ball is while it is behind its screen, bool (F, R, C)."""
        return self._visit(lane, behind=True)

    def _visit(self, lane: Lane, behind: bool) -> np.ndarray:
        out = np.zeros((self.size.num_frames, self.size.rows, self.size.cols), bool)
        cells = lane.cells(self.size)
        for f in range(1, self.size.num_frames):
            at = self.place(lane, f)
            out[(f, *cells[at])] = lane.behind(at) == behind
        return out

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
        """The truth as palette codes, uint8 (F, R, C, 2)."""
        return self.codes_of(self.truth)

    def codes_of(self, answer: Any) -> np.ndarray:
        """Any colours, before and after the screen."""
        if not self._fits(answer):
            raise TaskError(
                f"{answer!r} cannot be drawn here: give for each of the balls that end at {self.ends} a tuple "
                f"(colour before, colour after, row, column), colours from {COLOURS}; take one of task.solutions or "
                "task.decoys(n)."
            )
        codes = np.repeat(self.empty[None], self.size.num_frames, axis=0)
        for lane, (before, after, *_) in zip(self.lanes, answer, strict=True):
            cells = lane.cells(self.size)
            for f in range(1, self.size.num_frames):
                at = self.place(lane, f)
                if not lane.behind(at):
                    codes[(f, *cells[at], 0)] = p.NAMES.index(before if at < lane.screen else after)
        return codes

    def _fits(self, answer: Any) -> bool:
        return (
            isinstance(answer, tuple)
            and len(answer) == len(self.lanes)
            and all(isinstance(ball, tuple) and len(ball) == 4 and set(ball[:2]) <= set(COLOURS) for ball in answer)
            and tuple(ball[2:] for ball in answer) == self.ends
        )

    def decoy(self, rng: Random) -> tuple[Ball, ...]:
        """One ball changes its colour behind the screen, or two exchange theirs."""
        names = rng.sample(COLOURS, len(self.lanes))
        after = list(names)
        if len(names) > 1 and rng.random() < 0.5:
            after.reverse()
        else:
            changed = rng.randrange(len(names))
            after[changed] = rng.choice([name for name in COLOURS if name not in names])
        return tuple((a, b, *end) for a, b, end in zip(names, after, self.ends, strict=True))

    def regions(self) -> dict[str, np.ndarray]:
        """Regions of the scene, bool (F, R, C).

        Returns:
            background, walls, screen, gate, ball (where it can be seen), hidden (its cell while behind the screen),
            path (all cells of the lanes).
        """
        codes, size = self.codes(), self.size
        seen, hidden = ([visit(lane) for lane in self.lanes] for visit in (self.seen, self.hidden))
        return {
            "background": (codes == p.BACKGROUND).all(-1),
            "walls": codes[..., 0] == p.WALL,
            "screen": codes[..., 0] == p.SCREEN,
            "gate": codes[..., 1] == p.SLOT,
            "ball": np.any(seen, axis=0),
            "hidden": np.any(hidden, axis=0),
            "path": size.still(size.board(cell for lane in self.lanes for cell in lane.cells(size))),
        }

    def answer(self, cells: np.ndarray) -> tuple[Ball, ...] | None:
        """The colours and places of the balls that a video shows.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            For each ball its colour in the last frame before it hides, and colour and place in the last frame of all;
            None where one of them is not to be seen, or more than one ball is.
        """
        found = [ball for lane in self.lanes if (ball := self._ball(lane, cells[..., 0]))]
        return tuple(found) if len(found) == len(self.lanes) else None

    def _ball(self, lane: Lane, disc: np.ndarray) -> Ball | None:
        way = lane.cells(self.size)
        enters = lane.screen * self.rules.pace  # the last frame before it hides
        before = _only(disc[enters], way[: lane.screen])
        after = _only(disc[-1], way[lane.screen + lane.hides :])
        return (before[0], after[0], *after[1]) if before and after else None

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            The verdict. details: on_time (in every frame each ball is where it can be seen, if it can, in any colour),
            alone (no ball anywhere else), came_out (the share of balls that are in their last places at the end),
            colour_kept (every ball has one colour in all frames), different (no two balls have the same), scene_kept
            (gates, screens, walls and floor in every frame), kept_fraction, colours (those of each ball, sorted by
            name). All but the last two are needed for ``solved``. value: the share of balls that came out in the colour
            in which they went in, times the kept share; a video that shows balls only before their screens has at most
            a quarter.
        """
        disc = cells[..., 0]
        seen = [self.seen(lane) for lane in self.lanes]
        balls = np.isin(disc, p.BALLS)
        colours = [sorted({p.NAMES[c] for c in disc[where & balls].tolist()}) for where in seen]
        kept = self._scene_kept(cells)
        answer = [self._ball(lane, disc) for lane in self.lanes]
        out = [ball is not None and ball[2:] == end for ball, end in zip(answer, self.ends, strict=True)]
        details = {
            "on_time": all(bool(balls[where].all()) for where in seen),
            "alone": not (balls & ~np.any(seen, axis=0)).any(),
            "came_out": sum(out) / len(out),
            "colour_kept": all(len(names) == 1 for names in colours),
            "different": len({tuple(names) for names in colours}) == len(colours),
            "scene_kept": bool(kept.all()),
            "kept_fraction": float(kept.mean()),
            "colours": tuple(map(tuple, colours)),
        }
        needed = ("on_time", "alone", "colour_kept", "different", "scene_kept")
        solved = all(details[k] for k in needed) and all(out)
        right = sum(ok and ball[0] == ball[1] for ok, ball in zip(out, answer, strict=True) if ball) / len(out)
        shown = np.mean([balls[where].mean() for where in seen])
        value = (0.75 * right + 0.25 * shown) * kept.mean()
        return Score(solved, 1.0 if solved else float(min(0.99, value)), details)

    def _scene_kept(self, cells: np.ndarray) -> np.ndarray:
        """Where the scene is as it should be, bool per frame and cell.

        The rest keeps its colour, walls and screens stay whole, other discs show floor or a ball.
        """
        disc, rest = cells[..., 0], cells[..., 1]
        fixed = np.isin(self.empty[..., 0], (p.WALL, p.SCREEN))
        floor = np.isin(disc, (p.BACKGROUND, *p.BALLS))
        return (rest == self.empty[..., 1]) & np.where(fixed, disc == self.empty[..., 0], floor)

    def twin(self, kind: str, rng: Random) -> EmergeScene:
        """Make a counterfactual partner.

        No change of the first frame can ask for another colour. The same scene with other ``colours`` has the same
        picture, prompt and solutions, and another truth.

        Args:
            kind: ``"other_answer"``: one ball comes from the other side, so that it ends elsewhere; its screen moves
                only if it must be passed in time. ``"same_answer"``: other screens and scenery.
            rng: Draws among several.

        Returns:
            The twin.
        """
        if kind == "other_answer":
            return self._mirrored(rng)
        while True:
            lanes = tuple(
                replace(lane, screen=screen, hides=hides)
                for lane in self.lanes
                for screen, hides in [rng.choice(_screens(self.size, self.rules, len(lane.cells(self.size))))]
            )
            scene = replace(self, lanes=lanes, scenery=draw_scenery(rng, lanes, self.size))
            if not np.array_equal(scene.empty, self.empty):
                return scene

    def _mirrored(self, rng: Random) -> EmergeScene:
        index = rng.randrange(len(self.lanes))
        lane = self.lanes[index]
        length = len(lane.cells(self.size))
        options = _screens(self.size, self.rules, length)
        same = length - lane.screen - lane.hides  # where its screen begins, seen from the other side
        screen, hides = min(options, key=lambda o: (abs(o[1] - lane.hides), abs(o[0] - same)))
        other = Lane(_OPPOSITE[lane.side], lane.line, screen, hides)
        lanes = (*self.lanes[:index], other, *self.lanes[index + 1 :])
        taken = {cell for one in lanes for cell in (*one.cells(self.size), *one.posts(self.size))}
        return replace(self, lanes=lanes, scenery=tuple(cell for cell in self.scenery if cell not in taken))


def _only(disc: np.ndarray, way: tuple[Cell, ...]) -> tuple[str, Cell] | None:
    """Colour and place of the one ball on some cells of a frame; None where there is not exactly one."""
    found = [(p.NAMES[disc[cell]], cell) for cell in way if disc[cell] in p.BALLS]
    return found[0] if len(found) == 1 else None


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
