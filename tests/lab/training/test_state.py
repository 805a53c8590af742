"""Checkpoints and snapshots."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from dit_lens.errors import StoreError
from dit_lens.lab.training.spec import Spec
from dit_lens.lab.training.state import Training, due

TINY = Spec(layers=1, ffn=64)


def test_snapshots_are_log_spaced():
    taken = [n for n in range(3300) if due(n)]
    assert taken == [100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200]
    assert sum(due(n) for n in range(20_000)) >= 12


def test_a_snapshot_is_the_average_in_half_precision(tmp_path):
    run = Training(TINY, "trunk", tmp_path)
    with torch.no_grad():
        for p in run.model.parameters():
            p.add_(1)
    run.average(0.75)
    run.done = 200
    path = run.snapshot()
    assert path == tmp_path / "snapshots" / "trunk-000200.safetensors"
    kept, now = load_file(path), run.model.state_dict()
    assert kept.keys() == now.keys()
    assert all(v.dtype == torch.float16 for v in kept.values())
    name = "blocks.0.attn1.to_q.weight"
    assert torch.allclose(kept[name].float(), now[name] - 0.75, atol=1e-3)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_run_of_which_only_snapshots_are_left_goes_on_from_the_newest(tmp_path):
    run = Training(TINY, "trunk", tmp_path)
    for run.done in (100, 300):
        with torch.no_grad():
            run.ema["patch_embedding.bias"].fill_(run.done)
        run.snapshot()
    again = Training(TINY, "trunk", tmp_path)
    assert again.done == 300
    assert again.model.patch_embedding.bias.unique().tolist() == [300]
    assert again.ema["patch_embedding.bias"].dtype == torch.float32
    run.done = 7
    run.save()
    assert Training(TINY, "trunk", tmp_path).done == 7  # a checkpoint is the whole state, and goes first


def test_a_trunk_grows_from_a_shallow_one(tmp_path):
    spec = Spec(layers=2, ffn=64, shallow_layers=1)
    with pytest.raises(StoreError, match="no weights of phase 'shallow', with which 'trunk' begins: train it"):
        Training(spec, "trunk", tmp_path, parent="shallow")
    shallow = Training(spec, "shallow", tmp_path, layers=1)
    with torch.no_grad():
        shallow.ema["blocks.0.ffn.net.2.bias"].fill_(4.0)
    shallow.done = 9
    shallow.save()
    trunk = Training(spec, "trunk", tmp_path, parent="shallow")
    assert trunk.done == 0
    assert [float(trunk.ema[f"blocks.{i}.ffn.net.2.bias"][0]) for i in range(2)] == [4.0, 0.0]
    trunk.done = 3
    trunk.save()
    assert Training(spec, "trunk", tmp_path, parent="shallow").done == 3


def test_a_checkpoint_is_replaced_in_one_move(tmp_path):
    run = Training(TINY, "trunk", tmp_path)
    run.done = 7
    run.save()
    again = Training(TINY, "trunk", tmp_path)
    assert again.done == 7
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["trunk.pt"]
    expert = Training(TINY, "high", tmp_path)  # begins where the trunk is, with its own count
    assert expert.done == 0
    assert torch.equal(expert.ema["patch_embedding.bias"], run.ema["patch_embedding.bias"])
