"""Gaffke's interval: Clopper and Pearson's ends on two values, one law for both sides, and p that agrees with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dit_lens.stats.bounded import bounded_ends, bounded_p
from dit_lens.stats.methods import skew_t
from dit_lens.stats.pairs import Pairs
from dit_lens.stats.shares import clustered_ends

scores = arrays(float, st.integers(5, 20), elements=st.floats(0, 1))


@pytest.mark.parametrize("n", [5, 8, 16, 30, 100])
def test_two_values_have_clopper_and_pearsons_ends(n: int) -> None:
    for hits in {0, 1, n // 3, n // 2, n}:
        x = np.repeat([1.0, 0.0], [hits, n - hits])
        known = clustered_ends(np.array(hits / n), np.array(n), 0.95)
        assert bounded_ends(x, (0, 1), 0.95) == pytest.approx(np.array(known), abs=0.005)


@given(scores, st.floats(0.1, 10), st.floats(-10, 10))
def test_units_and_direction_do_not_matter(x: np.ndarray, scale: float, shift: float) -> None:
    low, high = bounded_ends(x, (0, 1), 0.95)
    assert 0 <= low <= x.mean() <= high <= 1
    moved = bounded_ends(scale * x + shift, (shift, scale + shift), 0.95)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)
    assert bounded_ends(-x, (-1, 0), 0.95) == pytest.approx((-high, -low), abs=1e-9)
    assert bounded_ends(np.random.default_rng(0).permutation(x), (0, 1), 0.95) == pytest.approx((low, high))


@given(scores, st.floats(0, 1))
def test_greater_values_have_greater_ends_and_wider_bounds_wider_ones(x: np.ndarray, by: float) -> None:
    before, after = bounded_ends(x, (0, 1), 0.95), bounded_ends(x + by * (1 - x), (0, 1), 0.95)
    assert all(b >= a - 1e-9 for a, b in zip(before, after, strict=True))
    wide = bounded_ends(x, (-1, 2), 0.95)
    assert wide[0] <= before[0] + 1e-9 and wide[1] >= before[1] - 1e-9


@given(scores, st.floats(0, 1))
def test_p_and_interval_agree(x: np.ndarray, than: float) -> None:
    p = bounded_p(x, (0, 1), than)
    low = float(bounded_ends(x, (0, 1), 0.95)[0])
    if abs(low - than) > 1e-3:  # at the end itself a weighting decides
        assert (p <= 0.025) == (low > than)
    assert 0 < p <= 1


def test_cells_with_fewer_values_have_their_own_interval() -> None:
    x = np.random.default_rng(0).random((9, 2, 3))
    x[[2, 5], 0, 1] = np.nan
    x[:, 1, 2] = np.nan
    low, high = bounded_ends(x, (0, 1), 0.9)
    assert low.shape == (2, 3) and np.isnan([low[1, 2], high[1, 2]]).all()
    alone = bounded_ends(np.delete(x[:, 0, 1], [2, 5]), (0, 1), 0.9)
    assert (low[0, 1], high[0, 1]) == pytest.approx(alone)
    assert (low[0, 0], high[0, 0]) == pytest.approx(bounded_ends(x[:, 0, 0], (0, 1), 0.9))


def test_one_failure_among_successes_does_not_reach_everywhere() -> None:
    """Eleven near 1 and one near 0: the skewness-corrected t reaches down to .34."""
    x = np.r_[np.linspace(0.95, 1, 11), 0.02]
    low, high = bounded_ends(x, (0, 1), 0.95)
    assert 0.5 < low < 0.65 and 0.96 < high < 1
    assert float(skew_t(x, 0.95)[0]) < 0.4


def test_a_known_null_is_compared_by_what_bounds_allow() -> None:
    """Flips take skewed scores for symmetric around .9; no failure among eight does not show that they are above it."""
    x = np.linspace(0.95, 1, 8)
    assert Pairs(x, 0.9).p_greater() < 0.01
    bounded = Pairs(x, 0.9, (0, 1))
    assert bounded.p_greater() > 0.3 and bounded.interval()[0] < 0
    assert Pairs(x, 0.4, (0, 1)).p_greater() < 0.05 < Pairs(x, 0.4, (0, 1)).p_smaller()
    mirrored = Pairs(1 - x, 0.6, (0, 1))
    assert mirrored.p_smaller() == pytest.approx(Pairs(x, 0.4, (0, 1)).p_greater())


def test_what_could_have_been_missed_is_what_bounds_allow() -> None:
    """Twelve values near nothing: by their spread .01 would have been seen, and one task in four may be otherwise."""
    x = 0.01 + 0.005 * np.random.default_rng(0).standard_normal(12)
    known, paired = Pairs(x, 0.0, (0, 1)), Pairs(x, np.zeros(12), (0, 1))
    assert paired.detectable() == Pairs(x, 0.0).detectable() < 0.01
    assert known.detectable() > 0.2 and known.detectable() == pytest.approx(known.interval()[1] - x.mean())
