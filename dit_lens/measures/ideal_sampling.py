"""Sample with the ideal denoiser in the network's place: what a schedule alone does to a perfect posterior mean.

The same first noise, the same scheduler and noise levels; at each step the velocity is that of the posterior mean
(:mod:`dit_lens.measures.ideal_denoiser`) at the state which *this* sampling has reached::

    v = (x - x0_hat) / sigma,        x0_hat = sum_i w_i(x, sigma) x0_i

It knows every right answer from the start, so that what its videos lose with few steps is the error of the schedule
(several right answers are averaged before one is chosen), and nothing that more computation could have found out. So
it is the control of any curve over numbers of steps: a network that gains from steps what the ideal gains unfolds a
posterior; only what it gains beyond that can be computation.

When not to use: as the model's best. The ideal denoiser has no guidance, and draws its answers exactly.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from dit_lens.errors import MeasureError
from dit_lens.measures.ideal_denoiser import IdealDenoiser
from dit_lens.wan.call_plan import build
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run


def ideal_run(lens: Lens, run: Run, ideal: IdealDenoiser) -> Run:
    """The run that the ideal denoiser makes from the first noise of another run.

    Args:
        lens: The model of ``run``, for its scheduler; no denoiser is called.
        run: The network's run: its noise, schedule and size are taken.
        ideal: The denoiser that samples; one over right and wrong answers samples as one that does not know the task.

    Returns:
        A complete run of the same plan whose ``velocity`` is the ideal denoiser's, without activations.

    Raises:
        MeasureError: The pipeline's scheduler changed since ``run``, and as :meth:`IdealDenoiser.posterior` says.
    """
    plan, scheduler = build(lens.pipe, run.sampling, "cpu")
    if plan != run.plan:
        raise MeasureError(
            "the pipeline's scheduler or experts changed since this run: generate it again, then sample with the ideal "
            "denoiser"
        )
    mask = run.conditions.frame_mask
    x = run.latents[0][None]  # (1, C, F, h, w)
    latents, velocity = [x], []
    for step, t in enumerate(scheduler.timesteps):
        sigma = plan.sigmas[step]
        clean = ideal.mean(ideal.posterior(x[0], sigma, None if mask is None else mask[0]))[None].to(x)
        v = (x - clean) / sigma
        x = scheduler.step(v, t, x, return_dict=False)[0]
        velocity.append(v)
        latents.append(x)
    return replace(
        run, latents=torch.cat(latents), velocity=torch.cat(velocity), activations={}, edited=(), fired=(), _cache={}
    )
