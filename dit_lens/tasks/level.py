"""A level of a family: how it is drawn, at which sizes, and in which words it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from random import Random

from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import Size
from dit_lens.tasks.task import Scene

COLOURS = tuple(p.NAMES[c] for c in p.BALLS)


@dataclass(frozen=True)
class Level:
    """One level of a family.

    Attributes:
        draw: Draws a random scene of the given size.
        size: The usual size.
        phrases: The wordings, with one ``{}`` for every colour that is named.
        fits: Whether scenes of a size exist.
    """

    draw: Callable[[Random, Size], Scene]
    size: Size
    phrases: tuple[str, ...]
    fits: Callable[[Size], bool]

    def prompts(self) -> dict[str, tuple[str, ...]]:
        """Every prompt that the level uses -> the colours that it names, in order."""
        out = {}
        for phrase in self.phrases:
            for named in permutations(COLOURS, phrase.count("{}")):
                out[phrase.format(*named)] = named
        return out
