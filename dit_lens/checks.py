"""Checks of numbers and seeds that users give, with one wording and one remedy each.

NaN compares false with everything, so that ``limit=nan`` would mean unlimited and ``guidance_scale=nan`` unguided.
Every number that a user gives therefore passes :func:`number` or :func:`count`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from dit_lens.errors import DitLensError, SamplerError

SEEDS = (-(2**63), 2**64 - 1)  # what torch's generators take


def number(
    value: Any,
    name: str,
    least: float = -math.inf,
    most: float = math.inf,
    error: type[DitLensError] = SamplerError,
) -> float:
    """A finite real number within bounds, as it was given.

    Args:
        value: A Python or numpy number; no bool and no text.
        name: What to call it in an error.
        least: The smallest that is allowed.
        most: The largest that is allowed.
        error: What to raise.

    Raises:
        DitLensError: ``error``, for NaN, infinity, other types and what lies outside.
    """
    fits = isinstance(value, Real) and not isinstance(value, bool)  # numpy's numbers are Real, and its bools are not
    if not fits or not math.isfinite(value) or not least <= value <= most:
        raise error(f"{name}={value!r}: give a finite number{_bounds(least, most)}")
    return value


def count(
    value: Any, name: str, least: float = 0, most: float = math.inf, error: type[DitLensError] = SamplerError
) -> int:
    """A Python or numpy integer within bounds; other arguments and errors as of :func:`number`."""
    if not is_integer(value) or not least <= value <= most:
        raise error(f"{name}={value!r}: give an integer{_bounds(least, most)}")
    return int(value)


def is_integer(value: Any) -> bool:
    """Whether a value is a Python or numpy integer, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def seed(value: Any, name: str = "seed", error: type[DitLensError] = SamplerError) -> int:
    """One seed: a Python or numpy integer.

    Raises:
        DitLensError: ``error``, for anything else, and for what a random generator cannot take.
    """
    if not is_integer(value):
        raise error(f"{name}={value!r}: a seed is one integer, such as {name}=0")
    if not SEEDS[0] <= value <= SEEDS[1]:
        raise error(f"{name}={value!r}: a random generator takes integers below 2**64; give a smaller one")
    return int(value)


def seeds(value: Any, name: str = "seed", error: type[DitLensError] = SamplerError) -> tuple[tuple[int, ...], bool]:
    """One seed or several, and whether several were given (a sequence of one is several, too).

    Args:
        value: A Python or numpy integer; or a sequence of them, an array included.
        name: What to call it in an error.
        error: What to raise.

    Raises:
        DitLensError: ``error``, for anything else: text, floats, bools, sets, and arrays of more than one dimension.
    """
    import numpy as np  # here, so that the package stays quick to import

    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if is_integer(value):
        return (seed(value, name, error),), False
    array = isinstance(value, np.ndarray)
    several = value.ndim == 1 if array else isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not several:
        raise error(f"{name}={value!r}: seeds are one integer or a sequence of integers, such as {name}=[0, 1, 2]")
    return tuple(seed(one, name, error) for one in value), True


def _bounds(least: float, most: float) -> str:
    if math.isfinite(least) and math.isfinite(most):
        return f" from {least:g} to {most:g}"
    return f" of {least:g} or more" if math.isfinite(least) else f" of {most:g} or less" if math.isfinite(most) else ""
