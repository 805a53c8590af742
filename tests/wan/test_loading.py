"""Loading: a dtype by its name is that dtype, for a folder and for a pipeline that is already built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES

from dit_lens.errors import LoadError
from dit_lens.loading import load


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16], ids=str)
def test_a_dtype_by_name(dtype: object, tmp_path: Path) -> None:
    FAMILIES["i2v22"].build().save_pretrained(tmp_path)
    with load(tmp_path, dtype=dtype) as lens:
        for expert in lens.experts.values():
            block = expert.transformer.blocks[0]
            assert block.ffn.net[2].weight.dtype == torch.bfloat16
            assert block.scale_shift_table.dtype == torch.float32  # kept wide, as diffusers does
    with load(FAMILIES["t2v21"].build(), dtype=dtype) as lens:
        assert lens.experts["high"].transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bf16", "int8", "nn", ""])
def test_an_unknown_dtype_names_known_ones(dtype: str) -> None:
    with pytest.raises(LoadError, match="'bfloat16', 'float16', 'float32'"):
        load("lab", dtype=dtype)
