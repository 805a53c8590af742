"""Many tasks at once: what the stock pipeline makes of each, by the forward that training uses.

The same noise, conditions, text, guidance, experts and scheduler as in ``pipe(...)``, one task at a time, so that the
two differ by rounding alone: by that of single precision, or of bfloat16 in the matrix products of the blocks.

When not to use: where activations are asked for. Hooks see nothing of this forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.errors import LoadError
from dit_lens.lab.training import fast
from dit_lens.lab.training.data import Batch
from dit_lens.lab.training.pipeline import sample
from dit_lens.lab.training.solved import to_frames
from dit_lens.lab.training.spec import Spec
from dit_lens.tasks.task import Task


@torch.no_grad()
def videos(
    pipe: Any,
    tasks: Sequence[Task],
    *,
    steps: int,
    guidance: float,
    negative_prompt: str = "",
    max_sequence_length: int = 64,
    half: torch.dtype = torch.bfloat16,
) -> np.ndarray:
    """Generate a video of each task, with the task's own seed as the noise's.

    Args:
        pipe: A lab pipeline.
        tasks: Of one size.
        steps: Of the sampler.
        guidance: Scale; 1 means none.
        negative_prompt: For guidance.
        max_sequence_length: Of prompts.
        half: Dtype of the matrix products inside blocks.

    Returns:
        float 0-1, (B, F, H, W, 3).

    Raises:
        LoadError: Tasks of several sizes.
    """
    if len({task.scene.size for task in tasks}) != 1:
        raise LoadError("a batch has tasks of one size: sort them by task.scene.size")
    condition = conditions(pipe, tasks)
    shape = (1, 16, *condition.shape[2:])
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(task.seed)) for task in tasks]
    prompts = [task.prompt for task in tasks]
    text, empty = (
        pipe.encode_prompt(p, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length)[0]
        for p in (prompts, [negative_prompt])
    )

    def velocity(x: Tensor, t: Tensor, e: Tensor) -> Tensor:
        return fast.velocity(expert(pipe, float(t[0])), x, t, e, half=half)

    x = torch.cat(noise)
    batch = Batch(x, condition, prompts, [task.name for task in tasks])
    unipc = type(pipe.scheduler).from_config(pipe.scheduler.config)
    z = sample(velocity, batch, text, empty[0], Spec(), 0, steps, guidance, unipc=unipc, noise=x)
    return to_frames(z, pipe.vae)


def conditions(pipe: Any, tasks: Sequence[Task]) -> Tensor:
    """Mask and first frames, as ``pipe.prepare_latents`` makes them, (B, 20, T, h, w)."""
    first = torch.from_numpy(np.stack([task.first_frame for task in tasks])).permute(0, 3, 1, 2).float() / 127.5 - 1
    pixels = first.new_zeros(len(tasks), 3, tasks[0].num_frames, *first.shape[2:])
    pixels[:, :, 0] = first
    mean, std = (torch.tensor(pipe.vae.config[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    z = (pipe.vae.encode(pixels).latent_dist.mode() - mean) / std
    mask = torch.zeros(len(tasks), 4, *z.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, z], 1)


def expert(pipe: Any, timestep: float) -> Any:
    """The transformer that the pipeline asks at a timestep."""
    low, boundary = pipe.transformer_2, pipe.config.boundary_ratio
    high_noise = low is None or timestep >= boundary * pipe.scheduler.config.num_train_timesteps
    return pipe.transformer if high_noise else low
