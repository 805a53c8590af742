"""Names of tasks: a family, a level, a size, as in ``maze``, ``maze-hard``, ``maze-hard-7x7x17``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from dit_lens.errors import TaskError
from dit_lens.tasks import bounce, choose, emerge, maze, occlude, order, pattern, slide
from dit_lens.tasks.grid import LENGTHS, SIDES, Size
from dit_lens.tasks.level import Level

FAMILIES: dict[str, dict[str, Level]] = {
    "maze": maze.LEVELS,
    "choose": choose.LEVELS,
    "occlude": occlude.LEVELS,
    "pattern": pattern.LEVELS,
    "order": order.LEVELS,
    "emerge": emerge.LEVELS,
    "slide": slide.LEVELS,
    "bounce": bounce.LEVELS,
}
USUAL = "lab"  # the level that a bare family name means
_NAME = re.compile(r"([a-z]+)(?:-([a-z]+))?(?:-(\d+)x(\d+)x(\d+))?")


@dataclass(frozen=True)
class Kind:
    """A family at a level and a size; ``str(kind)`` is its one canonical name.

    The name leaves out the level where it is "lab", and the size where it is the level's usual one.
    """

    family: str
    level: str
    size: Size

    @property
    def rules(self) -> Level:
        """The family's level."""
        return FAMILIES[self.family][self.level]

    def __str__(self) -> str:
        level = "" if self.level == USUAL else f"-{self.level}"
        size = "" if self.size == self.rules.size else f"-{self.size}"
        return f"{self.family}{level}{size}"


def listed() -> tuple[str, ...]:
    """Every family at every level, in its usual size."""
    return tuple(str(Kind(f, name, level.size)) for f, levels in FAMILIES.items() for name, level in levels.items())


@cache
def parse(name: str) -> Kind:
    """The family, level and size that a name tells.

    Raises:
        TaskError: For an unknown family or level, a level that the family has not, or a size that it does not fit.
    """
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None or found[1] not in FAMILIES:
        raise TaskError(f"unknown task {name!r}; choose one of {', '.join(map(repr, listed()))}.")
    family, level = found[1], found[2]
    return kind(family, level, *(int(n) if n else None for n in found.groups()[2:]))


def kind(
    family: str, level: str | None = None, rows: int | None = None, cols: int | None = None, frames: int | None = None
) -> Kind:
    """As ``parse``, from the single parts; what is None is the usual."""
    levels = FAMILIES[family]
    if level is None:
        level = USUAL
        if USUAL not in levels:
            raise TaskError(f"{family!r} has no usual level; add one, as in {f'{family}-easy'!r}.")
    if level not in levels:
        raise TaskError(f"{family!r} has no level {level!r}; choose one of {', '.join(map(repr, levels))}.")
    usual = levels[level].size
    size = Size(
        usual.rows if rows is None else rows,
        usual.cols if cols is None else cols,
        usual.num_frames if frames is None else frames,
    )
    if not levels[level].fits(size):
        fits = ", ".join(str(s) for s in sizes(family, level) if s.rows == s.cols)
        raise TaskError(f"{family!r} at level {level!r} has no puzzles of {size}; square boards that it has: {fits}.")
    return Kind(family, level, size)


@cache
def sizes(family: str, level: str) -> tuple[Size, ...]:
    """All sizes that a level has, smallest first."""
    every = (Size(r, c, f) for r in SIDES for c in SIDES for f in LENGTHS)
    return tuple(sorted(s for s in every if FAMILIES[family][level].fits(s)))
