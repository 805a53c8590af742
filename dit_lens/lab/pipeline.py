"""From parts to a stock `WanImageToVideoPipeline`, and to the folder that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel

from dit_lens.lab.codec import LabVAE
from dit_lens.lab.config import LabConfig
from dit_lens.lab.data import Batch
from dit_lens.lab.text import MAX_LENGTH
from dit_lens.store.atomic import new_folder
from dit_lens.tasks.palette import FPS, FRAMES, SIZE

STEPS = 20


def scheduler(config: LabConfig) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=config.shift
    )


def build(
    config: LabConfig,
    high: dict[str, torch.Tensor],
    low: dict[str, torch.Tensor],
    words: tuple[Any, Any],
    statistics: dict[str, list[float]],
) -> WanImageToVideoPipeline:
    """The pipeline. high, low: the experts' state dicts. words: (tokenizer, text encoder).
    statistics: mean and std per channel."""
    experts = []
    for state in (high, low):
        model = WanTransformer3DModel(**config.transformer())
        model.load_state_dict(state)
        experts.append(model.eval())
    return WanImageToVideoPipeline(
        tokenizer=words[0],
        text_encoder=words[1],
        vae=LabVAE(latents_mean=statistics["mean"], latents_std=statistics["std"]),
        scheduler=scheduler(config),
        transformer=experts[0],
        transformer_2=experts[1],
        boundary_ratio=config.boundary,
    )


def save(pipe: WanImageToVideoPipeline, folder: Path | str, guidance_scale: float, note: str = "") -> Path:
    """Write the pipeline in diffusers layout, experts rounded to half precision; an older folder is replaced in one
    move.

    Codec and text encoder stay in single precision: they are tiny, and a rounded codec would not be lossless.
    """
    folder = Path(folder)
    pipe.transformer.half()
    pipe.transformer_2.half()
    settings = {
        "height": SIZE,
        "width": SIZE,
        "num_frames": FRAMES,
        "fps": FPS,
        "steps": STEPS,
        "guidance_scale": guidance_scale,
        "max_sequence_length": MAX_LENGTH,
        "negative_prompt": "",
        "note": note,
    }
    with new_folder(folder) as fresh:
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
def sample(
    velocity: Callable[..., torch.Tensor],
    batch: Batch,
    embeddings: torch.Tensor,
    empty: torch.Tensor,
    config: LabConfig,
    seed: int,
    steps: int = STEPS,
    guidance: float = 1.0,
) -> torch.Tensor:
    """Generate a whole batch at once with the stock scheduler (quicker than the pipeline, equal to it within rounding).

    velocity(x, t, text) -> v; batch: `data.Batch`; embeddings (B, 64, 64); empty (64, 64). Returns latents (B, 16, 4,
    12, 12).
    """
    unipc = scheduler(config)
    unipc.set_timesteps(steps)
    x = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(seed))
    for t in unipc.timesteps:
        x_in = torch.cat([x, batch.condition], 1)
        times = t.expand(len(x))
        v = velocity(x_in, times, embeddings)
        if guidance > 1:
            uncond = velocity(x_in, times, empty.expand_as(embeddings))
            v = uncond + guidance * (v - uncond)
        x = unipc.step(v, t, x, return_dict=False)[0]
    return x
