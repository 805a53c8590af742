"""The ideal denoiser: what x0_hat shows when nothing is computed but the average over a task's right answers.

In rectified flow x_sigma = (1 - sigma) x0 + sigma eps. Where the right answers of a task are known, with latents x0_i
(their videos through the model's VAE) and prior p_i, the posterior given the state x, and its mean, are

    w_i  ~  p_i exp( - |x - (1 - sigma) x0_i|^2 / (2 sigma^2) ),        x0_hat = sum_i w_i x0_i.

This is the best estimate of x0 that there is (least squared error), and the target that training a denoiser aims at.
It shows many answers at first, as the state says little then, and one at the end. So it is the null of whatever a
network's x0_hat shows: *several candidates early, one late* needs no reasoning along the steps, only an average. What
a network has to compute is which answers are right (the support); the weights among them follow from the state.

    ideal = ideal_denoiser(task, lens)
    ideal.weights(run)                                   # (step, candidate)
    candidates(run, film=ideal.film(run))                # read as the network's x0_hat is

The mean is one of latents, whatever the decoder: behind a nonlinear one its picture is no mixture of the answers'
pictures, and what it shows is found by decoding it (``film``), as the network's is.

The states are those of the recorded run, so that network and ideal are compared at the same x and sigma. In
image-to-video models all frames of x carry noise, the given one included, and all answers begin with that frame, so it
takes no part in the weights; where a model is given that frame clean (TI2V), what the state holds there is left out.

With ``answers=`` of right and wrong ones together it is the denoiser that does not know the task: whatever it shows of
right answers comes from the state alone.

When not to use: with guidance as if the network aimed at this. Guidance sharpens x0_hat away from the posterior mean.
And where there are more right videos than ``solutions`` lists (other speeds, other drawings), for it then is sharper
than the truth.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens.errors import MeasureError
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run
from dit_lens.wan.sampler import encode_video, x0_hat

#: Most answers that are encoded: more do not fit in memory at the size of a large model.
MOST = 4096


@dataclass(frozen=True, eq=False)
class IdealDenoiser:
    """Posterior over known answers, and its mean. Make one with :func:`ideal_denoiser`.

    Attributes:
        answers: The answers, in the order of ``latents``.
        latents: x0_i, (A, C, F, h, w).
        prior: p_i, (A,), summing to 1.
    """

    answers: tuple[Hashable, ...]
    latents: Tensor = field(repr=False)
    prior: np.ndarray = field(repr=False)

    def posterior(self, x: Tensor, sigma: float, mask: Tensor | None = None) -> np.ndarray:
        """The weights w_i of a state.

        Args:
            x: (C, F, h, w).
            sigma: Its noise level, 0 to 1. At 0 the nearest answer has all the weight (nearest ones share it by their
                prior); at 1 the state says nothing, and the weights are the prior.
            mask: 0 where the state says nothing of x0, broadcast against ``x``.

        Returns:
            (A,), float64, summing to 1.

        Raises:
            MeasureError: A state of another shape or with NaN, or a sigma outside 0 to 1.
        """
        if x.shape != self.latents.shape[1:]:
            raise MeasureError(
                f"a state of shape {tuple(x.shape)} cannot be compared with answers of "
                f"{tuple(self.latents.shape[1:])}: generate in the task's own size and length"
            )
        if not (0 <= sigma <= 1 and bool(torch.isfinite(x).all())):
            raise MeasureError(f"the state holds NaN or sigma={sigma} lies outside 0 to 1: pass a step of a finite run")
        off = x.double() - (1 - sigma) * self.latents.double()  # (A, C, F, h, w)
        if mask is not None:
            off = off * mask.double()
        distance = off.square().flatten(1).sum(1).numpy()  # (A,)
        nearer = distance.min() - distance  # 0 for the nearest, below it for all others
        if sigma == 0:
            weight = self.prior * (nearer == 0)
        else:
            with np.errstate(divide="ignore"):  # an answer may have no prior
                score = np.log(self.prior) + nearer / (2 * sigma**2)
            weight = np.exp(score - score.max())
        return np.asarray(weight / weight.sum())

    def mean(self, weights: np.ndarray) -> Tensor:
        """x0_hat = sum_i w_i x0_i.

        Args:
            weights: (A,).

        Returns:
            (C, F, h, w).
        """
        return torch.einsum("a,acfhw->cfhw", torch.from_numpy(weights), self.latents.double()).to(self.latents)

    def weights(self, run: Run, steps: Sequence[int] | None = None) -> xr.DataArray:
        """The weights at the states of a run.

        Args:
            run: A run in the task's own size.
            steps: All by default.

        Returns:
            (step, candidate), each step summing to 1; ``candidate`` counts along :attr:`answers`.

        Raises:
            MeasureError: As :meth:`posterior` says.
        """
        chosen = _steps(run, steps)
        mask = run.conditions.frame_mask
        found = [self.posterior(run.latents[s], run.sigmas[s], None if mask is None else mask[0]) for s in chosen]
        return xr.DataArray(
            np.array(found),
            dims=("step", "candidate"),
            coords={
                "step": chosen,
                "candidate": range(len(self.answers)),
                "sigma": ("step", [run.sigmas[s] for s in chosen]),
            },
            name="weight",
            attrs={"long_name": "ideal denoiser's weight of the answer", "units": "share"},
        )

    def x0_hat(self, run: Run, step: int) -> Tensor:
        """The posterior mean at one state of a run, with a clean given frame put back as the network's x0_hat has it.

        Args:
            run: A run in the task's own size.
            step: One that was done.

        Returns:
            (C, F, h, w).
        """
        weights = self.weights(run, [step]).values[0]
        mean = self.mean(weights)[None]
        return x0_hat(mean, torch.zeros_like(mean), 0.0, run.conditions)[0]

    def film(self, run: Run, steps: Sequence[int] | None = None) -> np.ndarray:
        """The posterior mean of each step, decoded: what :meth:`Run.film` is for the network.

        Args:
            run: A run in the task's own size.
            steps: All by default.

        Returns:
            float32 in [0, 1], (steps, frames, H, W, 3).
        """
        return np.stack([run.decode(self.x0_hat(run, step)) for step in _steps(run, steps)])


def ideal_denoiser(
    task: Any, lens: Lens, *, answers: Sequence[Hashable] | None = None, prior: Sequence[float] | None = None
) -> IdealDenoiser:
    """The ideal denoiser of a task whose right answers can be listed and drawn.

    Cost: one VAE encoding per answer, and the memory of their latents. No denoiser is called.

    Args:
        task: With ``solutions`` and ``render(answer)``.
        lens: The model, for its VAE.
        answers: ``task.solutions`` by default. With wrong ones among them it is the denoiser that does not know which
            are right.
        prior: How likely each is before any noise is seen; equally likely by default, as the tasks of this package
            draw their truths.

    Returns:
        The denoiser.

    Raises:
        MeasureError: A task that cannot draw its answers, none or too many of them, or a prior that does not fit.
    """
    if not all(hasattr(task, name) for name in ("solutions", "render")):
        raise MeasureError(
            f"{type(task).__name__} cannot draw its answers: the ideal denoiser needs a task with solutions and "
            "render(answer), such as dit_lens.tasks.load(...)"
        )
    listed = tuple(task.solutions if answers is None else answers)
    if not 0 < len(listed) <= MOST:
        raise MeasureError(f"{len(listed)} answers to average over: pass answers= with 1 to {MOST} of them")
    p = np.full(len(listed), 1.0) if prior is None else np.asarray(prior, float)
    if p.shape != (len(listed),) or not np.isfinite(p).all() or (p < 0).any() or not p.sum() > 0:
        raise MeasureError(f"prior of shape {p.shape}: give one number from 0 up for each of {len(listed)} answers")
    return IdealDenoiser(listed, torch.cat(list(_encoded(lens, task, listed))), p / p.sum())


def _encoded(lens: Lens, task: Any, answers: Sequence[Hashable]) -> Iterator[Tensor]:
    for answer in answers:
        video = torch.from_numpy(np.ascontiguousarray(task.render(answer))).float() / 255
        yield encode_video(lens.pipe, video.permute(0, 3, 1, 2)[None])


def _steps(run: Run, steps: Sequence[int] | None) -> list[int]:
    return [run.n_steps + s if s < 0 else s for s in (range(run.n_steps) if steps is None else steps)]
