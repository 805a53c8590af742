"""Causal checks on plants are those that users get: the probe's own pattern, with nothing made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_lens import probing
from dit_lens.planted import UnusedLabel, plant
from dit_lens.planted.reading import BITS, PROBED, bits, features, steer_along_patterns


def test_the_check_along_a_pattern_is_the_default_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []
    causal = probing.causal

    def spy(lens: Any, probe: Any, tasks: Any, **how: Any) -> Any:
        asked.append((probe, how))
        return causal(lens, probe, tasks, **how)

    monkeypatch.setattr(probing, "causal", spy, raising=False)
    with plant(UnusedLabel(layer=1, decoy=0, n_layers=2, n_steps=1)) as made:
        tasks = made.tasks(4)
        found = steer_along_patterns(made, tasks).effect
        others = made.tasks(PROBED, seed=9_000, linked=tasks[0].linked)
        x = features(made, others).cell("resid_post", 0, 1)[:, 0].astype(np.float64)  # (tasks, d)
    assert found["label"].values.tolist() == list(BITS) and float(found.sel(label="unused").max()) == 0
    assert float(found.sel(label="label").mean()) > 0.4  # each sign changes the answers of one label
    assert len(asked) == 2 and all(how["kinds"] == ["pattern"] and "pattern" not in how for _, how in asked)
    for (probe, _), values in zip(asked, bits(others).values(), strict=True):
        by_hand = x[values > 0].mean(0) - x[values < 0].mean(0)
        np.testing.assert_allclose(probe.patterns, [by_hand], atol=1e-9)
