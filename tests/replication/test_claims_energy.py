"""Claims on layer energy: verdicts on planted ratios."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported


def planted(early: float, later: float, deep: float, seed: int = 0, n: int = 20) -> xr.Dataset:
    """A measured dataset with known ratios: layers below depth .225, from there on, and channel variance when deep."""
    rng = np.random.default_rng(seed)
    layers = np.arange(-1, 40)
    depth = layers / 40
    profile = np.where(depth < 0.225, early, later)
    shape = (n, 2, 2, 4, len(layers), 3)

    def noise() -> np.ndarray:
        return rng.normal(0, 0.05, shape)

    kinds, sources = ["region", "null", "draw"], ["regions", "difference"]
    energy = noise()
    energy[..., 0] += profile
    variance = noise()[:, :, 0]
    variance[..., 0] += np.where(depth >= 2 / 3, deep, 0.0)
    return xr.Dataset(
        {
            "energy": (("task", "hook", "region", "step", "layer", "kind"), energy),
            "variance": (("task", "hook", "step", "layer", "kind"), variance),
        },
        coords={
            "hook": ["resid_post", "update"], "region": sources, "kind": kinds,
            "layer": layers, "depth": ("layer", depth),
            "expert": ("step", ["high", "high", "low", "low"]), "family": ("task", ["maze"] * n),
        },
    )  # fmt: skip


def test_verdicts_on_planted_energy() -> None:
    found = every_row("energy", {"energy": planted(early=-0.5, later=0.5, deep=1.0)})
    assert supported(found) == [True] * 10
    assert [c.value for c in found] == pytest.approx([-0.5, 1, -0.5, 1, 1, 1, -0.5, 1, 1, 1], abs=0.05)
    assert all(c.low <= c.value <= c.high and c.n == 20 and c.rule for c in found)
    assert all(abs(c.null) < 0.05 for c in found)


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_on_nothing(seed: int) -> None:
    """Nothing, and n = 20 says so: every difference of 7 % is excluded."""
    found = every_row("energy", {"energy": planted(0, 0, 0, seed)})
    assert [c.verdict for c in found] == ["contradicted"] * 10


def test_verdicts_on_the_contrary() -> None:
    found = every_row("energy", {"energy": planted(early=0.5, later=-0.5, deep=-1.0)})
    assert [c.verdict for c in found] == [*["contradicted"] * 5, "supported", *["contradicted"] * 3, "supported"]
    assert all("Pearson" in c.measure for c in (found[5], found[9]))  # stable all the same
