"""A model's own settings: what ``generate`` takes when it is not told otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """What ``generate`` takes when it is not told otherwise: a model's own recommended settings."""

    height: int = 480
    width: int = 832
    num_frames: int = 81
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    max_sequence_length: int = 512
    negative_prompt: str = ""
    fps: int = 16
