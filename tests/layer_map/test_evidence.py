"""Evidence of layers that do nothing: no attention where nothing is written, and NaN only where there is no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import dit_lens as dl
from dit_lens.layer_map.controls import control_model
from dit_lens.layer_map.evidence import EVIDENCE, by_control, by_layer, control_evidence, puzzle_evidence, with_probes
from dit_lens.layer_map.roles import roles
from dit_lens.planted import ExpertPlant, LayerPlant, RegionPlant, plant


def test_a_layer_that_looks_and_writes_nothing_has_no_attention() -> None:
    """The audit's case: one layer attends to the foreground and writes nothing, one attends and works."""
    with plant(RegionPlant(layer=3, decoy=1)) as made:
        task = made.tasks(1)[0]
        task_runs = puzzle_evidence(made.lens, task, 0, [0, 1], 0)
    found = task_runs["attention"].mean("step")
    assert int(found.argmax("layer")) == 3 and float(found.sel(layer=3)) > 0.5
    assert (found.sel(layer=[0, 1, 2, 4, 5]) == 0).all(), found.values
    assert (task_runs["attention_null"].sel(layer=1) == 0).all()


def test_muted_blocks_lose_their_own_numbers_only() -> None:
    """Blocks whose every projection is zero, as of a pruned model: NaN where 0 / 0, and the other layers as before."""
    with plant(LayerPlant(layer=2, n_layers=8, n_steps=1, rest=0.3)) as made:
        for linear in _outs(made.lens.pipe.transformer.blocks[5]):
            with torch.no_grad():
                linear.weight.zero_()
                linear.bias.zero_()
        some = made.tasks(3)
        seen = by_layer([puzzle_evidence(made.lens, task, i, [0], 0) for i, task in enumerate(some)])
        control = by_control(control_evidence(made.lens, some, range(3), [0], controls=1))
    assert np.isnan(seen["writing"].sel(layer=5)).all()
    assert np.isfinite(seen["writing"].sel(layer=[0, 1, 2, 3, 4, 6, 7])).all()
    assert (seen["effect"].sel(layer=5) == 0).all() and (seen["attention"].sel(layer=5) == 0).all()
    table, found = roles(seen, control, draws=39, heights=())
    assert found.models["high"].missing == (5,)
    assert np.isnan(table["writing"].sel(layer=5)).all() and np.isfinite(table["effect"]).all()
    assert "without layers 5" in found.sentences()[0]


def _outs(block):
    return block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]


def test_a_step_at_which_base_and_source_agree_is_nan() -> None:
    """The expert of the first steps does nothing: its effects are not numbers, and those of the other one are."""
    with plant(ExpertPlant(expert="low", layer=2)) as made:
        task = made.tasks(1)[0]
        plan = made.lens.plan()
        experts = [plan.at(step).expert for step in range(plan.n_steps)]
        runs = [
            made.lens.generate(t, seed=s) for t, s in ((task, 0), (task.twin("other_answer"), 0), (task, 1))
        ]  # fmt: skip
        agree = [torch.equal(runs[0].x0_hat(s), runs[1].x0_hat(s)) for s in range(plan.n_steps)]
        assert agree == [expert == "high" for expert in experts] and any(agree) and not all(agree)
        effects = dl.experiments.local_effects(made.lens, *runs, range(plan.n_steps))
        for step, same in enumerate(agree):
            assert bool(np.isnan(effects.sel(step=step, kind="effect")).all()) is same
            assert bool(np.isfinite(effects.sel(step=step)).all()) is not same
        rows = by_layer([puzzle_evidence(made.lens, task, 0, range(plan.n_steps), 0)])
        found = dl.map(made.lens, made.tasks(2), scenes=0, steps=range(plan.n_steps), controls=1)
    assert np.isnan(rows["effect"].sel(expert="high")).all() and np.isfinite(rows["effect"].sel(expert="low")).all()
    assert int(rows["effect"].sel(expert="low").isel(task=0).argmax()) == 2
    assert "Largest local effect: step" in repr(found) and "layer 2" in repr(found)
    assert np.isnan(found.layers["effect"].sel(expert="high")).all()


def test_by_layer_takes_the_steps_that_have_a_number() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, 7.0]])
    row = xr.Dataset(
        {"effect": (("step", "layer"), values)}, coords={"step": [0, 1, 2], "expert": ("step", ["high", "high", "low"])}
    )
    found = by_layer([row, row])
    np.testing.assert_array_equal(found["effect"].isel(task=0), [[2, np.nan], [5, 7]])


def test_controls_have_a_dim_of_their_own() -> None:
    with plant(LayerPlant(layer=1, n_layers=2, n_steps=1, rest=0.3)) as made:
        some, told = made.tasks(2), []
        rows = control_evidence(made.lens, some, [0, 1], [0], lambda *row: told.append(row), controls=3)
        with control_model(made.lens, 2, 0) as nothing:
            alone = puzzle_evidence(nothing, some[1], 1, [0], 0)
    found = by_control(rows)
    assert dict(found.sizes) == {"control": 3, "task": 2, "expert": 1, "layer": 2}
    assert [row[:2] for row in told] == [(i, 6) for i in range(6)] and told[3][2].startswith("control 1, ")
    for name in EVIDENCE:
        np.testing.assert_array_equal(found[name].isel(control=2, task=1, expert=0), alone[name].isel(step=0))


def test_probes_are_other_tasks() -> None:
    base = xr.Dataset({"effect": (("task", "expert", "layer"), np.zeros((2, 1, 3)))}, coords={"expert": ["high"]})
    more = xr.Dataset(
        {"scene": (("task", "expert", "layer"), np.ones((4, 1, 3)))},
        coords={"expert": ["high"], "task": [f"scene {i}" for i in range(4)]},
    )
    found = with_probes(base, more)
    assert found.sizes["task"] == 6 and int(found["scene"].notnull().sum()) == 12


@pytest.mark.parametrize("shape", ["three", "one", "none"])
def test_planted_maps_are_called_by_their_name(shape: str) -> None:
    """Whole maps of 12 layers: three stages, one place that does everything, all alike."""
    from dit_lens.planted import WholeMap, whole_maps

    found = whole_maps.measure(WholeMap(shape=shape, n_layers=12), tasks=3)  # type: ignore[arg-type]
    said = str(found["kind"].values)
    assert said in {"three": ("three",), "one": ("one",), "none": ("flat", "ramp", "bow", "wave")}[shape], found
    assert bool(found["cut"]) is (shape == "three") and bool(found["place"]) is (shape == "one")
