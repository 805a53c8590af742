"""Everything that would run the model around its points, found before it can mislead.

``check_pipeline`` runs when a lens is made, ``check_ready`` before every generation. Each refusal names its cure.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel

from dit_lens.errors import BypassError, LoadError, SamplerError
from dit_lens.wan.blocks import HookedAttnProcessor, HookedBlock


def check_pipeline(pipe: Any) -> None:
    """Refuse what a lens cannot wrap.

    Errors: :class:`LoadError` for the wrong kind of object or configuration, :class:`BypassError` for things that hold
    on to the forwards that the lens is about to replace.
    """
    transformer = getattr(pipe, "transformer", None)
    if not isinstance(transformer, WanTransformer3DModel):
        raise LoadError(
            f"{type(pipe).__name__} has no WanTransformer3DModel as its transformer: give a diffusers WanPipeline or "
            "WanImageToVideoPipeline, a folder in diffusers layout, a hub id, or 'lab'"
        )
    supported = ("WanPipeline", "WanImageToVideoPipeline")
    if type(pipe).__name__ not in supported:
        raise LoadError(
            f"{type(pipe).__name__} is not supported: its adapters write to the stream between blocks, or its loop differs; "
            f"use one of {supported}"
        )
    ratio, second = pipe.config.boundary_ratio, getattr(pipe, "transformer_2", None)
    if ratio is not None and second is None:
        raise LoadError(
            f"boundary_ratio={ratio} asks for a second expert, but transformer_2 is None (a known fault of converted Wan2.1 "
            "models): call pipe.register_to_config(boundary_ratio=None), or load the missing expert"
        )
    if ratio is None and second is not None:
        raise LoadError(
            "transformer_2 is there but boundary_ratio is None, so it would never run: call "
            "pipe.register_to_config(boundary_ratio=0.9) for I2V-A14B (0.875 for T2V-A14B)"
        )
    for model in filter(None, (transformer, second)):
        _check_modules(model)
        _check_running(model)


def _check_modules(model: Any) -> None:
    for block in model.blocks:
        if isinstance(block, HookedBlock):
            raise LoadError("this pipeline is already under a lens: use that one, or close it first (lens.close())")
        for module in (block, block.ffn, model.patch_embedding, model.condition_embedder, model.proj_out):
            if "forward" in module.__dict__ or hasattr(module, "_hf_hook"):
                raise BypassError(
                    f"{type(module).__name__} carries an offload or other forward hook from before the lens, which would run "
                    "around the points: wrap first, then offload (lens = dit_lens.load(pipe); "
                    "lens.pipe.enable_sequential_cpu_offload()), or pipe.remove_all_hooks() before loading"
                )
        for attn in (block.attn1, block.attn2):
            if type(attn.processor) is not WanAttnProcessor:
                raise BypassError(
                    f"attention runs through {type(attn.processor).__name__}, whose insides have no points: call "
                    "transformer.set_default_attn_processor() or set_attn_processor(WanAttnProcessor()) before loading"
                )


def _check_running(model: Any) -> None:
    if getattr(model, "is_cache_enabled", False):
        raise BypassError(
            "a feature cache is enabled on the transformer; it skips blocks and hands out old activations: call "
            "transformer.disable_cache()"
        )
    compiled = [m for m in model.modules() if getattr(m, "_compiled_call_impl", None) is not None]
    if compiled or type(model).__name__ == "OptimizedModule":
        raise BypassError(
            f"{type((compiled or [model])[0]).__name__} is compiled, and hooks added after compiling never fire: load the "
            "pipeline again without torch.compile (or compile_repeated_blocks)"
        )


def check_ready(pipe: Any, grad: bool = False) -> None:
    """Refuse a generation whose hooks would be bypassed by something done to the pipeline since it was wrapped.

    Errors: :class:`BypassError`.
    """
    for model in filter(None, (pipe.transformer, getattr(pipe, "transformer_2", None))):
        _check_running(model)
        if grad and getattr(model, "gradient_checkpointing", False):
            raise BypassError(
                "gradient checkpointing runs every block twice, so hooks fire twice and gradients can be wrong in silence: "
                "call transformer.disable_gradient_checkpointing()"
            )
        for i, block in enumerate(model.blocks):
            if not isinstance(block, HookedBlock):
                raise BypassError(f"block {i} was replaced after the lens was made: load the lens again")
            for attn in (block.attn1, block.attn2):
                if not isinstance(attn.processor, HookedAttnProcessor):
                    raise BypassError(
                        f"the attention processor of block {i} was replaced after the lens was made, and its points with it: "
                        "choose the processor or backend first, then dit_lens.load(pipe)"
                    )


def check_lora(pipe: Any, before: int) -> None:
    """Refuse a LoRA file that loaded nothing: diffusers only warns. ``before``: adapter layers before loading."""
    if adapter_layers(pipe) == before:
        raise LoadError(
            "the LoRA file matched no layer (DiffSynth files name 'blocks.0.self_attn.q.lora_A.default.weight'): rename the "
            "keys: drop '.default' and put 'diffusion_model.' in front, then load again"
        )


def adapter_layers(pipe: Any) -> int:
    """How many layers of all experts carry adapters."""
    models = filter(None, (pipe.transformer, getattr(pipe, "transformer_2", None)))
    return sum(1 for m in models for module in m.modules() if hasattr(module, "lora_A") and len(module.lora_A))


def check_floats(latents: torch.Tensor) -> None:
    """Refuse NaN or infinite latents given by a user."""
    if not torch.isfinite(latents).all():
        raise SamplerError("the latents hold NaN or infinity: look at where they come from before going on")
