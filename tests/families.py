"""The five Wan families, tiny and with random weights, built by code: no network, no files.

Each keeps what makes its family different (number of experts, boundary, CLIP image context, per-token timesteps, kind
of autoencoder) and nothing of its size: 3 layers of 2 heads of 12. All five generate on the same grid of tokens, 3
frames x 2 rows x 4 columns; the three numbers differ so that a mixed-up axis shows. For the same reason latent means
and deviations are not 0 and 1.

Use them to test exactness and shapes. Not for anything that needs a video to mean something: that is the lab model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

LAYERS, HEADS, HEAD_DIM = 3, 2, 12
GRID = (3, 2, 4)  # latent frames, token rows, token columns
FRAMES = 9
TEXT, IMAGE = 32, 16  # widths of the text and of the image encoder

SCHEDULERS: Mapping[str, Callable[[], SchedulerMixin]] = MappingProxyType(
    {
        "unipc": lambda: UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=5.0
        ),
        "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=5.0),
    }
)


@dataclass(frozen=True)
class Family:
    """One kind of Wan pipeline.

    ``build(scheduler="unipc", seed=0)`` gives a new pipeline each time: what a test does to it stays with it.
    ``pipe(**family.call, num_inference_steps=4, guidance_scale=5.0, generator=..., output_type="latent")`` generates.
    """

    name: str
    make: Callable[[], dict[str, Any]] = field(repr=False)
    pipeline: type[DiffusionPipeline] = field(repr=False)
    call: Mapping[str, Any] = field(repr=False)
    experts: tuple[str, ...] = ("high",)

    def build(self, scheduler: str = "unipc", seed: int = 0) -> DiffusionPipeline:
        """A pipeline whose weights depend on `seed` alone; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = self.make()
        pipe = self.pipeline(scheduler=SCHEDULERS[scheduler](), tokenizer=tokenizer(), **parts)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def __str__(self) -> str:
        return self.name


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer held in memory; unknown words share one id."""
    words = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "agent", "goes", "to", "the", "green", "goal", "blurry"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@cache
def image(height: int, width: int) -> Image.Image:
    """Noise as a first frame: no two patches alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=16, d_model=TEXT, d_ff=32, d_kv=8, num_heads=2, num_layers=1, feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )  # fmt: skip


def transformer(channels_in: int, channels_out: int = 16, **more: Any) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=channels_in,
        out_channels=channels_out, text_dim=TEXT, freq_dim=16, ffn_dim=40, num_layers=LAYERS, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=32, **more,
    )  # fmt: skip


def vae() -> AutoencoderKLWan:
    """Wan 2.1's: 16 channels, 4 x 8 x 8 pixels to a latent."""
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 16, latents_std=[1.5] * 16,
    )  # fmt: skip


def residual_vae() -> AutoencoderKLWan:
    """Wan 2.2's: 48 channels, 4 x 16 x 16 pixels to a latent."""
    return AutoencoderKLWan(
        base_dim=3, decoder_base_dim=3, z_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.1] * 48, latents_std=[1.5] * 48, is_residual=True,
        in_channels=12, out_channels=12, patch_size=2, scale_factor_temporal=4, scale_factor_spatial=16,
    )  # fmt: skip


def image_context() -> dict[str, Any]:
    """The CLIP half of Wan 2.1 image-to-video: 16 patches and a class token."""
    config = CLIPVisionConfig(
        hidden_size=IMAGE, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    size = {"height": 32, "width": 32}
    return {"image_encoder": CLIPVisionModel(config), "image_processor": CLIPImageProcessor(size=size, crop_size=size)}


def _t2v21() -> dict[str, Any]:
    return {"text_encoder": text_encoder(), "vae": vae(), "transformer": transformer(16)}


def _i2v21() -> dict[str, Any]:
    width = HEADS * HEAD_DIM
    return {
        "text_encoder": text_encoder(),
        "vae": vae(),
        "transformer": transformer(36, image_dim=IMAGE, added_kv_proj_dim=width),
        **image_context(),
    }


def _t2v22() -> dict[str, Any]:
    return {**_t2v21(), "transformer_2": transformer(16), "boundary_ratio": 0.875}


def _i2v22() -> dict[str, Any]:
    experts = {"transformer": transformer(36), "transformer_2": transformer(36)}
    return {"text_encoder": text_encoder(), "vae": vae(), **experts, "boundary_ratio": 0.9}


def _ti2v22() -> dict[str, Any]:
    return {
        "text_encoder": text_encoder(),
        "vae": residual_vae(),
        "transformer": transformer(48, 48),
        "expand_timesteps": True,
    }


def _call(scale: int = 8, picture: bool = False, max_sequence_length: int = 16) -> Mapping[str, Any]:
    height, width = GRID[1] * 2 * scale, GRID[2] * 2 * scale
    call = {
        "prompt": "a red agent goes to the green goal",
        "negative_prompt": "blurry",
        "height": height,
        "width": width,
        "num_frames": FRAMES,
        "max_sequence_length": max_sequence_length,
    }
    return MappingProxyType(call | ({"image": image(height, width)} if picture else {}))


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family("t2v21", _t2v21, WanPipeline, _call()),
            # The split of image and text context is hard-coded at 512 text tokens in this family.
            Family("i2v21", _i2v21, WanImageToVideoPipeline, _call(picture=True, max_sequence_length=512)),
            Family("t2v22", _t2v22, WanPipeline, _call(), experts=("high", "low")),
            Family("i2v22", _i2v22, WanImageToVideoPipeline, _call(picture=True), experts=("high", "low")),
            Family("ti2v22", _ti2v22, WanImageToVideoPipeline, _call(scale=16, picture=True)),
        )
    }
)


def real_configs() -> dict[str, dict[str, Any]]:
    """Arguments of `WanTransformer3DModel` for one expert of each family's published model.

    In order: Wan2.1-T2V-1.3B, Wan2.1-I2V-14B, Wan2.2-T2V-A14B, Wan2.2-I2V-A14B, Wan2.2-TI2V-5B. Build them under
    ``torch.device("meta")``: they hold between 1.4 and 16.4 billion parameters.
    """
    common = {
        "patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "eps": 1e-6,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
    }  # fmt: skip
    small = common | {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
    large = common | {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824}
    middle = common | {"num_layers": 30, "num_attention_heads": 24, "ffn_dim": 14336}
    return {
        "t2v21": small | {"in_channels": 16, "out_channels": 16},
        "i2v21": large | {"in_channels": 36, "out_channels": 16, "image_dim": 1280, "added_kv_proj_dim": 5120},
        "t2v22": large | {"in_channels": 16, "out_channels": 16},
        "i2v22": large | {"in_channels": 36, "out_channels": 16},
        "ti2v22": middle | {"in_channels": 48, "out_channels": 48},
    }
