"""How often an interval that says 95 % holds the truth: simulation on outcomes like those of tasks.

    stats.coverage(OUTCOMES["share .9"], n=8).covered          # .96

``benchmarks/coverage.py`` writes the table of docs/statistics.md with it, and a test holds it.

When not to use: as proof for an outcome that is not in the table. Add yours: a sampler and its mean are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from dit_lens.stats.intervals import mean_interval, share_interval

Sampler = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Interval = Callable[[xr.DataArray], xr.Dataset]


@dataclass(frozen=True)
class Outcome:
    """What tasks may give.

    Args:
        sample: ``(generator, shape) -> values``.
        mean: Their true mean.
        bounds: The least and the greatest value, for outcomes whose bounds a caller would state.
        binary: Whether the outcome is a share, which has an interval of its own.
    """

    sample: Sampler
    mean: float
    bounds: tuple[float, float] | None = None
    binary: bool = False

    def interval(self, values: xr.DataArray) -> xr.Dataset:
        """The interval that the library gives this outcome, over the dim ``task``."""
        return share_interval(values) if self.binary else mean_interval(values, bounds=self.bounds)


def _share(p: float) -> Outcome:
    return Outcome(lambda rng, shape: (rng.random(shape) < p).astype(float), p, (0, 1), binary=True)


def _mostly(constant: float, share: float) -> Outcome:
    """``constant`` in this share of tasks, uniform over 0 to 1 in the others."""
    return Outcome(
        lambda rng, shape: np.where(rng.random(shape) < share, constant, rng.random(shape)),
        share * constant + (1 - share) / 2,
        (0, 1),
    )


def _near(share: float) -> Outcome:
    """Scores of tasks that are solved in this share: .95 to 1 where solved, 0 to .1 elsewhere."""
    return Outcome(
        lambda rng, shape: np.where(
            rng.random(shape) < share, rng.uniform(0.95, 1, shape), rng.uniform(0, 0.1, shape)
        ),
        share * 0.975 + (1 - share) * 0.05,
        (0, 1),
    )


def _beta(a: float, b: float) -> Outcome:
    return Outcome(lambda rng, shape: rng.beta(a, b, shape), a / (a + b), (0, 1))


#: Symmetric, skewed, bounded and binary outcomes; scores of tasks look like the bounded ones.
OUTCOMES: Mapping[str, Outcome] = MappingProxyType(
    {
        "normal": Outcome(lambda rng, shape: rng.standard_normal(shape), 0.0),
        "exponential": Outcome(lambda rng, shape: rng.exponential(size=shape), 1.0),
        "lognormal": Outcome(lambda rng, shape: rng.lognormal(size=shape), float(np.exp(0.5))),
        "80 % zeros, rest uniform": _mostly(0.0, 0.8),
        "70 % ones, rest uniform": _mostly(1.0, 0.7),
        "83 % near 1, rest near 0": _near(0.83),
        "95 % near 1, rest near 0": _near(0.95),
        "bounded, one hump (beta 2, 2)": _beta(2, 2),
        "bounded, one hump aside (beta 8, 2)": _beta(8, 2),
        "bounded, two humps (beta .4, .4)": _beta(0.4, 0.4),
        "bounded, most at one end (beta .9, .1)": _beta(0.9, 0.1),
        "share .5": _share(0.5),
        "share .8": _share(0.8),
        "share .9": _share(0.9),
        "share .95": _share(0.95),
        "share .05": _share(0.05),
    }
)


@dataclass(frozen=True)
class Coverage:
    """What a simulation found.

    Args:
        covered: Share of the intervals given that hold the true mean.
        width: Their median width.
        missing: Share of draws without an interval.
    """

    covered: float
    width: float
    missing: float


def coverage(outcome: Outcome, n: int, draws: int = 4000, seed: int = 0, interval: Interval | None = None) -> Coverage:
    """Coverage of an interval over many studies of ``n`` tasks.

    Args:
        outcome: What the tasks give.
        n: Tasks of a study.
        draws: Studies.
        seed: Of the simulation.
        interval: ``values (task, draw) -> low, high``; the one that the library gives this outcome by default.

    Returns:
        The shares; ``covered`` is NaN where no study has an interval.
    """
    values = outcome.sample(np.random.default_rng(seed), (n, draws))
    found = (interval or outcome.interval)(xr.DataArray(values, dims=("task", "draw")))
    low, high = found["low"].values, found["high"].values
    given = np.isfinite(low) & np.isfinite(high)
    if not given.any():
        return Coverage(np.nan, np.nan, 1.0)
    inside = (low <= outcome.mean) & (outcome.mean <= high)
    width = np.median((high - low)[given])
    return Coverage(float(inside[given].mean()), float(width), float(1 - given.mean()))
