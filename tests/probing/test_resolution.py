"""Rounding is no feature: a label that stands below float32's resolution of the stream is not read."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.probing.out_of_fold import Place, Ridge
from dit_lens.probing.resolution import resolved

LABEL = np.tile([0, 1], 20)


def stream(size: float) -> np.ndarray:
    """Activations (40, 1, 6) of size 3, float32, in which the label stands at ``size`` in one small channel."""
    x = np.full((40, 1, 6), 3.0, np.float32)
    x[:, 0, 5] = size * (2.0 * LABEL - 1)
    return x


def read(x: np.ndarray) -> np.ndarray:
    """Out-of-fold decisions, (40,)."""
    used = np.ones((40, 1), bool)
    fold = np.repeat(np.arange(4), 10)[:, None]
    return Place(Ridge(), x).decisions(LABEL[:, None, None], used, fold, 2)[:, 0, 0, 0]


@pytest.mark.parametrize("size", [1e-9, 1e-8, 3e-7])
def test_rounding_is_not_read(size: float) -> None:
    x = stream(size)
    found = resolved(x)
    assert found is not x and not np.ptp(found[:, 0], axis=0).any() and np.ptp(x[:, 0], axis=0)[5] > 0
    assert not read(x).any()


@pytest.mark.parametrize("size", [1e-5, 1e-2, 1.0])
def test_what_is_small_and_no_rounding_is_read(size: float) -> None:
    x = stream(size)
    assert resolved(x) is x
    assert ((read(x) > 0) == (LABEL == 1)).all()


def test_channels_beside_it_stay_bit_for_bit() -> None:
    x = stream(1e-8)
    x[:, 0, :5] = np.random.default_rng(0).standard_normal((40, 5))
    np.testing.assert_array_equal(resolved(x)[..., :5], x[..., :5])


def test_nan_constant_and_empty_arrays_are_left_alone() -> None:
    for x in (np.full((4, 3), np.nan, np.float32), np.zeros((4, 3), np.float32), np.zeros((0, 3), np.float32)):
        assert resolved(x) is x
