"""Metrics read base, source and the patched run at the same point of the generation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dit_lens.runner.metrics import change, projection, state


def run(*estimates: float, complete: bool = False) -> Any:
    """A run whose x0_hat at step i holds ``estimates[i]`` everywhere, and which ends in 100 times the last of them."""
    shape = (2, 1, 2, 2)
    return SimpleNamespace(
        x0_hat=lambda step: torch.full(shape, estimates[step]), final=torch.full(shape, 100 * estimates[-1]),
        latents=torch.zeros(shape), complete=complete, n_steps=len(estimates),
    )  # fmt: skip


def test_a_longer_run_is_read_where_the_shorter_one_stopped() -> None:
    short, long = run(1.0, 3.0), run(2.0, 5.0, 7.0, 11.0, complete=True)
    assert float(state(long, short)[0, 0, 0, 0]) == 5.0, "x0_hat of the short run's last step"
    assert float(state(short, short)[0, 0, 0, 0]) == 3.0
    assert float(state(long, long)[0, 0, 0, 0]) == 1100.0, "complete: the final latents"


def test_the_way_is_measured_at_the_patched_runs_last_step() -> None:
    """x0_hat at step 1: base 0, source 4, patched 3. The finished runs are elsewhere."""
    base, source = run(9.0, 0.0, 8.0, complete=True), run(9.0, 4.0, 7.0, complete=True)
    assert projection(run(9.0, 3.0), base, source) == pytest.approx(0.75)
    assert change(run(9.0, 3.0), run(9.0, 2.0, 50.0, complete=True), source) == pytest.approx(0.25)
