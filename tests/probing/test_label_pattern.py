"""Patterns are differences of means: known answers where normal and pattern differ, and mistakes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from dit_lens.errors import ProbeError
from dit_lens.probing import patterns
from dit_lens.probing.label_pattern import _ROWS, pattern_shape

N, D = 3 * _ROWS + 7, 5
RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(D, D))


def correlated(y: np.ndarray, towards: np.ndarray, dtype: str = "f8") -> np.ndarray:
    """Rows with correlated noise about a mean far from zero, moved by y along ``towards``; (n, d)."""
    noise = np.random.default_rng(1).normal(size=(len(y), D)) @ MIX
    return (noise + 50 + np.multiply.outer(y, towards)).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_of_two_classes_it_is_the_difference_of_means(dtype: str) -> None:
    y = np.arange(N) % 3 == 0  # uneven
    x = correlated(y, np.eye(D)[0], dtype)
    found = patterns(x, y, (False, True))
    exact = x[y].mean(0, dtype=np.float64) - x[~y].mean(0, dtype=np.float64)
    assert found.shape == (1, D) == pattern_shape((False, True), D) and found.dtype == np.float64
    np.testing.assert_allclose(found[0], exact, atol=1e-11)
    np.testing.assert_allclose(patterns(x, y, (True, False)), -found, atol=1e-11)  # from the first to the second
    np.testing.assert_allclose(patterns(x, np.where(y, "b", "a"), ("a", "b")), found, atol=1e-11)


def test_of_several_classes_it_is_their_mean_less_that_of_all() -> None:
    y = np.array(["a", "b", "c", "c"])[np.arange(N) % 4]
    x = correlated((y == "b") * 2.0 - (y == "c"), RNG.normal(size=D))
    found, means = patterns(x, y, ("c", "a", "b")), {c: x[y == c].mean(0) for c in "abc"}
    assert found.shape == (3, D) == pattern_shape("cab", D)
    for row, c in zip(found, "cab", strict=True):
        np.testing.assert_allclose(row, means[c] - x.mean(0), atol=1e-11)
        others = means[c] - x[y != c].mean(0)  # the same direction, other lengths
        assert row @ others == pytest.approx(np.linalg.norm(row) * np.linalg.norm(others))
    np.testing.assert_allclose(found[2] - found[0], means["b"] - means["c"], atol=1e-11)


def test_of_a_number_it_is_covariance_over_variance() -> None:
    y = RNG.normal(size=N) * 3 + 7
    x = correlated(y, np.array([0.5, -2, 0, 0, 0]))
    exact = [np.cov(x[:, i], y, bias=True)[0, 1] / y.var() for i in range(D)]
    np.testing.assert_allclose(patterns(x, y), [exact], atol=1e-9)
    two = (y > 7).astype(int)  # of 0 and 1 it is the difference of means
    np.testing.assert_allclose(patterns(x, two), patterns(x, two, (0, 1)), atol=1e-11)


def test_normal_and_pattern_differ_and_belong_together() -> None:
    """Cov(x, y) = Sigma w for the normal w of least squares (Haufe et al. 2014), and here their cosine is small."""
    y = RNG.normal(size=N)
    shared = RNG.normal(size=N)
    x = correlated(np.zeros(N), np.zeros(D))
    x[:, 0], x[:, 1] = y + 3 * shared, shared  # what reads y subtracts the second channel; y moves the first alone
    normal = np.linalg.lstsq(x - x.mean(0), y - y.mean(), rcond=None)[0]
    (pattern,) = patterns(x, y)
    np.testing.assert_allclose(np.cov(x.T, bias=True) @ normal / y.var(), pattern, atol=1e-9)
    assert abs(normal @ pattern) / np.linalg.norm(normal) / np.linalg.norm(pattern) < 0.4


def test_a_channel_that_never_changes_has_none() -> None:
    x = correlated(np.arange(N) % 2, np.ones(D))
    x[:, 3] = 1 / 3
    assert patterns(x, np.arange(N) % 2, (0, 1))[0, 3] == 0 == patterns(x, np.arange(N) * 0.1)[0, 3]


def test_tensors_and_any_leading_shape_are_rows() -> None:
    y = np.arange(24).reshape(2, 12) % 2
    x = RNG.normal(size=(2, 12, D)).astype("f4")
    flat = patterns(x.reshape(24, D), y.reshape(24), (0, 1))
    assert np.array_equal(patterns(x, y, (0, 1)), flat)
    assert np.array_equal(patterns(torch.from_numpy(x), torch.from_numpy(y), (0, 1)), flat)


def test_large_activations_are_not_copied() -> None:
    x, y = np.ones((40 * _ROWS, 64), "f4"), np.arange(40 * _ROWS) % 2
    x[::2] = 0
    tracemalloc.start()
    try:
        found = patterns(x, y, (0, 1))
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 3
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, 1)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"y": np.arange(5) % 2}, r"give one label a row"),
        ({"x": np.ones(6)}, r"give one label a row"),
        ({"classes": (0, 1, 2)}, r"\[2\] have no row"),
        ({"classes": (0,)}, "at least two"),
        ({"classes": (0, 0)}, "name each class of the labels once"),
        ({"classes": (0, 7)}, r"\[7\] have no row, and 3 rows are of none"),
        ({"y": np.zeros(6), "classes": ()}, "no numbers that vary: leave out rows"),
        ({"y": np.array([1, 2, 3, 4, 5, np.nan]), "classes": ()}, "no numbers that vary"),
        ({"y": np.array(list("ababab")), "classes": ()}, "or name classes="),
        ({"x": np.full((6, 2), np.nan)}, "NaN or infinity"),
        ({"x": np.array([[np.inf, 0]] + [[0, 0]] * 5)}, "NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_mistakes_are_told_with_their_remedy(change: dict[str, Any], remedy: str) -> None:
    given = {"x": np.eye(6, 2), "y": np.arange(6) % 2, "classes": (0, 1)} | change
    with pytest.raises(ProbeError, match=remedy):
        patterns(**given)
