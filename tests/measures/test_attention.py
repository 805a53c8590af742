"""Attention by region: planted patterns, the explicit softmax in fp64, the null, and the lens around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, GRID, HEADS, LAYERS, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dit_lens.errors import AddressError, InterventionError, MeasureError
from dit_lens.interventions.ablate import ablate
from dit_lens.measures.attention import prepare, random_masks, region_mass, region_parts
from dit_lens.measures.region_attention import region_attention, watch_attention, watched_attention
from dit_lens.wan.attention_sets import prompt_words
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record

N = GRID[0] * GRID[1] * GRID[2]
REGIONS = {"half": np.arange(N) % 2 == 0, "rest": np.arange(N) % 2 == 1, "last": np.arange(N) >= 16}
FP32, BF16, BF16_MEAN = 1e-5, 4e-3, 2e-4  # stated in dit_lens/measures/attention.py


def tensors(*shapes: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in shapes]


def explicit(q: Tensor, k: Tensor) -> Tensor:
    """All weights, in double precision, (B, H, N, M)."""
    logits = torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()) / q.shape[-1] ** 0.5
    return logits.softmax(-1)


def explicit_mass(q: Tensor, k: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """(B, H, R, C)."""
    weights = queries.double() / queries.sum(-1, keepdim=True)
    return torch.einsum("brn,bhnm,bcm->bhrc", weights, explicit(q, k), keys.double())


def masks(rows: int, regions: int, tokens: int, seed: int) -> Tensor:
    """Overlapping random regions, other ones in each row, none empty."""
    chosen = torch.rand(rows, regions, tokens, generator=torch.Generator().manual_seed(seed)) < 0.3
    chosen[..., 0] = True
    return chosen


# -- the arithmetic


@pytest.mark.parametrize("regions", [1, 5, 16, 37])  # 37 columns are three kernel calls of 16
@pytest.mark.parametrize("tokens", [96, 20])
@pytest.mark.parametrize("chunk", [4096, 29])
def test_mass_is_the_explicit_softmax(regions: int, tokens: int, chunk: int) -> None:
    q, k = tensors((2, 96, 3, 16), (2, tokens, 3, 16), scale=2.0)
    queries, keys = masks(2, 4, 96, 1), masks(2, regions, tokens, 2)
    got = region_mass(q, k, prepare(queries, keys, q), chunk)
    assert got.dtype == torch.float32 and got.shape == (2, 3, 4, regions)
    assert (got - explicit_mass(q, k, queries, keys)).abs().max() < FP32


@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
def test_bf16_error_is_as_stated(scale: float) -> None:
    """For single queries and for the mean of 256; against the weights of the same rounded queries and keys."""
    q, k = (x.bfloat16() for x in tensors((1, 256, 2, 32), (1, 256, 2, 32), scale=scale))
    keys, single, mean = masks(1, 6, 256, 3), torch.eye(256, dtype=torch.bool)[None], torch.ones(1, 1, 256).bool()
    for queries, bound in ((single, BF16), (mean, BF16_MEAN)):
        got = region_mass(q, k, prepare(queries, keys, q))
        error = (got - explicit_mass(q, k, queries, keys)).abs().max()
        assert got.dtype == torch.float32 and error < bound
        if queries is single:
            assert error > FP32, "bf16 is not as exact as fp32: its bound is one of its own"


@pytest.mark.parametrize("chunk", [4096, 29])
def test_contributions_are_the_explicit_ones(chunk: int) -> None:
    q, k, v = tensors((2, 96, 3, 16), (2, 40, 3, 16), (2, 40, 3, 16), scale=1.5)
    queries, keys = masks(2, 4, 96, 1), masks(2, 5, 40, 2)
    p = explicit(q, k)
    z = torch.einsum("bhnm,bmhd->bnhd", p, v.double())
    parts = torch.einsum("bhnm,bcm,bmhd->bchnd", p, keys.double(), v.double())
    weights = queries.double() / queries.sum(-1, keepdim=True)
    zh = z.transpose(1, 2)
    along = torch.einsum("brn,bchnd,bhnd->bhrc", weights, parts, zh)
    share = along / torch.einsum("brn,bhnd->bhr", weights, zh.square())[..., None]
    norm = torch.einsum("brn,bchn->bhrc", weights, parts.norm(dim=-1))
    regions = prepare(queries, keys, q)
    mass, got_share, got_norm = region_parts(q, k, v, z.float(), regions, chunk=chunk)
    assert (got_share - share).abs().max() < FP32 and (got_norm - norm).abs().max() < FP32
    torch.testing.assert_close(mass, region_mass(q, k, regions), atol=1e-6, rtol=0)
    _, first, _ = region_parts(q, k, v, z.float(), regions, first=2)
    torch.testing.assert_close(first, got_share[..., :2], atol=1e-6, rtol=1e-6)


def test_planted_pattern() -> None:
    """Queries point at the keys of one region: all mass and all of z come from it."""
    q, k, v = torch.zeros(1, 32, 2, 16), torch.zeros(1, 32, 2, 16), tensors((1, 32, 2, 16))[0]
    keys = torch.stack([torch.arange(32) < 8, torch.arange(32) >= 8])[None]
    q[:, :, 0, 0], k[:, :8, 0, 0] = 40.0, 40.0  # head 0 looks at region 0
    q[:, :, 1, 0], k[:, 8:, 1, 0] = 40.0, 40.0  # head 1 at region 1
    everyone = torch.ones(1, 1, 32, dtype=torch.bool)
    z = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    mass, share, norm = region_parts(q, k, v, z, prepare(everyone, keys, q))
    torch.testing.assert_close(mass[0, :, 0], torch.eye(2))
    torch.testing.assert_close(share[0, :, 0], torch.eye(2))
    assert norm[0, 0, 0, 1] == 0 and norm[0, 1, 0, 0] == 0 and norm[0, 0, 0, 0] > 0.1


def test_uniform_attention_gives_every_region_its_size() -> None:
    q, k = tensors((1, 32, 2, 16))[0], torch.zeros(1, 32, 2, 16)
    keys = masks(1, 7, 32, 4)
    mass = region_mass(q, k, prepare(masks(1, 3, 32, 5), keys, q))
    enrichment = mass / (keys.float().mean(-1))[:, None, None]
    torch.testing.assert_close(enrichment, torch.ones_like(enrichment), atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 40), st.floats(0.0, 5.0))
def test_laws(seed: int, regions: int, tokens: int, scale: float) -> None:
    """Over a partition masses and shares sum to one; a shift of all keys changes nothing; mass is additive."""
    q, k, v, shift = tensors((1, 24, 2, 8), (1, tokens, 2, 8), (1, tokens, 2, 8), (1, 1, 2, 8), seed=seed, scale=scale)
    owner = torch.randint(0, regions, (tokens,), generator=torch.Generator().manual_seed(seed))
    keys = torch.stack([owner == r for r in range(regions) if bool((owner == r).any())])[None]
    union = keys.any(1, keepdim=True)
    queries = masks(1, 2, 24, seed)
    z = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v + 1))).transpose(1, 2)
    mass, share, norm = region_parts(q, k, v + 1, z, prepare(queries, keys, q))
    ones = torch.ones(1, 2, 2)
    torch.testing.assert_close(mass.sum(-1), ones, atol=1e-5, rtol=0)
    torch.testing.assert_close(share.sum(-1), ones, atol=1e-4, rtol=0)
    assert bool((mass >= 0).all() and (norm >= 0).all())
    shifted = region_mass(q, k + shift, prepare(queries, keys, q))
    torch.testing.assert_close(shifted, mass, atol=2e-4, rtol=0)
    torch.testing.assert_close(region_mass(q, k, prepare(queries, union, q))[..., 0], mass.sum(-1), atol=1e-5, rtol=0)


class Largest(TorchDispatchMode):
    """The most elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *(x.numel() for x in found)])
        return out


def test_nothing_of_n_by_n_is_ever_made() -> None:
    def largest(tokens: int, fused: bool) -> int:
        q, k, v = tensors(*[(1, tokens, 2, 16)] * 3)
        regions = prepare(torch.ones(1, 1, tokens, dtype=torch.bool), masks(1, 20, tokens, 0), q)
        with Largest() as seen:
            if fused:
                region_parts(q, k, v, v, regions)
            else:
                explicit(q, k)
        return seen.numel

    assert largest(1024, True) == 2 * largest(512, True) == 4 * largest(256, True)
    assert largest(1024, True) < 1024 * 1024 / 4
    assert largest(512, False) >= 512 * 512, "the probe sees an explicit softmax"


def test_random_masks_keep_their_size_in_every_frame() -> None:
    rng = np.random.default_rng(0)
    own = np.stack([np.arange(24) % 5 == 0, np.arange(24) < 3])
    strata = np.arange(24) // 8
    drawn = random_masks(own, strata, 50, rng)
    assert drawn.shape == (50, 2, 24) and drawn.dtype == bool
    for frame in range(3):
        sizes = drawn[..., strata == frame].sum(-1)
        assert (sizes == own[:, strata == frame].sum(-1)).all()
    assert len({d.tobytes() for d in drawn}) > 40
    assert np.array_equal(drawn, random_masks(own, strata, 50, np.random.default_rng(0)))
    assert abs(drawn[:, 0, :8].mean(0) - own[0, :8].mean()).max() < 0.3  # no token is favoured


def test_empty_regions_are_refused() -> None:
    q = torch.zeros(1, 8, 1, 8)
    some, none = torch.ones(1, 1, 8, dtype=torch.bool), torch.zeros(1, 1, 8, dtype=torch.bool)
    for queries, keys in ((some, none), (none, some)):
        with pytest.raises(MeasureError, match="leave it out"):
            prepare(queries, keys, q)


# -- in a lens


def generate(lens: Any, family: Family, **more: Any) -> Any:
    return lens.generate(
        **{**family.call, "num_inference_steps": 2, "guidance_scale": 5.0, "seed": 3, "regions": REGIONS, **more}
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_watching_changes_nothing_and_agrees_with_replay(name: str) -> None:
    family = FAMILIES[name]
    with load(family.build()) as lens:
        base = generate(lens, family)
        watches = [watch_attention(("half", "frame 1"), kind="self", contribution=True), watch_attention(kind="cross")]
        if lens.experts["high"].image_context:
            watches.append(watch_attention(keys={"class": (0,), "patches": range(1, 17)}, kind="image"))
        run = generate(lens, family, interventions=watches)
        assert torch.equal(run.latents, base.latents) and torch.equal(run.velocity, base.velocity)
        for watch in watches:
            live, again = watched_attention(run, watch), region_attention(lens, base, watch)
            assert live.identical(again)
            assert live.mass.dims == ("step", "branch", "layer", "head", "query", "key")
            assert live.mass.shape[:4] == (2, 2, LAYERS, HEADS) and bool(np.isfinite(live.null).all())
            assert "attentions read" in str(next(f for f in run.fired if f.watch == watch))
        text = watched_attention(run, watches[1])
        assert list(text.key.values) == ["text", "pad"]
        np.testing.assert_allclose(text.mass.sum("key"), 1, atol=1e-5)
        zeros = {b: (base.conditions.text(b)[0] == 0).all(-1) for b in ("cond", "uncond")}
        for branch, zero in zeros.items():
            assert float(text["size"].sel(branch=branch, key="pad")) == pytest.approx(float(zero.float().mean()))


@pytest.mark.parametrize("kind", ["self", "cross", "image"])
def test_watched_mass_is_that_of_the_recorded_queries_and_keys(kind: str) -> None:
    family = FAMILIES["i2v21"]
    prefix = {"self": ("q", "k", "v", "z"), "cross": ("cross_q", "cross_k", "cross_v", "cross_z")}.get(
        kind, ("cross_q", "cross_k_img", "cross_v_img", "cross_z_img")
    )
    keys: Any = {"self": ("half", "rest", "last"), "cross": ("text", "pad"), "image": {"all": "all", "class": (0,)}}[
        kind
    ]
    with load(family.build()) as lens:
        watch = watch_attention(("half", "all"), keys, kind=kind, contribution=True, steps=1)  # type: ignore[arg-type]
        run = generate(lens, family, interventions=[watch], record=[record(*prefix, steps=1)])
    found = watched_attention(run)
    queries = torch.stack([torch.from_numpy(REGIONS["half"]), torch.ones(N, dtype=torch.bool)])[None]
    for branch in ("cond", "uncond"):
        for layer in range(LAYERS):
            q, k, v, z = (run[f"step=1 branch={branch} layer={layer} hook={hook}"][None] for hook in prefix)
            zero = (run.conditions.text(branch)[0] == 0).all(-1)
            chosen = {
                "self": [torch.from_numpy(m) for m in REGIONS.values()],
                "cross": [~zero, zero],
                "image": [torch.ones(k.shape[1], dtype=torch.bool), torch.arange(k.shape[1]) == 0],
            }[kind]
            masked = torch.stack(chosen)[None]
            here = found.sel(step=1, branch=branch, layer=layer)
            expected = explicit_mass(q, k, queries, masked)[0]
            np.testing.assert_allclose(here.mass, expected, atol=FP32)
            np.testing.assert_allclose(here.enrichment, expected / masked[0].double().mean(-1), rtol=1e-4)
            parts = torch.einsum("hnm,cm,mhd->chnd", explicit(q, k)[0], masked[0].double(), v[0].double())
            zh = z[0].double().transpose(0, 1)
            share = (parts * zh)[:, :, queries[0, 0]].sum((-1, -2)) / zh[:, queries[0, 0]].square().sum((-1, -2))
            np.testing.assert_allclose(here.share.isel(query=0), share.T, atol=FP32)
    if kind != "image":
        np.testing.assert_allclose(found.share.isel(key=slice(0, 2)).sum("key"), 1, atol=1e-4)


def test_random_weights_and_a_random_region_are_within_the_null() -> None:
    """A region without structure is one more draw; and the draws have the mean that shuffling within frames has."""
    region = np.zeros(N, bool)
    region[np.random.default_rng(5).choice(N, 6, replace=False)] = True
    per_frame = region.reshape(GRID[0], -1).sum(1)
    assert len(set(per_frame)) > 1, "the frames differ, or the null would know nothing of them"
    family, where = FAMILIES["t2v21"], {"steps": 0, "branches": "cond"}
    with load(family.build()) as lens:
        run = generate(lens, family, regions={"anything": region})
        found = region_attention(lens, run, keys="anything", draws=199, **where)
        frames = region_attention(lens, run, keys="frames", **where).mass.mean(("layer", "head")).values.ravel()
    value, null = float(found.enrichment.mean()), found.null.mean(("step", "branch", "layer", "head", "query", "key"))
    assert null.min() < value < null.max() and abs(value - 1) < 0.15
    expected = (frames * per_frame / (N / GRID[0])).sum() / (6 / N)
    assert abs(float(null.mean()) - expected) < 4 * float(null.std()) / 199**0.5


def test_frames_and_their_null() -> None:
    """Whole frames cannot be shuffled within frames: their random masks are drawn from all tokens."""
    family = FAMILIES["t2v22"]
    with load(family.build()) as lens:
        found = region_attention(lens, generate(lens, family), keys="frames", steps=0)
    assert list(found.key.values) == ["frame 0", "frame 1", "frame 2"]
    np.testing.assert_allclose(found.mass.sum("key"), 1, atol=1e-5)
    assert not np.allclose(found.null.isel(draw=0), found.enrichment, atol=1e-4)


def test_a_batch_has_its_own_regions_in_every_row() -> None:
    class Task:
        prompt = "a red agent"

        def __init__(self, first: int) -> None:
            self.regions = {"part": np.arange(N) >= first}

    family = FAMILIES["t2v21"]
    call = {k: v for k, v in family.call.items() if k != "prompt"} | {"num_inference_steps": 2, "guidance_scale": 5.0}
    watch = watch_attention("part", ("part", "all"), contribution=True)
    tasks = [Task(3), Task(20)]
    with load(family.build()) as lens:
        runs = lens.generate(tasks, seed=[1, 2], **call, interventions=[watch])
        alone = [lens.generate(t, seed=s, **call, interventions=[watch]) for t, s in zip(tasks, (1, 2), strict=True)]
    with pytest.raises(MeasureError, match="row=0"):
        watched_attention(runs[0])
    with pytest.raises(MeasureError, match="outside a batch of 2"):
        watched_attention(runs[0], row=2)
    for row in range(2):
        both, single = watched_attention(runs[row], row=row), watched_attention(alone[row])
        np.testing.assert_array_equal(both["size"], single["size"])
        for name in both.data_vars:
            np.testing.assert_allclose(both[name], single[name], atol=1e-4)


def test_a_resumed_run_has_all_its_steps() -> None:
    family, watch = FAMILIES["i2v22"], watch_attention(keys="half")
    with load(family.build()) as lens:
        whole = generate(lens, family, num_inference_steps=4, interventions=[watch])
        begun = generate(lens, family, num_inference_steps=4, interventions=[watch], stop_after=1)
        done = lens.generate(resume=begun, interventions=[watch])
    assert list(watched_attention(begun).step.values) == [0, 1]
    assert watched_attention(done).equals(watched_attention(whole))


def test_a_watch_sees_what_was_done_before_it() -> None:
    """Keys set to zero by an intervention: attention is uniform. Placed before it, the watch sees the keys' own."""
    family, watch = FAMILIES["t2v21"], watch_attention(keys="last")
    with load(family.build()) as lens:
        after = generate(lens, family, interventions=[ablate(hook="k"), watch])
        before = generate(lens, family, interventions=[watch, ablate(hook="k")])
    np.testing.assert_allclose(watched_attention(after).enrichment, 1, atol=1e-5)
    assert float(abs(watched_attention(before).enrichment - 1).max()) > 1e-3


@pytest.fixture(scope="module")
def lens() -> Any:
    with load("lab") as lens:
        yield lens


def test_words_of_a_prompt(lens: Any) -> None:
    from dit_lens.tasks import load as task

    words = prompt_words(lens, "choose the red square")
    assert list(words) == ["choose", "the", "red", "square", "</s>"]
    assert words["red"] == (11, 12, 13) and words["</s>"] == (21,)
    assert list(prompt_words(lens, "the  cat the dog"))[:3] == ["the", "cat", "the 2"]
    run = lens.generate(task("choose", seed=0), seed=0, num_inference_steps=4, stop_after=0)
    words = prompt_words(lens, run.prompt)
    real = int((run.conditions.prompt[0] != 0).any(-1).sum())
    spaces = tuple(i for i in range(real) if not any(i in word for word in words.values()))
    keys = {**words, "spaces": spaces, "pad": "pad", "both": ("text", "pad")}
    found = region_attention(lens, run, keys=keys, kind="cross", branches="cond", draws=30)
    np.testing.assert_allclose(found.mass.sel(key=[*words, "spaces", "pad"]).sum("key"), 1, atol=1e-5)
    np.testing.assert_allclose(found.mass.sel(key="both"), 1, atol=1e-5)
    # Words are shuffled among words, so the random words have the mean over all real tokens.
    text = region_attention(lens, run, keys="text", kind="cross", branches="cond")
    dims = ("layer", "head", "query")
    null = found.null.sel(key="</s>").mean(("draw", *dims)).item()
    assert null == pytest.approx(text.enrichment.mean(dims).item(), rel=0.35)


def test_the_lab_model_looks_at_padding(lens: Any) -> None:
    """A known fact of models trained with unmasked padding, and here a check of the bucket's bookkeeping."""
    from dit_lens.tasks import load as task

    run = lens.generate(task("maze", seed=0), seed=0, stop_after=0)
    found = region_attention(lens, run, kind="cross")
    np.testing.assert_allclose((found.mass / found["size"]).values, found.enrichment.values, rtol=1e-4)
    assert bool((found.mass.sel(key="pad").mean(("layer", "head")) > 0.5).all())


def test_a_mask_stands_for_its_tokens() -> None:
    family, half = FAMILIES["t2v21"], REGIONS["half"]
    with load(family.build()) as lens:
        run = generate(lens, family, regions={"half": half})
        named = region_attention(lens, run, queries="half", keys="half")
        for mask in (half, torch.from_numpy(half), half.tolist(), np.flatnonzero(half)):
            assert region_attention(lens, run, queries={"half": mask}, keys={"half": mask}).identical(named)


def test_mistakes(lens: Any) -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as tiny:
        run = generate(tiny, family, regions={"half": REGIONS["half"], "nothing": np.zeros(N, bool)})

        def read(**spec: Any) -> Any:
            return region_attention(tiny, run, **spec)

        for spec, error, cure in (
            ({"keys": "agent"}, AddressError, "'half'"),
            ({"queries": "frame 3"}, AddressError, "use 0 to 2"),
            ({"keys": {"x": (24,)}}, AddressError, "use 0 to 23"),
            ({"keys": ("half", "nothing")}, InterventionError, "no token"),
            ({"kind": "cross", "keys": "half"}, AddressError, "'pad'"),
            ({"kind": "cross", "keys": {"a": (0,)}}, MeasureError, "branches='cond'"),
            ({"kind": "cross", "keys": {"a": (99,)}, "branches": "cond"}, AddressError, "use 0 to 15"),
            ({"kind": "image"}, MeasureError, "frame 0"),
            ({"kind": "text"}, MeasureError, "'cross'"),
            ({"draws": 0}, MeasureError, "at least one random mask"),
            ({"keys": "half", "limit": 10}, MeasureError, "raise limit="),
            ({"keys": "half", "steps": 7}, AddressError, "use 0 to 1"),
            ({"watch": watch_attention(), "keys": "half"}, MeasureError, "not both"),
        ):
            with pytest.raises(error, match=cure):
                read(**spec)
        assert list(read(keys=None).key.values) == ["half"]  # every region that has tokens
        with pytest.raises(MeasureError, match="region_attention"):
            watched_attention(run)
        bare = generate(tiny, family, regions={})
        with pytest.raises(MeasureError, match="give keys="):
            region_attention(tiny, bare)
        two = [watch_attention(keys="half"), watch_attention(keys="all")]
        run = generate(tiny, family, interventions=two)
        with pytest.raises(MeasureError, match="watch="):
            watched_attention(run)
        assert list(watched_attention(run, two[1]).key.values) == ["all"]
        with pytest.raises(MeasureError, match="give keys="):
            region_attention(load(FAMILIES["i2v21"].build()), bare, kind="image")


def test_tokens_of_a_part_of_the_video_are_refused() -> None:
    """Under context parallelism a device holds some tokens only."""
    family, watch = FAMILIES["t2v21"], watch_attention(keys="last", steps=0, layers=0, branches="cond")
    with load(family.build()) as lens:
        run = generate(lens, family)
        lens_run = replace(run, grid=replace(run.grid, frames=4), regions={"last": np.arange(32) > 20})
        with pytest.raises(MeasureError, match="context parallelism"):
            region_attention(lens, lens_run, watch)
