"""The check at load: what it must open, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES

from dit_lens.errors import DriftError
from dit_lens.wan import blocks
from dit_lens.wan.loading import load

FAMILY = FAMILIES["t2v21"]


@pytest.mark.parametrize("which", ["attn1", "attn2", "ffn", "all"])
def test_models_with_zero_output_projections_open(which: str) -> None:
    pipe = FAMILY.build()
    for block in (pipe.transformer.blocks[0], pipe.transformer.blocks[-1]):
        outs = {"attn1": block.attn1.to_out[0], "attn2": block.attn2.to_out[0], "ffn": block.ffn.net[2]}
        for name, out in outs.items():
            if which in (name, "all"):
                torch.nn.init.zeros_(out.weight)
                torch.nn.init.zeros_(out.bias)
    with load(pipe) as lens:
        assert lens.generate(**FAMILY.call, num_inference_steps=1).complete
    assert not any(block.attn1.to_out[0]._forward_pre_hooks for block in pipe.transformer.blocks)


@pytest.mark.parametrize("zero", [False, True])
def test_a_point_that_is_decoration_is_seen(monkeypatch: pytest.MonkeyPatch, zero: bool) -> None:
    """Attention whose z point is passed by: computed right, and no change at the point reaches the projection."""
    pipe = FAMILY.build()
    if zero:
        torch.nn.init.zeros_(pipe.transformer.blocks[0].attn1.to_out[0].weight)
        torch.nn.init.zeros_(pipe.transformer.blocks[0].attn1.to_out[0].bias)
    real = blocks.HookedAttnProcessor.__call__

    def passing(self: Any, attn: Any, *args: Any, **kwargs: Any) -> Any:
        point = attn._modules.get("hook_z")
        attn._modules["hook_z"] = torch.nn.Identity()
        try:
            return real(self, attn, *args, **kwargs)
        finally:
            attn._modules["hook_z"] = point

    monkeypatch.setattr(blocks.HookedAttnProcessor, "__call__", passing)
    with pytest.raises(DriftError, match="computes something else"):
        load(pipe)
