"""Claims on few steps and frames: verdicts follow planted tables."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.replication import Claim
from dit_lens.replication.table import rows_of


def read_claims(steps: xr.Dataset, again: xr.Dataset) -> list[Claim]:
    return every_row("schedules", {"steps": steps, "again": again, "frames": curve()})


def table(score: tuple[float, float], exploring: tuple[float, float], n: int = 12) -> xr.Dataset:
    noise = np.random.default_rng(0).normal(size=(n, 2))
    noise -= noise.mean(0)  # the means are exactly as planted
    values = {"score": score, "exploring": exploring, "commit_sigma": (0.9, 0.9)}
    return xr.Dataset(
        {k: (("task", "num_inference_steps"), np.array(v) + 0.01 * noise) for k, v in values.items()},
        coords={"num_inference_steps": [4, 20]},
    )


def curve() -> xr.Dataset:
    return xr.Dataset(
        {k: (("task", "num_frames"), np.ones((12, 2))) for k in ("score", "cut", "still")}, {"num_frames": [5, 13]}
    )


def test_claims_follow_the_data() -> None:
    again = table((0, 0.9), (0, 0.6)).sel(num_inference_steps=[20])
    lower, squeezed, frames = read_claims(table((0.6, 0.9), (0.1, 0.6)), again)
    assert lower.verdict == squeezed.verdict == "supported"
    assert lower.value == pytest.approx(0.3, abs=0.02) and squeezed.value == pytest.approx(0.5, abs=0.02)
    assert lower.null == pytest.approx(0, abs=0.02) and lower.n == squeezed.n == 12
    same = read_claims(table((0.9, 0.9), (0.6, 0.6)), again)
    assert not any(supported(same[:2]))
    assert frames.verdict == "cannot be tested on this model" and "5 frames 1.000" in frames.remark


def test_a_short_schedule_has_fewer_steps_and_no_less_exploration() -> None:
    """7 exploring steps of 20 are more than 1.9 of 4, and the smaller share: nothing is squeezed."""
    again = table((0, 0.9), (0, 0.35)).sel(num_inference_steps=[20])
    row = rows_of("schedules")[1]
    outcomes = [
        row.verdict({"steps": table((0.9, 0.9), shares), "again": again, "frames": curve()}).outcome  # type: ignore[union-attr]
        for shares in ((0.475, 0.35), (0.35, 0.35), (0.05, 0.35))
    ]
    assert outcomes == ["contradicted", "contradicted", "supported"]
