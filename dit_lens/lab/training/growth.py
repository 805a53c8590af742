"""A deep model from a shallow one: every block becomes k blocks in a row, each adding a k-th of what it added.

If blocks are Euler steps of an equation in depth, x <- x + f(x), this is the same equation in steps a k-th as long,
x <- x + f(x) / k, and computes nearly the same. What a deep model has beyond that it learns afterwards. Until then an
iteration costs a k-th.

Source: multi-level residual networks, arXiv 1710.10348. Repeating the whole stack instead, as in arXiv 2405.15319, puts
late blocks before early ones: 350 iterations into ``lab40``, the loss of ten blocks, .074, becomes .124 here and 1.12
there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dit_lens.errors import LoadError

WRITES = ("attn1.to_out.0", "attn2.to_out.0", "ffn.net.2")  # linear layers whose output is added to the stream


def n_blocks(state: Mapping[str, torch.Tensor]) -> int:
    """How many blocks a transformer's weights have."""
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))


def grown(state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Weights of a transformer of ``layers`` blocks that computes nearly what ``state`` does.

    Args:
        state: Weights of a transformer; equal ones where it has as many blocks.
        layers: A multiple of its blocks.

    Returns:
        Copies: block i becomes blocks k i to k i + k - 1, with output projections over k.

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
        share = k if inner.rpartition(".")[0] in WRITES else 1
        for j in range(k):
            out[f"blocks.{k * int(block) + j}.{inner}"] = value / share
    return out
