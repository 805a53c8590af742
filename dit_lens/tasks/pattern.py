"""``pattern``: rows of coloured discs that repeat with a period of at most three; fill the outlined blanks.

Some beginnings settle the row (A B C _ _ _), some leave several completions (A B _ _ _ _ may go on A B A B or C A B
C, ...).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from random import Random
from typing import Any

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.task import Score

PHRASES = (
    "continue the pattern",
    "complete the rows",
    "fill in the missing dots",
    "repeat the colours to the end",
)
PERIODS = (1, 2, 3)
STRAY = 4

Row = tuple[int, ...]


def fill_frame(blank: int) -> int:
    """The frame in which the blank number 0, 1, ... of every row is filled."""
    return 2 + 2 * blank


@cache
def periodic_rows(length: int = LAB.cols) -> tuple[Row, ...]:
    """All rows of a length that repeat with a period of at most three, by brute force over the repeating word."""
    words = (w for n in PERIODS for w in product(p.BALLS, repeat=n))
    return tuple(sorted({tuple(w[i % len(w)] for i in range(length)) for w in words}))


@cache
def completions(beginning: Row, length: int = LAB.cols) -> tuple[Row, ...]:
    """The periodic rows that begin so, sorted; may be empty."""
    return tuple(row for row in periodic_rows(length) if row[: len(beginning)] == beginning)


@dataclass(frozen=True)
class PatternScene:
    """Rows of discs, each with a visible beginning and blanks.

    Attributes:
        places: Board rows in use, ascending.
        shown: The visible beginning of each.
        rows: The truth, a colour code for every column.
        walls: Scenery.
        phrase: Which wording.
        size: Rows, columns and frames.
    """

    places: tuple[int, ...]
    shown: tuple[Row, ...]
    rows: tuple[Row, ...]
    walls: tuple[Cell, ...]
    phrase: int
    size: Size = LAB

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return PHRASES[self.phrase]

    @property
    def truth(self) -> tuple[tuple[str, ...], ...]:
        """The full rows from top to bottom, as colour names."""
        return _named(self.rows)

    @property
    def serial_length(self) -> int:
        """1: the colour of every blank follows from the beginning of its row alone."""
        return 1

    @cached_property
    def solutions(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Every way to complete all rows."""
        return tuple(sorted(_named(rows) for rows in product(*(completions(s, self.size.cols) for s in self.shown))))

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2)."""
        return self.codes_of(self.truth)

    def codes_of(self, answer: Any) -> np.ndarray:
        """Any colours in the blanks."""
        if not self._fits(answer):
            raise TaskError(
                f"{answer!r} does not fit this pattern: give one row of {self.size.cols} colour names for each of the "
                f"{len(self.places)} rows, beginning as shown; take one of task.solutions or task.decoys(n)."
            )
        rows = tuple(tuple(p.NAMES.index(name) for name in row) for row in answer)
        codes = self.size.floor()
        for cell in self.walls:
            codes[(slice(None), *cell)] = p.WALL
        for place, shown, row in zip(self.places, self.shown, rows, strict=True):
            n = len(shown)
            codes[:, place, :n, 0] = shown
            codes[:, place, n:, 1] = p.SLOT
            for blank, colour in enumerate(row[n:]):
                codes[fill_frame(blank) :, place, n + blank, 0] = colour
        return codes

    def regions(self) -> dict[str, np.ndarray]:
        """background, walls, shown (the given discs), blanks (all cells to fill), filled (those filled by now)."""
        codes = self.codes()
        blanks = codes[..., 1] == p.SLOT
        discs = np.isin(codes[..., 0], p.BALLS)
        return {
            "background": (codes == p.BACKGROUND).all(-1),
            "walls": codes[..., 0] == p.WALL,
            "shown": discs & ~blanks,
            "blanks": blanks,
            "filled": discs & blanks,
        }

    def _fits(self, answer: Any) -> bool:
        names = {p.NAMES[c] for c in p.BALLS}
        return (
            isinstance(answer, tuple)
            and len(answer) == len(self.shown)
            and all(isinstance(row, tuple) and len(row) == self.size.cols and set(row) <= names for row in answer)
            and all(row[: len(s)] == _named([s])[0] for row, s in zip(answer, self.shown, strict=True))
        )

    def decoy(self, rng: Random) -> tuple[tuple[str, ...], ...] | None:
        """The blanks in colours drawn at random, no row of which goes on with a period of at most three."""
        rows = []
        for shown in self.shown:
            every = [(*shown, *more) for more in product(p.BALLS, repeat=self.size.cols - len(shown))]
            rows.append(rng.choice([row for row in every if row not in completions(shown, self.size.cols)]))
        return _named(rows)

    def answer(self, cells: np.ndarray) -> tuple[tuple[str, ...], ...] | None:
        """The rows of the last frame as colour names; None when a cell of them holds no colour."""
        rows = cells[-1, list(self.places), :, 0]
        return _named(rows.tolist()) if np.isin(rows, p.BALLS).all() else None

    def score(self, cells: np.ndarray) -> Score:
        """Judge a video.

        Args:
            cells: Its codes (F, R, C, 2).

        Returns:
            The verdict. details: filled (every blank holds a colour at the end), periodic (the last frame is one of the
            solutions), stable (a blank, once coloured, keeps its colour), blank_first (the blanks are empty in the
            first frame), scene_kept (given discs, outlines, walls and floor in every frame), kept_fraction, rows_right.
            The first five are needed for ``solved``. value: the share of blanks that belong to a row completed rightly,
            times the kept share.
        """
        disc, codes = cells[..., 0], self.codes()
        blanks = codes[0, ..., 1] == p.SLOT
        filled = np.isin(disc[:, blanks], p.BALLS)  # (F, blanks)
        kept = _scene_kept(cells, codes)
        right = [
            tuple(disc[-1, place].tolist()) in completions(shown, self.size.cols)
            for place, shown in zip(self.places, self.shown, strict=True)
        ]
        weights = [self.size.cols - len(s) for s in self.shown]
        changes = filled[:-1] & (disc[1:, blanks] != disc[:-1, blanks])
        details = {
            "filled": bool(filled[-1].all()),
            "periodic": all(right),
            "stable": not changes.any(),
            "blank_first": not filled[0].any(),
            "scene_kept": bool(kept.all()),
            "kept_fraction": float(kept.mean()),
            "rows_right": sum(right),
        }
        solved = all(details[k] for k in ("filled", "periodic", "stable", "blank_first", "scene_kept"))
        share = sum(w for w, ok in zip(weights, right, strict=True) if ok) / sum(weights) * kept.mean()
        return Score(solved, 1.0 if solved else float(min(0.99, share)), details)

    def twin(self, kind: str, rng: Random) -> PatternScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: as few given discs recoloured as make every solution a different one in the
                blanks. ``"same_answer"``: the same rows at other places on the board, with other scenery.
            rng: Draws among several.

        Returns:
            The twin.
        """
        return self._recoloured(rng) if kind == "other_answer" else self._moved(rng)

    def _recoloured(self, rng: Random) -> PatternScene:
        order = list(range(len(self.shown)))
        rng.shuffle(order)
        for i in order:
            shown = self.shown[i]
            blanks_now = {row[len(shown) :] for row in completions(shown, self.size.cols)}
            fits = []
            for other in product(p.BALLS, repeat=len(shown)):
                changed = sum(a != b for a, b in zip(shown, other, strict=True))
                rows = completions(other, self.size.cols)
                if changed and rows and not blanks_now & {row[len(shown) :] for row in rows}:
                    fits.append((changed, other))
            if fits:
                least = min(changed for changed, _ in fits)
                other = rng.choice([o for changed, o in fits if changed == least])
                row = rng.choice(completions(other, self.size.cols))
                return replace(
                    self,
                    shown=(*self.shown[:i], other, *self.shown[i + 1 :]),
                    rows=(*self.rows[:i], row, *self.rows[i + 1 :]),
                )
        raise TaskError("no recolouring of this pattern changes its answer; take another seed.")  # pragma: no cover

    def _moved(self, rng: Random) -> PatternScene:
        while True:
            places = tuple(sorted(rng.sample(range(self.size.rows), len(self.places))))
            if places != self.places:
                return replace(self, places=places, walls=_scenery(rng, places, self.size))


def _named(rows: Iterable[Iterable[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(p.NAMES[c] for c in row) for row in rows)


def _scene_kept(cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Per cell and frame: the rest keeps its colour; discs too, but for the blanks, which show floor or a colour."""
    disc, rest = cells[..., 0], cells[..., 1]
    blanks = codes[0, ..., 1] == p.SLOT
    return (rest == codes[..., 1]) & np.where(
        blanks, np.isin(disc, (p.BACKGROUND, *p.BALLS)), disc == codes[:1, ..., 0]
    )


def _scenery(rng: Random, places: tuple[int, ...], size: Size) -> tuple[Cell, ...]:
    cells = [(r, c) for r in range(size.rows) for c in range(size.cols) if r not in places]
    return tuple(sorted(rng.sample(cells, rng.randint(0, STRAY))))


def draw(rng: Random, size: Size = LAB) -> PatternScene:
    """Draw a scene of 1 to 3 rows.

    Each row's beginning is drawn first, then its truth uniformly among the completions.
    """
    places = tuple(sorted(rng.sample(range(size.rows), rng.randint(1, 3))))
    shown = []
    for _ in places:
        word = [rng.choice(p.BALLS) for _ in range(rng.choice(PERIODS))]
        shown.append(tuple(word[i % len(word)] for i in range(rng.randint(*_shown(size)))))
    rows = tuple(rng.choice(completions(s, size.cols)) for s in shown)
    scenery = _scenery(rng, places, size)
    return PatternScene(places, tuple(shown), rows, scenery, rng.randrange(len(PHRASES)), size)


def _shown(size: Size) -> tuple[int, int]:
    """Bounds of the visible beginning: at most four blanks, so that all are filled within nine frames."""
    return size.cols - 4, size.cols - 1


LEVELS = {"lab": Level(draw, LAB, PHRASES, lambda size: size.cols >= 6)}
