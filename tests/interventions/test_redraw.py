"""Redrawn states lie on the model's own path; a restart touches nothing but the sampler's memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.address import Address
from dit_lens.errors import AddressError, InterventionError
from dit_lens.interventions.noise import draw
from dit_lens.interventions.redraw import redraw, restart
from dit_lens.wan.call_plan import ExplicitGridEuler
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

STEPS, SEED = 4, 3
FAMILY = FAMILIES["i2v22"]
EULER = ExplicitGridEuler(shift=5.0)


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


def go(lens: Any, edits: Any = (), **more: Any) -> Run:
    return lens.generate(
        **{**FAMILY.call, "seed": SEED, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more},
        interventions=edits,
    )


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return go(lens)


@given(step=st.integers(0, STEPS - 1), frames=st.sets(st.integers(0, 2), min_size=1), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=10)
def test_redraw_is_the_formula(lens: Any, base: Run, step: int, frames: set[int], seed: int) -> None:
    x0 = torch.randn(base.final.shape, generator=torch.Generator().manual_seed(9))
    run = go(lens, redraw(x0, step, frames=sorted(frames), seed=seed), stop_after=step)
    sigma, eps = base.sigmas[step], draw(x0.shape, seed, SEED, step)
    assert torch.equal(run.latents[:step], base.latents[:step])
    for frame in range(3):
        if frame in frames:
            assert torch.equal(run.latents[step][:, frame], (1 - sigma) * x0[:, frame] + sigma * eps[:, frame])
        else:
            assert torch.equal(run.latents[step][:, frame], base.latents[step][:, frame])
    assert run.edited == (step,)


def test_at_sigma_1_it_is_unit_noise(lens: Any, base: Run) -> None:
    redrawn = go(lens, redraw(base.final, 0, seed=2), scheduler=EULER)
    assert base.sigmas[0] == 1 or redrawn.sigmas[0] == 1
    assert torch.equal(redrawn.latents, go(lens, dl.noise(0, seed=2), scheduler=EULER).latents)


def test_held_over_steps_the_noise_is_fresh(lens: Any, base: Run) -> None:
    run = go(lens, redraw(torch.zeros_like(base.final), "all"))
    a, b = (run.latents[s] / run.sigmas[s] for s in (1, 2))
    assert abs(float((a * b).mean())) < 0.1
    assert float(a.std()) == pytest.approx(1, abs=0.1)


def test_a_forked_run_draws_the_same(lens: Any, base: Run) -> None:
    edit = redraw(base.final, 2)
    assert torch.equal(go(lens, edit).latents, lens.generate(resume=base.until(2), interventions=edit).latents)


def test_restart_changes_nothing_where_there_is_no_memory(lens: Any, base: Run) -> None:
    euler = go(lens, scheduler=EULER)
    assert torch.equal(go(lens, restart("all"), scheduler=EULER).latents, euler.latents)
    assert torch.equal(go(lens, restart(0)).latents, base.latents)  # nothing to forget yet
    again = go(lens, restart(2))
    assert torch.equal(again.latents[2], base.latents[2]) and not torch.equal(again.latents[3:], base.latents[3:])
    assert again.edited == (2,) and "restart" in str(again.fired[0])


def test_refusals(lens: Any, base: Run) -> None:
    with pytest.raises(InterventionError, match="run of the same size"):
        go(lens, redraw(base.final[:, :2], 0))
    with pytest.raises(InterventionError, match="finite clean latents"):
        redraw(base.final[None], 0)
    with pytest.raises(InterventionError, match="finite clean latents"):
        redraw(base.final * torch.nan, 0)
    with pytest.raises(AddressError, match="0 to 3"):
        go(lens, redraw(base.final, 7))
    with pytest.raises(AddressError, match="0 to 2"):
        go(lens, redraw(base.final, 0, frames=3))


def test_each_step_that_was_changed_is_reported_once(lens: Any, base: Run) -> None:
    for edit in (restart([0, 2]), redraw(base.final, [0, 2])):
        (fired,) = go(lens, edit).fired
        assert fired.touched == {Address(step, "cond", -1, "latents"): 1 for step in (0, 2)}
