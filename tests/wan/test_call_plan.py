"""The plan lists what the stock pipeline then does: step, noise, expert, branch; and the traps in the arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from families import FAMILIES, Family

from dit_lens.address import Call
from dit_lens.errors import AddressError
from dit_lens.wan.call_plan import ExplicitGridEuler, Sampling, build, preset
from dit_lens.wan.loading import load


def clock(pipe: DiffusionPipeline, family: Family, steps: int, guidance: float) -> list[tuple[str, str, float]]:
    """(expert, branch, timestep) of every call that the stock pipeline makes."""
    seen: list[tuple[str, str, float]] = []
    undo = []
    for name, attribute in (("high", "transformer"), ("low", "transformer_2")):
        model = getattr(pipe, attribute, None)
        if model is None:
            continue
        context, branch = model.cache_context, []

        def tagged(tag: str, *args: Any, context: Any = context, branch: list[str] = branch, **more: Any) -> Any:
            branch[:] = [tag]
            return context(tag, *args, **more)

        def tick(module: Any, args: Any, kwargs: Any, name: str = name, branch: list[str] = branch) -> None:
            seen.append((name, branch[0], float(kwargs["timestep"].max())))

        model.cache_context = tagged
        handle = model.register_forward_pre_hook(tick, with_kwargs=True)
        undo.append((model, handle))
    pipe(
        **family.call, num_inference_steps=steps, guidance_scale=guidance, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for model, handle in undo:
        handle.remove()
        del model.cache_context
    return seen


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_plan_is_the_stock_pipelines_clock(pipe: DiffusionPipeline, family: Family, guidance: float) -> None:
    for steps in (1, 3, 7):
        with load(pipe) as lens:
            plan = lens.plan(num_inference_steps=steps, guidance_scale=guidance)
        assert [(c.expert, c.branch, c.timestep) for c in plan] == clock(pipe, family, steps, guidance)
        assert [c.index for c in plan] == list(range(len(plan))) and plan.n_steps == steps
        assert torch.equal(torch.tensor(plan.sigmas), pipe.scheduler.sigmas.float())
        assert all(c.sigma == plan.sigmas[c.step] for c in plan)


def test_the_lens_runs_what_it_planned(pipe: DiffusionPipeline, family: Family) -> None:
    """The running clock of our own loop, seen from inside the modules."""
    seen: list[tuple[str, float]] = []
    with load(pipe) as lens:
        for name, expert in lens.experts.items():
            expert.transformer.register_forward_pre_hook(
                lambda m, a, kw, name=name: seen.append((name, float(kw["timestep"].max()))), with_kwargs=True
            )
        how = {**family.call, "num_inference_steps": 4, "guidance_scale": 5.0}
        run = lens.generate(**how)
        assert lens.plan_of(**how, seed=0, stop_after=None) == run.plan  # what is not sampling is left out
        assert lens.plan_of(**family.call, preset="paper") == lens.plan(preset="paper") != run.plan
    assert seen == [(c.expert, c.timestep) for c in run.plan]


def test_a_step_on_the_boundary_is_the_high_experts() -> None:
    """The pipeline changes where timestep < boundary: at 1000, 750, 500, 250 and .5 the third step is still high."""
    family = FAMILIES["i2v22"]
    pipe = family.build()
    pipe.scheduler = ExplicitGridEuler(shift=1.0)
    pipe.register_to_config(boundary_ratio=0.5)
    plan, _ = build(pipe, Sampling(4, 1.0))
    assert [c.timestep for c in plan] == [1000, 750, 500, 250]
    assert [c.expert for c in plan] == ["high", "high", "high", "low"]
    assert [(c.expert, c.branch, c.timestep) for c in plan] == clock(pipe, family, 4, 1.0)


@pytest.mark.parametrize(("boundary", "first_low"), [(0.875, 21), (0.9, 18)])
def test_where_the_experts_change(boundary: float, first_low: int) -> None:
    """50 steps at shift 5: 21 high-noise steps at 0.875, 18 at 0.9 (facts, wan-in-diffusers 2.5)."""
    pipe = FAMILIES["i2v22"].build()
    plan, _ = build(pipe, Sampling(50, 5.0, boundary_ratio=boundary, scheduler=ExplicitGridEuler(shift=5.0)))
    low = [c.step for c in plan if c.expert == "low"]
    assert min(low) == first_low and len(low) == 2 * (50 - first_low)


@pytest.mark.parametrize(
    ("scheduler", "steps", "shift", "boundary", "high"),
    [
        ("unipc", 40, 5.0, 0.9, 15), ("euler", 40, 5.0, 0.9, 14), ("unipc", 40, 3.0, 0.9, 11),
        ("euler", 40, 3.0, 0.9, 10), ("unipc", 50, 5.0, 0.9, 18), ("euler", 50, 5.0, 0.9, 18),
        ("unipc", 20, 5.0, 0.9, 8), ("euler", 20, 5.0, 0.9, 7),
        ("unipc", 40, 12.0, 0.875, 26), ("euler", 40, 12.0, 0.875, 25), ("unipc", 40, 3.0, 0.875, 13),
        ("euler", 40, 3.0, 0.875, 12),
    ],
)  # fmt: skip
def test_steps_of_the_high_noise_expert(scheduler: str, steps: int, shift: float, boundary: float, high: int) -> None:
    pipe = FAMILIES["i2v22"].build(scheduler)
    key = "flow_shift" if scheduler == "unipc" else "shift"
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **{key: shift})
    plan, _ = build(pipe, Sampling(steps, 5.0, boundary_ratio=boundary))
    assert len({c.step for c in plan if c.expert == "high"}) == high


def test_presets() -> None:
    paper = preset("paper")
    assert (paper.num_inference_steps, paper.guidance_scale, paper.guidance_scale_2, paper.boundary_ratio) == (
        50,
        5.0,
        5.0,
        0.875,
    )
    assert isinstance(paper.scheduler, ExplicitGridEuler) and paper.scheduler.config.shift == 5.0
    with load(FAMILIES["i2v22"].build()) as lens:
        plan = lens.plan(preset="paper")
        assert len(plan) == 100 and plan.scheduler == "ExplicitGridEuler" and plan.at(21).expert == "low"
        assert plan.at(20).expert == "high"
        assert lens.plan(preset="paper", num_inference_steps=10).n_steps == 10
        assert lens.pipe.config.boundary_ratio == 0.9, "a preset never changes the pipeline"
    with load(FAMILIES["t2v21"].build()) as lens:
        plan = lens.plan(preset="paper", guidance_scale=3.0)
        assert {c.expert for c in plan} == {"high"} and plan.guidance_scale == plan.guidance_scale_2 == 3.0


def test_shift_is_applied_once() -> None:
    """diffusers' Euler shifts an already shifted sigma_min; the explicit grid does not."""
    n, shift = 50, 5.0
    u = np.linspace(1, 0, n + 1)[:-1]
    wanted = shift * u / (1 + (shift - 1) * u)
    explicit, stock = ExplicitGridEuler(shift=shift), FlowMatchEulerDiscreteScheduler(shift=shift)
    explicit.set_timesteps(n)
    stock.set_timesteps(n)
    np.testing.assert_allclose(explicit.sigmas[:-1].numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(explicit.timesteps.numpy(), 1000 * wanted, rtol=1e-6)
    assert float(explicit.sigmas[-2]) == pytest.approx(0.0926, abs=1e-4)
    assert float(stock.sigmas[-2]) == pytest.approx(0.0244, abs=1e-4)
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    unipc.set_timesteps(n)
    assert np.abs(unipc.sigmas[:-1].numpy() - wanted).max() < 0.0043


def repeated() -> DiffusionPipeline:
    pipe = FAMILIES["i2v22"].build("unipc")
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=12.0)
    return pipe


def test_repeated_timesteps_begin_at_the_first_sigma() -> None:
    """UniPC rounds timesteps: with N = 100 and shift 12 the first two are 999, and a search finds the second.

    The image-to-video pipeline does not set the begin index, so there it starts one sigma late; a lens does not.
    This is the one case where a lens differs from the stock pipeline, and on purpose.
    """
    pipe = repeated()
    plan, scheduler = build(pipe, Sampling(100, 5.0))
    assert plan.at(0).timestep == plan.at(1).timestep == 999.0 and plan.at(0).sigma > plan.at(1).sigma
    zeros = torch.zeros(1, 2, 1, 2, 2)
    scheduler.step(zeros, scheduler.timesteps[0], zeros)
    assert scheduler.step_index == 1  # the next one, after the first
    pipe.scheduler.set_timesteps(100)
    pipe.scheduler.step(zeros, pipe.scheduler.timesteps[0], zeros)
    assert pipe.scheduler.step_index == 2, "diffusers mended this: the exception in the docs can go"


def test_plan_speaks() -> None:
    with load(FAMILIES["i2v22"].build()) as lens:
        plan = lens.plan(num_inference_steps=4, guidance_scale=5.0)
    assert "4 steps, 8 denoiser calls" in str(plan) and len(str(plan).splitlines()) == 9
    assert isinstance(plan.at(3, "uncond"), Call) and plan.of_step(3) == (plan.at(3), plan.at(3, "uncond"))
    assert plan.same_schedule(plan)
    with pytest.raises(AddressError, match="steps 0 to 3"):
        plan.at(4)
