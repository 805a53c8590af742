"""The fingerprint notices every change of the weights, and only those; and says so without hashing again."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, HEAD_DIM
from peft import LoraConfig
from torch import nn

from dit_lens.errors import SamplerError
from dit_lens.wan import fingerprint
from dit_lens.wan.blocks import HELD, watched
from dit_lens.wan.loading import load


@pytest.fixture
def lens() -> Iterator[Any]:
    with load(FAMILIES["i2v22"].build()) as lens:
        yield lens


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time that the weights are hashed."""
    seen: list[int] = []
    digest = fingerprint.digest
    monkeypatch.setattr(fingerprint, "digest", lambda models: seen.append(1) or digest(models))
    return seen


def fresh(lens: Any) -> str:
    """The hash of the values as they are, without any memory."""
    return fingerprint.digest({name: e.transformer for name, e in lens.experts.items()})


def add_lora(pipe: DiffusionPipeline, seed: int = 0, name: str = "a") -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe.transformer_2.add_adapter(
            LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), adapter_name=name
        )


def in_place(pipe: DiffusionPipeline) -> None:
    with torch.no_grad():
        pipe.transformer.blocks[1].ffn.net[2].weight.mul_(1.5)


def one_value(pipe: DiffusionPipeline) -> None:
    with torch.no_grad():
        pipe.transformer_2.blocks[2].attn1.to_k.weight[7, 11] += 0.5


def one_head(pipe: DiffusionPipeline) -> None:
    with torch.no_grad():
        pipe.transformer.blocks[0].attn1.to_out[0].weight[:, HEAD_DIM:] = 0


def new_parameter(pipe: DiffusionPipeline) -> None:
    linear = pipe.transformer.blocks[1].attn2.to_v
    linear.weight = nn.Parameter(linear.weight * 2, requires_grad=False)


def new_data(pipe: DiffusionPipeline) -> None:
    linear = pipe.transformer.blocks[1].attn2.to_v
    linear.weight.data = linear.weight.data * 2


def new_module(pipe: DiffusionPipeline) -> None:
    old = pipe.transformer.blocks[2].ffn.net[2]
    pipe.transformer.blocks[2].ffn.net[2] = nn.Linear(old.in_features, old.out_features)


def a_buffer(pipe: DiffusionPipeline) -> None:
    pipe.transformer.blocks[0].register_buffer("extra", torch.ones(3))


def another_dtype(pipe: DiffusionPipeline) -> None:
    pipe.transformer.to(torch.bfloat16)


def rounded(pipe: DiffusionPipeline) -> None:
    """The memory of the first conversion may be given out again for the second."""
    pipe.transformer.to(torch.bfloat16)
    pipe.transformer.to(torch.float32)


CHANGES: list[Callable[[DiffusionPipeline], None]] = [
    in_place, one_value, one_head, new_parameter, new_data, new_module, a_buffer, another_dtype, rounded, add_lora,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_is_noticed(lens: Any, change: Callable[[DiffusionPipeline], None]) -> None:
    before = lens.fingerprint
    change(lens.pipe)
    after = lens.fingerprint
    assert after != before
    assert after == fresh(lens) == lens.fingerprint


def test_nothing_is_hashed_again_while_nothing_changed(lens: Any, hashes: list[int]) -> None:
    call = FAMILIES["i2v22"].call
    runs = [lens.generate(**call, num_inference_steps=2, seed=seed) for seed in (1, [2, 3])]
    assert not hashes and runs[0].meta["fingerprint"] == runs[1][0].meta["fingerprint"] == lens.fingerprint
    lens.pipe(**call, num_inference_steps=1, output_type="latent")
    assert lens.fingerprint and not hashes


def test_a_move_is_looked_at_and_is_no_change(lens: Any, hashes: list[int]) -> None:
    before = lens.fingerprint
    linear = lens.pipe.transformer.blocks[0].attn1.to_q
    linear.weight.data = linear.weight.data.clone()
    assert lens.fingerprint == before and len(hashes) == 1
    lens.pipe.transformer.blocks[1] = copy.deepcopy(lens.pipe.transformer.blocks[1])  # others with the same weights
    assert lens.fingerprint == before and len(hashes) == 2


def test_undone_is_as_before(lens: Any) -> None:
    before = lens.fingerprint
    weight = lens.pipe.transformer.blocks[0].attn1.to_out[0].weight
    kept = weight.clone()
    one_head(lens.pipe)
    assert lens.fingerprint != before
    with torch.no_grad():
        weight.copy_(kept)
    assert lens.fingerprint == before


def test_lora_loaded_scaled_merged_and_unloaded(lens: Any) -> None:
    """Scale and choice of an adapter are no tensors, and merging writes around the version counter."""
    model = lens.pipe.transformer_2
    found = [lens.fingerprint]

    def changed() -> None:
        assert lens.fingerprint not in found and lens.fingerprint == fresh(lens)
        found.append(lens.fingerprint)

    add_lora(lens.pipe)
    changed()
    model.set_adapters(["a"], [0.25])
    changed()
    model.disable_adapters()
    changed()
    model.enable_adapters()
    assert lens.fingerprint == found[2]
    model.fuse_lora()
    changed()
    model.unfuse_lora()
    model.unload_lora()
    # Adding and subtracting rounds, so only an unmerged adapter leaves exactly what was there before it.
    assert lens.fingerprint == fresh(lens) and lens.fingerprint not in found[1:]


def test_one_lora_after_another(lens: Any) -> None:
    """The second may lie where the first one lay."""
    before, found = lens.fingerprint, set()
    for seed in range(3):
        add_lora(lens.pipe, seed)
        found.add(lens.fingerprint)
        lens.pipe.transformer_2.unload_lora()
        gc.collect()
        assert lens.fingerprint == before
    assert len(found) == 3


def test_weights_held_elsewhere_say_nothing_new(lens: Any, hashes: list[int]) -> None:
    before = lens.fingerprint
    linear = lens.pipe.transformer.blocks[0].attn1.to_q
    kept = linear._parameters["weight"]
    linear._parameters["weight"] = nn.Parameter(kept.to("meta"), requires_grad=False)
    assert lens.fingerprint == before and not hashes
    linear._parameters["weight"] = kept
    assert lens.fingerprint == before


def test_what_is_remembered_keeps_no_weights_alive(lens: Any) -> None:
    linear = lens.pipe.transformer.blocks[0].attn1.to_q
    storages = [mark[0] for mark in lens._weights._marks]
    assert all(storage() is not None for storage in storages)
    linear.weight.data = linear.weight.data.clone()
    gc.collect()
    assert sum(storage() is None for storage in storages) == 1


def test_a_run_of_other_weights_is_not_gone_on_from(lens: Any) -> None:
    run = lens.generate(**FAMILIES["i2v22"].call, num_inference_steps=2)
    one_value(lens.pipe)
    with pytest.raises(SamplerError, match="weights that began it"):
        lens.generate(resume=run.until(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool])
def test_every_dtype_is_read(dtype: torch.dtype) -> None:
    def of(values: torch.Tensor) -> str:
        model = nn.Module()
        model.register_buffer("w", values.to(dtype))
        return fingerprint.digest({"high": model})

    zero = torch.zeros(40, 30)
    one = zero.clone()
    one[33, 29] = 1
    assert of(zero) == of(zero.clone()) != of(one)
    assert of(one) != of(one.flip(0)), "where a value stands counts, too"
    assert of(zero) != of(zero.T.contiguous())
    assert of(one) == of(one.T.contiguous().T)


def test_a_large_tensor_is_sampled_over_rows_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows or columns of a matrix too large to read whole are still noticed."""
    monkeypatch.setattr(fingerprint, "WHOLE", 1000)
    model = nn.Linear(640, 512, bias=False)
    before = fingerprint.digest({"high": model})
    for part in [(slice(None), slice(n, n + 32)) for n in range(0, 640, 32)] + [
        slice(n, n + 32) for n in range(0, 512, 32)
    ]:
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.weight[part] = 0
        assert fingerprint.digest({"high": other}) != before, part


# -- the other thing that every generation asks: is anybody listening?


def test_points_are_found_without_a_search(lens: Any) -> None:
    block = lens.pipe.transformer.blocks[0]
    for module in (block, block.attn1, block.attn2, block.ffn):
        names = [n for n in module._modules if n.startswith("hook_")]
        assert [module._modules[n] for n in names] == list(module.__dict__[HELD])
        assert not watched(module)
        for name in names:
            with lens.experts["high"].listening([(module._modules[name].name, lambda x, hook: None)]):
                assert watched(module)
                assert watched(module, slice(1, -1)) == (
                    module._modules[name] not in module.__dict__[HELD][:: len(names) - 1 or 1]
                )
        assert not watched(module)
