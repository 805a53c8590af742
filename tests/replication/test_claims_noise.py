"""Claims on noise: verdicts and numbers are those of planted maps."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, noise_map, supported

from dit_lens.experiments import score_lost
from dit_lens.replication import Claim


def read_claims(steps: xr.Dataset, frames: xr.Dataset, one: xr.Dataset) -> list[Claim]:
    return every_row("noise", {"steps": steps, "frames": frames, "one": one})


def at_frames(loss: float, spread: float, n: int = 12) -> xr.Dataset:
    one = np.ones((n, 2, 4))
    one[:, 0] -= loss
    elsewhere = np.ones((n, 2, 4))
    elsewhere[:, 0] -= spread
    return xr.Dataset(
        {
            "score": (("task", "kind", "frame"), one),
            "elsewhere": (("task", "kind", "frame"), elsewhere),
            "clean_score": ("task", np.ones(n)),
            "clean_elsewhere": ("task", np.ones(n)),
        },
        coords={"kind": ["unit", "restart"], "frame": range(4)},
    )


def test_claims_follow_the_data() -> None:
    """As in the paper: supported. With the opposite planted: none."""
    yes = noise_map(0.5)
    one = noise_map(0.5).sel(kind=["unit", "renewed"], step=[10, 12])
    one["score"] = (one["score"] + 1) / 2  # one frame costs half of what all cost
    assert all(supported(read_claims(yes, at_frames(0.05, 0.0), one)))
    no = noise_map(0.9, early=0.0)
    one["score"] = no["score"].sel(kind=["unit", "renewed"], step=[10, 12]) - 0.1
    claims = read_claims(no, at_frames(0.9, 0.9), one)
    assert not any(supported(claims))
    assert claims[3].value == 0 and "2 steps after injection, at step 8, 10, 12, of steps 0, 2, 4" in claims[3].measure
    assert "this curve 0.900 [0.900, 0.900]" in claims[3].remark
    assert all(c.n == 12 and c.null_name and c.rule for c in claims)


def test_claim_numbers_are_the_planted_ones() -> None:
    found, one = noise_map(0.5, noise_level=0), noise_map(0.5, noise_level=0).sel(kind=["unit", "renewed"], step=[10])
    one["score"] = one["score"] * 0 + 0.75
    lost = float(score_lost(found).sel(kind="unit").mean())
    a, b, c, d, _ = read_claims(found, at_frames(0.1, 0.02), one)
    assert (a.value, b.value, c.value) == pytest.approx((lost - 0.1, lost - 0.02, 1 - 0.25))
    assert (a.null, b.null, c.null) == pytest.approx((0, 0, -0.25))
    assert d.value == 1 and "the drop in score 0.500" in d.remark
