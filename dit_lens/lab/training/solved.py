"""How many unseen tasks a model solves while it trains: few tasks, in batches, without guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from dit_lens import tasks
from dit_lens.lab.codec import LabVAE
from dit_lens.lab.models import n_blocks
from dit_lens.lab.training import fast
from dit_lens.lab.training.data import Puzzles
from dit_lens.lab.training.machine import Way
from dit_lens.lab.training.pipeline import STEPS, sample
from dit_lens.lab.training.text import Words


@dataclass(frozen=True)
class Solved:
    """Solved tasks of one name.

    Attributes:
        solved: How many of n.
        n: Tasks.
        value: Mean partial credit.
    """

    solved: int
    n: int
    value: float

    def __str__(self) -> str:
        return f"{self.solved}/{self.n} ({self.value:.2f})"


@torch.no_grad()
def to_frames(latents: torch.Tensor, vae: LabVAE) -> np.ndarray:
    """Decode normalised latents.

    Args:
        latents: (B, 16, T, h, w).
        vae: The codec, whose configuration says how they are normalised.

    Returns:
        float 0-1, (B, F, H, W, 3).
    """
    mean, std = (torch.tensor(vae.config[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    video: torch.Tensor = vae.decode(latents.float() * std + mean, return_dict=False)[0]
    return (video / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


@torch.no_grad()
def solved(
    state: Mapping[str, torch.Tensor],
    puzzles: Puzzles,
    words: Words,
    n: int = 8,
    seed: int = 50_000,
    steps: int = STEPS,
    way: Way | None = None,
) -> dict[str, Solved]:
    """Solved counts on unseen tasks, by name.

    Args:
        state: Weights of one transformer for all noise levels.
        puzzles: Of its recipe.
        words: Prompt embeddings.
        n: Tasks of each name of the mixture, in its usual size.
        seed: Of the first of them.
        steps: Of the sampler.
        way: How to compute; half precision, not compiled, by default.

    Returns:
        name -> counts.
    """
    spec, way = puzzles.spec, way or Way(compiled=False)
    model = WanTransformer3DModel(**spec.transformer(n_blocks(state))).eval()
    model.load_state_dict(state)
    out = {}
    for name in spec.mixture:
        group = tasks.batch(name, n, seed)
        batch = puzzles.encode([t.scene for t in group], [name] * n)
        z = sample(
            lambda x, t, e: fast.velocity(model, x, t, e, half=way.half),
            batch, words(batch.prompts), words.empty, spec, seed=1, steps=steps,
        )  # fmt: skip
        frames = to_frames(z, puzzles.vae)
        scores = [t.score(f) for t, f in zip(group, frames, strict=True)]
        out[name] = Solved(sum(s.solved for s in scores), n, sum(s.value for s in scores) / n)
    return out
