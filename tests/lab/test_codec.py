"""The codec is linear, lossless on every task, causal, and the same thing as the lookup that training uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.lab import LabVAE
from dit_lens.lab.training.data import Puzzles, condition_codes, encode
from dit_lens.lab.training.spec import LAB
from dit_lens.tasks.palette import PALETTE


def videos(name, n=6):
    drawn = tasks.batch(name, n)
    codes = torch.from_numpy(np.stack([t.codes for t in drawn]))
    frames = torch.from_numpy(np.stack([t.frames for t in drawn])).permute(0, 4, 1, 2, 3)
    return codes, frames.float() / 127.5 - 1


def conditions(frames):
    return torch.cat([frames[:, :, :1], torch.zeros_like(frames[:, :, 1:])], dim=2)


@pytest.mark.parametrize("name", tasks.names())
def test_lossless_on_tasks_and_on_their_conditions(name):
    vae = LabVAE()
    _, frames = videos(name)
    for video in (frames, conditions(frames)):
        z = vae.encode(video).latents
        assert z.shape == (6, 16, 4, 12, 12)
        assert (vae.decode(z).sample - video).abs().max() < 1e-6


@pytest.mark.parametrize("name", tasks.names())
def test_lookup_is_the_codec(name):
    vae = LabVAE()
    codes, frames = videos(name)
    assert (encode(codes) - vae.encode(frames).latents).abs().max() < 1e-6
    assert (encode(condition_codes(codes)) - vae.encode(conditions(frames)).latents).abs().max() < 1e-6


def test_linear_both_ways():
    vae, rng = LabVAE().double(), torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 3, 9, 32, 48, generator=rng, dtype=torch.float64)
    a, b = vae.encode(x).latents, vae.encode(y).latents
    assert a.shape == (1, 16, 3, 4, 6)
    assert torch.allclose(vae.encode(2 * x - 3 * y).latents, 2 * a - 3 * b)
    assert torch.allclose(vae.decode(2 * a - 3 * b).sample, 2 * vae.decode(a).sample - 3 * vae.decode(b).sample)


def test_a_slow_brightening_of_the_rest_is_kept():
    vae = LabVAE()
    z = torch.randn(1, 16, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    z[:, :, 0] = vae.encode(vae.decode(z).sample).latents[:, :, 0]  # a first frame has one time only
    again = vae.encode(vae.decode(z).sample).latents
    assert torch.allclose(again[:, :, 1:], z[:, :, 1:], atol=1e-5)
    assert torch.allclose(again, z, atol=1e-5)


def test_causal():
    vae = LabVAE()
    _, frames = videos("maze", 1)
    late = frames.clone()
    late[:, :, 5:] = 0
    a, b = vae.encode(frames).latents, vae.encode(late).latents
    assert torch.equal(a[:, :, :2], b[:, :, :2])
    a[:, :, 2:] = 7
    assert torch.equal(vae.decode(a).sample[:, :, :5], frames[:, :, :5].round(decimals=6)) or torch.allclose(
        vae.decode(a).sample[:, :, :5], frames[:, :, :5], atol=1e-6
    )


def test_channels_mean_what_the_card_says():
    task = tasks.load("maze", 0)
    z = LabVAE().encode(torch.from_numpy(task.frames.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1).latents[0]
    colours = torch.from_numpy(PALETTE).float() / 127.5 - 1
    for frame in range(1, 13):
        group, within = divmod(frame + 3, 4)
        disc = z[3 * within : 3 * within + 3, group, ::2, ::2]  # (3, 6, 6)
        wanted = colours[torch.from_numpy(task.codes[frame, ..., 0].astype(int))]
        assert torch.allclose(disc, wanted.permute(2, 0, 1), atol=1e-6)


def test_wrong_sizes_are_refused():
    vae = LabVAE()
    for shape in ((1, 3, 12, 96, 96), (1, 3, 13, 96, 100)):
        with pytest.raises(ValueError, match="1 \\+ 4k"):
            vae.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="16"):
        LabVAE(latents_mean=[0.0] * 4)


def test_saves_and_loads(tmp_path):
    LabVAE(latents_mean=[0.1] * 16, latents_std=[2.0] * 16).save_pretrained(tmp_path)
    again = LabVAE.from_pretrained(tmp_path)
    assert again.config.latents_std == [2.0] * 16
    assert torch.equal(again.disc, LabVAE().disc)


def test_batches_repeat_and_hold_no_unseen_scene():
    spec = replace(LAB, mixture={"maze": 0.5, "choose": 0.5}, tokens=16 * 144)
    puzzles = Puzzles(spec, [0.0] * 16, [1.0] * 16)
    a, b, c = puzzles.batch(3), puzzles.batch(3), puzzles.batch(4)
    assert torch.equal(a.x0, b.x0)
    assert a.prompts == b.prompts
    assert not torch.equal(a.x0, c.x0)
    assert set(a.names) == {"maze", "choose"}
    assert a.condition.shape == (16, 20, 4, 12, 12)
    assert torch.equal(a.condition[:, :4, 0], torch.ones(16, 4, 12, 12))
    assert not a.condition[:, :4, 1:].any()
