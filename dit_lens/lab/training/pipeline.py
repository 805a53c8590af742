"""From parts to a stock ``WanImageToVideoPipeline``, and to the folder that ships."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel

from dit_lens.lab.coupled_codec import codec
from dit_lens.lab.training.data import Batch
from dit_lens.lab.training.spec import Spec
from dit_lens.lab.training.text import MAX_LENGTH
from dit_lens.store.atomic import new_folder
from dit_lens.tasks.palette import CELL, FPS

STEPS = 20


def scheduler(spec: Spec) -> UniPCMultistepScheduler:
    """The sampler of a recipe."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=spec.shift
    )


def build(
    spec: Spec,
    high: dict[str, torch.Tensor],
    low: dict[str, torch.Tensor],
    words: tuple[Any, Any],
    statistics: dict[str, list[float]],
) -> WanImageToVideoPipeline:
    """Build the pipeline.

    Args:
        spec: The recipe.
        high: State of the high-noise expert.
        low: State of the low-noise expert.
        words: (tokenizer, text encoder).
        statistics: "mean" and "std" per channel.

    Returns:
        A stock pipeline with the lab's codec.
    """
    experts = []
    for state in (high, low):
        model = WanTransformer3DModel(**spec.transformer())
        model.load_state_dict(state)
        experts.append(model.eval())
    return WanImageToVideoPipeline(
        tokenizer=words[0],
        text_encoder=words[1],
        vae=codec(
            spec.codec, latents_mean=statistics["mean"], latents_std=statistics["std"], scale_factor_spatial=spec.pixels
        ),
        scheduler=scheduler(spec),
        transformer=experts[0],
        transformer_2=experts[1],
        boundary_ratio=spec.boundary,
    )


def save(
    pipe: WanImageToVideoPipeline,
    spec: Spec,
    folder: Path | str,
    guidance_scale: float,
    note: str = "",
    steps: int = STEPS,
) -> Path:
    """Write the pipeline in diffusers layout, experts rounded to half precision.

    An older folder is replaced in one move. Codec and text encoder stay in single precision: they are tiny, and a
    rounded codec would not be lossless.

    Args:
        pipe: What :func:`build` made.
        spec: Its recipe.
        folder: To write.
        guidance_scale: For the saved settings.
        note: Likewise.
        steps: Likewise.

    Returns:
        The folder.
    """
    folder = Path(folder)
    size = spec.usual
    settings = {
        "height": size.rows * CELL,
        "width": size.cols * CELL,
        "num_frames": size.num_frames,
        "fps": FPS,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "max_sequence_length": MAX_LENGTH,
        "negative_prompt": "",
        "note": note,
    }
    with new_folder(folder) as fresh:
        pipe.transformer.half()
        pipe.transformer_2.half()
        pipe.save_pretrained(fresh)
        pipe.transformer.float()
        pipe.transformer_2.float()
        _name_tokenizer(fresh / "model_index.json")
        (fresh / "lab.json").write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def _name_tokenizer(path: Path) -> None:
    """Name the tokenizer by the class that every transformers version knows."""
    index = json.loads(path.read_text())
    index["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def states(
    velocity: Callable[..., torch.Tensor],
    batch: Batch,
    embeddings: torch.Tensor,
    empty: torch.Tensor,
    spec: Spec,
    seed: int,
    steps: int = STEPS,
    guidance: float = 1.0,
    unipc: UniPCMultistepScheduler | None = None,
    noise: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """Generate a whole batch at once with the stock scheduler (quicker than the pipeline, equal to it within rounding).

    Args:
        velocity: Of (x, t, text) -> v.
        batch: The conditions, with x0 of the right shape.
        embeddings: Of the prompts, (B, 64, 64).
        empty: Of the empty prompt, (64, 64).
        spec: The recipe.
        seed: Of the noise.
        steps: Of the sampler.
        guidance: Scale; 1 means none.
        unipc: The scheduler; the recipe's by default.
        noise: In place of that of ``seed``, (B, 16, T, h, w).

    Yields:
        Latents (B, 16, T, h, w): the noise, then the state after each step.
    """
    unipc = unipc or scheduler(spec)
    unipc.set_timesteps(steps)
    x = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(seed)) if noise is None else noise
    yield x
    for t in unipc.timesteps:
        x_in = torch.cat([x, batch.condition], 1)
        times = t.expand(len(x))
        v = velocity(x_in, times, embeddings)
        if guidance > 1:
            uncond = velocity(x_in, times, empty.expand_as(embeddings))
            v = uncond + guidance * (v - uncond)
        x = unipc.step(v, t, x, return_dict=False)[0]
        yield x


def sample(*arguments: Any, **named: Any) -> torch.Tensor:
    """The videos that :func:`states` ends with, latents (B, 16, T, h, w)."""
    return deque(states(*arguments, **named), maxlen=1).pop()
