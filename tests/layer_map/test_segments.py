"""Cuts of a profile over layers: found where they were planted, and not found where there is nothing."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.layer_map.segments import segments


def profile(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(values, dims=("layer", "evidence"))


def planted(starts: tuple[int, int], n: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    level = np.array([0.0, 2.0, -1.0])
    steps = level[np.searchsorted(starts, np.arange(n), side="right")]
    return np.stack([steps, -steps], 1) + noise * rng.normal(size=(n, 2))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_planted_cut_is_found_where_it_is(data) -> None:
    n = data.draw(st.integers(9, 24))
    a = data.draw(st.integers(2, n - 5))
    b = data.draw(st.integers(a + 2, n - 2))
    found = segments(profile(planted((a, b), n, 0.01, np.random.default_rng(0))), draws=99, shortest=2)
    assert found.starts == (0, a, b)
    assert found.found and found.explained > 0.99
    assert [len(r) for r in found.runs()] == [a, b - a, n - b]
    assert str(found).startswith("early 0-")


def test_it_agrees_with_trying_every_cut() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(10, 3))
    z = (values - values.mean(0)) / values.std(0)

    def explained(a: int, b: int) -> float:
        return sum(len(p) * (p.mean(0) ** 2).sum() for p in (z[:a], z[a:b], z[b:])) / (z**2).sum()

    best = max((explained(a, b), (0, a, b)) for a in range(1, 9) for b in range(a + 1, 10))
    found = segments(profile(values), draws=9)
    assert found.starts == best[1] and found.explained == pytest.approx(best[0])


def test_nothing_is_found_in_noise_more_often_than_the_level() -> None:
    rng = np.random.default_rng(2)
    hits = [segments(profile(rng.normal(size=(12, 4))), draws=99, seed=i).found for i in range(200)]
    assert np.mean(hits) < 0.10  # 5 % expected; 10 % is more than three standard errors away
    assert "no specialisation found" in str(segments(profile(rng.normal(size=(12, 4))), draws=99))


def test_evidence_that_is_constant_or_missing_is_left_out() -> None:
    rng = np.random.default_rng(3)
    values = planted((4, 8), 12, 0.01, rng)
    more = np.column_stack([values, np.ones(12), np.full(12, np.nan)])
    assert segments(profile(more), draws=99).starts == segments(profile(values), draws=99).starts == (0, 4, 8)
    with pytest.raises(dl.MeasureError, match="give evidence that differs between layers"):
        segments(profile(np.ones((12, 1))))


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(dl.MeasureError, match="fewer runs"):
        segments(profile(np.arange(8.0).reshape(4, 2)))
