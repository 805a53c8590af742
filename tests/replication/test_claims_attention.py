"""Claims on attention: planted enrichment and cuts give their verdicts."""

from __future__ import annotations

import numpy as np
import xarray as xr
from planted_results import enrichment, every_row, supported

from dit_lens.replication import Claim
from dit_lens.stats.verdict import PLACEBO_TOO


def read_claims(found: xr.Dataset) -> list[Claim]:
    return every_row("attention", {"attention": found})


def read_cuts(found: xr.Dataset) -> list[Claim]:
    return every_row("attention", {"cuts": found.assign_attrs(n_layers=12)})


def test_planted_claims() -> None:
    background, all_tokens, rest, named, first = read_claims(enrichment(0.5, 2.0, named=4.0))
    assert supported((background, all_tokens, rest, named)) == [True] * 4
    assert (background.value, all_tokens.value, rest.value, named.value) == (1, 2, 2, 2)
    assert first.verdict == "undecided" and first.value == 0, "equal to its null, and no spread that could exclude more"
    assert background.null == 0 and background.n == 6 and "maze 1.00" in background.remark


def test_nothing_planted_supports_nothing() -> None:
    """Equal to the null up to noise, and a shift the other way."""
    for found in (enrichment(1.0, 1.0, spread=0.3), enrichment(2.0, 0.5)):
        assert not any(supported(read_claims(found)))
    background, foreground, *_ = read_claims(enrichment(2.0, 0.5, spread=0.1))
    assert background.judged is not None and foreground.judged is not None
    assert max(background.judged.p_against, foreground.judged.p_against) < 0.05, "the other way round"


def test_without_a_named_pair_its_claim_is_untestable() -> None:
    rows = read_claims(enrichment(0.5, 2.0).sel(key=["foreground", "rest"]))
    assert rows[-1].verdict == "cannot be tested on this model" and "unnamed" in rows[-1].remark


def cuts(by_window: dict[str, float], random: float) -> xr.Dataset:
    changed = np.zeros((8, 1, len(by_window), 2))
    changed[..., 0], changed[..., 1] = list(by_window.values()), random
    dims = ("task", "edge", "layer", "kind")
    coords = {"edge": ["all -> goal"], "layer": list(by_window), "kind": ["cut", "random"]}
    one = xr.DataArray(changed, dims=dims, coords=coords)
    return xr.Dataset({"changed": one, "solved": 1 - one, "base_solved": ("task", np.ones(8))})


def test_planted_cuts() -> None:
    whole, grown = read_cuts(cuts({"all": 1.0, "0-2": 0.0, "3-5": 1.0, "6-8": 0.5}, 0.25))
    assert (whole.value, whole.null, whole.verdict) == (1.0, 0.25, "supported")
    assert (grown.value, grown.null, grown.verdict) == (0.75, 0.0, "supported")
    whole, grown = read_cuts(cuts({"all": 0.25, "0-2": 1.0, "3-5": 0.0}, 0.25))
    assert whole.verdict == PLACEBO_TOO and grown.verdict == "undecided" and grown.value == -1
    assert len(read_cuts(cuts({"all": 1.0}, 0.0))) == 1
