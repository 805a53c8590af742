"""What intervals hold: simulated coverage of every kind of outcome, with and without levels below the task."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.stats import OUTCOMES, coverage, mean_interval, share_interval
from dit_lens.stats.coverage import Outcome

LEAST = 0.93
#: What is short of it, with n = 8, 16, 30: skewed outcomes without an upper end. docs/statistics.md says so.
SHORT = {"lognormal": (0.89, 0.91, 0.92)}
SIZES = (8, 16, 30)
#: How much wider than the skewness-corrected t an interval may be that holds more than 99.5 %: the price of bounds.
WIDER = {"bounded, one hump (beta 2, 2)": 1.2, "bounded, one hump aside (beta 8, 2)": 2.0}


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("n", SIZES)
def test_coverage_of_what_the_library_gives(name: str, n: int) -> None:
    """4,000 studies: two simulation errors are .008."""
    least = SHORT[name][SIZES.index(n)] if name in SHORT else LEAST
    found = coverage(OUTCOMES[name], n)
    assert found.covered >= least - 0.008 and found.missing == 0, found
    others = coverage(OUTCOMES[name], n, interval=lambda values: mean_interval(values)).width
    assert found.width > 0
    assert found.covered < 0.995 or found.width < WIDER.get(name, 1) * others, "what holds everything says nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("n", SIZES)
def test_coverage_in_full(name: str, n: int) -> None:
    """100,000 studies: two simulation errors are .0016."""
    least = SHORT[name][SIZES.index(n)] if name in SHORT else LEAST
    assert coverage(OUTCOMES[name], n, draws=100_000, seed=1).covered >= least - 0.0016


def percentile(values: xr.DataArray) -> xr.Dataset:
    """The percentile bootstrap of the mean over tasks."""
    rng = np.random.default_rng(0)
    again = [values.isel(task=rng.integers(0, len(values), len(values))).mean("task") for _ in range(500)]
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    return xr.Dataset({"low": ("draw", low), "high": ("draw", high)})


def test_the_percentile_bootstrap_would_fail_this_test() -> None:
    """The simulation can tell a bad interval."""
    assert coverage(OUTCOMES["share .9"], 8, interval=percentile).covered < 0.6
    assert coverage(OUTCOMES["normal"], 8, interval=percentile).covered < 0.91


def test_an_outcome_of_ones_own() -> None:
    found = coverage(Outcome(lambda rng, shape: rng.normal(3, 1, shape), 3.0), 10, draws=500)
    assert 0.92 < found.covered < 0.98
    assert coverage(Outcome(lambda rng, shape: rng.normal(3, 1, shape), 99.0), 10, draws=100).covered == 0
    none = coverage(OUTCOMES["normal"], 4, draws=10)
    assert np.isnan(none.covered) and none.missing == 1


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0], ids=["seeds independent", "half", "seeds equal"])
@pytest.mark.parametrize(("share", "n"), [(0.5, 8), (0.8, 8), (0.9, 16), (0.95, 30)])
def test_shares_of_seeds_of_tasks(alike: float, share: float, n: int) -> None:
    """Three seeds of a task that agree as often as ``alike`` says: pooled they would pass for three times as many."""
    rng = np.random.default_rng(0)
    draws, seeds = 3000, 3
    shared = (rng.random((n, 1, draws)) < share).repeat(seeds, 1)
    own = rng.random((n, seeds, draws)) < share
    values = np.where(rng.random((n, 1, draws)) < alike, shared, own)
    found = share_interval(xr.DataArray(values, dims=("task", "seed", "draw")), over=("task", "seed"))
    covered = float(((found["low"] <= share) & (share <= found["high"])).mean())
    assert covered >= 0.925, covered
    if alike == 1:
        pooled = share_interval(xr.DataArray(values.reshape(n * seeds, draws), dims=("task", "draw")))
        assert float(((pooled["low"] <= share) & (share <= pooled["high"])).mean()) < 0.85


def test_means_of_seeds_of_tasks() -> None:
    """Tasks differ by 1, seeds of a task by .5: the interval is over tasks, whatever their number of seeds."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 1, 3000)) + 0.5 * rng.normal(size=(10, 4, 3000))
    found = mean_interval(xr.DataArray(values, dims=("task", "seed", "draw")), over=("task", "seed"))
    assert float(((found["low"] <= 0) & (found["high"] >= 0)).mean()) == pytest.approx(0.95, abs=0.012)
    assert found.attrs["interval_over"] == "task" and found.attrs["averaged_over"] == "seed"
