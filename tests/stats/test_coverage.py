"""What intervals hold: simulated coverage of every kind of outcome, with and without levels below the task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

from dit_lens.stats import OUTCOMES, coverage, mean_interval, share_interval, summarise
from dit_lens.stats.coverage import Outcome
from dit_lens.stats.methods import wilson_ends

LEAST = 0.93
#: What is short of it, with n = 8, 16, 30: outcomes without an upper end, and Wilson's interval at one half, whose
#: exact coverage there is .930, .923 and .957. docs/statistics.md says so.
SHORT = {"exponential": (0.93, 0.93, 0.93), "lognormal": (0.89, 0.91, 0.92), "share .5": (0.929, 0.922, 0.93)}
SIZES = (8, 16, 30)


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("n", SIZES)
def test_coverage_of_what_the_library_gives(name: str, n: int) -> None:
    """4,000 studies: two simulation errors are .008."""
    least = SHORT[name][SIZES.index(n)] if name in SHORT else LEAST
    found = coverage(OUTCOMES[name], n)
    assert found.covered >= least - 0.008 and found.missing == 0, found
    assert found.covered < 0.995 and found.width > 0, "an interval that holds everything says nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("n", SIZES)
def test_coverage_in_full(name: str, n: int) -> None:
    """100,000 studies: two simulation errors are .0016."""
    least = SHORT[name][SIZES.index(n)] if name in SHORT else LEAST
    assert coverage(OUTCOMES[name], n, draws=100_000, seed=1).covered >= least - 0.0016


def exact_coverage(share: float, n: int) -> float:
    """Of Wilson's interval, summed over all outcomes."""
    hits = np.arange(n + 1)
    low, high = wilson_ends(hits / n, np.full(n + 1, n), 0.95)
    return float(binom.pmf(hits, n, share)[(low <= share) & (share <= high)].sum())


def test_wilson_in_exact_numbers() -> None:
    """What docs/statistics.md says of shares: the audit's are above .93, and where it dips."""
    assert all(exact_coverage(p, n) >= LEAST for p in (0.8, 0.9, 0.95, 0.05) for n in SIZES)
    assert [round(exact_coverage(0.5, n), 3) for n in SIZES] == [0.930, 0.923, 0.957]
    grid = np.linspace(0.01, 0.99, 491)
    for n, worst in ((8, 0.837), (16, 0.851), (30, 0.899)):
        covered = [exact_coverage(p, n) for p in grid]
        assert np.mean(covered) == pytest.approx(0.954, abs=0.002) and min(covered) == pytest.approx(worst, abs=0.001)


def test_the_percentile_bootstrap_would_fail_this_test() -> None:
    """The simulation can tell a bad interval: the one that the library used before."""
    bad: Callable[[xr.DataArray], xr.Dataset] = summarise
    assert coverage(OUTCOMES["share .9"], 8, interval=bad).covered < 0.6
    assert coverage(OUTCOMES["normal"], 8, interval=bad).covered < 0.91


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
