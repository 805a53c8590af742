"""What numbers depend on besides the question: model, settings, arithmetic and versions."""

from __future__ import annotations

from typing import Any

from dit_lens.store.identity import describe
from dit_lens.wan.fingerprint import digest

_VERSIONS = ("dit-lens", "torch", "diffusers", "transformers")


def identity_of(lens: Any, scheduler: Any = None) -> dict[str, Any]:
    """The identity of a :class:`~dit_lens.wan.lens.Lens`.

    Args:
        lens: The lens.
        scheduler: The scheduler that samples; the pipeline's by default.

    Returns:
        Plain JSON values.
    """
    pipe = lens.pipe
    encoders = {k: getattr(pipe, k, None) for k in ("vae", "text_encoder", "image_encoder")}
    return {
        "model": lens.fingerprint,
        "encoders": digest({k: v for k, v in encoders.items() if v is not None}),
        "arithmetic": f"{pipe.transformer.dtype} on {pipe._execution_device.type}",
        "scheduler": describe(pipe.scheduler if scheduler is None else scheduler),
        "defaults": describe(lens.defaults),
        "versions": {k: v for k, v in lens.about.items() if k in _VERSIONS},
    }
