"""The quick path makes what the stock pipeline makes, within rounding, for one expert after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from dit_lens import tasks
from dit_lens.errors import LoadError
from dit_lens.lab import batched
from dit_lens.lab.film import generate
from dit_lens.lab.training import text
from dit_lens.lab.training.pipeline import build
from dit_lens.lab.training.spec import LAB, LAB40, LAB40_NONLINEAR
from dit_lens.lab.training.student import sampler

SMALL = {"layers": 2, "heads": 1, "ffn": 64}
SETTINGS = {"negative_prompt": "", "num_inference_steps": 4, "guidance_scale": 2.0, "max_sequence_length": 64}


def miniature(spec):
    """A pipeline with random weights, whose two experts differ."""
    torch.manual_seed(0)
    states = []
    for _ in range(2):
        model = WanTransformer3DModel(**spec.transformer())
        states.append({k: v + 0.05 * torch.randn_like(v) for k, v in model.state_dict().items()})
    encoder = text.encoder().eval().requires_grad_(False)
    pipe = build(spec, *states, (text.tokenizer(), encoder), {"mean": [0.3] * 16, "std": [0.6] * 16})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("spec", [LAB, LAB40, LAB40_NONLINEAR], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("half", "most"), [(torch.float32, 2e-4), (torch.bfloat16, 0.1)], ids=["single", "half"])
def test_it_is_the_stock_pipeline_within_rounding(spec, half, most):
    pipe = miniature(replace(spec, **SMALL))
    drawn = [tasks.load(name, seed, rows=6, cols=6, num_frames=9) for name, seed in (("maze", 1), ("maze", 2))]
    for guidance in (1.0, 2.0):
        stock = np.stack([generate(pipe, SETTINGS, t, seed=t.seed, guidance_scale=guidance)[0] for t in drawn])
        quick = batched.videos(pipe, drawn, steps=4, guidance=guidance, half=half)
        assert quick.shape == stock.shape == (2, 9, 96, 96, 3)
        off = np.abs(quick - stock)
        assert off.max() < most and off.mean() < most / 10
        assert np.abs(stock[0] - stock[1]).mean() > 10 * off.mean()


def test_a_student_keeps_its_sampler():
    pipe = miniature(replace(LAB40, **SMALL))
    task = tasks.load("maze", 1, num_frames=9)
    pipe.register_modules(scheduler=sampler(LAB40))
    stock = generate(pipe, SETTINGS, task, seed=1, guidance_scale=1.0)[0]
    quick = batched.videos(pipe, [task], steps=4, guidance=1.0, half=torch.float32)[0]
    assert np.abs(quick - stock).max() < 2e-4


def test_conditions_are_the_pipelines():
    pipe = miniature(replace(LAB40_NONLINEAR, **SMALL))
    task = tasks.load("maze-hard", 3)
    picture = pipe.video_processor.preprocess(task.image, task.height, task.width)
    _, wanted = pipe.prepare_latents(
        picture, 1, 16, task.height, task.width, task.num_frames, torch.float32,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.allclose(batched.conditions(pipe, [task]), wanted, atol=1e-5)


def test_each_expert_has_its_noise_levels():
    pipe = miniature(replace(LAB40, **SMALL))
    assert batched.expert(pipe, 900.0) is pipe.transformer and batched.expert(pipe, 899.9) is pipe.transformer_2
    pipe.transformer_2 = None
    assert batched.expert(pipe, 10.0) is pipe.transformer


def test_sizes_are_not_mixed():
    with pytest.raises(LoadError, match="one size"):
        batched.videos(None, [tasks.load("maze", 0), tasks.load("maze-hard", 0)], steps=1, guidance=1.0)
