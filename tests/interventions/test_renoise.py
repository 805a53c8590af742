"""Forking: the state is the formula's, the placebo is the run's own state, and the first step is a fresh seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from families import FAMILIES, Family

from dit_lens.errors import AddressError, InterventionError
from dit_lens.interventions.renoise import renoise
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

CALL = {"num_inference_steps": 4, "guidance_scale": 5.0, "seed": 3}


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load(FAMILIES["i2v22"].build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def base(lens: Lens) -> Run:
    return lens.generate(**FAMILIES["i2v22"].call, **CALL)


def fork(lens: Lens, base: Run, step: int, seed: int | None) -> Run:
    return lens.generate(resume=base.until(step), interventions=renoise(base, step, seed))


@pytest.mark.parametrize("step", range(4))
def test_the_state_is_the_estimate_under_fresh_noise(lens: Lens, base: Run, step: int) -> None:
    sigma = base.sigmas[step]
    branch = fork(lens, base, step, seed=5)
    noise = torch.randn(base.latents[step].shape, generator=torch.Generator().manual_seed(5 * 100_003 + step))
    torch.testing.assert_close(branch.latents[step], (1 - sigma) * base.x0_hat(step) + sigma * noise)
    assert torch.equal(branch.latents[:step], base.latents[:step])
    assert torch.equal(branch.velocity[:step], base.velocity[:step])
    assert branch.edited == (step,) and branch.complete
    assert sum(branch.fired[-1].touched.values()) == 1


def test_the_noise_has_the_level_of_the_step(lens: Lens, base: Run) -> None:
    """Over many seeds: mean (1 - sigma) x0_hat and standard deviation sigma."""
    from dit_lens.interventions.renoise import renoised

    many = torch.stack([renoised(base, 2, seed) for seed in range(400)])
    sigma = base.sigmas[2]
    mean = (1 - sigma) * base.x0_hat(2)
    assert ((many.mean(0) - mean).abs() < 6 * sigma / 20).all()
    assert many.std() == pytest.approx(float((sigma**2 + mean.var()) ** 0.5), rel=0.02)


def test_own_noise_changes_nothing_where_the_sampler_has_no_memory() -> None:
    family = FAMILIES["t2v22"]
    with load(family.build("euler")) as lens:
        base = lens.generate(**family.call, **CALL)
        for step in range(4):
            assert torch.equal(fork(lens, base, step, None).latents, base.latents)


def test_own_noise_restarts_the_memory_of_a_multistep_sampler(lens: Lens, base: Run) -> None:
    branch = fork(lens, base, 2, None)
    assert torch.equal(branch.latents[:3], base.latents[:3])
    assert torch.equal(branch.velocity[2], base.velocity[2])
    assert not torch.equal(branch.final, base.final)
    # Far less than fresh noise changes.
    change = (branch.final - base.final).norm()
    assert change < 0.5 * (fork(lens, base, 2, 1).final - base.final).norm()


def test_branches_differ_by_seed_and_repeat(lens: Lens, base: Run) -> None:
    one, two, again = (fork(lens, base, 1, seed) for seed in (1, 2, 1))
    assert torch.equal(one.latents, again.latents)
    assert not torch.equal(one.final, two.final)


def test_at_the_first_step_nothing_of_the_run_is_left(lens: Lens, base: Run) -> None:
    """sigma_0 is 1 but for rounding, so two runs forked there with one seed agree."""
    other = lens.generate(**FAMILIES["i2v22"].call, **{**CALL, "seed": 4})
    a, b = fork(lens, base, 0, 7), fork(lens, other, 0, 7)
    torch.testing.assert_close(a.final, b.final, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(base.final, other.final, atol=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_forks(name: str) -> None:
    family: Family = FAMILIES[name]
    with load(family.build()) as lens:
        base = lens.generate(**family.call, **CALL)
        branch = fork(lens, base, 2, 0)
        assert branch.complete and not torch.equal(branch.final, base.final)


def test_a_fork_need_not_be_resumed(lens: Lens, base: Run) -> None:
    whole = lens.generate(**FAMILIES["i2v22"].call, **CALL, interventions=renoise(base, -2, seed=1))
    assert torch.equal(whole.latents, fork(lens, base, 2, 1).latents)


def test_mistakes_are_told_with_a_cure(lens: Lens, base: Run) -> None:
    with pytest.raises(AddressError, match="this run did steps 0 to 3"):
        renoise(base, 4)
    with pytest.raises(AddressError, match="this run did steps 0 to 1"):
        renoise(base.until(2), 2)
    with pytest.raises(InterventionError, match=r"resume=run.until\(1\)"):
        lens.generate(**FAMILIES["i2v22"].call, **{**CALL, "num_inference_steps": 3}, interventions=renoise(base, 1))
    # The remedy works.
    assert lens.generate(resume=base.until(1), interventions=renoise(base, 1)).complete
    # A step that the resumed run has behind it never fires.
    with pytest.raises(InterventionError, match="never fired"):
        lens.generate(resume=base.until(3), interventions=renoise(base, 1))
