"""``resume=`` goes on with a run's own prompt, seed, sampling and regions, and refuses what it would ignore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, image

import dit_lens as dl
from dit_lens import checks
from dit_lens.errors import InterventionError, SamplerError
from dit_lens.experiments.branching import branching
from dit_lens.interventions.renoise import renoise, renoised, repeats
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

FAMILY = FAMILIES["i2v22"]
HOW: dict[str, Any] = {**FAMILY.call, "num_inference_steps": 4, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return lens.generate(**HOW, seed=2)


IGNORED: dict[str, Any] = {
    "seed": 0, "prompt": "a red agent", "image": image(32, 64), "regions": {}, "batch": 1, "task": object(),
    "num_inference_steps": 4, "guidance_scale": 1.0, "guidance_scale_2": 1.0, "negative_prompt": "", "height": 32,
    "width": 64, "num_frames": 9, "max_sequence_length": 16, "preset": "paper", "boundary_ratio": 0.9,
    "scheduler": object(),
}  # fmt: skip


@pytest.mark.parametrize("name", IGNORED)
def test_what_would_be_ignored_is_refused_by_name(lens: Any, base: Run, name: str) -> None:
    with pytest.raises(SamplerError, match=rf"would ignore {name}: leave it out, or generate anew without resume="):
        lens.generate(resume=base.until(2), **{name: IGNORED[name]})


def test_several_and_together_are_named_too(lens: Any, base: Run) -> None:
    with pytest.raises(SamplerError, match="would ignore seed, guidance_scale: leave them out"):
        lens.generate(resume=base.until(2), seed=np.int64(1), sampling={"guidance_scale": 1.0})


@pytest.mark.parametrize("engine", ["run_with_cache", "run_with_hooks", "trace"])
def test_the_other_engines_refuse_it_too(lens: Any, base: Run, engine: str) -> None:
    more: dict[str, Any] = (
        {"fwd_hooks": [("hook_velocity", lambda x, hook: None)]} if engine == "run_with_hooks" else {}
    )
    with pytest.raises(SamplerError, match="would ignore guidance_scale"):
        if engine == "trace":
            with lens.trace(resume=base.until(2), guidance_scale=1.0) as t:
                _ = t.high
        else:
            getattr(lens, engine)(resume=base.until(2), guidance_scale=1.0, **more)


def test_what_it_takes_still_works(lens: Any, base: Run) -> None:
    more = {"record": dl.record("z", layers=0, reduce="token_norm"), "limit": 2**20, "stop_after": 2}
    run = lens.generate(resume=base.until(1), interventions=dl.ablate(step=2, layers=1), **more)
    assert run.n_steps == 3 and {a.step for a in run.activations} == {1, 2}
    assert torch.equal(lens.generate(resume=base.until(1)).latents, base.latents)


def test_a_task_and_a_resume_are_two_things(lens: Any, base: Run) -> None:
    with pytest.raises(SamplerError, match="would ignore task"):
        lens.generate(object(), resume=base.until(2))


# -- seeds


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (1, [1]), (np.int64(1), [1]), (np.uint8(1), [1]), (np.array(1), [1]), ([1], [1]), ((1, 2), [1, 2]),
        (range(2), [0, 1]), (np.array([1, 2]), [1, 2]), ([np.int32(1), 2], [1, 2]), (None, [0]),
    ],
    ids=repr,
)  # fmt: skip
def test_seeds_are_integers_and_sequences_of_them(lens: Any, seed: Any, expected: list[int]) -> None:
    found = lens.generate(**{**HOW, "num_inference_steps": 1, "guidance_scale": 1.0}, seed=seed)
    runs = found if isinstance(found, list) else [found]
    assert [run.seed for run in runs] == expected and all(type(run.seed) is int for run in runs)
    one = seed is None or (not isinstance(seed, list | tuple | range) and np.ndim(seed) == 0)
    assert isinstance(found, list) is not one


def test_a_numpy_seed_draws_the_same_noise(lens: Any, base: Run) -> None:
    assert torch.equal(lens.generate(**HOW, seed=np.int64(2)).latents, base.latents)


WRONG_SEEDS = [
    "12",
    b"1",
    1.0,
    True,
    np.True_,
    np.float32(1),
    {1, 2},
    [1.0],
    ["1"],
    [True],
    np.ones((2, 2), int),
    10**23,
]


@pytest.mark.parametrize("seed", WRONG_SEEDS, ids=repr)
def test_nothing_else_is_a_seed(lens: Any, seed: Any) -> None:
    with pytest.raises(SamplerError, match=r"(?s)seed=.*(one integer|sequence of integers|integers below 2\*\*64)"):
        lens.generate(**HOW, seed=seed)
    task = dl.tasks.load("maze", seed=3)
    with pytest.raises(dl.errors.MeasureError, match="seeds="):
        dl.Sweep(lens, tasks=[task], source="other_answer", seeds=seed)
    with pytest.raises(InterventionError, match="seed="):
        dl.noise(seed=seed)


def test_seeds_reach_as_far_as_torchs_generators() -> None:
    for seed in (-(2**63), 2**64 - 1):
        assert checks.seed(seed) == seed and torch.Generator().manual_seed(seed)
    for seed in (-(2**63) - 1, 2**64):
        with pytest.raises(SamplerError, match="integers below"):
            checks.seed(seed)


def test_empty_seeds_are_no_seed(lens: Any) -> None:
    with pytest.raises(SamplerError, match="give one seed"):
        lens.generate(**HOW, seed=[])


# -- a fork is another draw


def test_the_noise_that_the_source_started_from_is_no_fork(lens: Any, base: Run) -> None:
    """Seed 0 at step 2 draws what a run with seed 2 starts from."""
    noise = (renoised(base, 2, 0) - renoised(base, 2, 1)) != 0
    assert noise.any() and repeats(base, 2, 0) and not repeats(base, 2, 1) and not repeats(base, 1, 0)
    with pytest.raises(InterventionError, match=r"step=2, seed=0.*seed 2.*take seed=1, or seed=None"):
        renoise(base, 2, 0)
    with pytest.raises(InterventionError, match="take seed=1"):
        renoise(base, step=-2, seed=np.int64(0))
    assert renoise(base, 2, 1).seed == 1 and renoise(base, 1, 0).seed == 0


def test_it_would_have_been_the_start_noise(base: Run) -> None:
    sigma = base.sigmas[2]
    clean = base.latents[2] - sigma * base.velocity[2]
    eps = (renoised(base, 2, 0) - (1 - sigma) * clean) / sigma
    assert torch.allclose(eps, base.latents[0] / base.sigmas[0], atol=1e-4)


def test_branching_leaves_that_seed_out(lens: Any) -> None:
    """At step 0 the first branch of a run with seed 0 was the run itself."""
    task = dl.tasks.load("maze", seed=3)
    with dl.load("lab") as lab:
        found = branching(lab, [task], steps=(0,), n=2, num_inference_steps=2, placebo=False)
    assert found["changed"].dims == ("task", "step")
