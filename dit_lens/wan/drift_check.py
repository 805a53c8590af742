"""Proof at load that the hooked forwards compute what the installed diffusers computes, bit for bit, on one block.

Our forwards are written against one upstream version. Rather than trust a version number, every lens runs one small
call of the first and last block with and without points, on the model's own weights, and refuses to exist if they
differ. It also checks that what changes at a point reaches the module that comes after it, so that no point is
decoration. Not that it reaches the block's output: an output projection of zeros (pruned, zero-initialised) passes
nothing on.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from dit_lens.errors import BypassError, DriftError
from dit_lens.wan.expert import Expert

_GRID = (1, 2, 3)  # frames, rows, columns of the small call


def verify(expert: Expert) -> None:
    """Compare hooked and upstream on random tokens; silent when equal.

    Blocks whose weights are elsewhere (meta or offloaded) are left to the exactness tests.

    Args:
        expert: An expert with its points in place.

    Raises:
        DriftError: A block computes something else under its points.
        BypassError: A block carries hooks of the user's own that change what it computes.
    """
    model: Any = expert.transformer
    for i in sorted({0, expert.n_layers - 1}):
        block = model.blocks[i]
        devices = {p.device for p in block.parameters()}
        if len(devices) != 1 or next(iter(devices)).type == "meta":
            continue
        inputs = _inputs(model, next(iter(devices)))
        with torch.no_grad():
            plain = WanTransformerBlock.forward(block, *inputs)
            with expert.watching():
                hooked = block(*inputs)
            moved = []
            for name in ("hook_resid_pre", "hook_resid_post"):
                with expert.listening([(f"blocks.{i}.{name}", lambda x, hook: x + 1)]):
                    moved.append(not torch.equal(block(*inputs), plain))
            before = _projected(block, inputs)
            with expert.listening([(f"blocks.{i}.attn.hook_z", lambda x, hook: x + 1)]):
                moved.append(not torch.equal(_projected(block, inputs), before))
        own = block._forward_hooks or block._forward_pre_hooks
        if own and (not torch.equal(plain, hooked) or not all(moved)):
            raise BypassError(
                f"block {i} of expert {expert.name!r} carries forward hooks of your own that change what it computes: "
                "remove them (handle.remove()) before dit_lens.load, and change activations by interventions= or "
                "lens.run_with_hooks"
            )
        if not torch.equal(plain, hooked) or not all(moved):
            raise DriftError(
                f"block {i} of expert {expert.name!r} computes something else under its points than the installed "
                "diffusers: install a diffusers version from dit_lens's constraints, and please report both versions"
            )


def _projected(block: Any, inputs: tuple[Any, ...]) -> torch.Tensor:
    """What a call of the block gives to the output projection of its self-attention."""
    seen: list[torch.Tensor] = []
    handle = block.attn1.to_out[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        block(*inputs)
    finally:
        handle.remove()
    return seen[0]


def _inputs(model: Any, device: torch.device) -> tuple[Any, ...]:
    config = model.config
    d = config.num_attention_heads * config.attention_head_dim
    n = _GRID[0] * _GRID[1] * _GRID[2]
    dtype = model.dtype  # what a generation feeds it, also where weights are stored narrower than they compute
    dtype = dtype if dtype.is_floating_point and dtype.itemsize > 1 else torch.bfloat16
    generator = torch.Generator("cpu").manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)

    context = 512 + 3 if config.added_kv_proj_dim is not None else 5
    angles = torch.rand(1, n, 1, config.attention_head_dim // 2, generator=generator)
    angles = angles.repeat_interleave(2, -1).to(device)
    return noise(1, n, d), noise(1, context, d), noise(1, 6, d), (angles.cos(), angles.sin())
