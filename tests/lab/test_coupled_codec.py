"""The nonlinear codec: exact on every task, local, well conditioned, and averages do not decode to averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens import tasks
from dit_lens.errors import LoadError
from dit_lens.lab import CoupledLabVAE, LabVAE
from dit_lens.lab.coupled_codec import codec
from dit_lens.lab.training.data import statistics
from dit_lens.lab.training.spec import LAB40

MEAN, STD = statistics(LAB40.mixture, n=320, kind="coupled")


def pixels(clip):
    return torch.from_numpy(np.array(clip)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def pairs(n=4):
    """Two right answers of one task, as pixels."""
    found = [t for name in ("maze", "pattern", "maze-hard") for t in tasks.batch(name, 30, 300) if len(t.solutions) > 1]
    return [[pixels(t.render(answer)) for answer in t.solutions[:2]] for t in found[:n] + found[-n:]]


def normalised(vae, x):
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (MEAN, STD))
    return (vae.encode(x).latents - mean) / std


def decoded(vae, z):
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (MEAN, STD))
    return vae.decode(z * std + mean).sample


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("name", [*tasks.listed(), "maze-hard-7x5x21"])
def test_exact_on_tasks_and_on_their_conditions(name, size):
    vae = CoupledLabVAE(scale_factor_spatial=size)
    for task in tasks.batch(name, 3):
        x = pixels(task.frames)
        for video in (x, torch.cat([x[:, :, :1], torch.zeros_like(x[:, :, 1:])], 2)):
            z = vae.encode(video).latents
            assert z.shape == LabVAE(scale_factor_spatial=size).encode(video).latents.shape
            assert (vae.decode(z).sample - video).abs().max() < 1e-5
            rounded = decoded(vae, normalised(vae, video).half().float())
            assert (rounded - video).abs().max() < 4e-3  # of a range of 2: half a step of 8-bit colour


@given(st.integers(0, 10_000), st.floats(0.1, 5), st.integers(1, 6), st.floats(0, 0.4))
@settings(max_examples=40, deadline=None)
def test_coupling_is_undone_anywhere(seed, scale, couplings, strength):
    vae = CoupledLabVAE(couplings=couplings, strength=strength, seed=seed)
    z = scale * torch.randn(2, 16, 2, 3, 2, generator=torch.Generator().manual_seed(seed))
    assert (vae.uncouple(vae.couple(z)) - z).abs().max() < 1e-5 * max(1, scale)
    assert (vae.couple(vae.uncouple(z)) - z).abs().max() < 1e-5 * max(1, scale)


def test_volumes_are_kept():
    """An additive coupling has determinant 1, and a permutation 1 or -1."""
    vae = CoupledLabVAE().double()
    x = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian = torch.func.jacrev(lambda v: vae.couple(v[None, :, None])[0, :, 0])(x)
    assert abs(torch.linalg.det(jacobian)).item() == pytest.approx(1)


def test_without_strength_it_is_the_linear_codec():
    x = pixels(tasks.load("maze", 0).frames)
    assert torch.equal(CoupledLabVAE(strength=0).encode(x).latents, LabVAE().encode(x).latents)
    assert not torch.allclose(CoupledLabVAE().encode(x).latents, LabVAE().encode(x).latents, atol=0.1)


def test_the_average_of_latents_is_not_the_average_picture():
    """In units of half the distance between the two pictures: 0 for the linear codec, by construction."""
    bent, straight = CoupledLabVAE(scale_factor_spatial=16), LabVAE(scale_factor_spatial=16)
    off = {bent: [], straight: []}
    for a, b in pairs():
        for vae, seen in off.items():
            middle = decoded(vae, (normalised(vae, a) + normalised(vae, b)) / 2).clamp(-1, 1)
            seen.append(float((middle - (a + b) / 2).norm() / ((a - b) / 2).norm()))
    assert max(off[straight]) < 1e-5
    assert min(off[bent]) > 0.5 and np.mean(off[bent]) > 0.6


def lipschitz(function, points):
    """Largest singular values of the Jacobian at points (n, 16)."""
    return torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(function))(points))[:, 0]


def test_both_directions_are_well_conditioned():
    """Between normalised latents: of the linear codec on the scale of its own statistics, and of this one."""
    vae, (mean0, std0) = CoupledLabVAE(), map(torch.tensor, statistics(LAB40.mixture, n=320))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    there = lambda v: (vae.couple((v * std0 + mean0)[None, :, None])[0, :, 0] - mean) / std  # noqa: E731
    back = lambda v: (vae.uncouple((v * std + mean)[None, :, None])[0, :, 0] - mean0) / std0  # noqa: E731
    x = LabVAE(scale_factor_spatial=16).encode(pixels(tasks.load("maze-hard", 3).frames)).latents
    data = (torch.unique(x.flatten(2)[0].T, dim=0) - mean0) / std0  # distinct tokens
    noise = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    for points in (data, noise):
        assert lipschitz(there, points).max() < 8 and lipschitz(back, points).max() < 8
        assert lipschitz(there, points).median() < 5 and lipschitz(back, points).median() < 5


def test_space_and_time_stay_local():
    vae = CoupledLabVAE(scale_factor_spatial=16)
    z = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    other = z.clone()
    other[:, :, 1, 2, 3] += 1
    changed = (vae.decode(other).sample - vae.decode(z).sample).abs().sum(1)[0]  # (9, 64, 64)
    assert changed[1:5, 32:48, 48:].min() > 0
    changed[1:5, 32:48, 48:] = 0
    assert changed.max() == 0


def test_latents_have_unit_variance():
    vae = CoupledLabVAE(scale_factor_spatial=16)
    drawn = [t for name in LAB40.mixture for t in tasks.batch(name, 6)]
    z = torch.cat([normalised(vae, pixels(t.frames)).flatten(2) for t in drawn], 2)
    assert z[0].mean(1).abs().max() < 0.35
    assert ((z[0].std(1) > 0.4) & (z[0].std(1) < 1.5)).all()


def test_it_is_the_same_whoever_makes_it_and_survives_saving(tmp_path):
    made = CoupledLabVAE(latents_mean=[0.1] * 16, latents_std=[2.0] * 16, scale_factor_spatial=16)
    assert made.inner[0, 0, :2].tolist() == pytest.approx([1.3242595, 0.6195281])  # as long as weights refer to it
    made.save_pretrained(tmp_path)
    again = CoupledLabVAE.from_pretrained(tmp_path)
    assert {k: again.config[k] for k in made.config if k != "_name_or_path"} == {
        k: v for k, v in made.config.items() if k != "_name_or_path"
    }
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in again.state_dict().items())
    z = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.decode(z).sample, made.decode(z).sample)


def test_mistakes_are_told():
    with pytest.raises(LoadError, match="1 or more"):
        CoupledLabVAE(couplings=0)
    with pytest.raises(LoadError, match="choose from linear, coupled"):
        codec("bent")
    with pytest.raises(LoadError, match="1 \\+ 4k"):
        CoupledLabVAE().encode(torch.zeros(1, 3, 12, 96, 96))
