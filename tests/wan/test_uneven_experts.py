"""Two experts of different depth: each is recorded and changed in all of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families import FAMILIES

import dit_lens as dl
from dit_lens.errors import AddressError
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.loading import load

HOW: dict[str, Any] = {**FAMILIES["i2v22"].call, "num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def uneven() -> Iterator[Any]:
    family = FAMILIES["t2v22"]
    pipe = family.build()
    torch.manual_seed(0)
    config = {**dict(pipe.transformer_2.config), "num_layers": 2}
    pipe.transformer_2 = type(pipe.transformer_2).from_config(config).eval().requires_grad_(False)
    with load(pipe) as lens:
        yield lens


UNEVEN: dict[str, Any] = {**FAMILIES["t2v22"].call, "num_inference_steps": 3, "guidance_scale": 1.0}


def experts_at(plan: Plan) -> dict[int, str]:
    return {call.step: call.expert for call in plan}


def test_all_layers_of_each_expert_are_recorded(uneven: Any) -> None:
    run = uneven.generate(**UNEVEN, record=dl.record("resid_post", "update", reduce="token_norm"))
    which = experts_at(run.plan)
    assert set(which.values()) == {"high", "low"}
    for step, expert in which.items():
        for hook in ("resid_post", "update"):
            layers = {a.layer for a in run.activations if a.step == step and a.hook == hook}
            assert layers == set(range(3 if expert == "high" else 2)), (step, expert)


def test_a_layer_beyond_the_shorter_expert_is_refused(uneven: Any) -> None:
    for ask in ({"record": dl.record("resid_post", layers=2)}, {"interventions": dl.ablate(layers=2)}):
        with pytest.raises(AddressError, match=r"layer 2 is outside expert 'low' \(choose experts= as well\) of 2"):
            uneven.generate(**UNEVEN, **ask)
    run = uneven.generate(
        **UNEVEN,
        record=dl.record("resid_post", layer=2, expert="high"),
        interventions=dl.ablate(layer=2, expert="high"),
    )
    which = experts_at(run.plan)
    assert {a.step for a in run.activations} == {s for s, e in which.items() if e == "high"}
    assert {a.step for a in run.fired[0].touched} == {a.step for a in run.activations}


def test_interventions_reach_all_layers_of_each_expert(uneven: Any) -> None:
    run = uneven.generate(**UNEVEN, interventions=dl.ablate(layers=dl.Depth(0.5, 1)))
    which = experts_at(run.plan)
    for step, expert in which.items():
        assert {a.layer for a in run.fired[0].touched if a.step == step} == ({2} if expert == "high" else {1})


def test_what_needs_one_depth_says_so(uneven: Any) -> None:
    with pytest.raises(AddressError, match=r"'high': 3, 'low': 2.*lens.experts\['high'\].n_layers"):
        _ = uneven.n_layers
    assert "3 layers" in repr(uneven) and "2 layers" in repr(uneven) and "i = 0 to 2" in uneven.points()


def test_the_bare_pipeline_and_the_uneven_lens_agree(uneven: Any) -> None:
    call = {**UNEVEN, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    assert torch.equal(uneven.pipe(**call).frames[0], uneven.generate(**UNEVEN, seed=0).final)
