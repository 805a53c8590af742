"""Claims on branches: verdicts follow planted shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from planted_results import every_row


def made(differ: list[float], changed: list[float], fresh: float, placebo: float = 0, n: int = 40) -> xr.Dataset:
    """Every puzzle has these shares (a tenth of them a little more), at steps 1, 3 and 16 of 20."""
    some = np.where(np.arange(n) % 10 == 0, 0.05, 0)
    grid = {"differ": np.add.outer(some, differ), "changed": np.add.outer(some, changed)}
    return xr.Dataset(
        {name: (("task", "step"), value) for name, value in grid.items()}
        | {
            "fresh_differ": ("task", some + fresh),
            "placebo_changed": (("task", "step"), np.add.outer(some, [placebo] * 3)),
        },
        coords={"step": [1, 3, 16], "task": range(n)},
        attrs={"n_steps": 20},
    )


def test_verdicts_follow_the_numbers() -> None:
    def verdicts(*arguments: Any) -> list[bool]:
        return [claim.verdict == "supported" for claim in every_row("branching", {"branches": made(*arguments)})]

    yes, no = True, False
    assert verdicts([0.6, 0.3, 0], [0.6, 0.3, 0], 0.6) == [yes, yes, yes]
    assert verdicts([0.6, 0.6, 0], [0.6, 0.3, 0], 0.6) == [no, yes, yes]  # branches as different as fresh seeds
    assert verdicts([0, 0, 0], [0, 0, 0], 0.6) == [yes, no, no]  # all decided at once
    assert verdicts([0.3, 0.3, 0], [0.3, 0.3, 0], 0.6, 0.4) == [yes, no, yes]  # the restart alone does as much
