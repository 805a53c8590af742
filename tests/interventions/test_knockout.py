"""Knockout: the explicit masked softmax, poisoned keys that must not be read, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers import transformer_wan as upstream
from families import FAMILIES, GRID, HEADS, LAYERS, Family
from torch import Tensor

from dit_lens.address import Address
from dit_lens.errors import AddressError, InterventionError, SamplerError
from dit_lens.interventions.knockout import Knockout, _Cut, knockout
from dit_lens.wan.attention_sets import PARTS
from dit_lens.wan.editing import Context, Edit
from dit_lens.wan.expert import Hook
from dit_lens.wan.loading import load
from dit_lens.wan.points import point
from dit_lens.wan.recording import record

N = GRID[0] * GRID[1] * GRID[2]
A, B = np.arange(N) % 3 == 0, np.arange(N) >= 18
REGIONS = {"a": A, "b": B, "c": np.arange(N) < 5, "nothing": np.zeros(N, bool)}


def generate(lens: Any, family: Family, *edits: Any, **more: Any) -> Any:
    call = {**family.call, "num_inference_steps": 2, "guidance_scale": 5.0, "seed": 3, "regions": REGIONS, **more}
    return lens.generate(**call, interventions=list(edits))


def read(run: Any, hooks: Sequence[str], step: int = 0, branch: str = "cond", layer: int = 0) -> list[Tensor]:
    """(tokens, H, D) each."""
    return [run[f"step={step} branch={branch} layer={layer} hook={hook}"] for hook in hooks]


def attention(q: Tensor, k: Tensor, v: Tensor, cut: Tensor, renormalise: bool) -> Tensor:
    """The explicit one in double precision, with ``cut`` (n, M) taken out; (n, H, D)."""
    logits = torch.einsum("nhd,mhd->hnm", q.double(), k.double()) / q.shape[-1] ** 0.5
    if renormalise:
        weights = logits.masked_fill(cut, -torch.inf).softmax(-1)
    else:
        weights = logits.softmax(-1).masked_fill(cut, 0)
    return torch.einsum("hnm,mhd->nhd", weights, v.double())


# -- exactness


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("kind", PARTS)
def test_a_cut_is_the_explicit_masked_softmax(kind: Any, renormalise: bool) -> None:
    to: Any = {"self": ("b", "c"), "cross": "pad", "image": (0, 3, 4)}[kind]
    family, hooks = FAMILIES["i2v21"], PARTS[kind]
    keep = record(*hooks, steps=0)
    with load(family.build()) as lens:
        base = generate(lens, family, record=keep)
        run = generate(lens, family, knockout("a", to, kind=kind, renormalise=renormalise), record=keep)
    inside = torch.from_numpy(A)
    for branch in ("cond", "uncond"):
        for layer in range(LAYERS):
            q, k, v, z = read(run, hooks, branch=branch, layer=layer)
            gone = torch.zeros(k.shape[0], dtype=torch.bool)
            if kind == "self":
                gone = torch.from_numpy(B | REGIONS["c"])
            elif kind == "cross":
                gone = (run.conditions.text(branch)[0] == 0).all(-1)  # type: ignore[arg-type]
            else:
                gone[list(to)] = True
            expected = attention(q, k, v, inside[:, None] & gone, renormalise)
            assert (z - expected).abs().max() < 1e-5
            if layer == 0 and kind != "image":
                before = read(base, hooks, branch=branch)
                assert all(torch.equal(x, y) for x, y in zip(before[:3], (q, k, v), strict=True))
                assert torch.equal(before[3][~inside], z[~inside]), "queries outside keep z bit for bit"
                assert not torch.isclose(before[3][inside], z[inside], atol=1e-5).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_generation_is_that_of_a_masked_pipeline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cut by diffusers itself, with an attention mask put into every self-attention of the bare pipeline."""
    family = FAMILIES[name]
    pipe = family.build()
    with load(pipe) as lens:
        base, run = generate(lens, family), generate(lens, family, knockout("a", "b"))
    plain = upstream.dispatch_attention_fn
    mask = ~(torch.from_numpy(A)[:, None] & torch.from_numpy(B))

    def masked(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **more: Any) -> Tensor:
        video = q.shape[1] == k.shape[1] == N
        return plain(q, k, v, attn_mask=mask if video else attn_mask, **more)

    monkeypatch.setattr(upstream, "dispatch_attention_fn", masked)
    generator = torch.Generator().manual_seed(3)
    call = {**family.call, "num_inference_steps": 2, "guidance_scale": 5.0, "generator": generator}
    expected = pipe(**call, output_type="latent").frames[0]
    torch.testing.assert_close(run.final, expected, atol=1e-4, rtol=1e-4)
    assert (run.final - base.final).abs().max() > 10 * (run.final - expected).abs().max()


class Poison:
    """Sets some keys and values to NaN before anything reads them."""

    def __init__(self, mask: np.ndarray, layer: int) -> None:
        self.mask, self.layer = torch.from_numpy(mask), layer

    def bind(self, context: Context) -> Edit:
        outer = self

        class Bound(Edit):
            def hooks(self, call: Any, latents: Tensor) -> Sequence[Hook]:
                def spoil(x: Tensor, hook: Any) -> Tensor:
                    self.fired[Address(call.step, call.branch, outer.layer, "k")] += 1
                    return torch.where(outer.mask[None, :, None, None], torch.nan, x)

                return [(point(name).at(outer.layer), spoil) for name in ("k", "v")]

        return Bound("poison")


@pytest.mark.parametrize("renormalise", [True, False])
def test_nothing_of_the_cut_keys_is_read(renormalise: bool) -> None:
    """Everybody is cut off from keys that are then poisoned: not a bit of the generation changes."""
    family = FAMILIES["t2v21"]
    cut = knockout("all", "b", layers=1, renormalise=renormalise)
    with load(family.build()) as lens:
        clean = generate(lens, family, cut)
        if renormalise:
            assert torch.equal(generate(lens, family, Poison(B, 1), cut).latents, clean.latents)
        else:  # without renormalising the cut keys still count in the denominator
            with pytest.raises(SamplerError, match="NaN"):
                generate(lens, family, Poison(B, 1), cut)


def test_without_padding_the_model_answers_as_to_a_shorter_text() -> None:
    """Cutting all from the padding equals a prompt that was never padded."""
    family = FAMILIES["t2v22"]
    with load(family.build()) as lens:
        run = generate(lens, family, knockout("all", "pad", kind="cross"), guidance_scale=1.0)
        padded = run.conditions.prompt
        short = padded[:, (padded[0] != 0).any(-1)]
        assert 0 < short.shape[1] < padded.shape[1]
        expected = generate(lens, family, guidance_scale=1.0, prompt=short)
        assert (generate(lens, family, guidance_scale=1.0).final - expected.final).abs().max() > 1e-3
    torch.testing.assert_close(run.final, expected.final, atol=1e-4, rtol=1e-4)


def test_text_without_padding_cannot_be_cut_from_it() -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        base = generate(lens, family, guidance_scale=1.0)
        short = base.conditions.prompt[:, :4]
        with pytest.raises(InterventionError, match="holds no key in the cond branch"):
            generate(lens, family, knockout("all", "pad", kind="cross"), prompt=short, guidance_scale=1.0)


def test_a_batch_is_cut_by_each_rows_own_regions() -> None:
    class Task:
        prompt = "a red agent"

        def __init__(self, first: int) -> None:
            self.regions = {"part": np.arange(N) >= first}

    family = FAMILIES["t2v21"]
    call = {k: v for k, v in family.call.items() if k != "prompt"} | {"num_inference_steps": 2, "guidance_scale": 5.0}
    tasks, cut = [Task(3), Task(20)], knockout("part", "part")
    with load(family.build()) as lens:
        both = lens.generate(tasks, seed=[1, 2], **call, interventions=[cut])
        for task, seed, run in zip(tasks, (1, 2), both, strict=True):
            alone = lens.generate(task, seed=seed, **call, interventions=[cut])
            torch.testing.assert_close(run.final, alone.final, atol=1e-4, rtol=1e-4)


# -- selecting


def test_only_what_is_selected_is_cut() -> None:
    family = FAMILIES["i2v22"]
    keep = record("q", "k", "v", "z")
    cut = knockout("a", "b", steps=1, layers=[0, 2], heads=1, branches="uncond")
    with load(family.build()) as lens:
        base = generate(lens, family, record=keep)
        run = generate(lens, family, cut, record=keep)
    assert set(run.fired[0].touched) == {Address(1, "uncond", layer, "z") for layer in (0, 2)}
    for branch in ("cond", "uncond"):
        for step in (0, 1):
            for layer in range(LAYERS):
                (was,), (now,) = (read(r, ["z"], step, branch, layer) for r in (base, run))
                if (step, branch) != (1, "uncond"):
                    assert torch.equal(was, now)
                elif layer == 0:
                    rows = torch.from_numpy(A)
                    assert torch.equal(was[:, 0], now[:, 0]) and torch.equal(was[~rows], now[~rows])
                    assert not torch.equal(was[rows, 1], now[rows, 1])
    assert HEADS == 2


def test_disjoint_queries_are_cut_together_and_shared_ones_are_refused() -> None:
    family = FAMILIES["t2v21"]
    other = tuple(np.flatnonzero(~A).tolist())
    with load(family.build()) as lens:
        split = generate(lens, family, knockout("a", "b"), knockout(other, "b"))
        whole = generate(lens, family, knockout("all", "b"))
        torch.testing.assert_close(split.final, whole.final, atol=1e-5, rtol=1e-5)
        with pytest.raises(InterventionError, match=r"to=\('goal', 'walls'\)"):
            generate(lens, family, knockout("a", "b"), knockout("a", "c"))
        # Apart by head, layer, step or branch they are two cuts; nothing of an earlier run is remembered.
        for one, two in (({"heads": 0}, {"heads": 1}), ({"layers": 0}, {"layers": 1}), ({"steps": 0}, {"steps": 1}),
                         ({"branches": "cond"}, {"branches": "uncond"}), ({"kind": "self"}, {})):  # fmt: skip
            second = knockout("a", "c", **two) if two else knockout("a", "pad", kind="cross")
            assert len(generate(lens, family, knockout("a", "b", **one), second).fired) == 2  # type: ignore[arg-type]


def test_values() -> None:
    value = knockout("agent", ["goal", "walls"], layers=[1, 2], steps=range(3))
    assert value == knockout("agent", ("goal", "walls"), layers=(1, 2), steps=range(3)) and hash(value)
    assert isinstance(value, Knockout) and str(value).startswith("knockout(agent -> goal + walls, self")
    assert "3 tokens" in str(knockout("agent", np.array([1, 2, 3])))


def test_a_mask_stands_for_its_tokens() -> None:
    """Numpy, torch and a list: bit for bit the cut of the region by its name."""
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        named = generate(lens, family, knockout("a", "b"))
        for cut in (knockout(A, torch.from_numpy(B)), knockout(A.tolist(), np.flatnonzero(B))):
            assert torch.equal(generate(lens, family, cut).latents, named.latents)
    with pytest.raises(AddressError, match="not one bool per token: pass a mask per pixel to generate"):
        knockout(A.reshape(GRID), "b")


# -- refusing


@pytest.mark.parametrize(
    ("cut", "error", "cure"),
    [
        (knockout("nowhere", "b"), AddressError, "pass regions="),
        (knockout("a", "nowhere"), AddressError, "pass regions="),
        (knockout("nothing", "b"), InterventionError, "holds no token"),
        (knockout("a", "nothing"), InterventionError, "holds no token"),
        (knockout(A[:20], "b"), AddressError, "a mask of 20 tokens does not fit a grid of 24"),
        (knockout("a", np.ones(30, bool)), AddressError, "a mask of 30 tokens"),
        (knockout(np.zeros(N, bool), "b"), AddressError, "no tokens selected"),
        (knockout("a", "all"), InterventionError, "ablate"),
        (knockout("a", ("frame 0", "frame 1", "frame 2")), InterventionError, "ablate"),
        (knockout("a", "all", kind="cross"), InterventionError, "ablate"),
        (knockout("a", ("text", "pad"), kind="cross"), InterventionError, "ablate"),
        (knockout("a", "b", kind="cross"), AddressError, "'pad'"),
        (knockout("a", (0, 1), kind="cross"), InterventionError, "branches='cond'"),
        (knockout("a", (0, 99), kind="cross", branches="cond"), AddressError, "use 0 to 15"),
        (knockout("a", (0,), kind="image"), InterventionError, "frame 0"),
        (knockout("a", "b", kind="temporal"), InterventionError, "'cross'"),  # type: ignore[arg-type]
        (knockout("a", "b", layers=3), AddressError, "use 0 to 2"),
        (knockout("a", "b", steps=2), AddressError, "use 0 to 1"),
        (knockout("a", "b", heads=2), AddressError, "use 0 to 1"),
    ],
    ids=str,
)
def test_refusals(cut: Knockout, error: type[Exception], cure: str) -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens, pytest.raises(error, match=cure):
        generate(lens, family, cut)


def test_one_that_never_fires_is_an_error() -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        begun = generate(lens, family, stop_after=0)
        with pytest.raises(InterventionError, match="never fired"):
            lens.generate(resume=begun, interventions=[knockout("a", "b", steps=0)])


def test_a_part_of_the_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As context parallelism would show it: queries of one device, to be cut by masks of all."""
    family, cut = FAMILIES["t2v21"], _Cut._cut

    def on_one_device(self: Any, call: Any, q: Tensor, *others: Tensor) -> Tensor:
        return cut(self, call, q[:, :12], *others)

    monkeypatch.setattr(_Cut, "_cut", on_one_device)
    with load(family.build()) as lens, pytest.raises(InterventionError, match=r"holds 12 of 24 video tokens.*switch"):
        generate(lens, family, knockout("a", "b"))
