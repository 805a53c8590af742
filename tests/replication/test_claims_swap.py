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


def test_the_verdict_on_layers_follows_the_numbers() -> None:
    layers = tuple(map(str, range(12)))
    found = result(0.0, 0.0, layers=layers)
    assert not any(supported([middle(found)]))
    found["raw"].loc[{"metric": "effect", "kind": "effect", "layer": ["6", "7", "8"]}] = 0.5
    good = middle(found)
    assert (good.verdict, good.value, good.null) == ("supported", 0.5, 0.0)
    found["raw"].loc[{"metric": "effect", "kind": "placebo", "layer": ["6", "7", "8"]}] = 0.6
    assert not any(supported([middle(found)]))
    found["raw"].loc[{"metric": "effect", "kind": "effect", "layer": ["6", "7", "8"]}] = -0.5
    assert middle(found).value < 0
