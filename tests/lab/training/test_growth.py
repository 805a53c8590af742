"""A grown model computes nearly what the shallow one did, in the same order of blocks."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from dit_lens.errors import LoadError
from dit_lens.lab.training.growth import WRITES, grown, n_blocks
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


def test_blocks_are_repeated_in_place_and_share_what_they_add():
    state = model(2).state_dict()
    found = grown(state, 6)
    assert n_blocks(state) == 2 and n_blocks(found) == 6
    for name, value in found.items():
        if not name.startswith("blocks."):
            assert torch.equal(value, state[name])
            continue
        _, block, inner = name.split(".", 2)
        share = 3 if inner.startswith(WRITES) else 1
        assert torch.equal(value, state[f"blocks.{int(block) // 3}.{inner}"] / share), name


def test_as_many_blocks_are_a_copy():
    state = model(2).state_dict()
    found = grown(state, 2)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) and found[k].data_ptr() != state[k].data_ptr() for k in state)


def test_the_function_is_kept_as_far_as_blocks_are_small_steps():
    """Halving what blocks add quarters the difference: growth is right to first order."""
    state, apart = model(2).state_dict(), []
    for scale in (0.2, 0.1):
        small = {k: v * scale if any(f".{w}." in k for w in WRITES) else v for k, v in state.items()}
        still = {k: v * 0 if any(f".{w}." in k for w in WRITES) else v for k, v in state.items()}
        shallow, deep = velocity(model(2, small)), velocity(model(8, grown(small, 8)))
        moved = (shallow - velocity(model(2, still))).norm()
        apart.append(float((deep - shallow).norm() / moved))
    assert apart[0] < 0.1
    assert apart[1] < 0.7 * apart[0]  # relative to what blocks do, half


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_no_multiple_is_refused(layers: int):
    with pytest.raises(LoadError, match=r"2 blocks do not grow into .*give a multiple"):
        grown(model(2).state_dict(), layers)
