"""Parts compute what they say, and the causal model is a Wan block in other words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from plants import SPECS, named

from dit_lens.planted import PlantTask, plant
from dit_lens.planted.directions import FEATURES, GATED, INDEX, LENGTH_SQUARED, NAMES, READ, UNREAD, draw
from dit_lens.planted.mechanism import Attend, Network, Unit, Units, both, constant, entry, gate, gelu, linear, run


def computed(units: tuple[Unit, ...], features: Mapping[str, float]) -> dict[str, float]:
    """What units add where the normalised stream holds these features, in units of what a part writes."""
    out: dict[str, float] = {}
    for unit in units:
        hidden = gelu(np.array(unit.bias + sum(w * features.get(name, 0.0) for name, w in unit.into.items())))
        for name, weight in unit.out.items():
            out[name] = out.get(name, 0.0) + weight * float(hidden)
    return out


@pytest.mark.parametrize("reads", [-1, 0, 1])
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_a_gate_copies_where_it_is_open(reads: int, by: int) -> None:
    found = computed(gate("red", "green", "answer", 2.0), {"red": reads, "green": by})
    assert found["answer"] == pytest.approx(2 * reads if by == 1 else 0, abs=1e-9)
    other = computed(gate("red", {"green": 1.0, "flag": -1.0}, "answer"), {"red": reads, "green": by, "flag": -1})
    assert other["answer"] == pytest.approx(reads if by == 1 else 0, abs=1e-9)
    shut = computed(gate("red", {"green": 1.0, "flag": -1.0}, "answer"), {"red": reads, "green": by, "flag": 1})
    assert shut["answer"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("one", "other", "by", "expected"), [
    (1, 1, 1, 1), (1, -1, 1, -1), (-1, 1, 1, -1), (-1, -1, 1, -1), (0, 0, -1, 0), (0, 0, 0, 0),
])  # fmt: skip
def test_both_is_an_and(one: int, other: int, by: int, expected: int) -> None:
    found = computed(both("a", "b", "green", "answer"), {"a": one, "b": other, "green": by})
    assert found["answer"] == pytest.approx(expected, abs=1e-9)


def test_linear_and_constant_units() -> None:
    assert computed(linear({"red": 2.0, "a": -1.0}, "answer"), {"red": 0.3, "a": 0.7})["answer"] == pytest.approx(-0.1)
    assert computed(constant("clutter", 0.3), {"red": 5.0})["clutter"] == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_directions_are_orthonormal_without_mean_and_in_their_channels(seed: int) -> None:
    basis = draw(seed).basis
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(NAMES)), atol=1e-12)
    np.testing.assert_allclose(basis.sum(1), 0, atol=1e-12)
    for name, channels in FEATURES.items():
        outside = np.ones(48, bool)
        outside[channels] = False
        assert not draw(seed).of(name)[outside].any()
    assert {UNREAD.stop, READ.start} == {24} and {READ.stop, GATED.start} == {36}


def test_all_tokens_enter_equally_long() -> None:
    stream = entry(PlantTask(seed=0, label=1))
    np.testing.assert_allclose((stream**2).sum(1), LENGTH_SQUARED)


def test_a_change_replaces_what_is_written() -> None:
    network = Network(2, {"high": (Attend(0), Units(1, constant("clutter")))}, (1.0, 0.0), ("high",))
    task = PlantTask(seed=0, label=-1)
    plain = run(network, task)
    np.testing.assert_allclose(plain.velocity[0, :, 0], -1, atol=0.01)
    np.testing.assert_allclose(plain.velocity[0, :, 1], 1, atol=0.01)
    without = run(network, task, lambda where, write: write * (where.component != "attention"))
    np.testing.assert_allclose(without.velocity[0, :, 0], 0)
    assert {w.layer for w in plain.writes} == {0, 1}
    assert INDEX["answer"] != INDEX["clutter"]


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_every_mechanism_answers_in_the_causal_model(spec: object) -> None:
    with plant(spec) as made:  # type: ignore[arg-type]
        sigmas = np.array(made.truth.network.sigmas)
        for task in made.tasks(4, seed=7):
            red = np.tensordot(-np.diff(sigmas), run(made.truth.network, task).velocity[..., 0], 1)
            shown = task.regions["later" if task.shown == "later" else "key"]
            assert (red[shown] * task.label > 0.3).all()  # one step of two is a third of the way
