"""The tiny pipelines are what they claim to be, and the real configurations have the published sizes."""

import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from families import FAMILIES, GRID, Family, real_configs

PARAMETERS = {
    "t2v21": 1_418_996_800,
    "i2v21": 16_394_878_784,
    "t2v22": 14_288_491_584,
    "i2v22": 14_288_901_184,
    "ti2v22": 4_999_787_712,
}


def generate(
    pipe: DiffusionPipeline, family: Family, num_inference_steps: int = 4, output_type: str = "latent"
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    call = dict(family.call, num_inference_steps=num_inference_steps, guidance_scale=5.0, generator=generator)
    return pipe(**call, output_type=output_type).frames


def test_runs_and_repeats(pipe: DiffusionPipeline, family: Family) -> None:
    latents = generate(pipe, family)
    assert latents.shape == (1, pipe.vae.config.z_dim, GRID[0], 2 * GRID[1], 2 * GRID[2])
    assert latents.isfinite().all() and latents.std() > 0.1
    assert torch.equal(latents, generate(pipe, family))


def test_decodes(family: Family) -> None:
    video = generate(family.build(), family, num_inference_steps=1, output_type="pt")
    assert video.shape == (1, family.call["num_frames"], 3, family.call["height"], family.call["width"])


def test_every_expert_is_called(pipe: DiffusionPipeline, family: Family) -> None:
    calls = []
    for name in ("transformer", "transformer_2"):
        expert = getattr(pipe, name, None)
        if expert is not None:
            expert.register_forward_hook(lambda *_, name=name: calls.append(name))
    generate(pipe, family)
    assert len(calls) == 8  # 4 steps, two branches
    assert len(set(calls)) == len(family.experts)


def test_weights_depend_on_the_seed_alone(family: Family) -> None:
    state = torch.get_rng_state()
    first = family.build().transformer.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    again, other = family.build().transformer.state_dict(), family.build(seed=1).transformer.state_dict()
    torch.set_rng_state(state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first if k.endswith("to_q.weight"))


def test_prompt_and_image_matter(family: Family) -> None:
    """A fixture that ignored its conditions would make every patching test pass."""
    pipe = family.build()
    base = generate(pipe, family, num_inference_steps=1)
    changes = [{"prompt": "a blue agent"}, {"negative_prompt": "green"}]
    if "image" in family.call:
        changes.append({"image": family.call["image"].transpose(0)})
    for change in changes:
        generator = torch.Generator().manual_seed(7)
        call = dict(family.call, num_inference_steps=1, guidance_scale=5.0, generator=generator) | change
        assert not torch.equal(base, pipe(**call, output_type="latent").frames), change


def test_traits() -> None:
    pipes = {name: family.build() for name, family in FAMILIES.items()}
    assert {n: p.config.boundary_ratio for n, p in pipes.items()} == {
        "t2v21": None, "i2v21": None, "t2v22": 0.875, "i2v22": 0.9, "ti2v22": None
    }  # fmt: skip
    assert [n for n, p in pipes.items() if p.config.expand_timesteps] == ["ti2v22"]
    assert [n for n, p in pipes.items() if p.transformer.config.image_dim] == ["i2v21"]
    assert [n for n, p in pipes.items() if p.vae.config.is_residual] == ["ti2v22"]
    high, low = pipes["i2v22"].transformer, pipes["i2v22"].transformer_2
    assert not torch.equal(high.blocks[0].attn1.to_q.weight, low.blocks[0].attn1.to_q.weight)


@pytest.mark.parametrize("name", PARAMETERS)
def test_real_sizes(name: str) -> None:
    with torch.device("meta"):
        model = WanTransformer3DModel(**real_configs()[name])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
