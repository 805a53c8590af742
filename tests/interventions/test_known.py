"""What each intervention does is what it says: cases whose answer is known, read back from recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Family
from torch import Tensor

import dit_lens as dl
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

STEPS, LAYERS = 3, 3
FAMILY = FAMILIES["i2v22"]  # two experts, two branches, image channels


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


def go(lens: Any, edits: Any = (), *hooks: str, family: Family = FAMILY, **more: Any) -> Any:
    wanted = dl.record(*hooks) if hooks else ()
    call = {"seed": 3, "num_inference_steps": STEPS, "guidance_scale": 5.0, "regions": {"left": left()}, **more}
    return lens.generate(**{**family.call, **call}, interventions=edits, record=wanted)


def left() -> np.ndarray:
    mask = np.zeros((3, 2, 4), dtype=bool)
    mask[..., :2] = True
    return mask.reshape(-1)


def of(run: Run, hook: str) -> dict[tuple[int, str, int], Tensor]:
    return {(a.step, a.branch, a.layer): v for a, v in run.activations.items() if a.hook == hook}


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return go(lens, (), "resid_post", "update", "z", "q", "attn_gated", "text_embed")


@pytest.fixture(scope="module")
def source(lens: Any) -> Run:
    return go(lens, (), "resid_post", "update", "z", "q", "attn_gated", seed=4)


# -- ablate


def test_skipping_every_block_leaves_the_patch_embedding(family: Family) -> None:
    with load(family.build()) as lens:
        run = go(lens, dl.ablate(), "patch_embed", "resid_post", "update", family=family, num_inference_steps=2)
    first = of(run, "patch_embed")
    for (step, branch, layer), after in of(run, "resid_post").items():
        assert torch.equal(after, first[step, branch, -1]), (step, branch, layer)
    assert all(not u.any() for u in of(run, "update").values())


def test_skip_is_ablate_update_to_zero(lens: Any) -> None:
    assert dl.ablate(layers=1, to="skip", hook="z") == dl.ablate(layers=1, hook="update", to="zero")
    run = go(lens, dl.ablate(layers=1, to="skip"), "resid_pre", "resid_post")
    for key, after in of(run, "resid_post").items():
        assert torch.equal(after, of(run, "resid_pre")[key]) == (key[2] == 1)


def test_ablating_a_component_removes_what_it_adds(lens: Any) -> None:
    run = go(lens, dl.ablate(hook="attn_out", layers=[0, 2]), "attn_gated", "resid_pre", "resid_mid")
    for (step, branch, layer), gated in of(run, "attn_gated").items():
        assert bool(gated.any()) == (layer == 1)
        if layer != 1:
            assert torch.equal(of(run, "resid_mid")[step, branch, layer], of(run, "resid_pre")[step, branch, layer])


def test_ablating_one_head_leaves_the_others(lens: Any, base: Run) -> None:
    run = go(lens, dl.ablate(step=0, hook="z", layers=0, heads=1), "z")
    for branch in ("cond", "uncond"):
        changed, old = of(run, "z")[0, branch, 0], of(base, "z")[0, branch, 0]
        assert not changed[:, 1].any() and torch.equal(changed[:, 0], old[:, 0])


def test_mean_ablation_makes_tokens_equal(lens: Any, base: Run) -> None:
    for tokens in (None, "left", [1, 6, 7]):
        run = go(lens, dl.ablate(step=0, layers=0, hook="resid_post", to="mean", tokens=tokens), "resid_post")
        chosen = torch.ones(24, dtype=torch.bool)
        if tokens is not None:
            chosen = (
                torch.from_numpy(left()) if tokens == "left" else torch.isin(torch.arange(24), torch.tensor(tokens))
            )
        new, old = of(run, "resid_post")[0, "cond", 0], of(base, "resid_post")[0, "cond", 0]
        assert (new[chosen] == new[chosen][0]).all()
        torch.testing.assert_close(new[chosen][0], old[chosen].mean(0))
        assert torch.equal(new[~chosen], old[~chosen])


# -- patch


def test_patch_puts_the_sources_activation_there(lens: Any, base: Run, source: Run) -> None:
    cases: list[dict[str, Any]] = [{}, {"heads": 1}, {"tokens": "left"}, {"tokens": [2, 9], "heads": [0]}]
    tokens = {None: slice(None), "left": torch.from_numpy(left()), (2, 9): torch.tensor([2, 9])}
    for more in cases:
        edit = dl.patch(step=1, layers=1, hook="z", source=source, **more)
        run = go(lens, edit, "z", stop_after=1)
        for branch in ("cond", "uncond"):
            expected = of(base, "z")[1, branch, 1].clone()  # (N, H, D); before the edit nothing differs from the base
            where = tokens[edit.where.tokens]
            heads = list(range(2)) if edit.where.heads is None else list(np.atleast_1d(edit.where.heads))
            for head in heads:
                expected[where, head] = of(source, "z")[1, branch, 1][where, head]
            assert torch.equal(of(run, "z")[1, branch, 1], expected), (more, branch)
            assert torch.equal(of(run, "z")[1, branch, 0], of(base, "z")[1, branch, 0])
            assert torch.equal(of(run, "z")[0, branch, 1], of(base, "z")[0, branch, 1])


def test_patching_an_update_adds_the_sources_to_the_bases_stream(lens: Any, base: Run, source: Run) -> None:
    run = go(lens, dl.patch(step=0, layers=[0, 2], source=source, branches="cond"), "resid_pre", "resid_post")
    before, after = of(run, "resid_pre"), of(run, "resid_post")
    for layer in (0, 2):
        assert torch.equal(after[0, "cond", layer], before[0, "cond", layer] + of(source, "update")[0, "cond", layer])
    assert torch.equal(after[0, "cond", 0], before[0, "cond", 0] + of(source, "update")[0, "cond", 0])
    assert torch.equal(after[0, "uncond", 2], of(base, "resid_post")[0, "uncond", 2])


def test_patching_some_tokens_of_an_update(lens: Any, base: Run, source: Run) -> None:
    by_name = go(lens, dl.patch(step=0, layers=0, source=source, tokens="left"), "resid_post")
    for tokens in (left(), np.flatnonzero(left()), torch.from_numpy(left()), set(np.flatnonzero(left()).tolist())):
        run = go(lens, dl.patch(step=0, layers=0, source=source, tokens=tokens), "resid_post")
        assert torch.equal(run.latents, by_name.latents)
    new, old = of(by_name, "resid_post")[0, "cond", 0], of(base, "resid_post")[0, "cond", 0]
    chosen = torch.from_numpy(left())
    assert torch.equal(new[~chosen], old[~chosen]) and (new[chosen] != old[chosen]).any(-1).all()


def test_patching_text_and_points_outside_the_blocks(lens: Any, base: Run) -> None:
    """Another prompt's text embedding in the base's cond call is the call with that prompt."""
    other = go(lens, prompt="blue goal")
    run = go(lens, dl.patch(step=0, hook="text_embed", branches="cond", source=other))
    assert torch.equal(run.velocity[0], other.velocity[0]) and not torch.equal(run.velocity[0], base.velocity[0])


# -- patch, degenerate


@pytest.mark.filterwarnings("ignore:patching the whole stream")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_stream_is_layer_invariant(name: str) -> None:
    """With shared text, timestep and image, any layer of it gives the source's velocity: nothing else is left."""
    family = FAMILIES[name]
    with load(family.build()) as lens:
        base, source = (go(lens, family=family, seed=seed, stop_after=1) for seed in (3, 4))
        step = 1
        start = base.until(step)
        for layer in range(LAYERS):
            edit = dl.patch(step=step, layers=layer, hook="resid_post", source=source)
            run = lens.generate(resume=start, interventions=[edit], stop_after=step)
            assert torch.equal(run.velocity[step], source.velocity[step]), layer
            x0 = base.latents[step] - base.sigmas[step] * source.velocity[step]
            if base.conditions.frame_mask is None:
                assert torch.equal(run.x0_hat(step), x0)
            else:  # the given first frame is put back
                assert torch.equal(run.x0_hat(step)[:, 1:], x0[:, 1:])


def test_over_a_range_only_the_last_layer_counts(lens: Any) -> None:
    """Also where text differs, and so a single layer is not like another."""
    other = go(lens, prompt="blue goal", seed=4, stop_after=0)
    found = {}
    for layers, last in ((range(2), 1), (1, 1), (0, 0)):
        edit = dl.patch(step=0, layers=layers, hook="resid_post", source=other)
        with pytest.warns(UserWarning, match="patching the whole stream"):
            run = go(lens, edit, stop_after=0)
        remark = run.fired[0].remarks[0]
        assert f"at layer {last} alone" in remark and remark in str(run.fired[0])
        found[str(layers)] = run.velocity[0]
    assert torch.equal(found["range(0, 2)"], found["1"])
    assert not torch.allclose(found["1"], found["0"])


def test_the_update_is_not_degenerate(lens: Any, source: Run, recwarn: Any) -> None:
    """What the default avoids: each layer gives something else, and a range is more than its last layer."""
    found = [
        go(lens, dl.patch(step=0, layers=layers, source=source), stop_after=0).velocity[0]
        for layers in (0, 1, 2, range(LAYERS))
    ]
    for i, one in enumerate(found):
        assert not any(torch.allclose(one, two) for two in found[i + 1 :])
    assert not [w for w in recwarn if "whole stream" in str(w.message)]
    part = go(lens, dl.patch(step=0, layers=0, hook="resid_post", tokens="left", source=source), stop_after=0)
    assert part.fired[0].remarks == ()


# -- steer


def direction(seed: int = 0, d: int = 24) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed)) * 7


def test_steering_adds_scale_times_the_unit_direction(lens: Any, base: Run) -> None:
    v = direction()
    u = v / v.norm()
    run = go(lens, dl.steer(v, 2.5, step=0, layers=1), "resid_post")
    for branch in ("cond", "uncond"):
        old = of(base, "resid_post")[0, branch, 1]
        assert torch.equal(of(run, "resid_post")[0, branch, 1], old + 2.5 * u)
    relative = go(lens, dl.steer(v.numpy(), 0.5, step=0, layers=1, relative=True, tokens=[4]), "resid_post")
    new, old = of(relative, "resid_post")[0, "cond", 1], of(base, "resid_post")[0, "cond", 1]
    assert torch.equal(new[4], old[4] + 0.5 * old[4].norm(dim=-1, keepdim=True) * u)
    assert torch.equal(new[5:], old[5:]) and torch.equal(new[:4], old[:4])


def test_steering_goes_both_ways_and_knows_only_the_direction(lens: Any, base: Run) -> None:
    v = direction()
    there = go(lens, dl.steer(v, 3.0, step=0, layers=1), stop_after=0)
    assert torch.equal(there.velocity, go(lens, dl.steer(128 * v, 3.0, step=0, layers=1), stop_after=0).velocity)
    assert torch.equal(there.velocity, go(lens, dl.steer(-v, -3.0, step=0, layers=1), stop_after=0).velocity)
    assert not torch.allclose(there.velocity[0], base.velocity[0])


def test_removing_a_direction_leaves_nothing_along_it(lens: Any, base: Run) -> None:
    v = direction()
    u = v / v.norm()
    run = go(lens, dl.steer(v, step=0, layers=1, remove=True), "resid_post")
    new, old = of(run, "resid_post")[0, "cond", 1], of(base, "resid_post")[0, "cond", 1]
    assert (old @ u).abs().max() > 0.1 and (new @ u).abs().max() < 1e-5
    torch.testing.assert_close(new, old - (old @ u)[:, None] * u)
    head = direction(d=12)
    run = go(lens, dl.steer(head, step=0, layers=1, remove=True, hook="q", heads=1), "q")
    new, old = of(run, "q")[0, "cond", 1], of(base, "q")[0, "cond", 1]
    assert (new[:, 1] @ head).abs().max() < 1e-4 and torch.equal(new[:, 0], old[:, 0])


# -- more than one


def test_interventions_act_in_order_and_recordings_see_the_result(lens: Any, base: Run) -> None:
    v, u = direction(), direction() / direction().norm()
    edits = [dl.ablate(step=0, layers=1, hook="mlp_out"), dl.steer(v, 1.0, step=0, layers=1, hook="mlp_out")]
    run = go(lens, edits, "mlp_out")
    assert torch.equal(of(run, "mlp_out")[0, "cond", 1], u.expand(24, 24))
    run = go(lens, edits[::-1], "mlp_out")
    assert not of(run, "mlp_out")[0, "cond", 1].any()
    assert [len(f.touched) for f in run.fired] == [2, 2]


@pytest.mark.parametrize("order", [1, -1])
def test_an_update_is_measured_from_the_stream_as_it_is(lens: Any, base: Run, order: int) -> None:
    """A skip beside a change of the stream that enters the block: the changed stream leaves it, in either order."""
    edits = [dl.ablate(step=0, layers=1), dl.steer(direction(), 4.0, step=0, layers=1, hook="resid_pre")]
    run = go(lens, edits[::order], "resid_pre", "resid_post")
    entered = of(run, "resid_pre")[0, "cond", 1]
    assert not torch.equal(entered, of(base, "resid_post")[0, "cond", 0])
    assert torch.equal(of(run, "resid_post")[0, "cond", 1], entered)


def test_a_forked_run_reports_only_what_happened_before(lens: Any) -> None:
    run = go(lens, [dl.ablate(steps=[0, 2], layers=1), dl.noise(step=2)])
    fork = run.until(1)
    assert [sorted({a.step for a in f.touched}) for f in fork.fired] == [[0]]
    again = lens.generate(resume=fork)
    assert torch.equal(again.latents[1], run.latents[1]) and not torch.equal(again.final, run.final)


# -- several hooks in one intervention


def test_several_hooks_are_the_same_as_one_intervention_each(lens: Any) -> None:
    other = go(lens, seed=8)
    hooks = ("attn_gated", "mlp_gated", "update")
    for make in (
        lambda **at: dl.ablate(layers=[0, 2], **at),
        lambda **at: dl.patch(steps=[0, 1], source=other, **at),
        lambda **at: dl.steer(np.ones(24), 3.0, branch="cond", **at),
    ):
        together, apart = go(lens, make(hooks=hooks)), go(lens, [make(hook=hook) for hook in hooks])
        assert torch.equal(together.latents, apart.latents)
        fired = [f.touched for f in apart.fired]
        assert together.fired[0].touched == {a: n for one in fired for a, n in one.items()}
        assert {a.hook for a in together.fired[0].touched} == set(hooks)


def test_an_expert_is_selected_like_a_branch(lens: Any) -> None:
    run = go(lens, dl.ablate(layer=1, expert="low"))
    assert {run.plan.at(a.step).expert for a in run.fired[0].touched} == {"low"}
    assert {a.step for a in run.fired[0].touched} == {c.step for c in run.plan if c.expert == "low"}
