"""Gradients with respect to a block's update: its own values, finite differences, and the stream's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, LAYERS, Family
from torch import Tensor

from dit_lens.address import Depth
from dit_lens.errors import AddressError
from dit_lens.runner.attribution import attribute
from dit_lens.wan import sampler
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record


def generate(lens: Any, family: Family, **more: Any) -> Any:
    return lens.generate(**family.call, seed=3, num_inference_steps=2, guidance_scale=5.0, **more)


def weights_like(velocity: Tensor) -> Tensor:
    return torch.randn(velocity.shape, generator=torch.Generator().manual_seed(0)).double()


def test_of_updates(family: Family) -> None:
    with load(family.build()) as lens:
        run = generate(lens, family, record=record("update", steps=1))
        place = run.plan.at(1, "uncond")
        with torch.no_grad():
            plain = lens.replay(run, place)
        weights = weights_like(plain)
        slopes: dict[str, list[Tensor]] = {}
        for hook in ("update", "resid_post"):
            with lens.gradients(run, step=1, branch="uncond") as call:
                velocity, acts = call(hook, "all")
                assert torch.equal(velocity.detach(), plain), "asking for gradients changed the call"
                slopes[hook] = list(torch.autograd.grad((velocity.double() * weights).sum(), list(acts.values())))
            if hook == "update":
                assert list(acts) == [f"blocks.{i}.update" for i in range(LAYERS)]
                for layer, update in enumerate(acts.values()):
                    kept = run[f"step=1 layer={layer} hook=update branch=uncond"]
                    assert update.dtype == torch.float32 and torch.equal(update.detach()[0], kept)
        for layer in range(LAYERS):
            # The stream leaving a block moves as its update does, and so do all later blocks.
            torch.testing.assert_close(slopes["update"][layer], slopes["resid_post"][layer], atol=1e-6, rtol=1e-4)
            way = torch.randn(
                plain.shape[0], *slopes["update"][layer].shape[1:], generator=torch.Generator().manual_seed(1)
            )
            ends = []
            for eps in (-1e-2, 1e-2):
                path = f"blocks.{layer}.hook_resid_post"
                with torch.no_grad():
                    moved = lens.replay(run, place, [(path, lambda x, hook, e=eps, w=way: x + e * w)])
                ends.append(float((moved.double() * weights).sum()))
            found = float((slopes["update"][layer] * way).sum())
            assert (ends[1] - ends[0]) / 2e-2 == pytest.approx(found, rel=1e-2, abs=1e-2), layer
            assert abs(found) > 1e-3


def test_a_skipped_block_is_estimated_by_its_own_update() -> None:
    """f(u = 0) - f(u) is about -<slope, u> for a small share of u; with the stream in u's place it is not."""
    family, share = FAMILIES["t2v21"], 1e-2
    with load(family.build()) as lens:
        run = generate(lens, family)
        place = run.plan.at(1)
        entering: list[Tensor] = []

        def less(x: Tensor, hook: Any) -> Tensor:
            return x - share * (x - entering.pop())

        hooks = [("blocks.1.hook_resid_pre", lambda x, hook: entering.append(x)), ("blocks.1.hook_resid_post", less)]
        with torch.no_grad():
            plain, skipped = lens.replay(run, place), lens.replay(run, place, hooks)
        weights = weights_like(plain)
        true = float(((skipped - plain).double() * weights).sum()) / -share
        estimates = {}
        for hook in ("update", "resid_post"):
            with lens.gradients(run, step=1) as call:
                velocity, acts = call(hook, 1)
                (slope,) = torch.autograd.grad((velocity.double() * weights).sum(), list(acts.values()))
            estimates[hook] = float((slope * next(iter(acts.values()))).sum().detach())
    assert estimates["update"] == pytest.approx(true, rel=2e-2)
    assert estimates["resid_post"] != pytest.approx(true, rel=0.1)


def test_in_bf16_the_call_is_the_same() -> None:
    family = FAMILIES["i2v22"]
    pipe = family.build()
    pipe.transformer.to(torch.bfloat16)
    pipe.transformer_2.to(torch.bfloat16)
    with load(pipe) as lens:
        run = generate(lens, family)
        with torch.no_grad():
            plain = lens.replay(run, run.plan.at(0))
        with lens.gradients(run, step=0) as call:
            velocity, acts = call("update", "all")
            slopes = torch.autograd.grad(velocity.float().sum(), list(acts.values()))
        assert torch.equal(velocity.detach(), plain)
        assert all(s.isfinite().all() and s.abs().max() > 0 for s in slopes)


def test_which_layers() -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        run = generate(lens, family)
        with lens.gradients(run, step=0) as call:
            assert list(call("update")[1]) == [f"blocks.{LAYERS - 1}.update"]
            assert list(call("resid_pre", Depth(0, 0.5))[1]) == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
            assert list(call("velocity")[1]) == ["hook_velocity"]
            with pytest.raises(AddressError, match="0 to 2"):
                call("update", 3)


def reached(velocity: Tensor) -> set[int]:
    """Ids of the leaves that the graph of a tensor would give a gradient to."""
    waiting, seen, leaves = [velocity.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves |= {id(node.variable)} if hasattr(node, "variable") else set()
        waiting += [one for one, _ in node.next_functions]
    return leaves


def test_weights_take_no_part() -> None:
    """As diffusers loads them, all weights ask for gradients; here all but one do."""
    family = FAMILIES["i2v22"]
    pipe = family.build()
    weights = [w for model in (pipe.transformer, pipe.transformer_2) for w in model.parameters()]
    with load(pipe) as lens:
        run = generate(lens, family)
        slopes = []
        for learning in (False, True):
            for weight in weights[1:]:
                weight.requires_grad_(learning)
            with lens.gradients(run, step=1) as call:
                velocity, acts = call("update", "all")
                slopes.append(torch.autograd.grad(velocity.sum(), list(acts.values()), retain_graph=True))
                assert reached(velocity) == {id(acts["blocks.0.update"])}, "later updates depend on the first"
            velocity.sum().backward()  # also after the block
            assert acts["blocks.0.update"].grad is not None
            assert all(w.grad is None for w in weights)
            assert [w.requires_grad for w in weights] == [False] + [learning] * (len(weights) - 1)
        assert all(map(torch.equal, *slopes))
        plain = lens.replay(run, run.plan.at(1))  # where nobody asked for no_grad
        assert not plain.requires_grad and torch.equal(plain, velocity.detach())
        with pytest.raises(ZeroDivisionError):
            lens.replay(run, run.plan.at(1), [("blocks.1.hook_resid_pre", lambda x, hook: 1 / 0)])
        assert all(w.requires_grad for w in weights[1:])


def test_attribution_keeps_nothing_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["t2v21"]
    pipe = family.build()
    pipe.transformer.requires_grad_(True)
    graphs = []
    denoise = sampler.denoise

    def watching(*arguments: Any, **more: Any) -> Tensor:
        velocity = denoise(*arguments, **more)
        graphs.append(reached(velocity))
        return velocity

    with load(pipe) as lens:
        base, source = (lens.generate(**family.call, seed=seed, num_inference_steps=2) for seed in (1, 2))
        monkeypatch.setattr(sampler, "denoise", watching)
        attribute(lens, base, source, steps=[1], path_points=1)
    assert [len(leaves) for leaves in graphs if leaves] == [1, 1], "one leaf, the tokens, for each branch"
    assert all(w.requires_grad for w in pipe.transformer.parameters())
