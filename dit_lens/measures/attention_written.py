"""What attention writes into the stream from a region of keys: attention weighted by what it carries.

With z_h(n, r) = sum_{k in r} p_nk v_k of head h (:mod:`dit_lens.measures.attention`), W_h the columns of the output
projection that belong to it, g the gate (1 in cross-attention) and x the stream that enters the block::

    written_h(Q, r) = mean_{n in Q} | g W_h z_h(n, r) |          / mean_{n in Q} |x_n|
    written(Q, r)   = mean_{n in Q} | g sum_h W_h z_h(n, r) |    / mean_{n in Q} |x_n|

A head that looks at a region and writes nothing of it scores 0, exactly. Heads may cancel, so that the layer's number
can be below that of its heads. The projection's bias belongs to no region and is left out. Queries are taken in chunks:
what is held is one chunk of the stream, never N x N.

Source: norms of transformed values, Kobayashi et al. 2020 (arXiv 2004.10102), with Wan's output projection and gate.

When not to use: as evidence that what is written is read by anything. Compare with random masks of the same size, and
ask from queries outside the region: tokens resemble their neighbours and attend to themselves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_lens.measures.attention import Regions, region_masses

CHUNK = 1024  # queries at once: each holds the stream's width


def region_written(
    q: Tensor, k: Tensor, v: Tensor, regions: Regions, weight: Tensor, gate: Tensor | None, stream: Tensor,
    first: int | None = None, chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the heads, and all of them together, write of each region of keys.

    Args:
        q: Queries (B, N, H, D).
        k: Keys (B, M, H, D).
        v: Values (B, M, H, D).
        regions: From :func:`dit_lens.measures.attention.prepare`.
        weight: Of the output projection, (d, H D).
        gate: (B, 1, d), or (B, N, d) where each token has its own; None without one.
        stream: What enters the block, (B, N, d).
        first: How many regions of keys are read; all by default.
        chunk: Queries taken at a time.

    Returns:
        Of each head (B, H, R, first), and of the layer (B, R, first), fp32, in the stream's own norm.
    """
    first = regions.n_keys if first is None else first
    heads = q.shape[2]
    parts = weight.float().unflatten(1, (heads, -1)).permute(1, 2, 0)  # (H, D, d)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, N, D), (B, H, M, D)
    length = torch.linalg.vector_norm(stream.float(), dim=-1)  # (B, N)
    by_head, whole = [], []
    for b, members in enumerate(regions.members):
        averages = regions.weights[b, 0]  # (R, N)
        scale = averages @ length[b][:, None]  # (R, 1)
        within = [(k[b : b + 1, :, i], v[b : b + 1, :, i]) for i in members[:first]]
        head_sum = q.new_zeros((heads, averages.shape[0], first), dtype=torch.float32)
        layer_sum = q.new_zeros((averages.shape[0], first), dtype=torch.float32)
        for start in range(0, q.shape[2], chunk):
            at = slice(start, start + chunk)
            some, share = q[b : b + 1, :, at], averages[:, at]  # (1, H, n, D), (R, n)
            masses = region_masses(some, k[b : b + 1], regions, b)[0].float()  # (H, n, C)
            opened = None if gate is None else (gate[b] if gate.shape[1] == 1 else gate[b, at]).float()
            for r, kv in enumerate(within):
                z = F.scaled_dot_product_attention(some, *kv)[0].float() * masses[..., r, None]  # (H, n, D)
                total = torch.zeros_like(stream[b, at], dtype=torch.float32)  # (n, d)
                for h in range(heads):
                    wrote = z[h] @ parts[h]  # (n, d)
                    wrote = wrote if opened is None else wrote * opened
                    head_sum[h, :, r] += share @ torch.linalg.vector_norm(wrote, dim=-1)
                    total += wrote
                layer_sum[:, r] += share @ torch.linalg.vector_norm(total, dim=-1)
        by_head.append(head_sum / scale)
        whole.append(layer_sum / scale)
    return torch.stack(by_head), torch.stack(whole)


def attention_gate(block: Any, modulation: Tensor) -> Tensor:
    """The gate of a block's self-attention.

    Args:
        block: The block.
        modulation: The point ``modulation`` of the call, (B, 6 d), or (B, N, 6 d) where each token has its own.

    Returns:
        fp32, (B, 1, d) or (B, N, d).
    """
    six = modulation.float().unflatten(-1, (6, -1))
    gate = (block.scale_shift_table.to(six.device) + six)[..., 2, :]
    return gate[:, None] if gate.ndim == 2 else gate


def projection(attention: nn.Module) -> Tensor:
    """The weight of an attention's output projection, (d, H D), whatever kind of linear layer it is.

    Adapters and quantised layers are asked for it, as the difference that each unit input makes.
    """
    outs: Any = attention.to_out
    linear = outs[0]
    if type(linear) is nn.Linear and linear.weight.device.type != "meta":
        return linear.weight
    like = next(p for p in attention.parameters() if p.is_floating_point() and p.device.type != "meta")
    inputs = torch.eye(linear.in_features, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        return (linear(inputs).float() - linear(torch.zeros_like(inputs[:1])).float()).T
