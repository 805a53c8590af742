"""A deep model from a shallow one: behind every block k - 1 copies of it that add nothing yet.

A copy's output projections begin at zero, so the deep model computes exactly what the shallow one did, and what it has
beyond that it learns afterwards. Until then an iteration costs a k-th.

Source: block expansion, arXiv 2401.02415. Two other ways lose what was learned: blocks that share what they add, each a
k-th (arXiv 1710.10348), turn the loss of ten blocks, .020 after 6,000 iterations, into 3.6 (.074 into .124 after 350,
when blocks are still small steps); the whole stack repeated (arXiv 2405.15319) turns .074 into 1.12.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dit_lens.errors import LoadError
from dit_lens.lab.models import n_blocks

WRITES = ("attn1.to_out.0", "attn2.to_out.0", "ffn.net.2")  # linear layers whose output is added to the stream


def grown(state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Weights of a transformer of ``layers`` blocks that computes what ``state`` does.

    Args:
        state: Weights of a transformer; equal ones where it has as many blocks.
        layers: A multiple of its blocks.

    Returns:
        Copies: block i becomes blocks k i to k i + k - 1, all but the first with output projections of zero.

    Raises:
        LoadError: ``layers`` is no multiple.
    """
    have = n_blocks(state)
    k, rest = divmod(layers, have)
    if rest or not k:
        raise LoadError(f"{have} blocks do not grow into {layers}: give a multiple")
    out = {}
    for name, value in state.items():
        if not name.startswith("blocks."):
            out[name] = value.clone()
            continue
        _, block, inner = name.split(".", 2)
        silent = inner.rpartition(".")[0] in WRITES
        for j in range(k):
            out[f"blocks.{k * int(block) + j}.{inner}"] = torch.zeros_like(value) if silent and j else value.clone()
    return out
