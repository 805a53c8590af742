"""What ``maze``, ``choose`` and ``order`` share: drawing a walk, reading one from a video, and judging it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.tasks import grid
from dit_lens.tasks import palette as p
from dit_lens.tasks.grid import LAB, Cell, Route, Size
from dit_lens.tasks.task import Score


def check(route: object, start: Cell, size: Size) -> Route:
    """A route that can be drawn: one move or more, at most one a frame, each to a neighbouring cell of the board.

    It may be wrong in every other way: through walls, too long, to another place.
    """
    if not isinstance(route, tuple) or not 1 < len(route) <= size.num_frames or route[0] != start:
        raise TaskError(
            f"a route is a tuple of 2 to {size.num_frames} (row, col) cells that begins at {start}, not {route!r}; "
            "take one of task.solutions or task.decoys(n)."
        )
    for a, b in itertools.pairwise(route):
        if not (adjacent(a, b) and size.holds(b)):
            raise TaskError(f"the route jumps from {a} to {b}; an agent moves to a neighbouring cell of the board.")
    return route


def wander(start: Cell, moves: int, free: int, rng: Random) -> Route | None:
    """A random walk of so many moves over free cells that enters no cell twice; None when it ran into a dead end."""
    route, seen = [start], grid.bit(start)
    for _ in range(moves):
        ways = grid.cells_of(grid.grow(grid.bit(route[-1])) & free & ~seen)
        if not ways:
            return None
        route.append(rng.choice(ways))
        seen |= grid.bit(route[-1])
    return tuple(route)


def draw(walls: tuple[Cell, ...], goals: dict[Cell, int], route: Route, size: Size = LAB) -> np.ndarray:
    """Codes (F, R, C, 2) of an agent that walks a route, one cell a frame.

    It leaves a trail, and rests on the last cell.

    Args:
        walls: Cells.
        goals: Cell -> colour code.
        route: Cells that the agent enters, at most one a frame.
        size: Rows, columns and frames.

    Returns:
        uint8 (F, R, C, 2).
    """
    codes = size.floor()
    for r, c in walls:
        codes[:, r, c] = p.WALL
    for (r, c), colour in goals.items():
        codes[:, r, c, 1] = colour
    last = len(route) - 1
    for step, (r, c) in enumerate(route):
        codes[step if step < last else slice(step, None), r, c, 0] = p.AGENT
        if step < last:
            codes[step + 1 :, r, c, 0] = p.TRAIL
    return codes


def regions(
    codes: np.ndarray, goal: Cell, route: Route, solutions: tuple[Route, ...], size: Size
) -> dict[str, np.ndarray]:
    """Regions of a walk, bool (F, R, C); see ``maze.MazeScene.regions``."""
    disc = codes[..., 0]
    path = size.board(route)
    others = size.board({cell for other in solutions for cell in other})
    return {
        "background": disc == p.BACKGROUND,
        "walls": disc == p.WALL,
        "agent": disc == p.AGENT,
        "goal": size.still(size.board([goal])),
        "path": size.still(path),
        "trail": disc == p.TRAIL,
        "other_paths": size.still(others & ~path),
    }


def agents(cells: np.ndarray) -> list[Cell | None]:
    """Where the agent is in each frame; None where there is not exactly one."""
    out: list[Cell | None] = []
    for disc in cells[..., 0] == p.AGENT:
        found = np.argwhere(disc)
        out.append((int(found[0][0]), int(found[0][1])) if len(found) == 1 else None)
    return out


def walked(places: list[Cell | None]) -> Route:
    """The cells visited in order, rests and unread frames left out."""
    out: list[Cell] = []
    for place in places:
        if place is not None and (not out or out[-1] != place):
            out.append(place)
    return tuple(out)


def adjacent(a: Cell, b: Cell) -> bool:
    """Whether two cells share an edge."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


def answer(cells: np.ndarray) -> Route | None:
    """The route walked, if the agent moved, only ever to a neighbouring cell, and is there in the last frame."""
    places = agents(cells)
    route = walked(places)
    connected = all(adjacent(a, b) for a, b in itertools.pairwise(route))
    return route if places[-1] is not None and len(route) > 1 and connected else None


def score(cells: np.ndarray, scene_codes: np.ndarray, start: Cell, goal: Cell, free: int) -> Score:
    """Judge a walk.

    Args:
        cells: A video's codes (F, R, C, 2).
        scene_codes: Those of the truth.
        start: The agent's first cell.
        goal: Where it has to go.
        free: The set of cells that may be entered.

    Returns:
        The verdict. details: agent_kept (exactly one agent in every frame), starts, connected (only moves to
        neighbouring free cells), reached (the last frame has it on the goal), shortest, scene_kept (walls, goals and
        floor stay as they are in every frame), kept_fraction (the share of cells over all frames for which that holds),
        trail_kept, route. All but the last three are needed for ``solved``. value: the share of the way to the goal
        that was walked by legal moves, times shortest / walked length, times the kept share of scene and agent.
    """

    def may_enter(route: Route, cell: Cell) -> bool:
        return bool(free & grid.bit(cell))

    def left(route: Route) -> int | None:
        return grid.distance(route[-1], goal, free)

    return judge(cells, scene_codes, start, goal, may_enter, left)


def judge(
    cells: np.ndarray,
    scene_codes: np.ndarray,
    start: Cell,
    goal: Cell,
    may_enter: Callable[[Route, Cell], bool],
    left: Callable[[Route], int | None],
) -> Score:
    """Judge a walk whose rules depend on the way so far; see :func:`score`.

    Args:
        cells: A video's codes (F, R, C, 2).
        scene_codes: Those of the truth.
        start: The agent's first cell.
        goal: Where it has to end.
        may_enter: Whether a route may go on to a cell.
        left: How many moves a route is from its end; None for no way.

    Returns:
        The verdict, as of :func:`score`.
    """
    places = agents(cells)
    route = walked(places)
    best = left((start,))
    kept = scene_kept(cells, scene_codes)
    agent_share = sum(place is not None for place in places) / len(places)
    legal = _legal_prefix(route, start, may_enter)
    connected = bool(route) and len(legal) == len(route)
    reached = places[-1] == goal
    shortest = connected and reached and best is not None and len(route) - 1 == best
    details = {
        "agent_kept": agent_share == 1,
        "starts": places[0] == start,
        "connected": connected,
        "reached": reached,
        "shortest": shortest,
        "scene_kept": bool(kept.all()),
        "kept_fraction": float(kept.mean()),
        "trail_kept": _trail_kept(cells, places),
        "route": route,
    }
    solved = all(details[k] for k in ("agent_kept", "starts", "connected", "reached", "shortest", "scene_kept"))
    if solved:
        return Score(True, 1.0, details)
    moves = max(len(legal) - 1, 1)
    return Score(False, partial_value(best, left(legal) if legal else None, moves, kept.mean() * agent_share), details)


def partial_value(best: int | None, left: int | None, moves: int, care: float) -> float:
    """The share of the way that is done, times shortest / walked length, times a kept share; below 1."""
    if not best or left is None:
        return 0.0
    return float(min(0.99, max(0.0, (best - left) / best) * min(1.0, best / moves) * care))


def _legal_prefix(route: Route, start: Cell, may_enter: Callable[[Route, Cell], bool]) -> Route:
    """The route up to its first illegal move; empty when it does not begin at the start."""
    if not route or route[0] != start:
        return ()
    for i, (a, b) in enumerate(itertools.pairwise(route), 1):
        if not adjacent(a, b) or not may_enter(route[:i], b):
            return route[:i]
    return route


def scene_kept(cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Per cell and frame: the rest keeps its colour, walls stay whole, and free discs show floor, trail or agent."""
    disc, rest = cells[..., 0], cells[..., 1]
    wall = codes[..., 0] == p.WALL
    floor = np.isin(disc, (p.BACKGROUND, p.TRAIL, p.AGENT))
    return (rest == codes[..., 1]) & np.where(wall, disc == p.WALL, floor)


def _trail_kept(cells: np.ndarray, places: list[Cell | None]) -> bool:
    """In the last frame the trail is exactly the cells that the agent has left."""
    left = {place for place in places if place is not None} - {places[-1]}
    shown = {(int(r), int(c)) for r, c in np.argwhere(cells[-1, ..., 0] == p.TRAIL)}
    return left == shown
