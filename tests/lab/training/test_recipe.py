"""The recipe in miniature: it runs, resumes exactly, and computes what the stock model computes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from dit_lens import tasks
from dit_lens.errors import DitLensError
from dit_lens.lab.models import n_blocks
from dit_lens.lab.training import fit as loop
from dit_lens.lab.training import text
from dit_lens.lab.training.fit import Log, draw_sigma, fit, phase
from dit_lens.lab.training.recipe import main, prepare, ship, train
from dit_lens.lab.training.spec import LAB, LAB40, Spec

TINY = Spec(layers=1, ffn=64, tokens=4 * 144, text_iterations=2, trunk_iterations=4, expert_iterations=2, warmup=2)
TINY40 = replace(
    LAB40, layers=2, shallow_layers=0, heads=1, ffn=64, tokens=2 * 216, text_iterations=2, trunk_iterations=6, warmup=2,
    sizes={"6x6x17": 0.5, "5x6x9": 0.3, "6x6x21": 0.2}, mixture={"maze-hard": 0.4, "bounce-easy": 0.6},
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("lab")
    prepare(TINY, out, Log(out))
    return out


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


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
            spec = replace(TINY, trunk_iterations=stop)
            fit(spec, phase("trunk", spec), out, Log(out))
        results.append(torch.load(out / "trunk.pt", weights_only=True))
    for kind in ("model", "ema"):
        assert all(torch.equal(results[0][kind][k], results[1][kind][k]) for k in results[0][kind])
    assert results[1]["done"] == 4


def losses(out):
    """Iteration -> losses, of the log's later lines where there are several."""
    records = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    return {r["iteration"]: r["loss"] for r in records if "loss" in r}


def test_a_killed_run_goes_on_with_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT", 2)
    monkeypatch.setattr(loop, "SAVE", 0.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    prepare(TINY40, whole, Log(whole))
    copy(whole, killed)
    what = phase("trunk", TINY40)
    fit(TINY40, what, whole, Log(whole))
    assert list(losses(whole)) == [2, 4, 6]
    real, left = loop.draw, [5]

    def dying(*args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args)

    monkeypatch.setattr(loop, "draw", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(TINY40, what, killed, Log(killed))
    assert list(losses(killed)) == [2, 4]
    monkeypatch.setattr(loop, "draw", real)
    fit(TINY40, what, killed, Log(killed))
    assert losses(killed) == losses(whole)
    ends = [torch.load(out / "trunk.pt", weights_only=True)["model"] for out in (whole, killed)]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_a_trunk_of_mixed_sizes_is_tested_and_kept_while_it_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT", 3)
    monkeypatch.setattr(loop, "TEST", 0.0)
    monkeypatch.setattr(loop, "due", lambda done: done == 4)
    prepare(TINY40, tmp_path, Log(tmp_path))
    fit(TINY40, phase("trunk", TINY40), tmp_path, Log(tmp_path))
    kept = load_file(tmp_path / "snapshots" / "trunk-000004.safetensors")
    WanTransformer3DModel(**TINY40.transformer()).load_state_dict(kept)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    tests = [line for line in lines if " solved " in line]
    assert len(tests) == 2
    assert "maze-hard 0/8" in tests[0]
    assert "bounce-easy 0/8" in tests[0]


def test_a_recipe_with_a_shallow_phase_grows_its_trunk(prepared, tmp_path):
    out = copy(prepared, tmp_path / "run")
    spec = replace(TINY, layers=2, shallow_layers=1, shallow_iterations=2, trunk_iterations=1)
    assert [phase("trunk", spec).offset, phase("trunk", TINY).offset] == [2, 0]  # its tasks are new ones
    assert phase("trunk", TINY).parent is None
    train(spec, out, phases=("shallow", "trunk"), workers=1, compiled=False)
    shallow, trunk = (torch.load(out / f"{name}.pt", weights_only=True) for name in ("shallow", "trunk"))
    assert [n_blocks(kept["ema"]) for kept in (shallow, trunk)] == [1, 2]
    assert [shallow["done"], trunk["done"]] == [2, 1]
    weight = "blocks.0.attn1.to_q.weight"
    apart = (trunk["model"][weight] - shallow["model"][weight]).abs().max()
    assert 0 < apart < 0.1  # one iteration away, and not drawn afresh


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
        train(replace(TINY, seed=1), out, phases=())
    with pytest.raises(DitLensError, match="already holds"):
        train(TINY, out, resume=False, phases=())
    longer = replace(TINY, trunk_iterations=9)
    assert train(longer, out, phases=()) == out


def test_the_command_picks_a_recipe(tmp_path):
    main(["--spec", "lab40", "--out", str(tmp_path), "--phase", "text", "--text-iterations", "1"])
    spec = Spec(**json.loads((tmp_path / "spec.json").read_text()))
    assert spec == replace(LAB40, text_iterations=1)
    assert len(json.loads((tmp_path / "statistics.json").read_text())["mean"]) == 16
    with pytest.raises(SystemExit):
        main(["--spec", "lab41", "--out", str(tmp_path)])


NONLINEAR = replace(TINY, name="tiny-nonlinear", codec="coupled", trunk_iterations=2, expert_iterations=1)


def test_a_trained_trunk_is_finetuned_in_nonlinear_latents(prepared, tmp_path):
    from diffusers import DiffusionPipeline

    old = copy(prepared, tmp_path / "old")
    fit(TINY, phase("trunk", TINY), old, Log(old))
    began = torch.load(old / "trunk.pt", weights_only=True)["ema"]
    out = tmp_path / "new"
    train(NONLINEAR, out, phases=("text",), start=old)
    first = torch.load(out / "trunk.pt", weights_only=True)
    assert first["done"] == 0
    assert all(torch.equal(first[kind][k], began[k]) for kind in ("model", "ema") for k in began)
    assert json.loads((out / "statistics.json").read_text()) != json.loads((old / "statistics.json").read_text())
    text_of = [text.load(folder)[1].state_dict() for folder in (old, out)]
    assert all(torch.equal(v, text_of[1][k]) for k, v in text_of[0].items())

    folder = train(NONLINEAR, out, phases=("text", "trunk", "save"), start=old, workers=1, compiled=False)
    last = torch.load(out / "trunk.pt", weights_only=True)
    assert last["done"] == 2 and not all(torch.equal(last["ema"][k], began[k]) for k in began)
    again = train(NONLINEAR, out, phases=("trunk",), start=old, workers=1, compiled=False)  # goes on where it is
    assert again == out and torch.load(out / "trunk.pt", weights_only=True)["done"] == 2
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert type(pipe.vae).__name__ == "CoupledLabVAE"
    assert pipe.vae.config.latents_mean == json.loads((out / "statistics.json").read_text())["mean"]

    (old / "snapshots").mkdir()  # of a run that lost its checkpoint
    save_file({k: v.half() for k, v in began.items()}, old / "snapshots" / "trunk-000100.safetensors")
    (old / "trunk.pt").unlink()
    train(NONLINEAR, tmp_path / "again", phases=(), start=old)
    found = torch.load(tmp_path / "again" / "trunk.pt", weights_only=True)
    assert found["done"] == 0 and all(torch.equal(found["ema"][k], v.half().float()) for k, v in began.items())

    third = tmp_path / "third"  # from a pipeline: each expert goes on from its own
    with pytest.raises(DitLensError, match="leave the trunk out"):
        train(NONLINEAR, third, start=folder)
    train(NONLINEAR, third, phases=("text", "high"), start=folder, compiled=False)
    low = torch.load(third / "low.pt", weights_only=True)
    assert low["done"] == 0 and torch.load(third / "high.pt", weights_only=True)["done"] == 1
    kept = load_file(folder / "transformer_2" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(low["ema"][k], v.float()) for k, v in kept.items())


def test_what_cannot_be_started_from_is_refused(prepared, tmp_path):
    with pytest.raises(DitLensError, match=r"training folder with trunk\.pt"):
        main(["--spec", "lab40-nonlinear", "--out", str(tmp_path / "a"), "--start", str(prepared)])
    old = copy(prepared, tmp_path / "old")
    fit(replace(TINY, trunk_iterations=1), phase("trunk", replace(TINY, trunk_iterations=1)), old, Log(old))
    with pytest.raises(DitLensError, match="another shape than recipe 'tiny-nonlinear'"):
        train(replace(NONLINEAR, layers=2), tmp_path / "b", phases=("text",), start=old)


def test_known_prompts_fit_and_text_training_learns():
    known = tasks.prompts(LAB.mixture)
    tok = text.tokenizer()
    assert len(known) == 5 + 5 * 4 + 4 * 4 + 4
    assert all(len(tok(p).input_ids) <= text.MAX_LENGTH for p in known)
    assert tok("ab").input_ids[-1] == tok.eos_token_id
    assert tok.decode(tok("walk, é!").input_ids, skip_special_tokens=True) == "walk, é!"
    seen = []
    text.train(known, iterations=40, batch=16, log=lambda line: seen.append(float(line.split()[-1])))
    assert seen[-1] < 0.8 * seen[0]


def test_the_text_lesson_tells_the_order_of_two_colours():
    """Two prompts with the same words in another order have other means over their bytes, and the lesson asks which."""
    prompts = {"first green, then orange": ("order", ("green", "orange")),
               "first orange, then green": ("order", ("orange", "green"))}  # fmt: skip
    lines = []
    tok, enc = text.train(prompts, iterations=250, batch=16, log=lines.append)
    assert lines[0].split()[4] != "1.00"
    assert lines[-1].split()[4] == "1.00"
    means = text.embed(list(prompts), tok, enc).sum(1)
    assert (means[0] - means[1]).norm() > 0.1 * means[0].norm()
