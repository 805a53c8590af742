"""What a lens could leave behind in a pipeline."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import _AttentionBackendRegistry


def experts_of(pipe: DiffusionPipeline) -> list[Any]:
    return [m for m in (pipe.transformer, getattr(pipe, "transformer_2", None)) if m is not None]


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Everything of a pipeline that a lens could leave behind."""
    found: dict[str, Any] = {"pipe": {k: id(v) for k, v in vars(pipe).items()}, "config": dict(pipe.config)}
    found["scheduler"] = {k: str(v) for k, v in vars(pipe.scheduler).items()}
    found["backend"] = _AttentionBackendRegistry._active_backend
    for i, model in enumerate(experts_of(pipe)):
        found[f"keys {i}"] = list(model.state_dict())
        found[f"pointers {i}"] = [p.data_ptr() for p in model.parameters()]
        found[f"modules {i}"] = [(n, type(m), m.training, sorted(m.__dict__)) for n, m in model.named_modules()]
        found[f"hooks {i}"] = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        processors = [a.processor for b in model.blocks for a in (b.attn1, b.attn2)]
        found[f"processors {i}"] = [(type(p), str(vars(p))) for p in processors]
    return found
