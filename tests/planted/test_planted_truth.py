"""Exact effects: what the toolkit measures on a planted network is what its causal model says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plants import SMALL, SPECS, named

import dit_lens as dl
from dit_lens.planted import (
    AndPlant,
    BackupPlant,
    BranchPlant,
    CancellingPlant,
    HeadPlant,
    LabelPlant,
    LayerPlant,
    LoudUpdate,
    Nothing,
    StepPlant,
    UnusedLabel,
    plant,
)
from dit_lens.planted.reading import lens_answer
from dit_lens.planted.truth import HOOKS
from dit_lens.progress import silent


def measured(made: Any, tasks: Any, **how: Any) -> Any:
    found = dl.sweep(made.lens, tasks=tasks, source="other_answer", seed_step=1, progress=silent, **how)
    return found["value"]


@pytest.mark.parametrize("spec", [s for s in SPECS if s.open is None and len(s.experts) == 1], ids=named)
def test_patched_updates(spec: Any) -> None:
    with plant(spec, seed=2) as made:
        tasks = made.tasks(2, seed=4)
        found = measured(made, tasks, placebo="none")
        np.testing.assert_allclose(found, made.truth.patch(tasks), atol=1e-5)


@pytest.mark.parametrize("spec", [StepPlant(step=1, layer=2, **SMALL), LabelPlant(step=0, layer=1, **SMALL)], ids=named)
def test_patched_updates_of_one_step(spec: Any) -> None:
    with plant(spec) as made:
        tasks = made.tasks(2)
        found = measured(made, tasks, horizon="final")
        exact = made.truth.patch(tasks, horizon="final")
        np.testing.assert_allclose(found, exact, atol=1e-5)
        assert int(exact.round(3).sum()) == int((exact > 0.9).sum()) == 1


def test_components_heads_branches_and_windows() -> None:
    held = {"steps": [range(2)], "horizon": "final", "placebo": "none"}
    with plant(HeadPlant(layer=1, head=3, n_layers=2, n_steps=2)) as made:
        tasks = made.tasks(1)
        exact = made.truth.patch(tasks, steps=[range(2)], horizon="final", hooks=True)
        found = measured(made, tasks, hooks=list(HOOKS.values()), **held)
        np.testing.assert_allclose(found.transpose(*exact.dims), exact, atol=1e-5)
        exact = made.truth.patch(tasks, steps=[range(2)], horizon="final", heads=True)
        found = measured(made, tasks, hooks="z", heads=range(4), **held)
        np.testing.assert_allclose(found.transpose(*exact.dims), exact, atol=1e-5)
        assert exact.sel(layer=1, head=3).item() == pytest.approx(1, abs=1e-3)
    with plant(BranchPlant(branch="uncond", layer=1, n_layers=2, n_steps=1)) as made:
        exact = made.truth.patch(tasks := made.tasks(1), branches=True)
        found = measured(made, tasks, branches=["cond", "uncond"], placebo="none")
        np.testing.assert_allclose(found.transpose(*exact.dims), exact, atol=1e-5)
        assert exact.sel(branch="uncond", layer=1).item() == pytest.approx(1, abs=1e-3)
        assert not exact.sel(branch="cond").any()


@pytest.mark.parametrize("spec", [LoudUpdate(layer=2, decoy=1, **SMALL), AndPlant(layers=(0, 1), layer=2, **SMALL)],
                         ids=named)  # fmt: skip
def test_ablations(spec: Any) -> None:
    with plant(spec) as made:
        tasks = made.tasks(2)
        found = measured(made, tasks, edit=dl.ablate, placebo="none")
        np.testing.assert_allclose(found, made.truth.ablate(tasks), atol=1e-5)


# -- what the hard plants are for


def test_redundant_layers_hide_each_other_and_are_seen_together() -> None:
    with plant(BackupPlant(layers=(0, 2), n_layers=3, n_steps=1)) as made:
        tasks = made.tasks(2)
        alone = made.truth.patch(tasks)
        together = made.truth.patch(tasks, layers=[(0, 2), (1, 2)])
        assert float(abs(alone).max()) < 0.01
        np.testing.assert_allclose(together.squeeze(), [1, 0], atol=0.01)
        np.testing.assert_allclose(measured(made, tasks, layers=[(0, 2), (1, 2)], placebo="none").squeeze(),
                                   together.squeeze(), atol=1e-5)  # fmt: skip
        assert made.truth.members().any("hook").values.tolist() == [[True, False, True]]


def test_cancelling_layers_are_large_alone_and_nothing_together() -> None:
    with plant(CancellingPlant(layers=(0, 1), layer=2, n_layers=3, n_steps=1)) as made:
        tasks = made.tasks(2)
        np.testing.assert_allclose(made.truth.patch(tasks).squeeze(), [1, -1, 1], atol=0.05)
        np.testing.assert_allclose(made.truth.patch(tasks, layers=[(0, 1)]).squeeze(), 0, atol=0.05)
        assert made.truth.members().any("hook").values.tolist() == [[False, False, True]]


def test_an_and_hides_its_inputs_in_one_direction() -> None:
    """From "no" to "yes" both are needed; from "yes" to "no" either is enough."""
    with plant(AndPlant(layers=(0, 1), layer=2, n_layers=3, n_steps=1)) as made:
        yes, no = ([t for t in made.tasks(4) if t.label == label] for label in (1, -1))
        np.testing.assert_allclose(made.truth.patch(no).squeeze(), [0, 0, 1], atol=0.01)
        np.testing.assert_allclose(made.truth.patch(yes).squeeze(), [1, 1, 1], atol=0.01)
        np.testing.assert_allclose(made.truth.patch(no, layers=[(0, 1)]).squeeze(), 1, atol=0.01)


def test_what_can_be_decoded_where() -> None:
    with plant(UnusedLabel(layer=2, decoy=1, **SMALL)) as made:
        found = made.truth.decodable(made.tasks(2))
        assert found.sel(label="label").values.tolist() == [[False, False, True, True]] * 2
        assert found.sel(label="unused").values.tolist() == [[False, True, True, True]] * 2
    with plant(LabelPlant(step=1, layer=1, used=False, **SMALL)) as made:
        found = made.truth.decodable(made.tasks(2)).sel(label="label").values
        assert found.tolist() == [[False] * 4, [False, True, True, True]]


def test_no_mechanism_has_no_members_and_no_way_to_go() -> None:
    with plant(Nothing(rest=0.0, n_layers=2, n_steps=1)) as made:
        assert not made.truth.members().any() and not made.truth.attends().any()
        assert np.isnan(made.truth.patch(made.tasks(1))).all()


def test_places_of_one_expert_are_members_at_its_steps_only() -> None:
    from dit_lens.planted import ExpertPlant

    with plant(ExpertPlant(expert="low", layer=1, **SMALL)) as made:
        assert made.truth.network.experts == ("high", "low")
        assert made.truth.members().any("hook").values.tolist() == [[False] * 4, [False, True, False, False]]


def test_heads_that_only_attend_are_no_members() -> None:
    with plant(HeadPlant(layer=1, head=2, **SMALL)) as made:
        assert made.truth.member_heads().values.sum() == 1 and made.truth.member_heads().sel(layer=1, head=2)
        assert made.truth.attends().sel(step=0, region="other", layer=1).values.tolist() == [True, True, False, True]
        assert made.truth.attends(mechanism=True).isel(step=0).values.sum() == 1
        seen = dl.measures.region_attention(
            made.lens, made.lens.generate(made.tasks(1)[0]), queries="all", keys=("key", "other"), steps=(0,)
        )["mass"].squeeze(["step", "branch", "query"])  # fmt: skip
        np.testing.assert_allclose(seen.sel(layer=1, key="key"), [0, 0, 1, 0], atol=1e-5)
        np.testing.assert_allclose(seen.sel(layer=1, key="other"), [1, 1, 0, 1], atol=1e-5)


def test_a_layer_that_writes_nothing_is_not_said_to_write() -> None:
    """The second of two redundant layers adds nothing as long as the first is there."""
    with plant(BackupPlant(layers=(0, 2), n_layers=3, n_steps=1)) as made:
        tasks = made.tasks(2)
        assert made.truth.writes_read_out(tasks).values.tolist() == [True, False, False]
        assert made.truth.writes_at_key(tasks).values.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (LayerPlant(layer=1, **SMALL), [0, 1, 0, 0]),
        (LayerPlant(layer=2, component="mlp", **SMALL), [0, 0, 1, 0]),
        (BranchPlant(branch="uncond", layer=1, **SMALL), [0, 1, 0, 0]),
        (StepPlant(step=1, layer=2, **SMALL), [0, 0, 0.5, 0]),  # over two steps
        (CancellingPlant(layers=(0, 2), layer=1, **SMALL), [1, 1, -1, 0]),
        (AndPlant(layers=(0, 1), layer=2, **SMALL), [0, 0, 1, 0]),
    ],
)
def test_what_the_read_out_shows(spec: Any, shown: list[float]) -> None:
    with plant(spec, seed=1) as made:
        tasks = made.tasks(4)
        exact = made.truth.shown(tasks)
        np.testing.assert_allclose(exact, shown, atol=0.05)
        found = lens_answer(made, tasks).effect.mean("task")
        np.testing.assert_allclose(found, exact, atol=1e-5)


def test_truth_of_a_layer_is_its_own() -> None:
    with plant(LayerPlant(layer=0, component="cross_attention", n_layers=2, n_steps=1)) as made:
        assert made.truth.writes_read_out(made.tasks(2)).values.tolist() == [True, False]
        assert not made.truth.writes_at_key(made.tasks(2)).any()
