"""As many tokens somewhere else: the null of what is said of the tokens of a region.

What is read from the tokens that hide a thing, or is changed by patching them, means something about *them* only beside
the same number of tokens at other places: any token may hold what the prompt says, and any patch changes something.

When not to use: as a null for a region that fills its frames; there is no elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dit_lens.errors import MeasureError
from dit_lens.wan.token_grid import Grid


def tokens_elsewhere(tasks: Sequence[Any], abouts: Sequence[Any], grid: Grid, seed: int) -> np.ndarray:
    """As many tokens as hide the thing, at random other places of the same frames.

    Args:
        tasks: A scene and its twin.
        abouts: What is hidden in each.
        grid: The token grid.
        seed: Of the draw.

    Returns:
        Token indices, none of which hides or shows the thing in either scene.

    Raises:
        MeasureError: There are not so many.
    """
    hidden = all_tokens(abouts, "hidden")
    rest = free_tokens(hidden, _taken(tasks, abouts, grid), grid)
    if len(rest) < len(hidden):
        raise MeasureError(
            f"{tasks[0]!r} hides a thing in {len(hidden)} tokens and has {len(rest)} other tokens in these frames, so "
            "there is nothing to compare with: give a hiding= with fewer tokens"
        )
    return np.asarray(np.random.default_rng(seed).choice(rest, len(hidden), replace=False))


def free_tokens(hidden: Sequence[int], taken: Sequence[int] | np.ndarray, grid: Grid) -> np.ndarray:
    """Tokens of the frames in which something is hidden that are not taken.

    Args:
        hidden: Tokens that hide it.
        taken: Tokens that hide or show anything, ``hidden`` among them.
        grid: The token grid.
    """
    frames = grid.frame_of(np.arange(grid.n_tokens))
    free = np.isin(frames, frames[list(hidden)])
    free[list(taken)] = False
    return np.flatnonzero(free)


def candidates_aside(
    about: Any, tasks: Sequence[Any], abouts: Sequence[Any], grid: Grid, seed: int
) -> np.ndarray:
    """The candidates of each hidden token, moved sideways by a random number of columns (around the edge).

    Args:
        about: One of ``abouts``.
        tasks: A scene and its twin.
        abouts: What is hidden in each.
        grid: The token grid.
        seed: Of the draw.

    Returns:
        Token indices (items, candidates), none of which hides or shows the thing, or is a candidate.

    Raises:
        MeasureError: Every column does.
    """
    rng = np.random.default_rng(seed)
    taken = {*_taken(tasks, abouts, grid).tolist(), *(int(t) for one in abouts for t in one.choices.flat)}
    found = []
    for candidates in about.choices:
        first, col = candidates - candidates % grid.cols, candidates % grid.cols
        moved = [first + (col + by) % grid.cols for by in range(1, grid.cols)]
        free = [tokens for tokens in moved if not taken & set(tokens.tolist())]
        if not free:
            raise MeasureError(
                f"{tasks[0]!r} has no column without a candidate or the thing itself, so there is nothing to compare "
                "with: give a hiding= with fewer choices"
            )
        found.append(free[rng.integers(len(free))])
    return np.array(found)


def all_tokens(abouts: Sequence[Any], name: str) -> list[int]:
    """Tokens of that name in any of the scenes, in order."""
    return sorted({int(t) for about in abouts for t in getattr(about, name)})


def _taken(tasks: Sequence[Any], abouts: Sequence[Any], grid: Grid) -> np.ndarray:
    """Tokens that hide or show the thing in any of the scenes."""
    seen = [all_tokens(abouts, "hidden"), all_tokens(abouts, "after")]
    seen += [np.flatnonzero(grid.tokens(one.regions["ball"])).tolist() for one in tasks if "ball" in one.regions]
    return np.unique(np.concatenate([np.asarray(tokens, int) for tokens in seen]))
