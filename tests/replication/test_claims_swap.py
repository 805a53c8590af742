"""Claims on layer swapping: verdicts follow planted shares and effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.experiments.layer_swapping import HORIZONS, KINDS, METRICS, _table
from dit_lens.replication import Claim


def flips(found: xr.Dataset) -> Claim:
    (claim,) = every_row("swap", {"choose whole": found})
    return claim


def middle(found: xr.Dataset) -> Claim:
    (claim,) = every_row("swap", {"choose each": found})
    return claim


def result(flipped: float, placebo: float, n: int = 24, layers: tuple[str, ...] = ("6",)) -> xr.Dataset:
    """A planted result: shares of flipped puzzles, and a local effect that only the middle layers have."""
    shape = (len(METRICS), len(KINDS), 1, len(layers), 1, 2, n)
    coords: dict[str, Any] = {"metric": list(METRICS), "kind": list(KINDS), "hook": ["update"]}
    coords |= {"layer": list(layers), "step": ["0"], "horizon": list(HORIZONS)}
    raw = xr.DataArray(np.zeros(shape), dims=(*coords, "task"), coords=coords)
    for kind, portion in (("effect", flipped), ("placebo", placebo)):
        for metric in ("flipped", "effect"):
            raw.loc[{"kind": kind, "metric": metric}][..., : round(portion * n)] = 1
    return _table(raw).assign_attrs(remarks=[])


@pytest.mark.parametrize(
    ("flipped", "placebo", "verdict"),
    [(1.0, 0.0, True), (0.0, 0.0, False), (0.5, 0.0, False), (1.0, 1.0, False)],
)
def test_the_verdict_on_flips_follows_the_numbers(flipped: float, placebo: float, verdict: bool) -> None:
    claim = flips(result(flipped, placebo))
    assert (supported([claim]), claim.value, claim.null, claim.n) == ([verdict], flipped, placebo, 24)
    assert claim.low <= claim.value <= claim.high


def test_videos_that_cannot_be_read_give_no_verdict() -> None:
    found = result(0.0, 0.0)
    found["raw"].loc[{"metric": "flipped"}] = np.nan
    claim = flips(_table(found["raw"]).assign_attrs(remarks=[]))
    assert claim.verdict == "cannot be tested on this model" and "could be read" in claim.remark


def by_layer(heights: dict[int, float], placebo: dict[int, float], n: int = 12, seed: int = 0) -> xr.Dataset:
    """Twelve layers with these effects, give or take what is far smaller, of the swap and of its placebo."""
    found = result(0.0, 0.0, n, tuple(map(str, range(12))))
    noise = 0.002 * np.random.default_rng(seed).standard_normal((2, 12, n))
    for kind, given, add in (("effect", heights, noise[0]), ("placebo", placebo, noise[1])):
        level = np.array([given.get(layer, 0.0) for layer in range(12)])[:, None] + add
        found["raw"].loc[{"metric": "effect", "kind": kind, "horizon": "local"}] = level[None, :, None]
    return _table(found["raw"]).assign_attrs(remarks=[], n_layers=12)


def test_the_verdict_on_layers_follows_the_numbers() -> None:
    good = middle(by_layer({6: 0.5, 7: 0.3}, {}, 24))
    assert (supported([good]), good.value) == ([True], 1.0)
    assert good.null < 0.5, "the placebo has no strongest layer, and finds one in any quarter by chance"
    assert "x0_hat of the last swapped step" in good.measure and "one of 6-8" in good.measure
    assert "6: 0.50*; 7: 0.30*" in good.remark and good.remark.count("*") == 3
    assert not any(supported([middle(by_layer({6: 0.5}, {6: 0.6}))]))
    # Two heights, at depth .08 and .92, have their centre in the middle, and nothing is there.
    assert middle(by_layer({1: 0.5, 11: 0.5}, {})).value == 0


def test_the_paired_verdict_on_layers() -> None:
    def outcome(*heights: dict[int, float], seed: int = 0) -> str:
        return middle(by_layer(*heights, seed=seed)).verdict

    assert outcome({6: 0.5, 7: 0.3}, {}) == "supported"
    assert outcome({1: 0.5}, {}) == "contradicted"
    assert "supported" not in {outcome({}, {}, seed=seed) for seed in range(6)}


def test_a_flip_says_where_it_is_read() -> None:
    claim = flips(result(1.0, 0.0))
    assert "read in the finished video" in claim.measure and "x0_hat of the last swapped step moves" in claim.remark
