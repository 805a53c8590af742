"""Every denoiser call of a generation, listed before it happens.

``sigma`` is the sampler's own noise level at a step (``scheduler.sigmas[step]``, fp32), not ``timestep / 1000``:
UniPC truncates its timesteps to integers. Experts change at ``timestep >= boundary_ratio * num_train_timesteps``
(diffusers Wan pipelines); with guidance above 1 each step is one ``cond`` and then one ``uncond`` call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from dit_lens.address import Branch, Call, ExpertName
from dit_lens.errors import AddressError, SamplerError
from dit_lens.wan.sampling import Sampling

#: Schedulers whose state can be rebuilt from a stored trajectory, and whose x0_hat is x - sigma v.
SUPPORTED = (UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler)


class ExplicitGridEuler(FlowMatchEulerDiscreteScheduler):
    """Flow-match Euler on the explicit grid sigma = shift u / (1 + (shift - 1) u), u = 1, 1 - 1/N, ..., 1/N.

    This is the grid of the paper's tools. diffusers' own ``set_timesteps(N)`` starts from an already shifted
    ``sigma_min`` and so applies the shift twice (last sigma .024 instead of .093 at N = 50, shift 5).
    """

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **kwargs: Any) -> None:
        """Lay the grid for a number of steps; without one, as the parent class does with the other arguments."""
        if num_inference_steps is None:
            return super().set_timesteps(device=device, **kwargs)
        u = np.linspace(1, 0, num_inference_steps + 1)[:-1]
        return super().set_timesteps(sigmas=u.tolist(), device=device)


def preset(name: str) -> Sampling:
    """A named sampler.

    ``"paper"``: 50 Euler steps on the explicit grid, shift 5, guidance 5 for both experts, experts changing at 0.875
    (the defaults of the paper's released tools; the hub repository itself says UniPC and 0.9).

    Args:
        name: ``"paper"``.

    Raises:
        SamplerError: For another name.
    """
    if name != "paper":
        raise SamplerError(
            f"unknown preset {name!r}: the only preset is 'paper'; or give num_inference_steps=, guidance_scale= "
            "yourself"
        )
    return Sampling(
        num_inference_steps=50, guidance_scale=5.0, guidance_scale_2=5.0, boundary_ratio=0.875,
        scheduler=ExplicitGridEuler(shift=5.0),
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The calls of one generation, with noise levels and guidance.

    Attributes:
        calls: Every denoiser call, in order.
        sigmas: Noise levels, one more than steps: the last is where the generation ends.
        guidance_scale: Guidance of the first expert.
        guidance_scale_2: Guidance of the low-noise expert.
        scheduler: The name of the scheduler's class.
    """

    calls: tuple[Call, ...]
    sigmas: tuple[float, ...]
    guidance_scale: float
    guidance_scale_2: float
    scheduler: str

    @property
    def n_steps(self) -> int:
        """Sampler steps."""
        return len(self.sigmas) - 1

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches of every step, in the order in which they are called."""
        return ("cond", "uncond") if self.guidance_scale > 1 else ("cond",)

    def at(self, step: int, branch: Branch = "cond") -> Call:
        """The call of a step and branch.

        Args:
            step: From 0 to ``n_steps - 1``.
            branch: ``cond`` or ``uncond``.

        Raises:
            AddressError: There is none.
        """
        for call in self.calls:
            if call.step == step and call.branch == branch:
                return call
        raise AddressError(
            f"the plan has no call at step={step} branch={branch!r}: it has steps 0 to {self.n_steps - 1} and branches "
            f"{list(self.branches)}"
        )

    def of_step(self, step: int) -> tuple[Call, ...]:
        """The calls of one step, in order; none for a step outside the plan."""
        return tuple(call for call in self.calls if call.step == step)

    def scale(self, expert: ExpertName) -> float:
        """The guidance scale of an expert."""
        return self.guidance_scale if expert == "high" else self.guidance_scale_2

    def same_schedule(self, other: Plan) -> bool:
        """Whether activations of the two generations can be exchanged: the same steps at the same noise."""
        return self.sigmas == other.sigmas and [c.expert for c in self.calls if c.branch == "cond"] == [
            c.expert for c in other.calls if c.branch == "cond"
        ]

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def __str__(self) -> str:
        guidance = self.guidance_scale
        head = f"{self.n_steps} steps, {len(self.calls)} denoiser calls, {self.scheduler}, guidance {guidance}"
        return "\n".join([head, *map(str, self.calls)])


def build(pipe: Any, sampling: Sampling, device: Any = None) -> tuple[Plan, Any]:
    """The plan, and a scheduler of its own that is set up for it (the pipeline's is not touched).

    Args:
        pipe: The pipeline.
        sampling: Resolved sampling, as ``lens.sampling(...)`` returns it.
        device: The pipeline's execution device, where the caller has looked it up already (it takes milliseconds).

    Returns:
        The plan, and the scheduler.

    Raises:
        SamplerError: For a scheduler that is not supported, too few or too many steps, and experts that do not fit the
            boundary.
    """
    scheduler = copy.deepcopy(pipe.scheduler if sampling.scheduler is None else sampling.scheduler)
    if not isinstance(scheduler, SUPPORTED):
        raise SamplerError(
            f"{type(scheduler).__name__} is not supported: use UniPCMultistepScheduler or "
            "FlowMatchEulerDiscreteScheduler (pipe.scheduler = "
            "UniPCMultistepScheduler.from_config(pipe.scheduler.config))"
        )
    flow = getattr(scheduler.config, "prediction_type", "flow_prediction") == "flow_prediction"
    if isinstance(scheduler, UniPCMultistepScheduler) and not (flow and scheduler.config.use_flow_sigmas):
        raise SamplerError(
            "this UniPC scheduler does not follow the flow path that Wan was trained on: build it with "
            "prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=5.0 (or 3.0)"
        )
    n_steps, scale = sampling.num_inference_steps, sampling.guidance_scale
    if n_steps is None or scale is None:
        raise SamplerError(f"{sampling} says not how many steps, or what guidance: lens.sampling(...) resolves it")
    if n_steps < 1:
        raise SamplerError(f"num_inference_steps={n_steps}: at least one denoising step is needed")
    most = scheduler.config.num_train_timesteps
    if n_steps > most:
        raise SamplerError(
            f"num_inference_steps={n_steps}: the sampler knows {most} noise levels, so more steps would only repeat "
            f"them; give {most} or fewer (50 is usual)"
        )
    scheduler.set_timesteps(n_steps, device=pipe._execution_device if device is None else device)
    # The I2V pipeline leaves this out, and with repeated integer timesteps it then starts at the second sigma.
    scheduler.set_begin_index(0)

    ratio = pipe.config.boundary_ratio if sampling.boundary_ratio is None else sampling.boundary_ratio
    if ratio is not None and pipe.transformer_2 is None:
        raise SamplerError(
            f"boundary_ratio={ratio} asks for a second expert, but transformer_2 is None: call "
            "pipe.register_to_config(boundary_ratio=None) for a one-expert model, or load the missing expert"
        )
    if ratio is None and getattr(pipe, "transformer_2", None) is not None:
        raise SamplerError(
            "the pipeline has two experts but no boundary_ratio: call pipe.register_to_config(boundary_ratio=0.9) for "
            "I2V-A14B (0.875 for T2V-A14B)"
        )
    if ratio is None and sampling.guidance_scale_2 not in (None, scale):
        raise SamplerError(
            f"guidance_scale_2={sampling.guidance_scale_2} is for the low-noise expert, and this pipeline has one "
            "expert: leave it out"
        )
    edge = None if ratio is None else ratio * scheduler.config.num_train_timesteps
    low_scale = scale if sampling.guidance_scale_2 is None else sampling.guidance_scale_2
    branches: Sequence[Branch] = ("cond", "uncond") if scale > 1 else ("cond",)

    calls: list[Call] = []
    for step, t in enumerate(scheduler.timesteps):
        expert: ExpertName = "high" if edge is None or t >= edge else "low"
        for branch in branches:
            calls.append(Call(len(calls), step, float(scheduler.sigmas[step]), float(t), expert, branch))
    plan = Plan(
        calls=tuple(calls),
        sigmas=tuple(float(s) for s in scheduler.sigmas),
        guidance_scale=scale,
        guidance_scale_2=low_scale,
        scheduler=type(scheduler).__name__,
    )
    return plan, scheduler
