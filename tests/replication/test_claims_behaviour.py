"""Claims of self-correction and of perception before action: verdicts on planted films."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens.measures.answers_over_steps import RIGHT, WRONG


def seen_with(lag: int, n: int = 12, steps: int = 8) -> xr.Dataset:
    """Movers that are identified at step 1 and move ``lag`` later; half of them have one solution."""
    early, late = np.arange(steps) >= 1, np.arange(steps) >= 1 + lag
    together = np.stack([early, early])
    curves = {"identified": together, "arrived": together, "motion": np.stack([late, early])}
    data: dict[str, Any] = {k: (("task", "kind", "step"), np.stack([v] * n).astype(float)) for k, v in curves.items()}
    data["solutions"] = ("task", [1, 2] * (n // 2))
    return xr.Dataset(data, {"kind": ["x0_hat", "fade-in"], "step": range(steps)}, {"n_steps": steps - 1})


def wrong_with(recovered: bool, n: int = 12) -> xr.Dataset:
    outcome = np.zeros((3, n, 1, 3), bool)
    outcome[0, :, :, 0 if recovered else 1] = outcome[1, :, :, 1] = outcome[2, :, :, 0] = True
    return xr.Dataset(
        {
            "outcome": (("kind", "task", "step", "ending"), outcome),
            "shows": (("task", "step"), np.ones((n, 1), bool)),
        },
        {"kind": ["planted", "kept", "own"], "step": [2], "ending": ["own", "twin", "neither"]},
    )


def states_with(corrected: int, n: int = 40) -> xr.DataArray:
    rows = [[WRONG, WRONG, RIGHT, RIGHT]] * corrected + [[RIGHT] * 4] * (n - corrected)
    return xr.DataArray(np.array(rows), dims=("task", "step"), coords={"step": range(4)})


@pytest.mark.parametrize("there", [True, False])
def test_verdicts_follow_the_numbers(there: bool) -> None:
    seen, states = seen_with(3 if there else 0), states_with(20 if there else 0)
    found = every_row("behaviour", {"seen": seen, "states": states, "wrong": wrong_with(there)})
    assert supported(found) == [there] * 4
    corrected, planted, lag, fixed = found
    assert corrected.value == (0.5 if there else 0) and corrected.n == 40
    assert planted.value == there and planted.null == 0 and planted.n == 12
    assert lag.value == (3 if there else 0) and lag.null == 0 and lag.n == 12
    assert fixed.value == lag.value and fixed.n == 6
    assert all(claim.rule and claim.null_name for claim in found)
