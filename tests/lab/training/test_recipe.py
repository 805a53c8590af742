"""The recipe in miniature: it runs, resumes exactly, and computes what the stock model computes."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import WanTransformer3DModel

from dit_lens.errors import DitLensError
from dit_lens import tasks
from dit_lens.lab.training import fast, optim, text
from dit_lens.lab.training.fit import Log, draw_sigma, fit, phase
from dit_lens.lab.training.recipe import prepare, ship, train
from dit_lens.lab.training.spec import LAB, LAB40, Spec

TINY = Spec(layers=1, ffn=64, tokens=4 * 144, text_iterations=2, trunk_iterations=4, expert_iterations=2, warmup=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("lab")
    prepare(TINY, out, Log(out))
    return out


def copy(folder, to):
    import shutil

    shutil.copytree(folder, to)
    return to


def stock_and_fast(model, inputs, half):
    for run in (lambda: model(*inputs, return_dict=False)[0], lambda: fast.velocity(model, *inputs, half=half)):
        model.zero_grad()
        v = run()
        (v * inputs[0][:, :16]).mean().backward()
        yield v.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def distance(a, b):
    return ((a - b).norm() / a.norm()).item()


@pytest.mark.parametrize(("half", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_fast_forward_is_the_stock_forward(half, tolerance):
    torch.manual_seed(0)
    model = WanTransformer3DModel(**{**LAB.transformer(), "num_layers": 2})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    inputs = torch.randn(2, 36, 4, 12, 12), torch.tensor([20.0, 960.0]), torch.randn(2, 64, 64)
    (v, g), (v_fast, g_fast) = stock_and_fast(model, inputs, half)
    assert distance(v, v_fast) < tolerance
    assert distance(g, g_fast) < tolerance


def test_muon_takes_block_matrices_and_makes_them_orthogonal():
    model = WanTransformer3DModel(**TINY.transformer())
    matrices, rest = optim.split(model)
    assert len(matrices) == 10
    assert len(matrices) + len(rest) == len(list(model.parameters()))
    for shape in ((3, 32, 32), (2, 64, 16), (2, 16, 64)):
        values = torch.linalg.svdvals(optim.orthogonalised(torch.randn(shape)).float())
        assert values.min() > 0.3
        assert values.max() < 1.4


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.87, 1.0), (0.0, 0.93)])
def test_noise_levels_stay_in_their_band(low, high):
    sigma = draw_sigma(4000, 5.0, low, high, torch.Generator().manual_seed(0))
    assert sigma.shape == (4000,)
    assert sigma.min() >= low - 1e-6
    assert sigma.max() <= high + 1e-6
    assert sigma.min() < low + 0.05
    assert sigma.max() > high - 0.01


def test_resuming_is_exact(prepared, tmp_path):
    results = []
    for i, stops in enumerate(((4,), (1, 3, 4))):
        out = copy(prepared, tmp_path / str(i))
        for stop in stops:
            spec = Spec(**{**TINY.as_dict(), "trunk_iterations": stop})
            fit(spec, phase("trunk", spec), out, Log(out))
        results.append(torch.load(out / "trunk.pt", weights_only=True))
    for kind in ("model", "ema"):
        assert all(torch.equal(results[0][kind][k], results[1][kind][k]) for k in results[0][kind])
    assert results[1]["done"] == 4


def test_whole_recipe_makes_a_loadable_pipeline(prepared, tmp_path):
    from diffusers import DiffusionPipeline

    out = copy(prepared, tmp_path / "run")
    for name in ("trunk", "high", "low"):
        fit(TINY, phase(name, TINY), out, Log(out))
    folder = ship(TINY, out, out / "pipeline", guidance=1.5, note="tiny")
    pipe = DiffusionPipeline.from_pretrained(folder)
    high = torch.load(out / "high.pt", weights_only=True)["ema"]
    weight = "blocks.0.attn1.to_q.weight"
    assert torch.equal(pipe.transformer.state_dict()[weight], high[weight].half().float())
    assert not torch.equal(pipe.transformer.state_dict()[weight], pipe.transformer_2.state_dict()[weight])
    assert json.loads((folder / "lab.json").read_text())["guidance_scale"] == 1.5
    lines = (out / "log.txt").read_text().splitlines()
    assert any(" high 2 " in line for line in lines)
    assert any("sigma<0.9" in line for line in lines)


def test_a_folder_of_another_recipe_is_refused(prepared, tmp_path):
    out = copy(prepared, tmp_path / "run")
    train(TINY, out, phases=())
    with pytest.raises(DitLensError, match="another recipe"):
        train(Spec(**{**TINY.as_dict(), "seed": 1}), out, phases=())
    with pytest.raises(DitLensError, match="already holds"):
        train(TINY, out, resume=False, phases=())
    longer = Spec(**{**TINY.as_dict(), "trunk_iterations": 9})
    assert train(longer, out, phases=()) == out


def test_known_prompts_fit_and_text_training_learns(capsys):
    known = tasks.prompts(LAB.mixture)
    tok = text.tokenizer()
    assert len(known) == 5 + 5 * 4 + 4 * 4 + 4
    assert all(len(tok(p).input_ids) <= text.MAX_LENGTH for p in known)
    assert tok("ab").input_ids[-1] == tok.eos_token_id
    assert tok.decode(tok("walk, é!").input_ids, skip_special_tokens=True) == "walk, é!"
    losses = []
    text.train(known, iterations=40, batch=16, log=lambda line: losses.append(float(line.split()[-1])))
    assert losses[-1] < 0.8 * losses[0]
