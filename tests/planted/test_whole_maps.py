"""Whole maps: profiles that add up, and evidence that follows them."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.planted import WholeMap, plant
from dit_lens.planted.whole_maps import FOLLOWS, measure


@pytest.mark.parametrize("n_layers", [12, 30, 40])
@pytest.mark.parametrize("shape", ["three", "two", "ramp", "one", "none"])
def test_profiles(shape: str, n_layers: int) -> None:
    spec = WholeMap(shape=shape, n_layers=n_layers)  # type: ignore[arg-type]
    found = spec.profiles()
    assert all(len(p) == n_layers and (p >= 0).all() for p in found.values())
    assert found["effect"].sum() == pytest.approx(1) == found["readout"].sum()
    assert found["attention"].max() <= 1
    zero = {name: int((p == 0).sum()) for name, p in found.items()}
    if shape == "one":
        assert set(zero.values()) == {n_layers - 1}
    elif shape in ("ramp", "none"):
        assert set(zero.values()) == {0}
    else:
        assert found["effect"][0] == 0 and found["attention"][-1] == 0
    assert spec.stages == {"three": 3, "two": 2}.get(shape, 0)
    other = WholeMap(shape=shape, n_layers=n_layers, drawn=1).profiles()  # type: ignore[arg-type]
    assert shape == "one" or not np.allclose(other["effect"], found["effect"])


def test_whole_maps_answer() -> None:
    with plant(WholeMap(shape="three", n_layers=12, rest=0.0)) as made:
        for task in made.tasks(2):
            assert made.lens.generate(task, seed=1).score.solved
        exact = made.truth.patch(made.tasks(2)).squeeze("step")
        np.testing.assert_allclose(exact, made.spec.profiles()["effect"], atol=0.02)  # type: ignore[attr-defined]


def test_evidence_follows_three_stages() -> None:
    found = measure(WholeMap(shape="three", n_layers=8), tasks=2)
    assert found["correlation"].sel(evidence="effect").item() > 0.9
    assert found["correlation"].sel(evidence="attention").item() > 0.6
    assert found["profile"].dims == ("evidence", "layer") and list(found["evidence"].values) == list(FOLLOWS)
    assert found["cut"].item() in (0.0, 1.0)
