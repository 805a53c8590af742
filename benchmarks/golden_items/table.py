"""The table of golden items, and what they share: puzzles, runs, and how results become plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

import dit_lens as dl

Numbers = dict[str, np.ndarray]
Item = Callable[[Any], Numbers]

ITEMS: dict[str, Item] = {}
STEPS = 5  # of the sampler: two of the first expert, three of the second
FAR = 10_000  # added to a seed: other noise


def item(made: Item) -> Item:
    """Register a function of a lens under its own name, without the underscore that keeps it apart from builtins."""
    name = made.__name__.rstrip("_")
    if name in ITEMS:
        raise ValueError(f"two golden items are called {name!r}: rename one")
    ITEMS[name] = made
    return made


def open_lens() -> Any:
    """The lab model with few steps by default, so that every item is cheap."""
    with dl.load("lab") as usual:
        defaults = replace(usual.defaults, steps=STEPS)
    return dl.load("lab", defaults=defaults)


def puzzle(name: str = "choose", seed: int = 1) -> Any:
    return dl.tasks.load(name, seed=seed)


def puzzles(name: str | Sequence[str] = "choose", n: int = 2, seed: int = 0) -> list[Any]:
    return dl.tasks.batch(name, n, seed)


def trio(lens: Any, name: str = "choose", seed: int = 1, **arguments: Any) -> tuple[Any, Any, Any]:
    """Base, source (the twin with another answer) and placebo (the same puzzle, other noise)."""
    task = puzzle(name, seed)
    return (
        lens.generate(task, seed=0, **arguments),
        lens.generate(task.twin("other_answer"), seed=0),
        lens.generate(task, seed=FAR),
    )


def direction(size: int, seed: int = 0) -> np.ndarray:
    """A fixed unit vector (size,)."""
    drawn = np.random.default_rng(seed).standard_normal(size)
    return drawn / np.linalg.norm(drawn)


def flat(values: Any, key: str = "") -> Numbers:
    """Every number of a result under a dotted name; labels and texts are left out.

    A name may hold a mapping, a sequence, an xarray object (its variables, not its coordinates), a tensor, an array or
    a number. The dtype is kept; numbers in a list become one array.

    Raises:
        TypeError: for anything else, so that no number is lost in silence.
    """
    if isinstance(values, xr.Dataset):
        values = {str(name): values[name] for name in values.data_vars}
    elif isinstance(values, (list, tuple)) and not all(np.isscalar(value) for value in values):
        values = dict(enumerate(values))
    if isinstance(values, Mapping):
        parts = [flat(value, f"{key}.{name}" if key else str(name)) for name, value in values.items()]
        return {name: array for part in parts for name, array in part.items()}
    if isinstance(values, xr.DataArray):
        values = values.values
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "biufU":
        raise TypeError(f"{key} holds {type(values).__name__} of dtype {array.dtype}: give numbers or texts")
    return {} if array.dtype.kind == "U" else {key: array}
