"""A grown model computes exactly what the shallow one did, in the same order of blocks."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from dit_lens.errors import LoadError
from dit_lens.lab.models import n_blocks
from dit_lens.lab.training.growth import WRITES, grown
from dit_lens.lab.training.spec import Spec

TINY = Spec(layers=2, heads=1, ffn=32)


def model(layers: int, state: dict[str, torch.Tensor] | None = None) -> WanTransformer3DModel:
    torch.manual_seed(0)
    made = WanTransformer3DModel(**TINY.transformer(layers)).eval()
    if state is not None:
        made.load_state_dict(state)
    return made


@torch.no_grad()
def velocity(made: WanTransformer3DModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 36, 2, 4, 4, generator=rng), torch.randn(2, 5, 64, generator=rng)
    out: torch.Tensor = made(x, torch.tensor([500.0, 900.0]), text, return_dict=False)[0]
    return out


def test_copies_stand_behind_their_block_and_are_silent():
    state = model(2).state_dict()
    found = grown(state, 6)
    assert n_blocks(state) == 2 and n_blocks(found) == 6
    for name, value in found.items():
        if not name.startswith("blocks."):
            assert torch.equal(value, state[name])
            continue
        _, block, inner = name.split(".", 2)
        silent = int(block) % 3 and inner.startswith(WRITES)
        assert torch.equal(value, state[f"blocks.{int(block) // 3}.{inner}"] * (0 if silent else 1)), name


def test_as_many_blocks_are_a_copy():
    state = model(2).state_dict()
    found = grown(state, 2)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) and found[k].data_ptr() != state[k].data_ptr() for k in state)


def test_the_function_is_kept_exactly_and_every_copy_can_learn():
    state = model(2).state_dict()
    deep = model(8, grown(state, 8))
    assert torch.equal(velocity(deep), velocity(model(2, state)))
    rng = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 36, 2, 4, 4, generator=rng), torch.randn(1, 5, 64, generator=rng)
    deep(x, torch.tensor([500.0]), text, return_dict=False)[0].square().mean().backward()
    for name, value in deep.named_parameters():
        if name.endswith(tuple(f"{w}.weight" for w in WRITES)):
            assert value.grad is not None and value.grad.abs().max() > 0, name


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_no_multiple_is_refused(layers: int):
    with pytest.raises(LoadError, match=r"2 blocks do not grow into .*give a multiple"):
        grown(model(2).state_dict(), layers)
