"""Interventions on latents and on batches: what noise replaces, and what members share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families import FAMILIES, Family
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dit_lens as dl
from dit_lens.interventions.noise import draw
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

STEPS = 4
FAMILY = FAMILIES["i2v22"]


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


def go(lens: Any, edits: Any = (), family: Family = FAMILY, **more: Any) -> Any:
    return lens.generate(
        **{**family.call, "seed": 3, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more}, interventions=edits
    )


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return go(lens)


# -- noise


def test_noise_replaces_the_selected_steps_and_frames_only(lens: Any, base: Run) -> None:
    run = go(lens, dl.noise(step=2, frames=[0, 2]))
    assert torch.equal(run.latents[:2], base.latents[:2])
    assert torch.equal(run.latents[2][:, 1], base.latents[2][:, 1])
    fresh = draw(base.latents.shape[1:], seed=0, run_seed=3, step=2)
    for frame in (0, 2):
        assert torch.equal(run.latents[2][:, frame], fresh[:, frame])
    assert run.edited == (2,) and [a.step for a in run.fired[0].touched] == [2]
    assert not torch.equal(run.final, base.final)


def test_noise_held_at_a_frame_is_fresh_at_every_step(lens: Any) -> None:
    run = go(lens, dl.noise(frames=1))
    assert run.edited == tuple(range(STEPS))
    for step in range(STEPS):
        held = run.latents[step][:, 1]
        assert torch.equal(held, draw(run.latents.shape[1:], 0, 3, step)[:, 1])
    assert not torch.equal(run.latents[0][:, 1], run.latents[1][:, 1])


def test_same_seed_same_noise(lens: Any) -> None:
    runs = [go(lens, dl.noise(step=1, seed=seed)) for seed in (5, 5, 6)]
    assert torch.equal(runs[0].final, runs[1].final) and not torch.equal(runs[0].final, runs[2].final)
    one, two = (go(lens, dl.noise(step=1, frames=frames), stop_after=1) for frames in (2, [1, 2]))
    assert torch.equal(one.latents[1][:, 2], two.latents[1][:, 2]), "the noise must not hang on what else is chosen"


def test_noise_is_never_the_noise_that_a_run_starts_from(lens: Any) -> None:
    for seed in range(3):
        begun, noised = go(lens, seed=seed, stop_after=0), go(lens, dl.noise(step=0), seed=seed, stop_after=0)
        assert not torch.equal(begun.latents[0], noised.latents[0])
        correlation = torch.corrcoef(torch.stack([begun.latents[0].flatten(), noised.latents[0].flatten()]))[0, 1]
        assert correlation.abs() < 0.15  # 1536 values: 0.026 expected


@given(st.tuples(*[st.integers(0, 50)] * 3), st.tuples(*[st.integers(0, 50)] * 3))
def test_each_seed_run_and_step_has_its_own_noise(one: tuple[int, ...], two: tuple[int, ...]) -> None:
    assert torch.equal(draw((4, 5), *one), draw((4, 5), *two)) == (one == two)


def test_noise_of_a_batch_is_that_of_its_single_runs(lens: Any) -> None:
    both = go(lens, dl.noise(step=1), seed=[3, 4], stop_after=1)
    for run in both:
        alone = go(lens, dl.noise(step=1), seed=run.seed, stop_after=1)
        assert torch.equal(run.latents[1], alone.latents[1])
    assert not torch.equal(both[0].latents[1], both[1].latents[1])


def test_noise_is_standard_normal_and_matched_noise_keeps_the_moments(lens: Any, base: Run) -> None:
    plain = go(lens, dl.noise(step=3), stop_after=3).latents[3]
    assert abs(float(plain.mean())) < 0.15 and abs(float(plain.std()) - 1) < 0.1
    for frames in ("all", 1):
        run = go(lens, dl.noise(step=3, matched=True, frames=frames), stop_after=3)
        chosen = slice(None) if frames == "all" else slice(1, 2)
        old, new = base.latents[3][:, chosen], run.latents[3][:, chosen]
        torch.testing.assert_close(new.mean(), old.mean(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(new.std(), old.std(), atol=1e-5, rtol=1e-4)
        assert torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1].abs() < 0.2


def test_resume_after_noise_is_the_uninterrupted_run(family: Family, scheduler: str) -> None:
    """The sampler's memory was dropped at the edit, and a resumed run must know it."""
    edits = [dl.noise(step=1, frames=1), dl.ablate(layers=1, steps=[1, 3])]
    with load(family.build(scheduler)) as lens:
        whole = go(lens, edits, family)
        for stop in range(STEPS - 1):
            begun = go(lens, edits, family, stop_after=stop)
            late = [edit for edit in edits if max(edit.where.steps_of(STEPS)) > stop]
            rest = lens.generate(resume=begun, interventions=late)
            assert torch.equal(rest.latents, whole.latents) and torch.equal(rest.velocity, whole.velocity), stop
            assert rest.edited == whole.edited == (1,)


# -- ensemble


def updates(lens: Any, runs: list[Run], at: str) -> Tensor:
    return torch.stack([run[at] for run in runs])


def test_members_get_the_mean_of_their_updates(lens: Any) -> None:
    wanted = dl.record("update", "resid_pre", "resid_post", steps=0)
    apart = go(lens, seed=[3, 4, 5], record=wanted, stop_after=0)
    at = "step=0 layer=1 hook={} branch=cond"
    for alpha in (1.0, 0.25):
        runs = go(lens, dl.ensemble(layers=1, alpha=alpha), seed=[3, 4, 5], record=wanted, stop_after=0)
        own = updates(lens, apart, at.format("update"))
        shared = (1 - alpha) * own + alpha * own.mean(0, keepdim=True)
        for run, before, expected in zip(runs, apart, shared, strict=True):
            assert torch.equal(run[at.format("resid_pre")], before[at.format("resid_pre")])
            assert torch.equal(run[at.format("resid_post")], run[at.format("resid_pre")] + expected)
            torch.testing.assert_close(run[at.format("update")], expected, atol=1e-5, rtol=1e-4)
        assert [run.seed for run in runs] == [3, 4, 5]
        assert not torch.equal(runs[0].velocity, runs[1].velocity)


def test_the_default_is_the_papers_window(lens: Any) -> None:
    edit = dl.ensemble()
    assert edit == dl.ensemble(step=0, layers=dl.Depth(0.5, 0.75)) and edit.where.layers_of(40) == tuple(range(20, 30))
    runs = go(lens, dl.ensemble(layers=dl.Depth(0.5, 1)), seed=[3, 4], stop_after=1)
    assert {(a.step, a.layer) for a in runs[0].fired[0].touched} == {(0, 2)}  # of 3 layers


def test_sharing_the_whole_stream_collapses_the_members(lens: Any) -> None:
    wanted = dl.record("resid_post")
    with pytest.warns(UserWarning, match="sharing the whole stream"):
        runs = go(lens, dl.ensemble(step=1, layers=[1, 2], hook="resid_post"), seed=[3, 4], record=wanted, stop_after=1)
    one, two = runs
    for branch in ("cond", "uncond"):
        for layer, equal in ((0, False), (1, True), (2, True)):
            at = f"step=1 layer={layer} hook=resid_post branch={branch}"
            assert torch.equal(one[at], two[at]) == equal
    near = {"atol": 1e-5, "rtol": 1e-5}  # rows of one batch go through other kernels: rounding
    torch.testing.assert_close(one.velocity[1], two.velocity[1], **near)
    assert not torch.allclose(one.velocity[0], two.velocity[0], atol=1e-2)
    assert not torch.equal(one.latents[-1], two.latents[-1]), "their latents still differ"
    assert "identical after layer 1" in one.fired[0].remarks[0]
    # Over a range only the first layer counts.
    with pytest.warns(UserWarning):
        first = go(lens, dl.ensemble(step=1, layers=1, hook="resid_post"), seed=[3, 4], stop_after=1)
    torch.testing.assert_close(first[0].velocity, one.velocity, **near)


def test_sharing_less_is_not_degenerate(lens: Any, recwarn: Any) -> None:
    for more in ({"alpha": 0.5}, {"tokens": [0, 1]}, {"hook": "update"}):
        runs = go(lens, dl.ensemble(layers=1, **{"hook": "resid_post", **more}), seed=[3, 4], stop_after=0)
        assert not torch.equal(runs[0].velocity, runs[1].velocity) and runs[0].fired[0].remarks == ()
    assert not [w for w in recwarn if "whole stream" in str(w.message)]


def test_rescale_keeps_norms(lens: Any) -> None:
    wanted = dl.record("mlp_out", steps=0)
    apart = go(lens, seed=[3, 4, 5], record=wanted, stop_after=0)
    at = "step=0 layer=1 hook=mlp_out branch=cond"
    plain, kept = (
        go(lens, dl.ensemble(layers=1, hook="mlp_out", rescale=r), seed=[3, 4, 5], record=wanted, stop_after=0)
        for r in (False, True)
    )
    for i, run in enumerate(kept):
        torch.testing.assert_close(run[at].norm(dim=-1), apart[i][at].norm(dim=-1), atol=1e-5, rtol=1e-5)
        same = torch.nn.functional.cosine_similarity(run[at], plain[i][at], dim=-1)
        torch.testing.assert_close(same, torch.ones_like(same), atol=1e-5, rtol=1e-5)
    old = torch.stack([run[at].norm(dim=-1) for run in apart]).mean()
    assert plain[0][at].norm(dim=-1).mean() < old, "averaging shrinks, which is what rescale is for"


def test_members_of_other_tasks_share_too() -> None:
    """A batch may hold other prompts; nothing in an ensemble asks for one task."""
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        tasks = [type("T", (), {"prompt": text})() for text in ("red agent", "blue goal")]
        size = {k: family.call[k] for k in ("height", "width", "num_frames", "max_sequence_length")}
        runs = lens.generate(tasks, seed=[0, 1], num_inference_steps=2, interventions=dl.ensemble(layers=1), **size)
        assert [run.prompt for run in runs] == ["red agent", "blue goal"]
        assert len(runs[0].fired[0].touched) == 2


@pytest.mark.parametrize(
    ("seed", "match"), [(3, "at least two members"), ([3], "at least two members"), ([3, 3], "different seeds")]
)
def test_an_ensemble_needs_members(lens: Any, seed: Any, match: str) -> None:
    with pytest.raises(dl.InterventionError, match=match):
        go(lens, dl.ensemble(layers=1), seed=seed)
