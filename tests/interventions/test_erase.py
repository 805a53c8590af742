"""Erasing: nothing where nothing is erased, the map that it says where it says, and mistakes with their remedy."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, HEAD_DIM, HEADS, LAYERS, Family

import dit_lens as dl
from dit_lens.interventions.erase import erase
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

D, STEPS = HEADS * HEAD_DIM, 3
FAMILY = FAMILIES["i2v22"]


def factors(k: int = 2, d: int = D, seed: int = 0) -> SimpleNamespace:
    """An oblique eraser: right left = 1."""
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(d, k))
    right = rng.normal(size=(k, d))
    return SimpleNamespace(left=left, right=np.linalg.inv(right @ left) @ right, mean=rng.normal(size=d))


def go(lens: Any, family: Family = FAMILY, edits: Any = (), *hooks: str, **more: Any) -> Any:
    wanted = dl.record(*hooks) if hooks else ()
    call = {**family.call, "seed": 3, "num_inference_steps": STEPS, "guidance_scale": 5.0, "record": wanted, **more}
    return lens.generate(**call, interventions=edits)


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return go(lens, FAMILY, (), "resid_post", "update", "z", "mlp_out", "velocity")


def same(a: Run, b: Run) -> bool:
    return torch.equal(a.latents, b.latents) and torch.equal(a.velocity, b.velocity) and torch.equal(a.final, b.final)


# -- nothing


def test_a_zero_matrix_is_the_bare_run(pipe: DiffusionPipeline, family: Family) -> None:
    with load(pipe) as lens:
        bare = go(lens, family)
        nothing = SimpleNamespace(left=np.zeros((D, 0)), right=np.zeros((0, D)), mean=np.ones(D))
        for hook in ("resid_post", "update", "attn_out"):
            for eraser in (np.zeros((D, D)), nothing):
                run = go(lens, family, [erase(eraser, hook=hook)])
                assert same(run, bare), hook
                assert sum(run.fired[0].touched.values()) == LAYERS * 2 * STEPS


def test_a_zero_matrix_is_nothing_in_bf16() -> None:
    pipe = FAMILY.build()
    for model in (pipe.transformer, pipe.transformer_2):
        model.to(torch.bfloat16)
    with load(pipe) as lens:
        assert same(go(lens, FAMILY, [erase(torch.zeros(D, D), torch.ones(D))]), go(lens, FAMILY))


# -- what it says, where it says


def test_it_is_the_affine_map_at_the_addressed_place_only(lens: Any, base: Run) -> None:
    e = factors()
    left, right, mean = (torch.tensor(v, dtype=torch.float32) for v in (e.left, e.right, e.mean))
    edit = erase(e, step=1, layers=1, branches="cond")
    run = go(lens, FAMILY, edit, "resid_post", "velocity")
    place = "step=1 branch=cond layer=1 hook=resid_post"
    assert torch.equal(run[place], base[place] - (base[place] - mean) @ right.T @ left.T)
    assert {str(a) for a in run.fired[0].touched} == {place}
    for address, value in run.activations.items():
        if address.step == 0 or (address.step, address.branch) == (1, "uncond"):
            assert torch.equal(value, base[address]), address
    assert torch.equal(
        run["step=1 branch=cond layer=0 hook=resid_post"], base["step=1 branch=cond layer=0 hook=resid_post"]
    )
    assert not torch.equal(run["step=1 branch=cond hook=velocity"], base["step=1 branch=cond hook=velocity"])


def test_an_eraser_and_its_matrix_do_the_same(lens: Any) -> None:
    e = factors()
    runs = [
        go(lens, FAMILY, edit, "resid_post", stop_after=0)
        for edit in (erase(e, step=0, layers=1), erase(e.left @ e.right, e.mean, step=0, layers=1))
    ]
    for address, value in runs[0].activations.items():
        torch.testing.assert_close(value, runs[1][address], atol=1e-4, rtol=1e-4)


def test_what_it_takes_out_is_gone_and_the_rest_stays(lens: Any, base: Run) -> None:
    u = np.eye(D)[5]
    run = go(lens, FAMILY, erase(np.outer(u, u), 2 * u, step=0, layers=0), "resid_post", stop_after=0)
    new, old = (r["step=0 layer=0 hook=resid_post"] for r in (run, base))
    torch.testing.assert_close(new[:, 5], torch.full((24,), 2.0))  # its mean
    others = torch.arange(D) != 5
    assert torch.equal(new[:, others], old[:, others])


def test_about_zero_it_is_steer_with_remove(lens: Any) -> None:
    u = np.random.default_rng(0).normal(size=D)
    u /= np.linalg.norm(u)
    erased, removed = (
        go(lens, FAMILY, edit, stop_after=0).velocity
        for edit in (erase(np.outer(u, u), layers=1, step=0), dl.steer(u, layers=1, step=0, remove=True))
    )
    torch.testing.assert_close(erased, removed, atol=1e-4, rtol=1e-4)


def test_tokens_heads_and_updates(lens: Any, base: Run) -> None:
    e = factors()
    run = go(lens, FAMILY, erase(e, step=0, layers=0, tokens=[2, 9]), "resid_post", stop_after=0)
    new, old = (r["step=0 layer=0 hook=resid_post"] for r in (run, base))
    moved = (new != old).any(-1)
    assert moved.nonzero().flatten().tolist() == [2, 9]
    head = factors(1, HEAD_DIM)
    run = go(lens, FAMILY, erase(head, step=0, layers=0, hook="z", heads=1), "z", stop_after=0)
    new, old = (r["step=0 layer=0 hook=z"] for r in (run, base))
    assert torch.equal(new[:, 0], old[:, 0]) and (new[:, 1] != old[:, 1]).any(-1).all()
    run = go(lens, FAMILY, erase(np.eye(D), step=0, layers=1, hook="update"), "update", stop_after=0)  # all of it
    assert not run["step=0 layer=1 hook=update"].any() and run["step=0 layer=0 hook=update"].any()


def test_points_outside_the_blocks(lens: Any, base: Run) -> None:
    run = go(lens, FAMILY, erase(factors(), step=2, hook="final_norm"), "final_norm")
    assert {(a.step, a.layer) for a in run.fired[0].touched} == {(2, -1)}
    assert torch.equal(run.velocity[:2], base.velocity[:2]) and not torch.equal(run.velocity[2], base.velocity[2])


# -- as a value


def test_it_is_frozen_and_compared_by_content() -> None:
    one, two = (erase(factors(), layers=[1, 2], step=3) for _ in range(2))
    assert one == two and hash(one) == hash(two) and one != "a string"
    others = [
        erase(factors(seed=1), layers=[1, 2], step=3), erase(factors(), layers=1, step=3),
        erase(factors(), layers=[1, 2], step=3, hook="update"), erase(np.eye(D), layers=[1, 2], step=3),
        erase(np.eye(D), np.ones(D), layers=[1, 2], step=3),
    ]  # fmt: skip
    assert len({one, *others}) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.mean = None  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(one)) == one and "tensor" not in repr(one)
    assert str(one) == "erase(2 directions from resid_post, steps=3, layers=(1, 2))"
    assert str(erase(np.eye(D))) == "erase(a matrix from resid_post, steps=all, layers=all)"


def test_it_cannot_be_changed_through_what_it_was_made_from() -> None:
    e, matrix = factors(), torch.eye(D)
    edits = [erase(e), erase(matrix)]
    e.left[:], matrix[:] = 0, 0
    assert edits[0].left.any() and torch.equal(edits[1].left, torch.eye(D))


# -- mistakes


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: erase(np.ones(D)), r"numpy.outer\(u, u\)"),
        (lambda: erase(np.ones((D, 3))), r"give a matrix \(d, d\)"),
        (lambda: erase(np.eye(D), np.zeros(3)), r"with a mean \(d,\)"),
        (lambda: erase(SimpleNamespace(left=np.ones((D, 2)), right=np.ones((D, 2)), mean=np.ones(D))), "leace"),
        (lambda: erase(factors(), np.zeros(D)), "leave mean= out"),
        (lambda: erase(np.full((D, D), np.nan)), "NaN or infinity"),
    ],
)
def test_a_malformed_eraser_is_refused_at_once(make: Any, remedy: str) -> None:
    with pytest.raises(dl.InterventionError, match=remedy):
        make()


def test_an_eraser_of_another_width_is_refused(lens: Any) -> None:
    with pytest.raises(
        dl.InterventionError, match="12 channels and resid_post has 24: use one that was fitted at this"
    ):
        go(lens, FAMILY, erase(factors(d=12)))
    with pytest.raises(dl.AddressError, match="choose from"):
        erase(factors(), hook="resid")
    with pytest.raises(dl.InterventionError, match="never fired"):
        lens.generate(resume=go(lens, FAMILY, stop_after=1), interventions=erase(factors(), step=0))
