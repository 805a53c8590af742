"""What attention writes from a region: explicit weights in fp64, the block's own output, and inert heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, GRID, LAYERS

from dit_lens.measures.attention import prepare
from dit_lens.measures.attention_written import projection, region_written
from dit_lens.measures.region_attention import region_attention, watch_attention, watched_attention
from dit_lens.planted import RegionPlant, plant
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record

N = GRID[0] * GRID[1] * GRID[2]


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("chunk", [1024, 7])
@pytest.mark.parametrize("per_token", [False, True])
def test_it_is_the_explicit_sum(chunk: int, per_token: bool) -> None:
    q, k, v = tensors((2, 40, 3, 8), (2, 30, 3, 8), (2, 30, 3, 8))
    weight, stream, gate = tensors((24, 24), (2, 40, 24), (2, 40 if per_token else 1, 24), seed=1)
    queries, keys = (torch.rand(2, 3, size) < 0.4 for size in (40, 30))
    queries[..., 0] = keys[..., 0] = True
    got = region_written(q, k, v, prepare(queries, keys, q), weight, gate, stream, chunk=chunk)
    p = (torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()) / 8**0.5).softmax(-1)
    z = torch.einsum("bhnm,bcm,bmhd->bnchd", p, keys.double(), v.double())
    wrote = torch.einsum("bnchd,ehd->bnche", z, weight.double().unflatten(1, (3, 8))) * gate.double()[:, :, None, None]
    share = queries.double() / queries.sum(-1, keepdim=True)
    length = torch.einsum("brn,bn->br", share, stream.double().norm(dim=-1))
    heads = torch.einsum("brn,bnch->bhrc", share, wrote.norm(dim=-1)) / length[:, None, :, None]
    whole = torch.einsum("brn,bnc->brc", share, wrote.sum(3).norm(dim=-1)) / length[..., None]
    torch.testing.assert_close(got[0].double(), heads, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1].double(), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["i2v22", "ti2v22"])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_all_keys_are_the_output_of_the_layer(family: str, kind: str) -> None:
    """The sum over all keys and heads is what the layer adds, but for the bias; gates per token included."""
    pipe = FAMILIES[family].build()
    for block in pipe.transformer.blocks:
        for attention in (block.attn1, block.attn2):
            torch.nn.init.zeros_(attention.to_out[0].bias)
    hook = "attn_gated" if kind == "self" else "cross_attn_out"
    with load(pipe) as lens:
        watch = watch_attention("all", "all", kind=kind, steps=0, branches="cond", written=True)  # type: ignore[arg-type]
        asked = [record(name, steps=0, branches="cond", reduce="token_norm") for name in (hook, "resid_pre")]
        run = lens.generate(**FAMILIES[family].call, num_inference_steps=2, seed=0, record=asked, interventions=[watch])
        found = watched_attention(run)
        again = region_attention(lens, run, watch)
        for layer in range(LAYERS):
            out, stream = (run[f"step=0 layer={layer} hook={name} branch=cond"].float() for name in (hook, "resid_pre"))
            got = float(found["written"].sel(step=0, layer=layer, branch="cond", query="all", key="all"))
            assert got == pytest.approx(float(out.mean() / stream.mean()), rel=1e-3)
    np.testing.assert_array_equal(found["written"], again["written"])
    assert found["head_written"].dims == ("step", "branch", "layer", "head", "query", "key")
    assert (found["head_written"].sum("head") >= found["written"] - 1e-6).all()


def test_a_layer_that_looks_and_writes_nothing_scores_nothing() -> None:
    """The decoy attends to a region with every head, as sharply as the plant does, and its projection is zero."""
    with plant(RegionPlant(layer=3, decoy=1)) as made:
        task = made.tasks(1)[0]
        run = made.lens.generate(task, seed=0)
        found = region_attention(
            made.lens, run, queries="all", keys=("key", "other"), steps=0, branches="cond", written=True
        ).isel(step=0, branch=0, query=0)  # fmt: skip
    assert float(found["enrichment"].sel(layer=1, key="other").mean("head")) > 5  # it looks
    assert (found["written"].sel(layer=1) == 0).all() and (found["head_written"].sel(layer=1) == 0).all()
    key, other = (float(found["written"].sel(layer=3, key=name)) for name in ("key", "other"))
    assert key > 0.03 > 0.003 > other
    assert (found["written"].sel(layer=[0, 2, 4, 5]) == 0).all()


def test_the_projection_of_any_linear_layer() -> None:
    """A layer that is no plain Linear is asked for its matrix, without its bias."""

    class Other(torch.nn.Linear):
        pass

    attention = torch.nn.Module()
    attention.to_out = torch.nn.ModuleList([Other(6, 4)])
    torch.testing.assert_close(projection(attention), attention.to_out[0].weight.detach())
