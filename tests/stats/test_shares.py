"""Intervals of shares: exact coverage at every share, an independent inversion, and numbers that are not whole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from dit_lens.stats.methods import wilson_ends
from dit_lens.stats.shares import clustered_ends, share_ends

SHARES = np.linspace(0.002, 0.998, 499)


def every(n: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    return share_ends(np.arange(n + 1), np.full(n + 1, n), level)


def covered(low: np.ndarray, high: np.ndarray, shares: np.ndarray = SHARES) -> np.ndarray:
    """Exact coverage at every share, summed over all outcomes."""
    hits = np.arange(len(low))[:, None]
    inside = (low[:, None] <= shares) & (shares <= high[:, None])
    return (binom.pmf(hits, len(low) - 1, shares) * inside).sum(0)


@pytest.mark.parametrize("n", [5, 6, 7, 8, 12, 16, 30, 61])
def test_coverage_is_at_least_the_level_at_every_share(n: int) -> None:
    found = covered(*every(n))
    assert found.min() >= 0.95 - 1e-9
    assert found.mean() < 0.982, "more than that would be too wide"
    assert covered(*every(n, 0.8)).min() >= 0.8 - 1e-9


def test_one_half_and_shares_near_the_ends() -> None:
    """Where Wilson's interval holds .923 at a share of one half (n = 16), and .84 at two in a hundred (n = 8)."""
    some = np.array([0.01, 0.02, 0.05, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
    for n in (8, 16, 30):
        assert covered(*every(n), some).min() >= 0.95
    hits = np.arange(9)
    assert covered(*wilson_ends(hits / 8, np.full(9, 8), 0.95)).min() < 0.84
    hits = np.arange(17)
    assert covered(*wilson_ends(hits / 16, np.full(17, 16), 0.95), np.array([0.5]))[0] < 0.93


def test_the_price_in_width() -> None:
    """Mean width against Wilson's over all shares: 10 % at n = 8, 5 % at 30; Clopper and Pearson's costs 18 and 11."""
    for n, most in ((8, 1.11), (16, 1.075), (30, 1.055)):
        hits = np.arange(n + 1)
        chance = binom.pmf(hits[:, None], n, SHARES)
        low, high = every(n)
        other = wilson_ends(hits / n, np.full(n + 1, n), 0.95)
        ratio = (chance * (high - low)[:, None]).sum() / (chance * (other[1] - other[0])[:, None]).sum()
        assert 1 < ratio < most, (n, ratio)


@pytest.mark.parametrize(("hits", "n"), [(0, 8), (1, 8), (3, 10), (7, 16), (29, 30)])
def test_it_is_the_inversion_of_blakers_test(hits: int, n: int) -> None:
    """Written a second time, share by share: tails of the outcomes that are at most as likely."""
    x = np.arange(n + 1)
    kept = []
    for share in np.linspace(0.0005, 0.9995, 2000):
        chance = binom.pmf(x, n, share)
        tail = np.minimum(binom.cdf(x, n, share), binom.sf(x - 1, n, share))
        if chance[tail <= tail[hits] * (1 + 1e-9)].sum() > 0.05:
            kept.append(share)
    low, high = (float(end) for end in share_ends(np.array(hits), np.array(n), 0.95))
    assert low == pytest.approx(min(kept) if hits else 0, abs=6e-4)
    assert high == pytest.approx(max(kept) if hits < n else 1, abs=6e-4)


def test_it_lies_within_clopper_and_pearsons_and_mirrors() -> None:
    for n in (5, 9, 40, 300):
        for hits in {0, 1, n // 3, n}:
            low, high = share_ends(np.array(hits), np.array(n), 0.95)
            exact = binomtest(hits, n).proportion_ci()
            assert exact.low - 1e-6 <= low <= hits / n <= high <= exact.high + 1e-6
            mirrored = share_ends(np.array(n - hits), np.array(n), 0.95)
            assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
            assert low < high
    assert np.isnan(share_ends(np.array(0), np.array(0), 0.95)).all()


def test_clustered_ends_are_clopper_and_pearsons_where_numbers_are_whole() -> None:
    for hits, n in ((0, 5), (3, 7), (9, 9)):
        known = binomtest(hits, n).proportion_ci()
        assert clustered_ends(np.array(hits / n), np.array(float(n)), 0.95) == pytest.approx((known.low, known.high))
    low, high = clustered_ends(np.array([0.4] * 3), np.array([10, 12.5, 15]), 0.95)
    assert (np.diff(low) > 0).all() and (np.diff(high) < 0).all()
    assert np.isnan(clustered_ends(np.array(0.5), np.array(0.0), 0.95)).all()
