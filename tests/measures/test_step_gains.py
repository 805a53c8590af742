"""What steps bring: planted curves with known gains, pairs, passes in series and in parallel."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.measures.step_gains import by_length, gain, pairs_by_length, passes, redrawn

STEPS = (1, 2, 4)


def curves(network: list[list[float]], ideal: list[list[float]], seeds: int = 2) -> xr.Dataset:
    """A row a task, a column a number of steps; the same at every seed."""
    values = np.stack([network, ideal, np.zeros_like(network)], -1)[:, None].repeat(seeds, 1)
    n = len(network)
    return xr.Dataset(
        {name: (("task", "seed", "num_inference_steps", "kind"), values.copy()) for name in ("right", "solved")},
        coords={"kind": ["network", "ideal", "blind"], "num_inference_steps": list(STEPS),
                "length": ("task", [3] * (n // 2) + [8] * (n - n // 2)), "task": [f"maze {i}" for i in range(n)]},
    )  # fmt: skip


def test_gain_is_what_the_ideal_denoiser_does_not_gain() -> None:
    found = gain(curves([[0, 0, 1], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]]), 1, 4)
    assert found.dims == ("kind", "task")
    np.testing.assert_array_equal(found.sel(kind="network"), [1, 0])
    np.testing.assert_array_equal(found.sel(kind="excess"), [0, 0])
    later = gain(curves([[0, 0, 1], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]]), 2, 4, "solved")
    np.testing.assert_array_equal(later.sel(kind="excess"), [1, 0])


def test_pairs_are_the_two_halves() -> None:
    found = gain(curves([[0, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1]], np.ones((4, 3)).tolist()), 1, 4)
    short, long = pairs_by_length(found.sel(kind="excess"))
    np.testing.assert_array_equal(short, [0, 0])
    np.testing.assert_array_equal(long, [1, 1])
    assert short["task"].values.tolist() == long["task"].values.tolist() == [0, 1]


def test_by_length_takes_the_tasks_of_each_bin() -> None:
    made = curves(np.repeat([[0, 0, 0], [1, 1, 1]], 6, 0).tolist(), np.ones((12, 3)).tolist())
    found = by_length(made["right"], [(3, 4), (8, 8)])
    assert found["length"].values.tolist() == ["3-4", "8"]
    np.testing.assert_array_equal(found["value"].sel(kind="network"), [[0] * 3, [1] * 3])
    assert (found["n"] == 6).all()
    assert float(found["high"].sel(kind="network", length="3-4", num_inference_steps=1)) > 0  # other tasks may differ


def test_passes_in_series_against_as_many_in_parallel() -> None:
    """Seeds 0 and 1 at two steps solve one of two; four steps in series solve both."""
    made = curves([[0, 0.5, 1]], [[1, 1, 1]])
    made["solved"][0, :, 1, 0] = [0, 1]
    found = passes(made)
    assert found["num_inference_steps"].values.tolist() == [2, 4] and found.attrs["videos_in_parallel"] == 2
    four = found.sel(num_inference_steps=4, kind="network")
    assert [four[arm].item() for arm in ("series", "drawn", "best")] == [1, 0.5, 1]
    two = found.sel(num_inference_steps=2, kind="network")
    assert [two[arm].item() for arm in ("series", "drawn", "best")] == [0.5, 0, 0]


def test_redrawing_counts_seeds_that_differ() -> None:
    made = curves([[0, 0.0, 1]], [[1, 1, 1]])
    made["solved"][0, :, 1, 0] = [0, 1]
    np.testing.assert_array_equal(redrawn(made).sel(kind="network")[0], [0, 1, 0])
    rng = np.random.default_rng(0)  # of independent verdicts of share p, two differ in 2 p (1 - p) of the cases
    many = xr.Dataset({"solved": (("task", "seed"), (rng.random((4000, 3)) < 0.3).astype(float))})
    assert abs(float(redrawn(many).mean()) - 0.42) < 0.02


def test_what_was_not_measured_is_refused() -> None:
    made = curves([[0, 0, 1]], [[0, 1, 1]])
    with pytest.raises(MeasureError, match=r"\[8\] steps were not measured: choose from \[1, 2, 4\]"):
        gain(made, 1, 8)
    with pytest.raises(MeasureError, match="reading='score' was not measured: choose from"):
        gain(made, 1, 4, "score")
    with pytest.raises(MeasureError, match="no pairs of short and long: measure"):
        pairs_by_length(made["right"])
    with pytest.raises(MeasureError, match="needs values with the coordinate 'length' and bins"):
        by_length(made["right"].drop_vars("length"), [(3, 4)])
    with pytest.raises(MeasureError, match="length of 20 to 30: found 8 to 8"):
        by_length(made["right"], [(20, 30)])
    for call in (passes, redrawn):
        with pytest.raises(MeasureError, match="two or more seeds"):
            call(made.isel(seed=[0]))
    with pytest.raises(MeasureError, match="numbers of steps of which one is that many times another"):
        passes(made.sel(num_inference_steps=[1, 4]))
