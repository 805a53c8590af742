"""The codec is linear, lossless on every task, causal, and the same thing as the lookup that training uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.lab import LabVAE
from dit_lens.tasks.palette import PALETTE


def videos(name, n=6):
    frames = torch.from_numpy(np.stack([t.frames for t in tasks.batch(name, n)])).permute(0, 4, 1, 2, 3)
    return frames.float() / 127.5 - 1


def conditions(frames):
    return torch.cat([frames[:, :, :1], torch.zeros_like(frames[:, :, 1:])], dim=2)


@pytest.mark.parametrize("pixels", [8, 16])
@pytest.mark.parametrize("name", [*tasks.listed(), "maze-hard-7x5x21"])
def test_lossless_on_tasks_and_on_their_conditions(name, pixels):
    vae = LabVAE(scale_factor_spatial=pixels)
    frames = videos(name)
    n, height, width = (frames.shape[2] + 3) // 4, frames.shape[3] // pixels, frames.shape[4] // pixels
    for video in (frames, conditions(frames)):
        z = vae.encode(video).latents
        assert z.shape == (6, 16, n, height, width)
        assert (vae.decode(z).sample - video).abs().max() < 1e-6


@pytest.mark.parametrize("pixels", [8, 16])
def test_linear_both_ways(pixels):
    vae, rng = LabVAE(scale_factor_spatial=pixels).double(), torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 3, 9, 32, 48, generator=rng, dtype=torch.float64)
    a, b = vae.encode(x).latents, vae.encode(y).latents
    assert a.shape == (1, 16, 3, 32 // pixels, 48 // pixels)
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
    frames = videos("maze", 1)
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
    with pytest.raises(ValueError, match="8 or 16"):
        LabVAE(scale_factor_spatial=4)


def test_saves_and_loads(tmp_path):
    LabVAE(latents_mean=[0.1] * 16, latents_std=[2.0] * 16).save_pretrained(tmp_path)
    again = LabVAE.from_pretrained(tmp_path)
    assert again.config.latents_std == [2.0] * 16
    assert torch.equal(again.disc, LabVAE().disc)
