"""Where attention goes, by region, without N x N weights in memory (paper, Fig. 6a, as a number).

For queries n and keys k, p_nk = softmax_k(q_n . k_k / sqrt(D)), z_n = sum_k p_nk v_k, and a region r of keys with the
indicator m_r::

    mass(n, r)       = sum_{k in r} p_nk                         the same fused kernel, with m_r in the place of v
    enrichment(n, r) = mass(n, r) / (|r| / M)                    1: as much as the region's size; the number to report
    z_(n, r)         = mass(n, r) softmax_{k in r}(q_n . k_k) v  what the region adds to z, by attention within it
    share(Q, r)      = sum_{n in Q} <z_(n, r), z_n> / sum_{n in Q} |z_n|^2      sums to 1 over a partition
    norm(Q, r)       = mean_{n in Q} |z_(n, r)|

All are means over a region Q of queries. Indicators fill the columns of ``v`` up to the head width, so the kernel stays
a fused one (the CPU falls back to explicit weights for any other width), memory is linear in tokens, and random masks
of the same size (shuffled within each frame) come in the same call: the null of every mass. Regions may overlap.
Sums over queries are fp32. The difference to the explicit softmax in fp64 is below 1e-5 in fp32 (measured 3e-6); in
bf16, where the kernel rounds what it returns, below 4e-3 for a single query (measured 3.4e-3) and below 2e-4 for the
mean of 256 queries (measured 9e-5; CPU kernel, same rounded q and k).

Read them from a generation with :mod:`dit_lens.measures.region_attention`.

When not to use: as evidence of what a head is *for*. Attention shows where a head looks; cut it with ``knockout`` to
see whether that matters. A region attends to itself because near tokens look alike, which a shuffled mask does not
share: compare regions from the same queries, best from ``"all"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dit_lens.errors import MeasureError

CHUNK = 4096  # queries at once: bounds what one layer holds, whatever the length of the video


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of queries and keys, ready for the kernel: make one with :func:`prepare`."""

    columns: tuple[Tensor, ...]  # indicators of keys, (B, H, M, D) each without copies, the last padded with zeros
    weights: Tensor  # fp32, (B, 1, R, N), each region's sum 1
    n_keys: int
    members: tuple[tuple[Tensor, ...], ...]  # key indices by row and region


def prepare(queries: Tensor, keys: Tensor, like: Tensor) -> Regions:
    """Prepare regions of queries and keys for the kernel.

    Args:
        queries: bool (B, R, N).
        keys: bool (B, C, M).
        like: Activations (B, N, H, D) whose dtype, device and head width are used.

    Returns:
        The regions, as :func:`region_mass` and :func:`region_parts` take them.

    Raises:
        MeasureError: A region holds no token.
    """
    for what, masks in (("query", queries), ("key", keys)):
        if not bool(masks.any(-1).all()):
            raise MeasureError(f"a {what} region holds no token of this video or prompt: leave it out")
    heads, width = like.shape[2:]
    n_keys = keys.shape[1]
    columns = F.pad(keys.transpose(1, 2).float(), (0, -n_keys % width)).to(like)  # (B, M, C + padding)
    weights = queries.float() / queries.sum(-1, keepdim=True)
    return Regions(
        columns[:, None].expand(-1, heads, -1, -1).split(width, -1),
        weights[:, None].to(like.device),
        n_keys,
        tuple(tuple(mask.nonzero()[:, 0].to(like.device) for mask in row) for row in keys),
    )


def region_mass(q: Tensor, k: Tensor, regions: Regions, chunk: int = CHUNK) -> Tensor:
    """Mean attention mass from each region of queries to each region of keys.

    Args:
        q: Queries (B, N, H, D).
        k: Keys (B, M, H, D).
        regions: From :func:`prepare`.
        chunk: Queries taken at a time.

    Returns:
        fp32 (B, H, R, C).
    """
    q, k = q.transpose(1, 2), k.transpose(1, 2)  # (B, H, N, D), (B, H, M, D)
    means = [w @ _masses(some, k, regions).float() for some, w in _chunks(chunk, q, regions.weights)]
    return means[0] if len(means) == 1 else torch.stack(means).sum(0)


def _chunks(size: int, q: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some queries (B, H, n, D) at a time, with their weights (B, 1, R, n)."""
    if q.shape[2] <= size:
        return iter([(q, weights)])
    return zip(q.split(size, 2), weights.split(size, -1), strict=True)


def region_masses(q: Tensor, k: Tensor, regions: Regions, row: int) -> Tensor:
    """Mass of every query of one row of the batch.

    Args:
        q: Queries (1, H, n, D).
        k: Keys (1, H, M, D).
        regions: From :func:`prepare`.
        row: Which row of the batch these are.

    Returns:
        (1, H, n, C), in the model's dtype.
    """
    return _masses(q, k, replace(regions, columns=tuple(column[row : row + 1] for column in regions.columns)))


def _masses(q: Tensor, k: Tensor, regions: Regions) -> Tensor:
    """Mass of every query, (B, H, n, C), in the model's dtype."""
    out = [F.scaled_dot_product_attention(q, k, column) for column in regions.columns]
    return (torch.cat(out, -1) if len(out) > 1 else out[0])[..., : regions.n_keys]


def region_parts(
    q: Tensor, k: Tensor, v: Tensor, z: Tensor, regions: Regions, first: int | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention mass of all regions of keys, and what the first of them add to z.

    Attention within a region costs its own size, so over a partition this costs one more attention.

    Args:
        q: Queries (B, N, H, D).
        k: Keys (B, M, H, D).
        v: Values (B, M, H, D).
        z: The output of attention (B, N, H, D).
        regions: From :func:`prepare`.
        first: How many regions of keys get ``share`` and ``norm``; all by default.
        chunk: Queries taken at a time.

    Returns:
        ``mass`` (B, H, R, C), and ``share`` and ``norm`` of the ``first`` regions (B, H, R, first), all fp32.
    """
    first = regions.n_keys if first is None else first
    q, k, v, z = (x.transpose(1, 2) for x in (q, k, v, z))  # (B, H, N, D), (B, H, M, D)
    within = [[(k[b : b + 1, :, i], v[b : b + 1, :, i]) for i in row[:first]] for b, row in enumerate(regions.members)]
    sums = []
    for (some, weights), whole in zip(_chunks(chunk, q, regions.weights), z.float().split(chunk, 2), strict=True):
        masses = _masses(some, k, regions).float()  # (B, H, n, C)
        along, norm = torch.empty_like(masses[..., :first]), torch.empty_like(masses[..., :first])
        for b, row in enumerate(within):
            for r, kv in enumerate(row):
                inside = F.scaled_dot_product_attention(some[b : b + 1], *kv)[0].float()  # (H, n, D)
                along[b, ..., r] = torch.linalg.vecdot(inside, whole[b])
                norm[b, ..., r] = torch.linalg.vector_norm(inside, dim=-1)
        scale = masses[..., :first]
        power = whole.square().sum(-1, keepdim=True)  # (B, H, n, 1)
        sums.append(weights @ torch.cat([masses, scale * along, scale * norm, power], -1))  # (B, H, R, C + 2 first + 1)
    mass, along, norm, power = torch.stack(sums).sum(0).split([regions.n_keys, first, first, 1], -1)
    return mass, along / power, norm


def random_masks(masks: np.ndarray, strata: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Masks shuffled within each stratum of tokens (frame), several times.

    Args:
        masks: bool (R, M).
        strata: (M,), the stratum of each token.
        draws: How many times.
        rng: Source of randomness.

    Returns:
        bool (draws, R, M).
    """
    drawn = np.repeat(masks[None], draws, 0)
    for stratum in np.unique(strata):
        place = np.flatnonzero(strata == stratum)
        drawn[..., place] = rng.permuted(drawn[..., place], axis=-1)
    return drawn
