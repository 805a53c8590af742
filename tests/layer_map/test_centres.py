"""Where a role lies: known centres and widths, intervals that cover, and order."""

import numpy as np
import pytest

from dit_lens.layer_map.centres import behind, centre, centre_of, width


def test_the_centre_of_a_profile() -> None:
    profile = np.zeros((4, 2))
    profile[1, 0], profile[[0, 3], 1] = 5, (1, -9)  # what is below zero does not pull
    np.testing.assert_allclose(centre(profile), [0.375, 0.125])
    assert np.isnan(centre(-np.ones(4))) and np.isnan(width(-np.ones(4)))
    assert centre(np.array([1.0, np.nan, np.nan, 1.0])) == pytest.approx(0.5)  # layers that are missing do not count


def test_the_width_of_a_profile() -> None:
    assert width(np.array([0.0, 3, 0, 0])) == pytest.approx(0)
    assert width(np.array([2.0, 0, 0, 2])) == pytest.approx(0.375)
    assert width(np.ones(1000)) == pytest.approx(1 / np.sqrt(12), abs=1e-3)


def test_intervals_cover() -> None:
    """Of centres of ratios of means over 8 tasks: 95 % nominal, .90 asked for."""
    rng, hits = np.random.default_rng(0), 0
    mean = np.exp(-0.5 * ((np.arange(12) - 4) / 2) ** 2)
    for _ in range(400):
        tasks = mean * rng.gamma(4, 0.25, (8, 1)) + 0.2 * mean * rng.standard_normal((8, 12))
        found = centre_of(tasks).centre
        hits += found.low <= centre(mean) <= found.high
    assert hits / 400 >= 0.90


def test_few_tasks_have_no_interval() -> None:
    found = centre_of(np.random.default_rng(0).random((3, 12)))
    assert np.isfinite(found.centre.value) and np.isnan(found.centre.low) and "[" not in str(found.centre)


def test_order() -> None:
    rng = np.random.default_rng(0)
    early, late = np.zeros((8, 12)), np.zeros((8, 12))
    early[:, 2], late[:, 8] = 1, 1
    found = behind(early + 0.05 * rng.random((8, 12)), late + 0.05 * rng.random((8, 12)))
    assert 0.2 < found.low < found.value < found.high < 0.6
    turned = behind(late, early)
    assert turned.value == pytest.approx(-0.5)
    assert np.isnan(behind(early, late[:5]).low)  # other tasks: not paired
