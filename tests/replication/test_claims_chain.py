"""Claims on steps: the planted nulls are what they say, and verdicts follow the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row

from dit_lens import tasks
from dit_lens.errors import MeasureError
from dit_lens.replication import Claim
from dit_lens.replication.chain import planted


def test_planted_nulls_are_what_they_are() -> None:
    sharp, mixed = planted(tasks.batch(("maze", "choose", "pattern"), 24))
    assert len(sharp) == len(mixed) >= 10
    assert set(sharp) == {"one"}
    assert "multi-path" not in mixed and "superposition" in mixed


def judge(films: xr.Dataset, sharp: list[str], mixed: list[str]) -> list[Claim]:
    return every_row("chain", {"films": films, "sharp": sharp, "mixed": mixed})


def made(n: int = 20, steps: int = 20, **numbers: Any) -> xr.Dataset:
    """A chain of n puzzles, the last quarter with one right answer, whose numbers are given or plain."""
    rng = np.random.default_rng(0)
    shape = (n, 2, steps)
    plain = {
        "motion": np.full((n, 2, 3, steps), 0.95),
        "leads": np.ones((n, 2, 3, steps)),
        "fewest": np.ones(shape),
        "share": np.ones(shape),
        "wrong": np.zeros(shape),
        "kind": np.full(shape, "one"),
        "together": np.ones(shape),
    }
    values = {**plain, **numbers}
    dims = {"motion": ("task", "seed", "reference", "step"), "leads": ("task", "seed", "reference", "step")}
    solutions = np.where(np.arange(n) < 3 * n // 4, 3, 1)
    if values["motion"].std() > 0:
        values["motion"] = values["motion"] + rng.normal(0, 0.005, values["motion"].shape)
    return xr.Dataset(
        {name: (dims.get(name, ("task", "seed", "step")), value) for name, value in values.items()}
        | {"solutions": ("task", solutions), "decoys": ("task", solutions)},
        coords={"reference": ["final", "other seed", "other task"], "step": range(steps)},
    )


def verdicts(data: xr.Dataset, sharp: str = "one", mixed: str = "superposition") -> list[bool]:
    return [claim.verdict == "supported" for claim in judge(data, [sharp] * 10, [mixed] * 10)]


def test_where_nothing_happens_nothing_is_supported() -> None:
    """Motion as like another's end as its own, one candidate from first to last."""
    assert not any(verdicts(made()))


def test_every_planted_finding_is_supported() -> None:
    shape = (20, 2, 20)
    motion = np.full((20, 2, 3, 20), 0.3)
    motion[:, :, 0] = 0.96
    leads = np.zeros((20, 2, 3, 20))
    leads[:, :, 0] = 1
    fewest, kind = np.ones(shape), np.full(shape, "one", dtype="U16")
    fewest[..., :8], kind[..., 0], kind[..., 3] = 2, "superposition", "multi-path"
    share = np.ones(shape)
    share[..., 0] = 0
    data = made(motion=motion, leads=leads, fewest=fewest, kind=kind, share=share)
    # Fifteen of fifteen leave room for a share below .9, and five say nothing.
    assert verdicts(data) == [True, False, *[True] * 4, False]
    # Wrong answers visible as often, a criterion that calls mixtures multi-path: the claims fall.
    assert not verdicts(data.assign(wrong=data["fewest"]))[2]
    assert not verdicts(data, mixed="multi-path")[4]
    assert not verdicts(data, sharp="superposition")[5]
    # Settled by the scene, or not far enough.
    assert not verdicts(data.assign(motion=data["motion"] * 0.9))[0]


def test_claims_need_both_kinds_of_puzzle() -> None:
    data = made()
    with pytest.raises(MeasureError, match="raise n"):
        judge(data.isel(task=slice(0, 10)), ["one"], ["one"])
    with pytest.raises(MeasureError, match="raise n"):
        judge(data.isel(task=slice(15, 20)), ["one"], ["one"])
