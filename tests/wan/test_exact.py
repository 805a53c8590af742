"""Law 1, do no harm: a lens generates what the bare pipeline does, bit for bit, and leaves it as it was.

Hooked and bare always run on the same tensors: a reloaded twin may differ by one ulp (memory alignment).
"""

from __future__ import annotations

import copy
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from families import FAMILIES, Family
from pipeline_state import state
from torch import Tensor

from dit_lens.wan.call_plan import ExplicitGridEuler
from dit_lens.wan.loading import load
from dit_lens.wan.points import POINTS, split_path
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

STEPS, SEED = 4, 3


def bare(pipe: DiffusionPipeline, family: Family, guidance: float = 5.0, kind: str = "latent", **more: Any) -> Any:
    call = {"num_inference_steps": STEPS, "guidance_scale": guidance, **more}
    return pipe(**family.call, **call, generator=torch.Generator().manual_seed(SEED), output_type=kind).frames[0]


def seen(lens: Any, family: Family, **more: Any) -> Any:
    return lens.generate(**family.call, **{"seed": SEED, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more})


def hooks_of(lens: Any) -> list[str]:
    """The short name of every point that this model has."""
    return sorted({split_path(path)[0].name for path in lens.experts["high"].hook_dict})


def same(a: Run, b: Run) -> bool:
    return torch.equal(a.latents, b.latents) and torch.equal(a.velocity, b.velocity) and torch.equal(a.final, b.final)


def experts_of(pipe: DiffusionPipeline) -> list[Any]:
    return [m for m in (pipe.transformer, getattr(pipe, "transformer_2", None)) if m is not None]


# -- idle, watched, recorded


def test_idle_is_bare(pipe: DiffusionPipeline, family: Family) -> None:
    latents, video = bare(pipe, family), bare(pipe, family, kind="np")
    random = torch.get_rng_state()
    with load(pipe) as lens:
        run = seen(lens, family)
        assert torch.equal(run.final, latents)
        assert np.array_equal(run.video, video)
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(bare(pipe, family), latents), "the bare pipeline changed under an idle lens"


def test_idle_is_bare_without_guidance(pipe: DiffusionPipeline, family: Family) -> None:
    latents = bare(pipe, family, guidance_scale=1.0)
    with load(pipe) as lens:
        run = seen(lens, family, guidance_scale=1.0)
        assert torch.equal(run.final, latents)
        assert run.plan.branches == ("cond",) and run.conditions.negative is None


def test_second_guidance_is_the_low_experts() -> None:
    family = FAMILIES["i2v22"]
    pipe = family.build()
    latents = bare(pipe, family, guidance_scale_2=2.0)
    assert not torch.equal(latents, bare(pipe, family))
    with load(pipe) as lens:
        assert torch.equal(seen(lens, family, guidance_scale_2=2.0).final, latents)


def test_watched_and_recorded_is_idle(pipe: DiffusionPipeline, family: Family) -> None:
    latents = bare(pipe, family)
    with load(pipe) as lens:
        with lens.experts["high"].watching(), lens.experts[family.experts[-1]].watching():
            assert torch.equal(seen(lens, family).final, latents)
            assert torch.equal(bare(pipe, family), latents)
        run = seen(lens, family, record=record(*hooks_of(lens), "update"))
        assert torch.equal(run.final, latents)
        per_call = sum(lens.n_layers if p.in_block else 1 for p in POINTS if p.name in hooks_of(lens)) + lens.n_layers
        assert len(run.activations) == per_call * 2 * STEPS
        assert all(v.isfinite().all() for v in run.activations.values())
        assert all(m.__dict__.get("_dit_lens_watched") is None for e in experts_of(pipe) for m in e.modules())
        assert not any(p._forward_hooks for e in lens.experts.values() for p in e.hook_dict.values())


# -- stopped, forked, resumed


def test_stop_fork_resume(pipe: DiffusionPipeline, family: Family) -> None:
    with load(pipe) as lens:
        whole = seen(lens, family, record=record("resid_post", layers=1))
        for step in range(STEPS):
            fork = lens.generate(resume=whole.until(step), record=record("resid_post", layers=1))
            assert same(fork, whole), f"forked at {step}"
            assert all(torch.equal(v, fork.activations[a]) for a, v in whole.activations.items())
        for step in range(STEPS - 1):
            begun = seen(lens, family, stop_after=step)
            assert not begun.complete and begun.n_steps == step + 1
            half = lens.generate(resume=begun, stop_after=step + 1)
            assert half.n_steps == step + 2
            rest = half if half.complete else lens.generate(resume=half)
            assert same(rest, whole), f"stopped after {step}"


def test_resumes_with_a_model_in_bf16(scheduler: str) -> None:
    family = FAMILIES["i2v22"]
    pipe = in_bf16(family.build(scheduler), islands=False)
    with load(pipe) as lens:
        whole = seen(lens, family)
        for step in range(STEPS):
            assert same(lens.generate(resume=whole.until(step)), whole)


# -- other numbers, other kernels


def in_bf16(pipe: DiffusionPipeline, islands: bool) -> DiffusionPipeline:
    """Cast the experts; ``islands``: keep in fp32 what ``from_pretrained(dtype=bf16)`` keeps."""
    for model in experts_of(pipe):
        model.to(torch.bfloat16)
        if islands:
            model.scale_shift_table.data = model.scale_shift_table.data.float()
            model.condition_embedder.time_embedder.float()
            for block in model.blocks:
                block.scale_shift_table.data = block.scale_shift_table.data.float()
                for norm in (block.norm1, block.norm2, block.norm3):
                    norm.float()
    return pipe


@pytest.mark.parametrize("islands", [True, False], ids=["islands", "all"])
def test_bf16(pipe: DiffusionPipeline, family: Family, islands: bool) -> None:
    in_bf16(pipe, islands)
    latents = bare(pipe, family)
    with load(pipe) as lens:
        for records in ((), record(*hooks_of(lens), "update")):
            run = seen(lens, family, record=records)
            assert torch.equal(run.final.float(), latents.float())
    stream = run["step=0 layer=1 hook=resid_post"]
    assert stream.dtype == torch.bfloat16 and run["step=0 layer=1 hook=update"].dtype == torch.float32


@pytest.mark.parametrize("when", ["before", "after"])
def test_fused_projections_keep_their_points(family: Family, when: str) -> None:
    pipe = family.build()
    wanted = record("q", "k", "v", "z", "cross_q", "cross_k", "cross_v", "cross_z")
    with load(pipe) as lens:
        apart = seen(lens, family, record=wanted)
    lens = load(pipe) if when == "after" else None
    for model in experts_of(pipe):
        model.fuse_qkv_projections()
        assert model.blocks[0].attn1.fused_projections
    lens = lens or load(pipe)
    fused = seen(lens, family, record=wanted)
    assert same(apart, fused)
    assert apart.activations.keys() == fused.activations.keys()
    for address, value in apart.activations.items():
        assert torch.equal(fused.activations[address], value), address
    lens.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_another_attention_backend(when: str) -> None:
    family = FAMILIES["i2v21"]
    pipe = family.build()
    before = _AttentionBackendRegistry._active_backend
    try:
        lens = load(pipe) if when == "after" else None
        pipe.transformer.set_attention_backend("_native_math")
        lens = lens or load(pipe)
        latents = bare(pipe, family)
        assert torch.equal(seen(lens, family, record=record("z", "cross_z_img")).final, latents)
        lens.close()
        assert pipe.transformer.blocks[0].attn1.processor._attention_backend.value == "_native_math"
        assert torch.equal(bare(pipe, family), latents)
    finally:
        _AttentionBackendRegistry._active_backend = before


@pytest.mark.parametrize("name", ["i2v22", "ti2v22", "i2v21"])
def test_offload_after_wrapping(name: str) -> None:
    """Layers whose weights are only there while they run: same numbers, and a pipeline that works after close()."""
    family = FAMILIES[name]
    pipe = family.build()
    latents = bare(pipe, family)
    lens = load(pipe)
    for model in experts_of(pipe):
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert pipe.transformer.blocks[0].attn1.to_q.weight.device.type == "meta"
    assert torch.equal(seen(lens, family).final, latents)
    run = seen(lens, family, record=record(*hooks_of(lens)))
    assert torch.equal(run.final, latents)
    lens.close()
    assert torch.equal(bare(pipe, family), latents)


@pytest.mark.parametrize("when", ["before", "after"])
def test_whole_model_offload(when: str) -> None:
    """diffusers' own offload moves whole models, so it may be enabled before or after."""
    family = FAMILIES["i2v22"]
    pipe = family.build()
    latents, video = bare(pipe, family), bare(pipe, family, kind="np")
    lens = load(pipe) if when == "after" else None
    pipe.enable_model_cpu_offload(device="cpu")
    lens = lens or load(pipe)
    run = seen(lens, family, record=record(*hooks_of(lens)))
    assert torch.equal(run.final, latents) and np.array_equal(run.video, video)
    lens.close()
    assert torch.equal(bare(pipe, family), latents)


def test_batch_agrees_within_rounding(family: Family) -> None:
    with load(family.build()) as lens:
        both = seen(lens, family, seed=[3, 4], record=record("resid_post"))
        assert [run.seed for run in both] == [3, 4]
        assert not torch.allclose(both[0].final, both[1].final, atol=1e-2)
        for run in both:
            alone = seen(lens, family, seed=run.seed, record=record("resid_post"))
            torch.testing.assert_close(run.final, alone.final, atol=1e-4, rtol=1e-4)
            for address, value in alone.activations.items():
                torch.testing.assert_close(run[address], value, atol=1e-4, rtol=1e-4)


def test_paper_preset() -> None:
    family = FAMILIES["i2v22"]
    pipe = family.build()
    with load(pipe) as lens:
        run = seen(lens, family, preset="paper", num_inference_steps=None, guidance_scale=None)
    assert run.plan.n_steps == 50 and pipe.config.boundary_ratio == 0.9
    pipe.scheduler = ExplicitGridEuler(shift=5.0)
    pipe.register_to_config(boundary_ratio=0.875)
    assert torch.equal(run.final, bare(pipe, family, num_inference_steps=50, guidance_scale_2=5.0))


def test_paper_preset_with_one_expert() -> None:
    family = FAMILIES["t2v21"]
    pipe = family.build()
    with load(pipe) as lens:
        run = seen(lens, family, preset="paper", num_inference_steps=STEPS, guidance_scale=None)
    pipe.scheduler = ExplicitGridEuler(shift=5.0)
    assert torch.equal(run.final, bare(pipe, family))


# -- closing


def test_close_leaves_the_pipeline_as_found(pipe: DiffusionPipeline, family: Family) -> None:
    bare(pipe, family)  # diffusers itself leaves things behind: an empty hook registry, for one
    del pipe._progress_bar_config  # as a pipeline comes from diffusers
    before, keys = state(pipe), [list(m.state_dict()) for m in experts_of(pipe)]
    lens = load(pipe)
    seen(lens, family, record=record(*hooks_of(lens)))
    assert [list(m.state_dict()) for m in experts_of(pipe)] == keys, "points must not add state-dict keys"
    lens.close()
    lens.close()  # twice does no harm
    after = state(pipe)
    for part, value in before.items():
        assert after[part] == value, part
    pipe.set_progress_bar_config(disable=True)
    latents = bare(pipe, family)
    with load(pipe) as lens:  # and it can be wrapped again
        assert torch.equal(seen(lens, family).final, latents)


def test_close_after_failure() -> None:
    family = FAMILIES["t2v21"]
    pipe = family.build()
    bare(pipe, family)
    before = state(pipe)
    broken = ("blocks.1.hook_resid_post", lambda x, hook: 1 / 0)
    with pytest.raises(ZeroDivisionError), load(pipe) as lens, lens.experts["high"].listening([broken]):
        seen(lens, family)
    assert state(pipe) == before


# -- one call again


def test_replay_is_what_happened(pipe: DiffusionPipeline, family: Family) -> None:
    with load(pipe) as lens:
        run = seen(lens, family, record=record("resid_post", layers=0))
        for step in range(STEPS):
            kept: list[Tensor] = []
            hook = ("blocks.0.hook_resid_post", lambda x, hook, kept=kept: kept.append(x.detach().clone()))
            with torch.no_grad():
                cond = lens.replay(run, run.plan.at(step))
                uncond = lens.replay(run, run.plan.at(step, "uncond"), [hook])
            scale = run.plan.scale(run.plan.at(step).expert)
            assert torch.equal((uncond + scale * (cond - uncond))[0], run.velocity[step])
            assert torch.equal(kept[0][0], run[f"step={step} layer=0 hook=resid_post branch=uncond"])


def test_gradients_agree_with_finite_differences(family: Family) -> None:
    with load(family.build()) as lens:
        run = seen(lens, family, num_inference_steps=2)
        weights = torch.randn(run.velocity[0].shape, generator=torch.Generator().manual_seed(0)).double()
        layers = range(lens.n_layers)
        with lens.gradients(run, step=1) as call:
            velocity, acts = call("resid_post", layers)
            assert torch.equal(velocity.detach()[0], lens.replay(run, run.plan.at(1)).detach()[0])
            slopes = torch.autograd.grad((velocity.double()[0] * weights).sum(), list(acts.values()))
        assert list(acts) == [f"blocks.{i}.hook_resid_post" for i in layers]
        for (path, act), slope in zip(acts.items(), slopes, strict=True):
            assert slope.isfinite().all() and slope.abs().max() > 0
            way = torch.randn(act.shape, generator=torch.Generator().manual_seed(1))
            ends = []
            for eps in (-1e-2, 1e-2):
                with torch.no_grad():
                    moved = lens.replay(run, run.plan.at(1), [(path, lambda x, hook, e=eps, w=way: x + e * w)])
                ends.append(float((moved.double()[0] * weights).sum()))
            assert (ends[1] - ends[0]) / 2e-2 == pytest.approx(float((slope * way).sum()), rel=1e-2, abs=1e-2), path
        assert torch.is_grad_enabled()


# -- what is recorded is what was computed


def at(run: Run, hook: str, layer: int = -1, step: int = 2, branch: str = "cond") -> Tensor:
    place = f"step={step} branch={branch} hook={hook}"
    return run[place if layer < 0 else f"{place} layer={layer}"]


def test_recording_equals_recomputation(family: Family) -> None:
    pipe = family.build()
    with load(pipe) as lens:
        run = seen(lens, family, record=record(*hooks_of(lens), "update"))
        call = run.plan.at(2)
        velocity = lens.replay(run, call).detach()[0]
    model = pipe.transformer if call.expert == "high" else pipe.transformer_2
    per_token = pipe.config.expand_timesteps
    modulation = at(run, "modulation").unflatten(-1, (6, -1))  # (6, d), or (N, 6, d)
    before = at(run, "patch_embed")
    for i, block in enumerate(model.blocks):
        assert torch.equal(at(run, "resid_pre", i), before)
        table = block.scale_shift_table[0] + modulation  # the gates are chunks 2 and 5
        gate_a, gate_m = (table[:, 2], table[:, 5]) if per_token else (table[2], table[5])
        assert torch.equal(at(run, "attn_gated", i), at(run, "attn_out", i) * gate_a)
        assert torch.equal(at(run, "mlp_gated", i), at(run, "mlp_out", i) * gate_m)
        assert torch.equal(at(run, "resid_mid", i), at(run, "resid_pre", i) + at(run, "attn_gated", i))
        assert torch.equal(at(run, "resid_mid2", i), at(run, "resid_mid", i) + at(run, "cross_attn_out", i))
        assert torch.equal(at(run, "resid_post", i), at(run, "resid_mid2", i) + at(run, "mlp_gated", i))
        assert torch.equal(at(run, "update", i), at(run, "resid_post", i) - at(run, "resid_pre", i))
        close = {"atol": 1e-5, "rtol": 1e-5}  # other batch and stride, other kernel: rounding only
        torch.testing.assert_close(block.attn1.to_out[0](at(run, "z", i).flatten(1)), at(run, "attn_out", i), **close)
        torch.testing.assert_close(block.ffn.net[2](at(run, "mlp_post", i)), at(run, "mlp_out", i), **close)
        torch.testing.assert_close(block.ffn.net[0](at(run, "mlp_in", i)), at(run, "mlp_post", i), **close)
        for q, k, v, z in (("q", "k", "v", "z"), ("cross_q", "cross_k", "cross_v", "cross_z")):
            query, key, value = (at(run, name, i).transpose(0, 1) for name in (q, k, v))  # (H, ., D)
            pattern = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
            torch.testing.assert_close((pattern @ value).transpose(0, 1), at(run, z, i), **close)
        if lens.experts["high"].image_context:
            query, key, value = (at(run, name, i).transpose(0, 1) for name in ("cross_q", "cross_k_img", "cross_v_img"))
            pattern = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
            torch.testing.assert_close((pattern @ value).transpose(0, 1), at(run, "cross_z_img", i), **close)
            mixed = (at(run, "cross_z", i) + at(run, "cross_z_img", i)).flatten(1)
        else:
            mixed = at(run, "cross_z", i).flatten(1)
        torch.testing.assert_close(block.attn2.to_out[0](mixed), at(run, "cross_attn_out", i), **close)
        before = at(run, "resid_post", i)
    torch.testing.assert_close(model.proj_out(at(run, "final_norm")), at(run, "velocity"), atol=1e-5, rtol=1e-5)
    grid: Grid = run.grid
    patches = at(run, "velocity").reshape(grid.frames, grid.rows, grid.cols, 1, 2, 2, -1)
    assert torch.equal(patches.permute(6, 0, 3, 1, 4, 2, 5).reshape(velocity.shape), velocity)


def test_x0_hat_is_the_schedulers_own(family: Family) -> None:
    """UniPC keeps its estimate of x0 (scheduler.model_outputs); ours is the same bits."""
    pipe = family.build("unipc")
    kept = []

    def keep(pipe: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.append(pipe.scheduler.model_outputs[-1].clone())
        return values

    bare(pipe, family, callback_on_step_end=keep)
    with load(pipe) as lens:
        run = seen(lens, family)
    for step, estimate in enumerate(kept):
        mask, image = run.conditions.frame_mask, run.conditions.image_latents
        if mask is not None and image is not None:
            estimate = (1 - mask) * image + mask * estimate
        assert torch.equal(run.x0_hat(step)[None], estimate), step


def test_the_pipelines_scheduler_is_not_touched(pipe: DiffusionPipeline, family: Family) -> None:
    bare(pipe, family)  # leaves state behind
    before = copy.deepcopy(vars(pipe.scheduler))
    with load(pipe) as lens:
        seen(lens, family, num_inference_steps=3)
        lens.plan(num_inference_steps=7)
    assert {k: str(v) for k, v in before.items()} == {k: str(v) for k, v in vars(pipe.scheduler).items()}
