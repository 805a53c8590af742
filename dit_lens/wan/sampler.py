"""The denoising loop, step by step, so that it can be stopped, forked, resumed and changed.

Notation: x_sigma = (1 - sigma) x_0 + sigma eps, the model predicts v = eps - x_0, hence x0_hat = x - sigma v. With
guidance g, v = v_uncond + g (v_cond - v_uncond), cond called first, as diffusers does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_lens.address import Call
from dit_lens.errors import SamplerError
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.conditions import Conditions
from dit_lens.wan.editing import Edit
from dit_lens.wan.expert import Expert, Hook
from dit_lens.wan.reuse import Reuse


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        step: The step.
        latents: What entered it, (B, C, F, h, w).
        velocity: After guidance, likewise.
        after: What left it, likewise.
        edited: Whether an intervention changed the latents that entered.
    """

    step: int
    latents: Tensor
    velocity: Tensor
    after: Tensor
    edited: bool


def model_input(conditions: Conditions, latents: Tensor, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The denoiser's input and timestep, for every family.

    Args:
        conditions: The conditions of the batch.
        latents: (B, C, F, h, w).
        t: The sampler's timestep, a scalar.
        dtype: The model's.

    Returns:
        The input (B, C', F, h, w) in ``dtype``, and timesteps (B,), or (B, N) where each token has its own (Wan2.2
        TI2V).
    """
    mask, image = conditions.frame_mask, conditions.image_latents
    if mask is not None:
        # Wan2.2 TI2V: one timestep a token, zero at the given frame, which enters clean.
        mixed = latents if image is None else (1 - mask) * image + mask * latents
        per_token = (mask[0][0][:, ::2, ::2] * t).flatten()  # (N,)
        return mixed.to(dtype), per_token.unsqueeze(0).expand(latents.shape[0], -1)
    if image is not None:
        return torch.cat([latents, image], dim=1).to(dtype), t.expand(latents.shape[0])
    return latents.to(dtype), t.expand(latents.shape[0])


def denoise(
    pipe: Any, conditions: Conditions, latents: Tensor, call: Call, t: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """One denoiser call through the expert's own forward, so that offload and parallel hooks still work.

    Args:
        pipe: The pipeline.
        conditions: The conditions of the batch.
        latents: (B, C, F, h, w).
        call: The call.
        t: The sampler's timestep.
        dtype: ``pipe.transformer.dtype``, which diffusers looks for in the whole model each time it is asked.

    Returns:
        The velocity of the call's branch, (B, C, F, h, w).
    """
    model = pipe.transformer if call.expert == "high" else pipe.transformer_2
    x, timestep = model_input(conditions, latents, t, pipe.transformer.dtype if dtype is None else dtype)
    image = {} if conditions.image_context is None else {"encoder_hidden_states_image": conditions.image_context}
    with model.cache_context(call.branch):
        return model(
            hidden_states=x, timestep=timestep, encoder_hidden_states=conditions.text(call.branch), return_dict=False,
            **image,
        )[0]  # fmt: skip


def guided(plan: Plan, call: Call, cond: Tensor, uncond: Tensor | None) -> Tensor:
    """Classifier-free guidance: v = v_u + g (v_c - v_u).

    Args:
        plan: Knows g of each expert.
        call: A call of the step.
        cond: v_c, (B, C, F, h, w).
        uncond: v_u, likewise; None without guidance.
    """
    if uncond is None:
        return cond
    return uncond + plan.scale(call.expert) * (cond - uncond)


def x0_hat(latents: Tensor, velocity: Tensor, sigma: float, conditions: Conditions | None = None) -> Tensor:
    """The clean video that the model expects: x - sigma v (paper, eq. 2).

    Args:
        latents: x, (B, C, F, h, w).
        velocity: v after guidance, likewise.
        sigma: The step's noise level.
        conditions: Where they give the first frame clean (Wan2.2 TI2V), that frame is the given one.

    Returns:
        (B, C, F, h, w).
    """
    estimate = latents - sigma * velocity
    if conditions is not None and conditions.frame_mask is not None and conditions.image_latents is not None:
        mask = conditions.frame_mask.to(estimate.device)
        estimate = (1 - mask) * conditions.image_latents.to(estimate.device) + mask * estimate
    return estimate


def forget(scheduler: Any) -> None:
    """Drop a multistep scheduler's memory of earlier steps.

    UniPC's corrector rewrites the current latents from the last ones; after an edit that would undo part of it. The
    edited latents are the state from which the sampler goes on.
    """
    if hasattr(scheduler, "model_outputs"):
        scheduler.model_outputs = [None] * scheduler.config.solver_order
        scheduler.lower_order_nums = 0
        scheduler.last_sample = None


def rebuild(scheduler: Any, latents: Tensor, velocity: Tensor, edited: Sequence[int]) -> Any:
    """The scheduler as it stood after the recorded steps: its arithmetic is repeated on what was stored.

    Exact, because a scheduler's state depends on nothing else; no denoiser is called.

    Args:
        scheduler: A scheduler that is set up; it is copied.
        latents: What entered each step, (steps, B, C, F, h, w).
        velocity: After guidance, likewise.
        edited: Steps whose latents an intervention changed.
    """
    scheduler = copy.deepcopy(scheduler)
    for step in range(len(velocity)):
        if step in edited:
            forget(scheduler)
        scheduler.step(velocity[step], scheduler.timesteps[step], latents[step], return_dict=False)
    return scheduler


def sample(
    pipe: Any,
    experts: Mapping[str, Expert],
    plan: Plan,
    scheduler: Any,
    conditions: Conditions,
    latents: Tensor,
    steps: range,
    edits: Sequence[Edit] = (),
    hooks: Callable[[Call], Sequence[Hook]] = lambda call: (),
    dtype: torch.dtype | None = None,
    reuse: Reuse | None = None,
) -> Iterator[Step]:
    """Yield the steps of a generation.

    Args:
        pipe: The pipeline.
        experts: Its experts, with their points.
        plan: The calls.
        scheduler: Set up for the plan, with the history of the steps before; it is changed.
        conditions: The conditions of the batch.
        latents: What enters the first of the steps, (B, C, F, h, w).
        steps: The steps to do.
        edits: Interventions at work.
        hooks: Further hooks of each call, held after the edits' own, so that recordings see what was changed.
        dtype: The model's, where the caller has looked it up already.
        reuse: Kept parts of the calls of the *first* step, of no use where an edit changes the latents that enter it.

    Raises:
        SamplerError: The latents became NaN or infinite.
    """
    dtype = pipe.transformer.dtype if dtype is None else dtype
    for step in steps:
        t = scheduler.timesteps[step]
        entered = latents
        for edit in edits:
            latents = edit.latents(step, latents)
        edited = latents is not entered
        if edited:
            forget(scheduler)
        velocities = {}
        for call in plan.of_step(step):
            with ExitStack() as stack:
                wanted = [h for edit in edits for h in edit.hooks(call, latents)]
                # An edit that only reads a point must see what the edits after it make of that point.
                wanted.sort(key=lambda h: getattr(h[1], "reads_only", False))
                wanted += hooks(call)
                if reuse is not None and step == steps[0] and not edited:
                    finished = reuse.finished(call, wanted)
                    if finished is not None:
                        velocities[call.branch] = finished
                        continue
                    entry = reuse.entry(call, wanted)
                    if entry is not None:
                        stack.enter_context(experts[call.expert].starting_at(*entry))
                stack.enter_context(experts[call.expert].running())
                stack.enter_context(experts[call.expert].listening(wanted))
                velocities[call.branch] = denoise(pipe, conditions, latents, call, t, dtype)
        velocity = guided(plan, plan.at(step), velocities["cond"], velocities.get("uncond"))
        after = scheduler.step(velocity, t, latents, return_dict=False)[0]
        if not torch.isfinite(after).all():
            raise SamplerError(
                f"the latents hold NaN or infinity after step {step}: an intervention may be too strong, or the "
                "model's dtype too narrow (fp16); look at the run with stop_after"
            )
        yield Step(step, latents, velocity, after, edited)
        latents = after


def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Latents to video, by the pipeline's VAE.

    Args:
        pipe: The pipeline.
        latents: (B, C, F, h, w).

    Returns:
        In [0, 1], (B, frames, 3, H, W).
    """
    vae = pipe.vae
    with torch.no_grad():
        z = latents.to(device=vae.device if vae.device.type != "meta" else pipe._execution_device, dtype=vae.dtype)
        shape = (1, vae.config.z_dim, 1, 1, 1)
        mean = torch.tensor(vae.config.latents_mean).view(shape).to(z.device, z.dtype)
        # Dividing by the reciprocal, not multiplying: the same rounding as the pipelines.
        scale = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(z.device, z.dtype)
        video = vae.decode(z / scale + mean, return_dict=False)[0]
        return pipe.video_processor.postprocess_video(video, output_type="pt")


def encode_video(pipe: Any, video: Tensor) -> Tensor:
    """Video to the latents that :func:`decode` turns back: the mode of the VAE's posterior, normalised.

    Args:
        pipe: The pipeline.
        video: In [0, 1], (B, frames, 3, H, W).

    Returns:
        (B, C, F, h, w), fp32 on the CPU.
    """
    vae = pipe.vae
    with torch.no_grad():
        device = vae.device if vae.device.type != "meta" else pipe._execution_device
        pixels = (2 * video - 1).transpose(1, 2).to(device=device, dtype=vae.dtype)  # (B, 3, frames, H, W)
        z = vae.encode(pixels).latent_dist.mode()
        shape = (1, vae.config.z_dim, 1, 1, 1)
        mean, std = (
            torch.tensor(values).view(shape).to(z.device, z.dtype)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return ((z - mean) / std).float().cpu()
