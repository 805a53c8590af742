"""``occlude``: the named ball rolls behind a grey screen and must come out on the other side, unchanged.

The other ball stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.task import Score

PHRASES = (
    "roll the {} ball",
    "the {} ball rolls behind the screen",
    "push the {} ball across",
    "the {} ball crosses the board",
)
STRAY = 4  # at most so many wall tiles as scenery, never in a ball's row


def column(frame: int, left: bool, last: int = LAB.cols - 1) -> int:
    """Where the rolling ball is: one cell every two frames, from its edge to the far edge, then at rest."""
    moved = min(last, (frame + 1) // 2)
    return moved if left else last - moved


@dataclass(frozen=True)
class OccludeScene:
    """Two balls and a screen of two columns.

    Attributes:
        row: Of the named ball.
        colour: Its colour code.
        left: Whether it starts at the left edge.
        other_row: Of the ball that stays.
        other_colour: Its colour code.
        other_left: Whether it lies at the left edge.
        screen: Left column of the screen.
        walls: Scenery.
        phrase: Which wording.
        size: Rows, columns and frames.
    """

    row: int
    colour: int
    left: bool
    other_row: int
    other_colour: int
    other_left: bool
    screen: int
    walls: tuple[Cell, ...]
    phrase: int
    size: Size = LAB

    @property
    def _last(self) -> int:
        """The column of the right edge."""
        return self.size.cols - 1

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return PHRASES[self.phrase].format(p.NAMES[self.colour])

    @property
    def truth(self) -> tuple[str, int, int]:
        """(colour name, row, column) of the ball that moved, where it comes to rest."""
        return (p.NAMES[self.colour], self.row, self._last if self.left else 0)

    @property
    def serial_length(self) -> int:
        """1: where the ball is at a frame follows from the first frame alone."""
        return 1

    @property
    def solutions(self) -> tuple[tuple[str, int, int], ...]:
        """The one right answer."""
        return (self.truth,)

    @property
    def _hidden(self) -> tuple[int, int]:
        return (self.screen, self.screen + 1)

    @property
    def _home(self) -> Cell:
        return (self.other_row, 0 if self.other_left else self._last)

    def _empty(self) -> np.ndarray:
        """The scene without its balls, (R, C, 2)."""
        board = np.zeros((self.size.rows, self.size.cols, 2), np.uint8)
        for cell in self.walls:
            board[cell] = p.WALL
        board[:, self.screen : self.screen + 2] = p.SCREEN
        return board

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2)."""
        return self.codes_of(self.truth)

    def codes_of(self, answer: Any) -> np.ndarray:
        """Either ball, rolling as in the truth along its own row until it rests at any visible column but its first."""
        if answer not in self._drawable:
            raise TaskError(f"{answer!r} cannot be drawn here; the answers that can are {self._drawable}.")
        name, _, rest = answer
        codes = np.repeat(self._empty()[None], self.size.num_frames, axis=0)
        for code, row, left in self._balls:
            for f in range(self.size.num_frames):
                c = column(f if p.NAMES[code] == name else 0, left, self._last)
                if p.NAMES[code] == name:
                    c = min(c, rest) if left else max(c, rest)
                if c not in self._hidden:
                    codes[f, row, c, 0] = code
        return codes

    @property
    def _balls(self) -> tuple[tuple[int, int, bool], ...]:
        """(colour, row, whether it starts at the left edge) of the named ball and of the other."""
        return (self.colour, self.row, self.left), (self.other_colour, self.other_row, self.other_left)

    @property
    def _drawable(self) -> tuple[tuple[str, int, int], ...]:
        """The answers in which one ball moved along its row to where it can be seen."""
        return tuple(
            (p.NAMES[code], row, c)
            for code, row, left in self._balls
            for c in range(self.size.cols)
            if c != column(0, left, self._last) and c not in self._hidden
        )

    def decoy(self, rng: Random) -> tuple[str, int, int]:
        """The other ball moved, or the named one at rest before its edge."""
        return rng.choice([answer for answer in self._drawable if answer != self.truth])

    def regions(self) -> dict[str, np.ndarray]:
        """Regions of the scene, bool (F, R, C).

        Returns:
            background, walls, screen, ball (the named ball where it can be seen), hidden (its cell while behind the
            screen), other_ball, path (all cells of its row).
        """
        codes = self.codes()
        ball = np.zeros(codes.shape[:-1], bool)
        for f in range(self.size.num_frames):
            ball[f, self.row, column(f, self.left, self._last)] = True
        screen, other, path = (self.size.board() for _ in range(3))
        screen[:, self.screen : self.screen + 2] = True
        other[self._home] = True
        path[self.row] = True
        return {
            "background": codes[..., 0] == p.BACKGROUND,
            "walls": codes[..., 0] == p.WALL,
            "screen": self.size.still(screen),
            "ball": ball & ~screen,
            "hidden": ball & screen,
            "other_ball": self.size.still(other),
            "path": self.size.still(path),
        }

    def answer(self, cells: np.ndarray) -> tuple[str, int, int] | None:
        """The one ball that the last frame shows somewhere it was not at first.

        Args:
            cells: A video's codes (F, R, C, 2).

        Returns:
            (colour name, row, column); None where there is not exactly one.
        """
        disc = cells[..., 0]
        balls = np.isin(disc[-1], p.BALLS) & (disc[-1] != self.codes()[0, ..., 0])
        found = np.argwhere(balls)
        if len(found) != 1:
            return None
        r, c = map(int, found[0])
        return (p.NAMES[disc[-1, r, c]], r, c)

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            The verdict. details: came_out (the last frame has the named ball at the far edge of its row, and no second
            one), went_behind (it was out of sight at least once, and seen before and after only on its way, never
            backwards), other_stays, colour_kept (no ball of any other colour, row or place in any frame), scene_kept
            (screen, walls and floor in every frame), kept_fraction. All are needed for ``solved``. value: came_out
            counts half, the way there a quarter, the other ball a quarter, times the kept share; 0 when the named ball
            never moved.
        """
        disc = cells[..., 0]
        codes = self.codes()
        seen = [{(int(r), int(c)) for r, c in np.argwhere(f == self.colour)} for f in disc]
        columns = [next(iter(s))[1] if len(s) == 1 and next(iter(s))[0] == self.row else None for s in seen]
        start, end = (0, self._last) if self.left else (self._last, 0)
        came_out = seen[-1] == {(self.row, end)}
        orderly = _orderly(seen, columns, self._hidden, start, self.left)
        other_stays = bool((disc[(slice(None), *self._home)] == self.other_colour).all())
        foreign = np.isin(disc, p.BALLS) & (disc != self.colour)
        foreign[(slice(None), *self._home)] = False
        kept = _scene_kept(cells, codes)
        moved = any(c is not None and c != start for c in columns)
        details = {
            "came_out": came_out,
            "went_behind": orderly,
            "other_stays": other_stays,
            "colour_kept": not foreign.any(),
            "scene_kept": bool(kept.all()),
            "kept_fraction": float(kept.mean()),
        }
        solved = all(details[k] for k in ("came_out", "went_behind", "other_stays", "colour_kept", "scene_kept"))
        share = (0.5 * came_out + 0.25 * orderly + 0.25 * other_stays) * kept.mean() * moved
        return Score(solved, 1.0 if solved else float(min(0.99, share)), details)

    def twin(self, kind: str, rng: Random) -> OccludeScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: the same picture, the prompt names the other ball. ``"same_answer"``: the named
                ball as it is, another screen, scenery and second ball.
            rng: Draws among several.

        Returns:
            The twin.
        """
        if kind == "other_answer":
            return replace(
                self,
                row=self.other_row, colour=self.other_colour, left=self.other_left,
                other_row=self.row, other_colour=self.colour, other_left=self.left,
            )  # fmt: skip
        screen = rng.choice([s for s in screens(self.size) if s != self.screen])
        other_row = rng.choice([r for r in range(self.size.rows) if r not in (self.row, self.other_row)])
        other_colour = rng.choice([c for c in p.BALLS if c not in (self.colour, self.other_colour)])
        return replace(
            self,
            screen=screen, other_row=other_row, other_colour=other_colour, other_left=rng.random() < 0.5,
            walls=_scenery(rng, (self.row, other_row), screen, self.size),
        )  # fmt: skip


def _orderly(seen: list[set[Cell]], columns: list[int | None], hidden: tuple[int, int], start: int, left: bool) -> bool:
    """Whether the ball rolls as it should.

    It starts at its edge, is hidden at least once, moves at most one cell a frame while in sight and never backwards.
    """
    if columns[0] != start or any(len(s) > 1 for s in seen) or not any(len(s) == 0 for s in seen):
        return False
    far_side = (lambda c: c > hidden[1]) if left else (lambda c: c < hidden[0])
    last, was_hidden = start, False
    for s, c in zip(seen, columns, strict=True):
        if not s:
            was_hidden = True
            continue
        if c is None:
            return False
        step = (c - last) if left else (last - c)
        if step < 0 or (far_side(c) and not was_hidden) or (not far_side(c) and was_hidden):
            return False
        if step > 1 and not (far_side(c) and not far_side(last)):
            return False
        last = c
    return True


def _scene_kept(cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Per cell and frame: the rest keeps its colour, walls and screen stay whole, other discs show floor or a ball."""
    disc, rest = cells[..., 0], cells[..., 1]
    fixed = np.isin(codes[0, ..., 0], (p.WALL, p.SCREEN))
    floor = np.isin(disc, (p.BACKGROUND, *p.BALLS))
    return (rest == codes[..., 1]) & np.where(fixed, disc == codes[..., 0], floor)


def _scenery(rng: Random, rows: tuple[int, int], screen: int, size: Size) -> tuple[Cell, ...]:
    cells = [
        (r, c) for r in range(size.rows) for c in range(size.cols) if r not in rows and c not in (screen, screen + 1)
    ]
    return tuple(sorted(rng.sample(cells, rng.randint(0, STRAY))))


def screens(size: Size) -> range:
    """Where the left one of the screen's two columns may be."""
    return range(1, size.cols - 2)


def draw(rng: Random, size: Size = LAB) -> OccludeScene:
    """A random scene."""
    row, other_row = rng.sample(range(size.rows), 2)
    colour, other_colour = rng.sample(p.BALLS, 2)
    screen = rng.choice(screens(size))
    left, other_left = rng.random() < 0.5, rng.random() < 0.5
    walls = _scenery(rng, (row, other_row), screen, size)
    phrase = rng.randrange(len(PHRASES))
    return OccludeScene(row, colour, left, other_row, other_colour, other_left, screen, walls, phrase, size)


def _fits(size: Size) -> bool:
    """The ball reaches the far edge before the last frame."""
    return 2 * (size.cols - 1) < size.num_frames


LEVELS = {"lab": Level(draw, LAB, PHRASES, _fits)}
