"""``choose``: goals of different colours; the prompt names the one to walk to. The picture alone does not tell.

easy: two goals, 2 to 5 moves. hard: three goals, 4 to 12 moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import Any

import numpy as np

from dit_lens.tasks import grid, walk
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.level import Level
from dit_lens.tasks.maze import Rules, other_walls
from dit_lens.tasks.task import Score

PHRASES = (
    "go to the {} square",
    "walk to the {} goal",
    "{} is the goal",
    "choose the {} square",
    "move the blue dot to {}",
)
MORE_PHRASES = (
    *PHRASES,
    "of the goals, take the {} one",
    "head for the {} square",
    "the blue dot goes to the {} goal",
    "only the {} square counts",
    "reach the {} square and no other",
    "pick the {} goal",
    "the way to {}, please",
)
Goal = tuple[Cell, int]  # where, and the code of its colour

AS_LAB = Rules(PHRASES, (2, 20), (0.0, 0.20))
EASY = Rules(MORE_PHRASES, (2, 5), (0.0, 0.20))
HARD = Rules(MORE_PHRASES, (4, 12), (0.15, 0.35))


@dataclass(frozen=True)
class ChooseScene:
    """Goals of different colours, one of which the prompt names.

    Attributes:
        walls: Sorted cells.
        start: The agent's first cell.
        goal: The named goal.
        colour: Its colour code.
        other: A goal to leave alone, which may not be passed through either.
        other_colour: Its colour code.
        route: The shortest route shown as truth.
        phrase: Which wording.
        size: Rows, columns and frames.
        rules: Those of its level.
        more: Further goals to leave alone, as (cell, colour).
    """

    walls: tuple[Cell, ...]
    start: Cell
    goal: Cell
    colour: int
    other: Cell
    other_colour: int
    route: Route
    phrase: int
    size: Size = LAB
    rules: Rules = AS_LAB
    more: tuple[Goal, ...] = ()

    @property
    def prompt(self) -> str:
        """What the model is told."""
        return self.rules.phrases[self.phrase].format(p.NAMES[self.colour])

    @property
    def truth(self) -> Route:
        """The route shown."""
        return self.route

    @property
    def free(self) -> int:
        """Cells that may be entered."""
        return self.size.full & ~grid.bits(self.walls) & ~grid.bits(cell for cell, _ in self.others)

    @property
    def others(self) -> tuple[Goal, ...]:
        """All goals that are not named."""
        return ((self.other, self.other_colour), *self.more)

    @property
    def serial_length(self) -> int:
        """Moves of a shortest route, each of which begins where the one before ends."""
        return len(self.route) - 1

    @cached_property
    def solutions(self) -> tuple[Route, ...]:
        """All shortest routes to the named goal that avoid the others."""
        return grid.shortest_routes(self.start, self.goal, self.free)

    def codes(self) -> np.ndarray:
        """The truth as palette codes, uint8 (F, R, C, 2)."""
        return self.codes_of(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        """The codes of any walk from the start, right or wrong."""
        goals = {self.goal: self.colour, **dict(self.others)}
        return walk.draw(self.walls, goals, walk.check(answer, self.start, self.size), self.size)

    def decoy(self, rng: Random) -> Route:
        """A shortest route to a goal that was not named: what the picture would allow under another prompt."""
        return self._naming(self._rival(rng), rng).route

    def _rival(self, rng: Random) -> int:
        """Which of the other goals."""
        return rng.randrange(len(self.others)) if self.more else 0

    def _naming(self, index: int, rng: Random) -> ChooseScene:
        """The same picture with another goal named."""
        goals = list(self.others)
        goal, colour = goals[index]
        goals[index] = (self.goal, self.colour)
        (other, other_colour), *more = goals
        named = replace(
            self, goal=goal, colour=colour, other=other, other_colour=other_colour, more=tuple(more)
        )  # fmt: skip
        return replace(named, route=grid.draw_route(self.start, goal, named.free, rng))

    def regions(self) -> dict[str, np.ndarray]:
        """As in ``maze``, with goal the named one, and other_goal, all that are not named."""
        out = walk.regions(self.codes(), self.goal, self.route, self.solutions, self.size)
        return {**out, "other_goal": self.size.still(self.size.board(cell for cell, _ in self.others))}

    def answer(self, cells: np.ndarray) -> Route | None:
        """The route walked; see :func:`dit_lens.tasks.walk.answer`."""
        return walk.answer(cells)

    def score(self, cells: np.ndarray) -> Score:
        """As in ``maze``; details also hold other_goal (the agent ends on a goal that was not named)."""
        score = walk.score(cells, self.codes(), self.start, self.goal, self.free)
        ends_wrong = walk.agents(cells)[-1] in dict(self.others)
        return replace(score, details={**score.details, "other_goal": ends_wrong})

    def twin(self, kind: str, rng: Random) -> ChooseScene:
        """Make a counterfactual partner.

        Args:
            kind: ``"other_answer"``: the same picture, the prompt names another colour. ``"same_answer"``: other walls
                and another place and colour of a goal that is not named; the same route stays a shortest one.
            rng: Draws among several.

        Returns:
            The twin.
        """
        return self._naming(self._rival(rng), rng) if kind == "other_answer" else self._other_scene(rng)

    def _other_scene(self, rng: Random) -> ChooseScene:
        on_route = grid.bits(self.route)
        goals = dict(self.others)
        taken = on_route | grid.bits(self.walls) | grid.bits(goals)
        places = [
            scene
            for place in grid.cells_of(self.size.full & ~taken)
            if (scene := replace(self, other=place))._all_reachable(self.walls)
        ]
        scene = rng.choice(places) if places else self
        colours = [c for c in p.BALLS if c not in (self.colour, *goals.values())]
        if colours:
            scene = replace(scene, other_colour=rng.choice(colours))
        closed = grid.bits(cell for cell, _ in scene.others)
        length = len(self.route) - 1

        def keeps(free: int) -> bool:
            return grid.distance(self.start, self.goal, free & ~closed) == length

        for _ in range(20):
            walls = other_walls(scene.walls, on_route | closed, self.rules.walls, rng, self.size, keeps)
            if scene._all_reachable(walls):
                return replace(scene, walls=walls)
        return scene

    def _all_reachable(self, walls: tuple[Cell, ...]) -> bool:
        """Whether every goal that is not named is as near as the rules say, without entering another one."""
        goals = [self.goal, *dict(self.others)]
        free = self.size.full & ~grid.bits(walls)
        return all(_reachable(free, self.start, goal, goals, self.size, self.rules) for goal in goals[1:])


def _reachable(free: int, start: Cell, goal: Cell, goals: list[Cell], size: Size, rules: Rules) -> bool:
    """Whether the goal is as many moves away as the rules say, without entering another one."""
    d = grid.distance(start, goal, free & ~grid.bits(goals) | grid.bit(goal))
    return d is not None and rules.moves[0] <= d <= rules.longest(size)


def _draw(rng: Random, size: Size, rules: Rules, goals: int) -> ChooseScene:
    """A random scene: walls, start and goals, each of which can be reached without passing through another."""
    while True:
        wall_mask = grid.draw_cells(rng, size.full, round(rng.uniform(*rules.walls) * size.n))
        walls = grid.cells_of(wall_mask)
        free = size.full & ~wall_mask
        start, *places = rng.sample(grid.cells_of(free), 1 + goals)
        colours = rng.sample(p.BALLS, goals)
        if not all(_reachable(free, start, goal, places, size, rules) for goal in places):
            continue
        (goal, colour), (other, other_colour), *more = zip(places, colours, strict=True)
        route = grid.draw_route(start, goal, free & ~grid.bits(places[1:]), rng)
        phrase = rng.randrange(len(rules.phrases))
        return ChooseScene(
            walls, start, goal, colour, other, other_colour, route, phrase, size, rules, tuple(more)
        )  # fmt: skip


LEVELS = {
    "lab": Level(partial(_draw, rules=AS_LAB, goals=2), LAB, PHRASES, lambda size: True),
    "easy": Level(partial(_draw, rules=EASY, goals=2), LAB, MORE_PHRASES, lambda size: True),
    "hard": Level(partial(_draw, rules=HARD, goals=3), LAB, MORE_PHRASES, lambda size: size.num_frames >= 13),
}
