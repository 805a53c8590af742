"""Runs that the tests of saved runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saving import FAMILY, go

import dit_lens as dl
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def rich(lens: Any) -> Run:
    """A run with something in every field, stopped in the middle."""
    regions = {"left": np.arange(24) % 4 < 2, "nothing": np.zeros(24, dtype=bool), "a.b c": np.ones(24, dtype=bool)}
    records = [
        dl.record("resid_post", "text_embed"), dl.record("z", reduce="region_mean", layers=1),
        dl.record("z", reduce=dl.reduce.Tokens((1, 2)), name="some heads, two tokens", steps=0),
        dl.record("update", reduce="frame_mean", name="step=9 hook=x"), dl.record("q", reduce="token_norm"),
        dl.record("mlp_out", reduce=dl.reduce.Project(np.eye(24, 2)), steps=-2),
    ]  # fmt: skip
    other = go(lens, seed=4)
    with pytest.warns(UserWarning, match="whole stream"):
        edits = [dl.noise(step=1), dl.patch(step=0, hook="resid_post", source=other), dl.ablate(steps=[0, 2], layers=1)]
        return go(lens, interventions=edits, record=records, regions=regions, stop_after=1)


@pytest.fixture
def saved(rich: Run, tmp_path: Path) -> Path:
    rich.save(tmp_path / "run")
    return tmp_path / "run"
