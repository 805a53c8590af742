"""Sign flips: known p-values, the interval that belongs to them, and the null that they hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, permutation_test

from dit_lens.stats import sign_flips
from dit_lens.stats.sign_flips import RANDOM, ends, p_above, p_below, sign_vectors, subset_means, t_statistics


def test_all_signs_of_few_tasks_and_random_ones_of_many() -> None:
    signs = sign_vectors(3)
    assert sorted(map(tuple, signs.tolist())) == sorted(itertools.product([-1, 1], repeat=3))
    assert (signs[0] == 1).all()
    many = sign_vectors(20, seed=4)
    assert many.shape == (RANDOM + 1, 20) and (many[0] == 1).all() and abs(many[1:].mean()) < 0.01
    np.testing.assert_array_equal(many, sign_vectors(20, seed=4))
    assert (many != sign_vectors(20, seed=5)).any()


def brute(d: np.ndarray, m: float) -> float:
    flipped = [np.sum(np.array(s) * (d - m)) for s in itertools.product([-1, 1], repeat=len(d))]
    return float(np.mean(np.array(flipped) >= np.sum(d - m) - 1e-9))


@given(arrays(float, st.integers(2, 7), elements=st.integers(-8, 8)), st.integers(-4, 4))
def test_subset_means_give_the_p_of_every_margin(d: np.ndarray, m: int) -> None:
    means = subset_means(d, sign_vectors(len(d)))
    assert p_above(means, m) == pytest.approx(brute(d, m))
    assert p_below(means, m) == pytest.approx(brute(-d, -m))


def test_p_is_scipys() -> None:
    d = np.random.default_rng(0).normal(0.5, 1, 9)
    known = permutation_test((d,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf)
    assert p_above(subset_means(d, sign_vectors(9)), 0.0) == pytest.approx(known.pvalue)
    # Of ones and minus ones and zeros it is McNemar's exact test, in which ties say nothing.
    d = np.array([1.0] * 7 + [-1.0] + [0.0] * 4)
    mcnemar = binomtest(7, 8, alternative="greater").pvalue
    assert p_above(subset_means(d, sign_vectors(12)), 0.0) == pytest.approx(mcnemar)


def test_the_interval_holds_what_the_test_does_not_reject() -> None:
    d = np.random.default_rng(1).normal(size=9)
    means = subset_means(d, sign_vectors(9))
    low, high = ends(means, 0.95)
    for inside, edge in ((1e-6, low), (-1e-6, high)):
        p = [2 * min(p_above(means, edge + step), p_below(means, edge + step)) for step in (-inside, inside)]
        assert p[0] <= 0.05 < p[1]
    assert ends(subset_means(d[:5], sign_vectors(5)), 0.95) == (-np.inf, np.inf)  # 2 / 32 is more than .05
    assert np.isfinite(ends(subset_means(d[:6], sign_vectors(6)), 0.95)).all()


@pytest.mark.parametrize("n", [6, 8, 16])
@pytest.mark.parametrize("shape", ["normal", "uniform", "cauchy"])
def test_size_and_coverage_under_symmetry(n: int, shape: str) -> None:
    """Exact for any symmetric outcome, however heavy its tails."""
    rng = np.random.default_rng(100 + n)
    draw = {"normal": rng.standard_normal, "uniform": lambda s: rng.uniform(-1, 1, s), "cauchy": rng.standard_cauchy}
    signs, draws = sign_vectors(n), 4000 if n < 10 else 1000
    rejected = covered = 0
    for d in draw[shape]((draws, n)):
        means = subset_means(d, signs)
        rejected += 2 * min(p_above(means, 0), p_below(means, 0)) <= 0.05
        low, high = ends(means, 0.95)
        covered += low <= 0 <= high
    error = 2 * np.sqrt(0.05 * 0.95 / draws)
    assert rejected / draws <= 0.05 + error and covered / draws >= 0.95 - error


def test_t_statistics_are_students_and_leave_missing_tasks_out() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(size=(8, 3))
    d[2, 1] = np.nan
    d[:, 2] = 0
    t = t_statistics(d, sign_vectors(8))
    assert t.shape == (256, 3) and (t[:, 2] == 0).all()
    for cell in (0, 1):
        x = d[np.isfinite(d[:, cell]), cell]
        assert t[0, cell] == pytest.approx(x.mean() / (x.std(ddof=1) / np.sqrt(len(x))))
    same = t_statistics(np.full((4, 1), 2.0), sign_vectors(4))
    assert np.isinf(same[0, 0]) and np.isinf(same[:, 0]).sum() == 2


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_what_is_held_at_once_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one row of all cells is more than that."""
    d, signs = np.random.default_rng(1).normal(size=(6, 10)), sign_vectors(6)
    whole = t_statistics(d, signs)
    monkeypatch.setattr(sign_flips, "_CHUNK", chunk)
    np.testing.assert_allclose(t_statistics(d, signs), whole, rtol=1e-12)
    assert t_statistics(d[:, :0], signs).shape == (64, 0)
