"""Everything that would run the model around its points, found before it can mislead.

``check_pipeline`` runs when a lens is made, ``check_ready`` before every generation. Each refusal names its cure.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel

from dit_lens.errors import BypassError, LoadError, SamplerError
from dit_lens.wan.blocks import HookedAttnProcessor, HookedBlock, HookedFeedForward
from dit_lens.wan.module_tree import modules

#: diffusers hooks that move or cast weights and leave activations alone.
_HARMLESS_HOOKS = (
    "group_offloading", "layer_execution_tracker", "lazy_prefetch", "layerwise_casting", "peft_autocast_disable",
)  # fmt: skip


def check_pipeline(pipe: Any) -> None:
    """Refuse what a lens cannot wrap.

    Args:
        pipe: Anything that was given as a pipeline.

    Raises:
        LoadError: For the wrong kind of object or configuration.
        BypassError: For things that hold on to the forwards that the lens is about to replace.
    """
    transformer = getattr(pipe, "transformer", None)
    if type(transformer).__name__ == "OptimizedModule":
        _check_running(transformer)
    if not isinstance(transformer, WanTransformer3DModel):
        raise LoadError(
            f"{type(pipe).__name__} has no WanTransformer3DModel as its transformer: give a diffusers WanPipeline or "
            "WanImageToVideoPipeline, a folder in diffusers layout, a hub id, or 'lab'"
        )
    check_kind(type(pipe).__name__)
    if getattr(pipe, "transformer_2", None) is transformer:
        raise LoadError(
            "transformer and transformer_2 are the same model, and a lens needs an expert of its own for each: load "
            "the second expert, or set pipe.transformer_2 = None and call pipe.register_to_config(boundary_ratio=None)"
        )
    ratio, second = pipe.config.boundary_ratio, getattr(pipe, "transformer_2", None)
    if ratio is not None and second is None:
        raise LoadError(
            f"boundary_ratio={ratio} asks for a second expert, but transformer_2 is None (a known fault of converted "
            "Wan2.1 models): call pipe.register_to_config(boundary_ratio=None), or load the missing expert"
        )
    if ratio is None and second is not None:
        raise LoadError(
            "transformer_2 is there but boundary_ratio is None, so it would never run: call "
            "pipe.register_to_config(boundary_ratio=0.9) for I2V-A14B (0.875 for T2V-A14B)"
        )
    if any(isinstance(block, HookedBlock) for model in _experts(pipe) for block in getattr(model, "blocks", ())):
        gc.collect()  # a lens that was dropped in a circle of references
    for model in _experts(pipe):
        _check_running(model)
        _check_modules(model)


def check_kind(name: str) -> None:
    """Refuse a pipeline by the name of its class.

    Raises:
        LoadError: For a class that a lens cannot wrap.
    """
    supported = ("WanPipeline", "WanImageToVideoPipeline")
    if name not in supported:
        raise LoadError(
            f"{name} is not supported: its adapters write to the stream between blocks, or its loop differs; use one "
            f"of {supported}"
        )


def _experts(pipe: Any) -> list[Any]:
    # Not filter(None, ...): a compiled model has no truth value.
    return [m for m in (pipe.transformer, getattr(pipe, "transformer_2", None)) if m is not None]


def _own_forward(module: Any) -> bool:
    """Whether a module runs a forward that is not its class's.

    Hooks that were removed leave a bound copy of the same forward behind, which would hide a class swap: such a copy
    means nothing, and is dropped.
    """
    forward = module.__dict__.get("forward")
    function = getattr(forward, "__func__", None)
    if function is not None and (function is type(module).forward or function.__module__.startswith("dit_lens.wan")):
        del module.forward
        forward = None
    return forward is not None


def _check_modules(model: Any) -> None:
    for block in model.blocks:
        if isinstance(block, HookedBlock):
            raise LoadError(
                "this pipeline is already under a lens: use that one, or close it first (lens.close(), or "
                "dit_lens.release(pipe) where the lens is out of reach)"
            )
        for module in (block, block.ffn, model.patch_embedding, model.condition_embedder, model.proj_out):
            _check_wrapped(module)
            if hasattr(module, "_hf_hook") or _own_forward(module):
                raise BypassError(
                    f"{type(module).__name__} carries an offload or other forward hook from before the lens, which "
                    "would run around the points: wrap first, then offload (lens = dit_lens.load(pipe); "
                    "lens.pipe.enable_sequential_cpu_offload()), or pipe.remove_all_hooks() before loading"
                )
        for attn in (block.attn1, block.attn2):
            if type(attn.processor) is not WanAttnProcessor:
                raise BypassError(
                    f"attention runs through {type(attn.processor).__name__}, whose insides have no points: call "
                    "transformer.set_default_attn_processor() or set_attn_processor(WanAttnProcessor()) before loading"
                )


def _check_wrapped(module: Any) -> None:
    """Refuse what replaces forwards under a name of its own, with the cure for it."""
    what = type(module).__name__
    if type(module.__dict__.get("forward")).__module__.startswith("nnsight"):
        raise BypassError(
            f"{what} is wrapped by NNsight(...), whose forwards would run around the points: load the pipeline again "
            "and give it to dit_lens.load as it is; lens.trace(...) is nnsight over the same model"
        )
    if "group_offloading" in getattr(module.__dict__.get("_diffusers_hook"), "hooks", {}):
        raise BypassError(
            f"{what} is under group offloading from before the lens, which holds the forwards that get points: load "
            "the pipeline again, and call transformer.enable_group_offload(...) after dit_lens.load"
        )


def _check_running(model: Any) -> None:
    if getattr(model, "is_cache_enabled", False):
        raise BypassError(
            "a feature cache is enabled on the transformer; it skips blocks and hands out old activations: call "
            "transformer.disable_cache()"
        )
    every = list(modules(model))
    for module in every:
        hooks = getattr(module.__dict__.get("_diffusers_hook"), "hooks", {})
        if "layerwise_casting" in hooks:
            _check_casting(model, hooks["layerwise_casting"].compute_dtype)
        strange = [name for name in hooks if not name.startswith(_HARMLESS_HOOKS)]
        if strange:
            raise BypassError(
                f"{type(module).__name__} runs under the diffusers hook {strange[0]!r}, which skips blocks, splits "
                "their tokens or hands out old activations: call transformer.disable_cache(), or load the pipeline "
                "again without it (a cache that failed while being enabled leaves such hooks behind)"
            )
    compiled = [m for m in every if getattr(m, "_compiled_call_impl", None) is not None]
    if compiled or type(model).__name__ == "OptimizedModule":
        raise BypassError(
            f"{type((compiled or [model])[0]).__name__} is compiled, and hooks added after compiling never fire: "
            "load the pipeline again without torch.compile (or compile_repeated_blocks)"
        )


def _check_casting(model: Any, computed: torch.dtype) -> None:
    entry = model.patch_embedding  # which diffusers leaves as it is
    if "_diffusers_hook" not in entry.__dict__ and entry.weight.dtype != computed:
        raise LoadError(
            f"layerwise casting computes in {computed}, and the parts that it leaves alone are {entry.weight.dtype}, "
            f"so that no call can run: load the pipeline with dtype={str(computed).removeprefix('torch.')!r}, or again "
            f"and give enable_layerwise_casting(compute_dtype={entry.weight.dtype})"
        )


def check_ready(pipe: Any, grad: bool = False) -> None:
    """Refuse a generation whose hooks would be bypassed by something done to the pipeline since it was wrapped.

    Args:
        pipe: The wrapped pipeline.
        grad: Whether gradients are asked for, which gradient checkpointing would spoil.

    Raises:
        BypassError: With what runs around the points, and the cure.
        LoadError: For layerwise casting between two dtypes.
    """
    for model in _experts(pipe):
        _check_running(model)
        if grad and getattr(model, "gradient_checkpointing", False):
            raise BypassError(
                "gradient checkpointing runs every block twice, so hooks fire twice and gradients can be wrong in "
                "silence: call transformer.disable_gradient_checkpointing()"
            )
        for module in (model.patch_embedding, model.condition_embedder, model.proj_out):
            if "_taps" not in module.__dict__:
                raise BypassError(
                    f"{type(module).__name__} outside the blocks was replaced after the lens was made (by a LoRA, or "
                    "a closed lens), and its points with it: close the lens, change the pipeline, then "
                    "dit_lens.load(pipe)"
                )
        for i, block in enumerate(model.blocks):
            if not isinstance(block, HookedBlock) or not isinstance(block.ffn, HookedFeedForward):
                raise BypassError(f"block {i} was replaced after the lens was made: load the lens again")
            moved = "_hf_hook" in block.__dict__ or getattr(block.__dict__.get("_diffusers_hook"), "hooks", None)
            if not moved and _own_forward(block):
                raise BypassError(
                    f"block {i} got a forward of its own after the lens was made, which runs around the points: del "
                    f"transformer.blocks[{i}].forward; to change activations use interventions= or lens.run_with_hooks"
                )
            for attn in (block.attn1, block.attn2):
                if not isinstance(attn.processor, HookedAttnProcessor):
                    raise BypassError(
                        f"the attention processor of block {i} was replaced after the lens was made, and its points "
                        "with it: choose the processor or backend first, then dit_lens.load(pipe)"
                    )


def check_floats(latents: torch.Tensor) -> None:
    """Refuse a run whose latents are NaN or infinite: a generation cannot end so, a changed or loaded run may.

    Raises:
        SamplerError: They are.
    """
    if not torch.isfinite(latents).all():
        raise SamplerError(
            "the latents of this run hold NaN or infinity, and so would all that is read from them: generate it again"
        )
