"""Batches: the lookup is the codec, sizes vary, draws repeat, and nothing held out is ever drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_lens import tasks
from dit_lens.lab import CoupledLabVAE, LabVAE, weights_path
from dit_lens.lab.training.data import Puzzles, condition_codes, encode, fitting, sized, statistics
from dit_lens.lab.training.spec import LAB, LAB40, LAB40_NONLINEAR
from dit_lens.tasks.grid import Size
from dit_lens.tasks.task import held_out

NONE = [0.0] * 16, [1.0] * 16  # no normalisation


def conditions(frames):
    return torch.cat([frames[:, :, :1], torch.zeros_like(frames[:, :, 1:])], dim=2)


@pytest.mark.parametrize("pixels", [8, 16])
@pytest.mark.parametrize("name", [*tasks.listed(), "maze-hard-7x5x21"])
def test_lookup_is_the_codec(name, pixels):
    vae, drawn = LabVAE(scale_factor_spatial=pixels), tasks.batch(name, 6)
    codes = torch.from_numpy(np.stack([t.codes for t in drawn]))
    frames = torch.from_numpy(np.stack([t.frames for t in drawn])).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    repeat = 16 // pixels
    assert (encode(codes, repeat) - vae.encode(frames).latents).abs().max() < 1e-6
    assert (encode(condition_codes(codes), repeat) - vae.encode(conditions(frames)).latents).abs().max() < 1e-6


def test_nonlinear_batches_are_what_the_nonlinear_codec_makes():
    spec = replace(LAB40_NONLINEAR, sizes={"6x6x17": 1.0}, tokens=4 * 180)
    mean, std = statistics(spec.mixture, n=160, kind="coupled")
    batch = Puzzles(spec, mean, std).batch(0)
    straight = Puzzles(replace(spec, codec="linear"), *NONE).batch(0)  # the same scenes, as linear latents
    bent = CoupledLabVAE(scale_factor_spatial=16)
    for found, plain in ((batch.x0, straight.x0), (batch.condition[:, 4:], straight.condition[:, 4:])):
        wanted = bent.encode(LabVAE(scale_factor_spatial=16).decode(plain).sample).latents
        found = found * torch.tensor(std).view(1, -1, 1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1, 1)
        assert (found - wanted).abs().max() < 1e-5
    assert torch.equal(batch.condition[:, :4], straight.condition[:, :4])


def test_batches_repeat_and_carry_mask_and_first_frame():
    puzzles = Puzzles(replace(LAB, mixture={"maze": 0.5, "choose": 0.5}, tokens=16 * 144), *NONE)
    a, b, c = puzzles.batch(3), puzzles.batch(3), puzzles.batch(4)
    assert torch.equal(a.x0, b.x0)
    assert a.prompts == b.prompts
    assert not torch.equal(a.x0, c.x0)
    assert set(a.names) == {"maze", "choose"}
    assert a.condition.shape == (16, 20, 4, 12, 12)
    assert torch.equal(a.condition[:, :4, 0], torch.ones(16, 4, 12, 12))
    assert not a.condition[:, :4, 1:].any()
    assert torch.equal(a.condition[:, 4:, 0], a.x0[:, :, 0])


def test_sizes_are_drawn_by_their_shares_and_names_by_what_fits():
    puzzles = Puzzles(LAB40, *NONE)
    drawn = Counter(str(puzzles.size(i)) for i in range(2000))
    for size, share in LAB40.sizes.items():
        assert abs(drawn[size] / 2000 - share) < 0.04
    assert "maze-hard" in fitting(LAB40, Size(7, 7, 17))[0]
    assert "maze-hard" not in fitting(LAB40, Size(6, 6, 13))[0]
    for index in range(12):
        size, batch = puzzles.size(index), puzzles.batch(index)
        n = LAB40.videos(size)
        assert batch.x0.shape == (n, 16, (size.num_frames + 3) // 4, size.rows, size.cols)
        assert len(batch.prompts) == len(batch.names) == n
        assert set(batch.names) <= set(fitting(LAB40, size)[0])


def test_no_scene_of_the_test_part_is_drawn(monkeypatch):
    seen = []
    real = tasks.scene
    monkeypatch.setattr(tasks, "scene", lambda *a: seen.append(real(*a)) or seen[-1])
    puzzles = Puzzles(LAB40, *NONE)
    for index in range(6):
        puzzles.batch(index)
    assert len(seen) > 100
    assert not any(held_out(scene.codes()) for scene in seen)
    assert len({s.codes().tobytes() for s in seen}) > 0.9 * len(seen)  # fresh ones, also from batch to batch


def test_statistics_are_those_of_the_shipped_codec():
    mean, std = statistics(LAB.mixture)
    shipped = LabVAE.load_config(weights_path() / "vae")
    assert mean == shipped["latents_mean"]
    assert std == shipped["latents_std"]


def test_statistics_make_batches_of_mixed_sizes_standard():
    puzzles = Puzzles(LAB40, *statistics(LAB40.mixture, n=640))
    z = torch.cat([puzzles.batch(i).x0.transpose(0, 1).flatten(1) for i in range(8)], 1)[:15]  # the last is zero
    assert z.mean(1).abs().max() < 0.25
    assert (z.std(1) - 1).abs().max() < 0.25


def test_a_puzzles_name_at_a_size():
    assert sized("maze", Size(6, 6, 13)) == "maze"
    assert sized("maze-hard", Size(7, 8, 21)) == "maze-hard-7x8x21"
