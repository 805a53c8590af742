"""Circuits of known plants: curves, CPR and CMD with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.planted import CancellingPlant, LayerPlant, plant
from dit_lens.planted.faithfulness import curves
from dit_lens.planted.truth import HOOKS


def test_one_node_is_the_whole_answer() -> None:
    with plant(LayerPlant(layer=1, component="mlp", n_layers=2, n_steps=1)) as made:
        like = made.truth.members().any("step").astype(float)  # (layer, hook): one of six
        worst = like.copy(data=-like.values)
        found = curves(made, made.tasks(1), {"truth": like, "worst": worst})
    size = np.array([0, 1, 2, 3, 4, 6]) / 6
    np.testing.assert_allclose(found["size"], size)
    best = found["faithfulness"].sel(ranking="truth", order="signed").values
    np.testing.assert_allclose(best, [0, 1, 1, 1, 1, 1], atol=1e-4)
    last = found["faithfulness"].sel(ranking="worst", order="signed").values
    np.testing.assert_allclose(last, [0, 0, 0, 0, 0, 1], atol=1e-4)
    assert found["cpr"].values == pytest.approx([1 - 1 / 12, (1 / 3) / 2], abs=1e-3)
    assert found["cmd"].values == pytest.approx([1 / 12, 1 / 12], abs=1e-3)  # a large negative effect counts there
    assert [str(h) for h in like["hook"].values] == list(HOOKS.values())


def test_half_of_a_cancelling_pair_is_more_than_the_answer() -> None:
    with plant(CancellingPlant(layers=(0, 1), layer=2, n_layers=3, n_steps=1)) as made:
        effect = made.truth.patch(made.tasks(2), hooks=True).isel(step=0, drop=True)
        found = curves(made, made.tasks(1), {"effect": effect})
    signed = found["faithfulness"].sel(ranking="effect", order="signed").values
    np.testing.assert_allclose(signed[:3], [0, 1, 2], atol=0.06)  # both that push, before the one that takes back
    assert signed[-1] == pytest.approx(1)
    assert found["cmd"].item() == pytest.approx(3 / 2 / 9, abs=0.01)  # 0, 1, 2, 1, 1, ... of nine nodes
