"""Interventions as values: how they are written, what they are equal to, and every mistake with its remedy."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from families import FAMILIES, tokenizer
from hypothesis import given
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

FAMILY = FAMILIES["i2v22"]
STEPS = 3


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


def go(lens: Any, edits: Any = (), **more: Any) -> Any:
    return lens.generate(
        **{**FAMILY.call, "seed": 3, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more}, interventions=edits
    )


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return go(lens)


# -- as written in the readme of everything


def deep() -> Any:
    """A text-to-video pipeline of 40 blocks, as deep as the 14B models and a few kilobytes wide."""
    parts = FAMILIES["t2v21"].make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts["transformer"] = diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=1, attention_head_dim=12, in_channels=16, out_channels=16,
            text_dim=32, freq_dim=16, ffn_dim=8, num_layers=40, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
            eps=1e-6, rope_max_seq_len=32,
        )  # fmt: skip
    pipe = diffusers.WanPipeline(scheduler=FAMILIES["t2v21"].build().scheduler, tokenizer=tokenizer(), **parts)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def test_the_sentence_on_the_first_page() -> None:
    edit = dl.patch(step=5, layers=range(20, 30))
    assert edit.source is None and str(edit) == "patch(update, steps=5, layers=range(20, 30))"
    call = {**FAMILIES["t2v21"].call, "num_inference_steps": 6, "guidance_scale": 1.0}
    with load(deep()) as lens:
        other, base = lens.generate(**call, seed=1), lens.generate(**call, seed=0)
        run = lens.generate(resume=base.until(5), interventions=[edit.from_(other)])
        assert {(a.step, a.layer) for a in run.fired[0].touched} == {(5, layer) for layer in range(20, 30)}
        assert "layers [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]" in str(run.fired[0])
        assert not torch.equal(run.velocity[5], base.velocity[5])
        same = lens.generate(resume=base.until(5), interventions=[dl.patch(5, dl.Depth(0.5, 0.75), source=other)])
        assert torch.equal(same.final, run.final)


# -- selections


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (1, {1}), (-1, {2}), (range(1, 3), {1, 2}), ([0, 2], {0, 2}), ((2, 0), {0, 2}), ({0, 1}, {0, 1}),
        (np.array([1]), {1}), (slice(1, None), {1, 2}), ("all", {0, 1, 2}), (dl.Depth(0, 0.5), {0, 1}),
    ],
)  # fmt: skip
def test_layers_may_be_written_in_many_ways(lens: Any, base: Run, layers: Any, expected: set[int]) -> None:
    run = lens.generate(resume=base.until(2), interventions=dl.ablate(layers=layers, step=2))
    assert {a.layer for a in run.fired[0].touched} == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, {1}), (-1, {2}), (range(2), {0, 1}), ([0, 2], {0, 2}), ("all", {0, 1, 2}), (None, {0, 1, 2})],
)
def test_steps_may_be_written_in_many_ways(lens: Any, steps: Any, expected: set[int]) -> None:
    runs = [
        go(lens, edit) for edit in (dl.ablate(steps, 0, branch="cond"), dl.ablate(steps=steps, layer=0, branch="cond"))
    ]
    assert all({a.step for a in run.fired[0].touched} == expected for run in runs)
    assert torch.equal(runs[0].final, runs[1].final)


# -- values


def specs() -> list[Any]:
    return [
        dl.patch(step=5, layers=range(20, 30)), dl.patch(layers=[1, 2], tokens=[3, 4], hook="z", heads=[0]),
        dl.ablate(layers=7), dl.ablate(hook="mlp_out", to="mean", tokens={1, 2}), dl.noise(frames=[1, 2], seed=3),
        dl.noise(step=10, matched=True), dl.steer([3.0, 4.0], 2.0, layers=1), dl.steer(np.ones(4), remove=True),
        dl.ensemble(), dl.ensemble(steps=[0, 1], alpha=0.5, rescale=True),
    ]  # fmt: skip


def test_values_are_equal_by_content_hashable_and_frozen() -> None:
    for i, (one, two) in enumerate(zip(specs(), specs(), strict=True)):
        assert one == two and hash(one) == hash(two) and one is not two
        assert [one == other for other in specs()].index(True) == i and sum(one == other for other in specs()) == 1
        assert one != "a string"
        field = dataclasses.fields(one)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field, None)
        assert type(one).__name__ in repr(one) and type(one).__name__.lower() in str(one)
        assert len(str(one)) < 120 and "tensor" not in repr(one)
        assert pickle.loads(pickle.dumps(one)) == one  # for workers in other processes


def test_a_value_cannot_be_changed_through_what_it_was_made_from() -> None:
    layers, vector = [1, 2], np.array([3.0, 4.0], dtype=np.float32)
    edit, push = dl.patch(layers=layers, heads=layers, hook="z"), dl.steer(vector)
    layers.append(3)
    vector[:] = 0
    assert edit.where.layers == (1, 2) == edit.where.heads
    assert torch.equal(push.direction, torch.tensor([0.6, 0.8]))


@given(st.lists(st.integers(0, 30), min_size=1, unique=True))
def test_masks_and_indices_select_the_same_tokens(chosen: list[int]) -> None:
    mask = np.zeros(31, dtype=bool)
    mask[chosen] = True
    expected = dl.patch(tokens=sorted(chosen))
    assert dl.patch(tokens=mask) == dl.patch(tokens=torch.from_numpy(mask)) == expected == dl.patch(tokens=set(chosen))
    again = pickle.loads(pickle.dumps(dl.patch(tokens=mask)))
    assert again == expected and again.where.tokens.made_for == 31


def test_a_label_stays_short() -> None:
    assert str(dl.patch(step=1, tokens=[1, 2])) == "patch(update, steps=1, layers=all, tokens=(1, 2))"
    assert str(dl.patch(step=1, tokens=range(900))) == "patch(update, steps=1, layers=all, tokens=range(0, 900))"
    assert str(dl.patch(step=1, tokens=np.ones(900, dtype=bool))).endswith("layers=all, tokens=900 of them)")
    assert str(dl.patch(tokens=[1, 2, 3, 5, 7, 9])).endswith("tokens=(1, 2, 3, 5, 7, 9))")
    assert str(dl.patch(tokens=[1, 2, 3, 5, 7, 9, 11])).endswith("tokens=7 of them)")


def test_hooks_go_by_any_of_their_names() -> None:
    assert dl.patch(hook="hook_attn_out") == dl.patch(hook="attn_out")
    assert dl.ablate(hook="attn.hook_z", heads=1) == dl.ablate(hook="z", heads=1)


# -- mistakes in the value itself


@pytest.mark.parametrize(
    ("make", "error", "remedy"),
    [
        (lambda: dl.patch(hook="resid"), dl.AddressError, "choose from .*resid_post"),
        (lambda: dl.patch(step=1, steps=2), dl.AddressError, "not both"),
        (lambda: dl.ablate(to="noise"), dl.InterventionError, "'zero', 'mean', or 'skip'"),
        (lambda: dl.ablate(tokens=np.zeros(4, dtype=bool)), dl.AddressError, "at least one of them True"),
        (lambda: dl.ablate(tokens=np.ones((2, 4), dtype=bool)), dl.AddressError, "one bool per token"),
        (lambda: dl.ensemble(alpha=0), dl.InterventionError, "above 0 and at most 1"),
        (lambda: dl.ensemble(alpha=1.5), dl.InterventionError, "above 0 and at most 1"),
        (lambda: dl.ensemble(alpha=float("nan")), dl.InterventionError, "alpha=nan: give a finite number"),
        (lambda: dl.steer(torch.zeros(24)), dl.InterventionError, "non-zero vector"),
        (lambda: dl.steer([1.0, float("nan")]), dl.InterventionError, "finite"),
        (lambda: dl.steer([1.0, float("inf")]), dl.InterventionError, "finite"),
        (lambda: dl.steer(torch.ones(1, 24)), dl.InterventionError, "take its pattern"),
        (lambda: dl.steer([1.0], float("inf")), dl.InterventionError, "finite number"),
        (lambda: dl.noise(seed=1.5), dl.InterventionError, "one integer"),
        (lambda: dl.Depth(0.5, 0.5), dl.AddressError, "start < stop"),
    ],
)
def test_a_malformed_value_is_refused_at_once(make: Any, error: type[Exception], remedy: str) -> None:
    with pytest.raises(error, match=remedy):
        make()


# -- mistakes against the generation


@pytest.mark.parametrize(
    ("make", "error", "remedy"),
    [
        (lambda: dl.ablate(layers=40), dl.AddressError, "layer 40 is outside a model of 3 layers: use 0 to 2"),
        (lambda: dl.ablate(layers=[]), dl.AddressError, "no layers selected"),
        (lambda: dl.ablate(layers=slice(7, 9)), dl.AddressError, "no layers selected"),
        (lambda: dl.ablate(layers=dl.Depth(0.4, 0.5)), dl.AddressError, "widen it"),
        (lambda: dl.ablate(layers="last"), dl.AddressError, "'all'"),
        (lambda: dl.ablate(step=3), dl.AddressError, "step 3 is outside a plan of 3 steps: use 0 to 2"),
        (lambda: dl.ablate(steps=1.5), dl.AddressError, "not an integer"),
        (lambda: dl.ablate(step=1.5), dl.AddressError, "exactly one integer; give one"),
        (lambda: dl.noise(step=9), dl.AddressError, "use 0 to 2"),
        (lambda: dl.noise(frames=3), dl.AddressError, "frame 3 is outside a video of 3 frames"),
        (lambda: dl.ablate(branches="both"), dl.AddressError, "choose from"),
        (lambda: dl.ablate(tokens="agent"), dl.AddressError, "this video has \\['left', 'nothing'\\]"),
        (lambda: dl.ablate(tokens="nothing"), dl.InterventionError, "holds no token"),
        (lambda: dl.ablate(tokens=[24]), dl.AddressError, "use 0 to 23"),
        (lambda: dl.ablate(tokens=np.arange(20) < 5), dl.AddressError, "a mask of 20 tokens does not fit a grid of 24"),
        (lambda: dl.ablate(tokens=np.arange(30) < 5), dl.AddressError, "a mask of 30 tokens does not fit"),
        (lambda: dl.ablate(hook="text_embed", tokens=[0]), dl.InterventionError, "video tokens.*B M d"),
        (lambda: dl.ablate(hook="cross_k", tokens="left"), dl.InterventionError, "video tokens"),
        (lambda: dl.ablate(hook="modulation", tokens="left"), dl.InterventionError, "video tokens"),
        (lambda: dl.ablate(hook="modulation", to="mean"), dl.InterventionError, "no mean over tokens"),
        (lambda: dl.ablate(hook="time_embed", layers=1), dl.InterventionError, "leave layers= out"),
        (lambda: dl.ablate(hook="mlp_out", heads=0), dl.InterventionError, "per-head hook \\(q, k, v, z"),
        (lambda: dl.ablate(heads=0), dl.InterventionError, "per-head hook"),
        (lambda: dl.ablate(hook="z", heads=2), dl.AddressError, "head 2 is outside"),
        (lambda: dl.ablate(hook="cross_z_img"), dl.AddressError, "no image context"),
        (lambda: dl.steer(torch.ones(12)), dl.InterventionError, "12 channels and resid_post has 24: use one"),
        (lambda: dl.patch(step=1), dl.InterventionError, "no source: .*patch.from_\\(run\\)"),
    ],
)
def test_what_does_not_fit_the_generation_is_refused(lens: Any, make: Any, error: type[Exception], remedy: str) -> None:
    regions = {"left": np.arange(24) % 4 < 2, "nothing": np.zeros(24, dtype=bool)}
    with pytest.raises(error, match=remedy):
        go(lens, make(), regions=regions)
    assert not any(p._forward_hooks for e in lens.experts.values() for p in e.hook_dict.values())


def test_without_guidance_there_is_no_uncond_branch(lens: Any, base: Run) -> None:
    with pytest.raises(dl.AddressError, match="guidance <= 1 has no uncond branch"):
        go(lens, dl.ablate(branches="uncond"), guidance_scale=1.0)
    unguided = go(lens, guidance_scale=1.0)
    with pytest.raises(dl.InterventionError, match="patch branches='cond'"):
        go(lens, dl.patch(source=unguided))
    run = go(lens, dl.patch(source=unguided, branches="cond", step=0))  # same latents at step 0: its own update
    assert torch.equal(run.velocity[0], base.velocity[0])
    assert torch.equal(go(lens, dl.patch(source=base, step=0), guidance_scale=1.0).velocity, unguided.velocity)


def test_the_source_must_fit(lens: Any, base: Run) -> None:
    def refused(source: Run, remedy: str, **more: Any) -> None:
        with pytest.raises(dl.InterventionError, match=remedy):
            go(lens, dl.patch(source=source, **more))

    refused(go(lens, num_inference_steps=4), "use the same steps, scheduler, shift")
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    refused(go(lens, scheduler=euler), "different schedules")
    refused(go(lens, num_frames=5), "same size and frame count")
    stopped = go(lens, stop_after=0)
    refused(stopped, "stopped after 1 steps and cannot give step 2: patch steps below 1, or finish it")
    refused(stopped, "stopped after 1 steps and cannot give step 1: patch steps below 1", step=1)  # the first it lacks
    assert torch.equal(go(lens, dl.patch(step=0, source=stopped)).final, base.final)
    with load(FAMILY.build(seed=1)) as stranger:
        refused(go(stranger), "other weights: generate it with this lens")
    broken = base.latents.clone()
    broken[1, 0, 0, 0, 0] = float("nan")
    refused(dataclasses.replace(base, latents=broken), "NaN or infinity: generate it again")


def test_what_never_fires_is_an_error(lens: Any, base: Run) -> None:
    with pytest.raises(dl.InterventionError, match=r"never fired: nothing it selects ran .* lens\.plan"):
        lens.generate(resume=base.until(2), interventions=dl.ablate(step=1))
    with pytest.raises(dl.InterventionError, match=r"noise.* never fired"):
        lens.generate(resume=base.until(2), interventions=dl.noise(step=1))
    stopped = go(lens, dl.ablate(step=2), stop_after=0)  # not yet: the run is not over
    assert not stopped.complete and stopped.fired[0].touched == {}


def test_an_intervention_that_breaks_the_numbers_is_named(lens: Any) -> None:
    with pytest.raises(dl.SamplerError, match="after step 1: an intervention may be too strong"):
        go(lens, dl.steer(torch.ones(24), 3e38, step=1, hook="mlp_gated"))


@pytest.mark.parametrize("hook", ["update", "attn_out"])
def test_one_source_goes_to_every_member_of_a_batch(lens: Any, base: Run, hook: str) -> None:
    edit = dl.patch(step=1, layers=1, source=base, hook=hook)
    several = go(lens, edit, seed=[4, 5])
    for run, seed in zip(several, (4, 5), strict=True):
        torch.testing.assert_close(run.final, go(lens, edit, seed=seed).final, rtol=1e-4, atol=1e-4)
        assert not torch.equal(run.final, go(lens, seed=seed).final)
