"""The recipes: what they must hold, whatever their numbers are."""

from __future__ import annotations

import json

import pytest
from diffusers import WanTransformer3DModel

from dit_lens import tasks
from dit_lens.lab.training.data import fitting
from dit_lens.lab.training.spec import LAB, LAB40, LAB40_NONLINEAR, SPECS, Spec, tokens_of
from dit_lens.tasks.grid import Size


def test_lab_is_the_recipe_of_the_shipped_model():
    assert (LAB.layers, LAB.heads, LAB.ffn, LAB.patch, LAB.pixels) == (12, 4, 384, 2, 8)
    assert LAB.videos(LAB.usual) == 32
    assert LAB.usual == Size(6, 6, 13)
    assert (LAB.trunk_iterations, LAB.expert_iterations, LAB.muon_lr, LAB.adam_lr) == (5500, 2000, 0.02, 1.5e-3)
    assert LAB.mixture == {"maze": 0.45, "choose": 0.25, "occlude": 0.12, "pattern": 0.18}


def test_lab40_has_forty_layers_and_sixteen_latents_for_a_token():
    config = LAB40.transformer()
    assert config["num_layers"] == 40
    assert config["num_attention_heads"] * config["attention_head_dim"] == 64
    assert LAB40.pixels * LAB40.patch == LAB.pixels * LAB.patch == 16
    assert config["out_channels"] * LAB40.patch**2 == 16  # a quarter of the width: the rest is left to compute with
    model = WanTransformer3DModel(**config | {"num_layers": 1})
    assert sum(p.numel() for p in model.blocks[0].parameters()) * 40 * 2 * 2 < 12e6  # bytes of both experts, halved


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_batches_of_every_size_hold_about_as_many_tokens(spec):
    for size in spec.boards:
        assert 0.9 * spec.tokens < spec.videos(size) * tokens_of(size) <= spec.tokens


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_puzzle_fits_a_size_and_every_size_a_puzzle(spec):
    seen = {name for size in spec.boards for name in fitting(spec, size)[0]}
    assert seen == set(spec.mixture)
    assert all(len(fitting(spec, size)[0]) >= 4 for size in spec.boards)
    assert sum(spec.sizes.values()) == pytest.approx(1)


def test_lab40_trains_on_every_family_and_level():
    assert set(LAB40.mixture) == set(tasks.listed())


def test_a_recipe_survives_json():
    for spec in SPECS.values():
        assert Spec(**json.loads(json.dumps(spec.as_dict()))) == spec


def test_tokens_count_the_first_frame_as_a_group():
    assert tokens_of(Size(6, 6, 13)) == 144
    assert tokens_of(Size(8, 7, 21)) == 6 * 56


def test_an_older_recipe_on_disk_has_linear_latents():
    kept = LAB40.as_dict()
    del kept["codec"]
    assert Spec(**kept) == LAB40
    assert LAB40_NONLINEAR.codec == "coupled" and LAB40_NONLINEAR.transformer() == LAB40.transformer()
