"""Means over puzzles: intervals that are known, what they cover over many draws, and what missing values do."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dit_lens.errors import MeasureError
from dit_lens.stats.summary import beside, share, summarise, wilson


def puzzles(values: object, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=dims or ("task",), attrs={"units": "u"})


def test_a_constant_has_no_interval() -> None:
    found = summarise(puzzles([0.5] * 7))
    assert (float(found["value"]), float(found["low"]), float(found["high"])) == (0.5, 0.5, 0.5)
    assert int(found["n"]) == 7 and found.attrs["units"] == "u"


def test_the_interval_is_the_known_one() -> None:
    """Two puzzles at 0 and 1: a resampled mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4, so the interval is all."""
    found = summarise(puzzles([0, 1]))
    assert (float(found["value"]), float(found["low"]), float(found["high"])) == (0.5, 0.0, 1.0)
    # Half of 400 puzzles at 0, half at 1: 0.5 -+ 1.96 sqrt(0.25 / 400), which is 0.451 to 0.549.
    found = summarise(puzzles([0, 1] * 200))
    assert float(found["low"]) == pytest.approx(0.451, abs=0.006)
    assert float(found["high"]) == pytest.approx(0.549, abs=0.006)


@pytest.mark.parametrize(("n", "least"), [(10, 0.85), (40, 0.91)])
def test_the_interval_covers_the_truth(n: int, least: float) -> None:
    """Over 400 experiments the interval holds the true mean nearly as often as it says; a percentile bootstrap of few
    puzzles is known to be somewhat short, and must not be long."""
    rng = np.random.default_rng(1)
    found = summarise(puzzles(rng.normal(2.0, 1.0, (n, 400)), "task", "experiment"), resamples=400)
    covered = float(((found["low"] <= 2) & (found["high"] >= 2)).mean())
    assert least < covered < 0.98


def test_a_null_is_found_to_be_nothing() -> None:
    """With no effect at all, the interval leaves zero out about one time in twenty."""
    rng = np.random.default_rng(2)
    found = summarise(puzzles(rng.normal(0, 1, (30, 400)), "task", "cell"), resamples=400)
    assert 0.02 < float(((found["low"] > 0) | (found["high"] < 0)).mean()) < 0.11


def test_missing_puzzles_are_left_out() -> None:
    nan = np.nan
    found = summarise(puzzles([[1, 1, nan], [3, nan, nan], [nan, nan, nan]], "task", "layer"))
    np.testing.assert_array_equal(found["n"], [2, 1, 0])
    np.testing.assert_array_equal(found["value"], [2, 1, nan])
    np.testing.assert_array_equal(found["low"], [1, nan, nan])  # one puzzle has no interval
    np.testing.assert_array_equal(found["high"], [3, nan, nan])


def test_axes_and_labels_are_kept() -> None:
    values = xr.DataArray(np.zeros((2, 3, 4)), dims=("step", "task", "layer"), coords={"layer": [4, 5, 6, 7]})
    found = summarise(values)
    assert found["value"].dims == ("step", "layer") and found["layer"].values.tolist() == [4, 5, 6, 7]


def test_the_same_seed_gives_the_same_interval() -> None:
    values = puzzles(np.random.default_rng(0).normal(size=12))
    assert summarise(values).identical(summarise(values))
    assert float(summarise(values, seed=1)["low"]) != float(summarise(values)["low"])


@given(arrays(float, (9, 2), elements=st.floats(-1e3, 1e3)))
@settings(max_examples=25, deadline=None)
def test_the_interval_lies_among_the_puzzles(data: np.ndarray) -> None:
    found = summarise(puzzles(data, "task", "layer"), resamples=50)
    slack = 1e-4 * (1 + np.abs(data).max(0))  # resampled means are kept in single precision
    assert (data.min(0) - slack <= found["low"]).all() and (found["high"] <= data.max(0) + slack).all()
    assert (found["low"] <= found["high"]).all()


def test_beside_puts_the_null_next_to_the_value() -> None:
    values, null = puzzles([1, 2, 3]), puzzles([0, 0, 1])
    found, alone, other = beside(values, null), summarise(values), summarise(null)
    for name in ("value", "low", "high", "n"):
        assert found[name].equals(alone[name])
    for name, of in (("null", "value"), ("null_low", "low"), ("null_high", "high")):
        assert float(found[name]) == float(other[of])


def test_a_missing_axis_is_an_error_that_names_the_axes() -> None:
    with pytest.raises(MeasureError, match=r"axes \['layer'\], and 'task' is none"):
        summarise(puzzles([1, 2], "layer"))
    assert int(summarise(puzzles([1, 2], "layer"), over="layer")["n"]) == 2


def test_shares_have_wilson_intervals() -> None:
    values = xr.DataArray(np.zeros((3, 10)), dims=("layers", "task"))
    values[1] = 1
    values[2, :6] = np.nan
    found = share(values)
    z2 = 1.959964**2
    assert found["value"].values.tolist() == [0, 1, 0] and found["n"].values.tolist() == [10, 10, 4]
    assert np.allclose(found["high"], [z2 / (10 + z2), 1, z2 / (4 + z2)], atol=1e-4)  # Wilson's, in closed form
    assert np.allclose(found["low"], [0, 10 / (10 + z2), 0], atol=1e-4)
    empty = share(values[:1] * np.nan)
    assert np.isnan([empty[name].item() for name in ("value", "low", "high")]).all() and empty["n"].item() == 0


def test_wilson_gives_an_interval_where_nothing_happened() -> None:
    value, low, high = wilson(0, 120)
    assert value == low == 0 and 0.02 < high < 0.04  # z^2 / (n + z^2) = .031
    value, low, high = wilson(50, 100)
    assert (value, round(low, 3), round(high, 3)) == (0.5, 0.404, 0.596)
