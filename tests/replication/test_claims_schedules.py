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


def curve(shortest: float = 1.0, trained: tuple[int, ...] = (), n: int = 12) -> xr.Dataset:
    """Score by frames; a cut of the whole video loses nothing."""
    score, whole = np.tile([shortest, 1.0], (n, 1)), np.ones((n, 2))
    score[:, 0] -= 0.02 * np.random.default_rng(0).random(n)
    values = {"score": score, "cut": whole, "still": whole}
    return xr.Dataset(
        {k: (("task", "num_frames"), v) for k, v in values.items()}, {"num_frames": [5, 13]}, {"trained": trained}
    )


def test_claims_follow_the_data() -> None:
    again = table((0, 0.9), (0, 0.6)).sel(num_inference_steps=[20])
    lower, squeezed, frames = read_claims(table((0.6, 0.9), (0.1, 0.6)), again)
    assert lower.verdict == squeezed.verdict == "supported"
    assert lower.value == pytest.approx(0.3, abs=0.02) and squeezed.value == pytest.approx(0.5, abs=0.02)
    assert lower.null == pytest.approx(0, abs=0.02) and lower.n == squeezed.n == 12
    same = read_claims(table((0.9, 0.9), (0.6, 0.6)), again)
    assert not any(supported(same[:2]))
    assert frames.verdict == "cannot be tested on this model" and "5 frames 0.98" in frames.remark


def test_a_short_schedule_has_fewer_steps_and_no_less_exploration() -> None:
    """7 exploring steps of 20 are more than 1.9 of 4, and the smaller share: nothing is squeezed."""
    again = table((0, 0.9), (0, 0.35)).sel(num_inference_steps=[20])
    row = rows_of("schedules")[1]
    outcomes = [
        row.verdict({"steps": table((0.9, 0.9), shares), "again": again, "frames": curve()}).outcome  # type: ignore[union-attr]
        for shares in ((0.475, 0.35), (0.35, 0.35), (0.05, 0.35))
    ]
    assert outcomes == ["contradicted", "contradicted", "supported"]


@pytest.mark.parametrize(("shortest", "outcome"), [(0.6, "supported"), (0.98, "contradicted")])
def test_frames_are_compared_where_the_model_was_trained_at_several_lengths(shortest: float, outcome: str) -> None:
    again = table((0, 0.9), (0, 0.6)).sel(num_inference_steps=[20])
    data = {"steps": table((0.9, 0.9), (0.6, 0.6)), "again": again, "frames": curve(shortest, (5, 13))}
    found = every_row("schedules", data)[2]
    assert found.verdict == outcome and "13 frames minus at 5" in found.measure
    assert found.value == pytest.approx(1.01 - shortest, abs=0.01)


@pytest.mark.parametrize(("score", "outcome"), [(0.6, "supported"), (0.9, "contradicted")])
def test_a_student_is_compared_with_its_teacher_beside_another_seed(score: float, outcome: str) -> None:
    steps = table((0.3, 0.9), (0.1, 0.6))
    student = table((score, 0.0), (0.6, 0.0)).sel(num_inference_steps=[4])
    again = table((0, 0.9), (0, 0.6)).sel(num_inference_steps=[20])
    found = every_row("schedules", {"steps": steps, "again": again, "frames": curve(), "student": student})
    assert [claim.id for claim in found[3:]] == ["schedules/distilled", "schedules/distilled-exploring"]
    assert found[3].verdict == outcome and found[3].value == pytest.approx(0.9 - score, abs=0.02)
    assert "the teacher itself at 4 steps 0.300" in found[3].remark and "at 20 steps minus" in found[3].measure
    assert found[4].verdict == "contradicted", "the student explores as long as its teacher"
