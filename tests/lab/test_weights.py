"""The pipeline that ships: stock classes, small, loadable by diffusers alone, and able to do its tasks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import dit_lens.lab as lab
from dit_lens import tasks
from dit_lens.lab.training import text


@pytest.fixture(scope="module")
def pipe():
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(lab.weights_path())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, task, seed=0, **changes):
    options = dict(
        image=task.image, prompt=task.prompt, negative_prompt=lab.settings["negative_prompt"],
        height=task.height, width=task.width, num_frames=task.num_frames,
        num_inference_steps=lab.settings["num_inference_steps"], guidance_scale=lab.settings["guidance_scale"],
        max_sequence_length=lab.settings["max_sequence_length"], output_type="np",
    )  # fmt: skip
    return pipe(**{**options, **changes}, generator=torch.Generator().manual_seed(seed)).frames[0]


def test_loads_in_a_fresh_process_without_the_rest_of_the_package():
    code = (
        "import sys, dit_lens.lab as lab; assert 'torch' not in sys.modules;"
        "from diffusers import DiffusionPipeline; p = DiffusionPipeline.from_pretrained(lab.weights_path());"
        "print(type(p).__name__, type(p.vae).__name__, 'dit_lens.wan' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["WanImageToVideoPipeline", "LabVAE", "False"]


def test_is_a_real_two_expert_wan_pipeline(pipe):
    from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    assert type(pipe) is WanImageToVideoPipeline
    assert type(pipe.transformer) is type(pipe.transformer_2) is WanTransformer3DModel
    assert type(pipe.text_encoder) is UMT5EncoderModel
    assert type(pipe.scheduler) is UniPCMultistepScheduler
    assert pipe.config.boundary_ratio == 0.9
    assert len(pipe.transformer.blocks) >= 12
    assert pipe.transformer.config.in_channels == 36
    assert pipe.scheduler.config.prediction_type == "flow_prediction"
    assert pipe.vae.config.z_dim == len(pipe.vae.config.latents_mean) == len(pipe.vae.config.latents_std) == 16


def test_is_small():
    size = sum(f.stat().st_size for f in lab.weights_path().rglob("*") if f.is_file())
    assert size <= 20e6


def test_settings_name_every_default():
    wanted = {
        "height",
        "width",
        "num_frames",
        "fps",
        "num_inference_steps",
        "guidance_scale",
        "max_sequence_length",
        "negative_prompt",
    }
    assert wanted <= set(lab.settings)
    task = tasks.load("maze")
    for key in ("height", "width", "num_frames", "fps"):
        assert lab.settings[key] == getattr(task, key)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = lab.weights


def test_training_embeds_prompts_as_the_pipeline_does(pipe):
    prompts = [*list(tasks.prompts(tasks.names()))[:6], ""]
    expected, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=64)
    assert torch.allclose(text.embed(prompts, pipe.tokenizer, pipe.text_encoder), expected, atol=1e-6)


def test_codec_round_trip_through_the_pipelines_own_normalisation(pipe):
    task = tasks.load("occlude", 1)
    latents, condition = pipe.prepare_latents(
        pipe.video_processor.preprocess(task.image, 96, 96), 1, 16, 96, 96, 13, torch.float32,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert latents.shape == (1, 16, 4, 12, 12)
    mean, std = (
        torch.tensor(getattr(pipe.vae.config, k)).view(1, 16, 1, 1, 1) for k in ("latents_mean", "latents_std")
    )
    video = pipe.vae.decode(condition[:, 4:] * std + mean, return_dict=False)[0]
    first = (video[0, :, 0].permute(1, 2, 0) / 2 + 0.5).numpy() * 255
    assert np.abs(first - task.first_frame).max() < 0.01
    assert video[:, :, 1:].abs().max() < 1e-5


@pytest.mark.parametrize("name", tasks.names())
def test_solves_unseen_puzzles(pipe, name):
    """A guard against shipping broken weights, not a measurement: the card has that."""
    videos = [(t, generate(pipe, t)) for t in tasks.batch(name, 3, seed=900)]
    assert sum(t.score(v).solved for t, v in videos) >= 2


def test_the_prompt_decides(pipe):
    task = next(t for t in tasks.batch("choose", 20, seed=900) if t.score(generate(pipe, t)).solved)
    twin = task.twin("other_answer")
    assert np.array_equal(task.first_frame, twin.first_frame)
    video = generate(pipe, task, prompt=twin.prompt)
    assert not task.score(video).details["reached"]
    assert twin.score(video).value > 0.5
