"""`choose`: two goals of different colours; the prompt names the one to walk to. The picture alone does not tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from dit_lens.tasks import grid, walk
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import Cell, Route
from dit_lens.tasks.maze import other_walls
from dit_lens.tasks.task import Score, still

PHRASES = (
    "go to the {} square",
    "walk to the {} goal",
    "{} is the goal",
    "choose the {} square",
    "move the blue dot to {}",
)
SHORTEST, LONGEST = 2, p.FRAMES - 1
WALLS = (0.0, 0.20)


@dataclass(frozen=True)
class ChooseScene:
    """goal, colour: the named one; other, other_colour: the one to leave alone, which may not be passed through
    either."""

    walls: tuple[Cell, ...]
    start: Cell
    goal: Cell
    colour: int
    other: Cell
    other_colour: int
    route: Route
    phrase: int

    @property
    def prompt(self) -> str:
        return PHRASES[self.phrase].format(p.NAMES[self.colour])

    @property
    def truth(self) -> Route:
        return self.route

    @property
    def free(self) -> int:
        """Cells that may be entered."""
        return grid.FULL & ~grid.bits(self.walls) & ~grid.bit(self.other)

    @cached_property
    def solutions(self) -> tuple[Route, ...]:
        """All shortest routes to the named goal that avoid the other one."""
        return grid.shortest_routes(self.start, self.goal, self.free)

    def codes(self) -> np.ndarray:
        return self.codes_of(self.route)

    def codes_of(self, answer: Any) -> np.ndarray:
        goals = {self.goal: self.colour, self.other: self.other_colour}
        return walk.draw(self.walls, goals, walk.check(answer, self.start))

    def decoy(self, rng: Random) -> Route:
        """A shortest route to the goal that was not named: what the picture would allow under the other prompt."""
        free = grid.FULL & ~grid.bits(self.walls) & ~grid.bit(self.goal)
        return grid.draw_route(self.start, self.other, free, rng)

    def regions(self) -> dict[str, np.ndarray]:
        """As in `maze`, with goal the named one, and other_goal."""
        out = walk.regions(self.codes(), self.goal, self.route, self.solutions)
        place = np.zeros((p.GRID, p.GRID), bool)
        place[self.other] = True
        return {**out, "other_goal": still(place)}

    def answer(self, cells: np.ndarray) -> Route | None:
        return walk.answer(cells)

    def score(self, cells: np.ndarray) -> Score:
        """As in `maze`; details also hold other_goal (the agent ends on the goal that was not named)."""
        score = walk.score(cells, self.codes(), self.start, self.goal, self.free)
        ends_wrong = walk.agents(cells)[-1] == self.other
        return replace(score, details={**score.details, "other_goal": ends_wrong})

    def twin(self, kind: str, rng: Random) -> ChooseScene:
        """other_answer: the same picture, the prompt names the other colour. same_answer: other walls and another place
        and colour of the goal that is not named; the same route stays a shortest one."""
        if kind == "other_answer":
            swapped = replace(
                self, goal=self.other, colour=self.other_colour, other=self.goal, other_colour=self.colour
            )
            return replace(swapped, route=grid.draw_route(self.start, swapped.goal, swapped.free, rng))
        return self._other_scene(rng)

    def _other_scene(self, rng: Random) -> ChooseScene:
        on_route = grid.bits(self.route)
        places = []
        for place in grid.cells_of(grid.FULL & ~on_route & ~grid.bits(self.walls) & ~grid.bit(self.other)):
            scene = replace(self, other=place)
            if _reachable(self.walls, self.start, place, self.goal):
                places.append(scene)
        scene = rng.choice(places) if places else self
        colours = [c for c in p.BALLS if c not in (self.colour, self.other_colour)]
        scene = replace(scene, other_colour=rng.choice(colours))
        closed = grid.bit(scene.other)
        for _ in range(20):
            walls = other_walls(scene.walls, self.route, on_route | closed, closed, WALLS, rng)
            if _reachable(walls, self.start, scene.other, self.goal):
                return replace(scene, walls=walls)
        return scene


def _reachable(walls: tuple[Cell, ...], start: Cell, goal: Cell, other: Cell) -> bool:
    """Whether the goal is 2 to 12 moves away without entering the other one."""
    d = grid.distance(start, goal, grid.FULL & ~grid.bits(walls) & ~grid.bit(other))
    return d is not None and SHORTEST <= d <= LONGEST


def draw(rng: Random) -> ChooseScene:
    """A random scene: up to 20 % walls, both goals 2 to 12 moves away without passing through the other."""
    while True:
        wall_mask = grid.draw_cells(rng, grid.FULL, round(rng.uniform(*WALLS) * grid.N))
        walls = grid.cells_of(wall_mask)
        start, goal, other = rng.sample(grid.cells_of(grid.FULL & ~wall_mask), 3)
        colour, other_colour = rng.sample(p.BALLS, 2)
        if not (_reachable(walls, start, goal, other) and _reachable(walls, start, other, goal)):
            continue
        route = grid.draw_route(start, goal, grid.FULL & ~wall_mask & ~grid.bit(other), rng)
        phrase = rng.randrange(len(PHRASES))
        return ChooseScene(walls, start, goal, colour, other, other_colour, route, phrase)
