"""What a denoiser call is conditioned on: text, image context and image channels, encoded once per generation.

Every encoding is done by the pipeline's own methods, one item at a time, so that a single generation equals the bare
pipeline bit for bit and a batch holds exactly the rows of its single generations.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import PIL.Image
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor

from dit_lens.address import Branch
from dit_lens.errors import LoadError, SamplerError
from dit_lens.pictures import warn_of_stretching

LONGEST_TEXT = 512  # text tokens that Wan was trained on


@dataclass(frozen=True)
class Conditions:
    """Encoded conditions, batch first; ``None`` where a family has none.

    Attributes:
        prompt: (B, M, text width).
        negative: Likewise, of the ``uncond`` branch.
        image_context: CLIP tokens (B, I, width), Wan2.1 I2V.
        image_latents: Channels beside the noisy latents (mask and first frame), or the clean first frame where
            timesteps are per token (Wan2.2 TI2V).
        frame_mask: (1, 1, F, h, w), 0 at the given first frame (TI2V).
    """

    prompt: Tensor
    negative: Tensor | None = None
    image_context: Tensor | None = None
    image_latents: Tensor | None = None
    frame_mask: Tensor | None = None

    def text(self, branch: Branch) -> Tensor:
        """The text embeddings of a branch, (B, M, text width).

        Raises:
            SamplerError: For ``uncond`` of a generation without guidance.
        """
        text = self.prompt if branch == "cond" else self.negative
        if text is None:
            raise SamplerError("this generation has no negative prompt: it ran without guidance, so no uncond branch")
        return text

    def to(self, device: Any) -> Conditions:
        """A copy on a device."""
        moved: dict[str, Any] = {k: None if v is None else v.to(device) for k, v in self.items().items()}
        return Conditions(**moved)

    def row(self, i: int) -> Conditions:
        """One item of a batch, with batch axis 1."""
        one: dict[str, Any] = {k: None if v is None else v[i : i + 1] for k, v in self.items().items()}
        return Conditions(**{**one, "frame_mask": self.frame_mask})

    def items(self) -> dict[str, Tensor | None]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def stack(rows: Sequence[Conditions]) -> Conditions:
    """Join single conditions into a batch; the frame mask is the same for all, and the first one's is taken."""
    if len(rows) == 1:
        return rows[0]
    joined: dict[str, Any] = {}
    for name, first in rows[0].items().items():
        parts = [row.items()[name] for row in rows]
        if first is None or name == "frame_mask":
            joined[name] = first
        else:
            joined[name] = torch.cat([p for p in parts if p is not None])
    return Conditions(**joined)


@dataclass(frozen=True)
class Size:
    """Pixels and frames of a video, checked against what the model can make."""

    height: int
    width: int
    num_frames: int

    def check(self, pipe: Any) -> Size:
        """The size itself, where the model can make it.

        Args:
            pipe: The pipeline.

        Raises:
            SamplerError: Where diffusers would round in silence or fail deep inside.
        """
        patch = pipe.transformer.config.patch_size
        rows, cols = pipe.vae_scale_factor_spatial * patch[1], pipe.vae_scale_factor_spatial * patch[2]
        rows, cols = max(rows, 16), max(cols, 16)
        if self.height % rows or self.width % cols or min(self.height, self.width) < 1:
            up = -(-self.height // rows) * rows, -(-self.width // cols) * cols
            raise SamplerError(
                f"a size of {self.height} x {self.width} does not fit the token grid: height must be a multiple of "
                f"{rows} and width of {cols}; use {up[0]} x {up[1]}"
            )
        stride = pipe.vae_scale_factor_temporal
        if self.num_frames < 1 or (self.num_frames - 1) % stride:
            near = max(0, round((self.num_frames - 1) / stride)) * stride + 1
            raise SamplerError(f"num_frames={self.num_frames} is not 1 + a multiple of {stride}: use {near}")
        space, most = pipe.vae_scale_factor_spatial, pipe.transformer.config.rope_max_seq_len
        places = [(self.num_frames - 1) // stride + 1, self.height // space, self.width // space]
        places = [n // p for n, p in zip(places, patch, strict=True)]
        if max(places) > most:
            raise SamplerError(
                f"{self.num_frames} frames of {self.height} x {self.width} are {places} tokens along time, height and "
                f"width, and this model has positions for {most}: give generate a smaller height=, width= or "
                "num_frames=, or say once what the model is for, dit_lens.load(..., defaults={'height': ...})"
            )
        return self


def is_image_to_video(pipe: Any) -> bool:
    """Whether a pipeline starts from an image."""
    return "image_encoder" in pipe.components


def encode(
    pipe: Any,
    prompt: Any,
    negative: str,
    image: Any,
    size: Size,
    seed: int,
    guided: bool,
    max_sequence_length: int,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> tuple[Conditions, Tensor]:
    """Conditions and starting noise of one generation, as the bare pipeline would make them.

    Args:
        pipe: The pipeline.
        prompt: A string, or a tensor of embeddings (1, M, width).
        negative: Text of the ``uncond`` branch.
        image: The first frame; None for text-to-video.
        size: A checked size.
        seed: Seed of the noise, which comes from a CPU generator, so that it means the same on every device.
        guided: Whether there is an ``uncond`` branch.
        max_sequence_length: Text tokens, M.
        device: The pipeline's execution device, where the caller has looked it up already (it takes milliseconds).
        dtype: The transformer's dtype, likewise.

    Returns:
        Conditions with batch axis 1, and noise (1, C, F, h, w) in fp32.

    Raises:
        SamplerError: For a prompt, image or length that does not fit the pipeline.
        LoadError: ftfy is missing.
    """
    device = pipe._execution_device if device is None else device
    dtype = pipe.transformer.dtype if dtype is None else dtype
    if pipe.transformer.config.added_kv_proj_dim is not None and max_sequence_length != 512:
        raise SamplerError(
            f"max_sequence_length={max_sequence_length}: this Wan2.1 I2V model splits image and text context at "
            "exactly 512 text tokens, and any other length would mix the two in silence; use 512"
        )
    given = isinstance(prompt, Tensor)
    if not given and not isinstance(prompt, str):
        raise SamplerError(
            f"prompt is a {type(prompt).__name__}: give one string (or embeddings) per generation; for several at "
            "once pass a list of tasks, or of seeds"
        )
    _need_ftfy(given)
    if not given:
        texts = {"prompt": prompt, "negative_prompt": negative} if guided else {"prompt": prompt}
        _warn_of_cutting(pipe, texts, max_sequence_length)
    with torch.no_grad():
        text, neg = pipe.encode_prompt(
            prompt=None if given else prompt,
            negative_prompt=None if given and not negative else negative,
            do_classifier_free_guidance=guided,
            prompt_embeds=prompt if given else None,
            max_sequence_length=max_sequence_length,
            device=device,
        )
        text, neg = text.to(dtype), None if neg is None else neg.to(dtype)
        generator = torch.Generator("cpu").manual_seed(seed)
        if not is_image_to_video(pipe):
            if image is not None:
                raise SamplerError(
                    "WanPipeline makes video from text and takes no image: load the model as WanImageToVideoPipeline "
                    "(from_pipe), or leave image out"
                )
            noise = pipe.prepare_latents(
                1, pipe.transformer.config.in_channels, size.height, size.width, size.num_frames, torch.float32, device,
                generator,
            )  # fmt: skip
            # Per-token timesteps without a given frame: the mask is one everywhere.
            mask = torch.ones_like(noise[:1, :1]) if pipe.config.expand_timesteps else None
            return Conditions(text, neg, frame_mask=mask), noise

        if image is None:
            raise SamplerError("this pipeline makes video from an image: pass image=, or a task that has one")
        warn_of_stretching(image, size.height, size.width)
        context = None
        if pipe.transformer.config.image_dim is not None:
            if not isinstance(image, PIL.Image.Image):
                raise SamplerError(
                    "this Wan2.1 I2V model also reads its picture through CLIP, whose processor would scale the "
                    f"numbers of a {type(image).__name__} down to nearly black: give a PIL picture, a file or uint8"
                )
            context = pipe.encode_image(image, device).to(dtype)
        pixels = pipe.video_processor.preprocess(image, height=size.height, width=size.width)
        made = pipe.prepare_latents(
            pixels.to(device, dtype=torch.float32), 1, pipe.vae.config.z_dim, size.height, size.width, size.num_frames,
            torch.float32, device, generator,
        )  # fmt: skip
        noise, latents, *mask = made
        return Conditions(text, neg, context, latents, mask[0] if mask else None), noise


def _warn_of_cutting(pipe: Any, texts: Mapping[str, str], most: int) -> None:
    """Warn where the text encoder will not see all of a text."""
    for name, text in texts.items():
        tokens = len(pipe.tokenizer(prompt_clean(text)).input_ids)
        if tokens > most:
            raised = "" if most >= LONGEST_TEXT else f", or raise max_sequence_length= (up to {LONGEST_TEXT})"
            warnings.warn(
                f"{name} has {tokens} text tokens and the model reads the first {most}: shorten it{raised}",
                stacklevel=2,
            )


def _need_ftfy(embedded: bool) -> None:
    if embedded:
        return
    try:
        import ftfy  # noqa: F401
    except ImportError:
        raise LoadError("Wan cleans prompts with ftfy, which is not installed: pip install ftfy") from None
