"""Fork a run: fresh noise around its x0_hat at a step, at that step's own noise level.

With x0_hat_k = x_k - sigma_k v_k of the run being forked and fresh noise eps' ~ N(0, I)::

    x_k' = (1 - sigma_k) x0_hat_k + sigma_k eps'

so x_k' is a state that the model knows: only what x0_hat_k does not hold is drawn anew. At step 0 sigma is (nearly)
1 and this is a fresh seed. What the branches still share at step k is what the run has committed to by then (after
2603.30043's re-noising branches).

``seed=None`` is the placebo: the run's own noise, eps = x_k + (1 - sigma_k) v_k, for which x_k' is x_k itself. The only
remaining difference is that a multistep sampler begins anew without its memory of the steps before.

When not to use: to destroy a state; that is ``noise``. On an image-to-video model with a clean first frame (TI2V) the
noise at that frame has no effect, as in every generation there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dit_lens import checks
from dit_lens.address import Address
from dit_lens.errors import InterventionError
from dit_lens.wan.editing import Context, Edit
from dit_lens.wan.run import Run


@dataclass(frozen=True)
class Renoise:
    """Enter ``step`` with x0_hat of ``source`` at that step under noise from ``seed`` (None: the source's own)."""

    source: Run = field(repr=False)
    step: int = 0
    seed: int | None = 0

    def bind(self, context: Context) -> Edit:
        """Prepare the edit for one generation.

        Raises:
            InterventionError: A source of another schedule or size, or with NaN.
        """
        return _RenoiseEdit(self, context)

    def __str__(self) -> str:
        return f"renoise(step={self.step}, {'own noise' if self.seed is None else f'seed={self.seed}'})"


def renoise(source: Run, step: int, seed: int | None = 0) -> Renoise:
    """Specify a fork: ``lens.generate(resume=run.until(5), interventions=dl.renoise(run, step=5, seed=1))``.

    Args:
        source: The run to fork.
        step: One that the source did, and not one that a resumed run already holds.
        seed: Of the fresh noise; None is the placebo.

    Raises:
        AddressError: For a step that the source did not do.
        InterventionError: For the seed whose noise at this step is what the source started from, so that the fork would
            be the source again; when it is used, for a source of another schedule or size.
    """
    if seed is not None:
        seed = checks.seed(seed, error=InterventionError)
    source.x0_hat(step)  # refuses a step that was not done
    step = step + source.n_steps if step < 0 else step
    if seed is not None and repeats(source, step, seed):
        raise InterventionError(
            f"renoise(step={step}, seed={seed}) draws the noise that the source itself (seed {source.seed}) started "
            f"from, so the fork would be the source again: take seed={seed + 1}, or seed=None for the placebo"
        )
    return Renoise(source, step, seed)


def repeats(source: Run, step: int, seed: int) -> bool:
    """Whether the fresh noise of a seed at a step is the noise that the source started from."""
    return _stream(seed, step) == source.seed


def _stream(seed: int, step: int) -> int:
    """One stream for each step, so that the branches of two steps share no noise."""
    return seed * 100_003 + step


class _RenoiseEdit(Edit):
    def __init__(self, spec: Renoise, context: Context) -> None:
        super().__init__(str(spec))
        if spec.source.grid != context.grid or not spec.source.plan.same_schedule(context.plan):
            raise InterventionError(
                f"{spec}: the source has another size or schedule than this generation; go on from the source itself, "
                f"lens.generate(resume=run.until({spec.step}), interventions=...), or generate with its steps and size"
            )
        self.spec = spec
        self.state = renoised(spec.source, spec.step, spec.seed)[None]  # (1, C, F, h, w)
        if not torch.isfinite(self.state).all():
            raise InterventionError(f"{spec}: the source holds NaN or infinity at this step: generate it again")

    def latents(self, step: int, x: Tensor) -> Tensor:
        if step != self.spec.step:
            return x
        self.fired[Address(step, "cond", -1, "latents")] += 1
        return self.state.to(x).expand_as(x).clone()


def renoised(run: Run, step: int, seed: int | None) -> Tensor:
    """x_k' = (1 - sigma_k) x0_hat_k + sigma_k eps', the state of a fork.

    Args:
        run: The run to fork.
        step: The step k.
        seed: Seed of the fresh noise eps'.

    Returns:
        (C, F, h, w); exactly x_k for ``seed=None``.
    """
    x, v, sigma = run.latents[step], run.velocity[step], run.sigmas[step]
    if seed is None:
        return x
    generator = torch.Generator("cpu").manual_seed(_stream(seed, step))
    noise = torch.randn(x.shape, generator=generator)
    # The model's own estimate: run.x0_hat would put a clean first frame back (TI2V), which the sampler never holds.
    return (1 - sigma) * (x - sigma * v).float() + sigma * noise
