"""``dit_lens.load``: from a name, a folder, a hub id or a pipeline to a lens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit_lens.errors import LoadError

_OFFLOAD = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}


def load(
    what: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    offload: str | None = None,
    lora: str | Path | Sequence[str | Path] | None = None,
    **kwargs: Any,
) -> Any:
    """A :class:`Lens` on a Wan pipeline.

    ``what``: ``"lab"`` (the model in the package, offline), a hub id or a folder in diffusers layout, or a pipeline
    that you built. ``dtype``, ``device``: as diffusers takes them. ``offload``: ``"model"`` or ``"sequential"``,
    enabled *after* the points are in place. ``lora``: LoRA files, the second for the low-noise expert. ``kwargs`` go to
    ``DiffusionPipeline.from_pretrained``.

    Errors: :class:`LoadError` for what cannot be used, :class:`BypassError` for hooks that would run around the points.
    """
    from dit_lens import lab  # names the codec that the lab pipeline's index refers to
    from dit_lens.wan import guards
    from dit_lens.wan.lens import Defaults, Lens

    if offload is not None and offload not in _OFFLOAD:
        raise LoadError(f"offload={offload!r} is unknown: choose from {sorted(_OFFLOAD)}, or None")
    name = what if isinstance(what, str) else ""
    if isinstance(what, str | Path):
        from diffusers import DiffusionPipeline

        source = str(lab.weights_path()) if what == "lab" else str(what)
        more = kwargs if dtype is None else {"dtype": dtype, **kwargs}
        try:
            pipe = DiffusionPipeline.from_pretrained(source, **more)
        except (OSError, ValueError) as error:
            raise LoadError(
                f"{source!r} cannot be loaded as a pipeline in diffusers layout: {error}. Give 'lab', a folder with "
                "model_index.json, a hub id that can be reached, or a pipeline object"
            ) from error
        pipe.set_progress_bar_config(disable=True)
        settings = Path(source) / "lab.json"
        found: dict[str, Any] = json.loads(settings.read_text()) if settings.is_file() else {}
    elif kwargs:
        raise LoadError(f"{sorted(kwargs)} are for loading from a name; this pipeline is already built")
    else:
        pipe, found = what, {}
        if dtype is not None:
            pipe.to(dtype=dtype)
    known = {k: v for k, v in found.items() if k in Defaults.__dataclass_fields__}
    if "guidance_scale" in found:
        known["guidance"] = found["guidance_scale"]
    guards.check_pipeline(pipe)
    if lora is not None:
        files = [lora] if isinstance(lora, str | Path) else list(lora)
        experts = 1 if getattr(pipe, "transformer_2", None) is None else 2
        if len(files) > experts:
            raise LoadError(f"{len(files)} LoRA files, {experts} expert(s): give one file per expert, high noise first")
        for i, file in enumerate(files):
            before = guards.adapter_layers(pipe)
            low = {"load_into_transformer_2": True} if i else {}
            try:
                pipe.load_lora_weights(str(file), adapter_name=f"lora_{i}", **low)
            except (ValueError, KeyError) as error:
                raise LoadError(f"{file}: diffusers cannot read this LoRA ({error}); {guards.LORA_CURE}") from error
            guards.check_lora(pipe, before)
    if device is not None:
        pipe.to(device)
    lens = Lens(pipe, Defaults(**known), name)
    if offload is not None:
        try:
            getattr(pipe, _OFFLOAD[offload])()
        except RuntimeError as error:
            lens.close()
            raise LoadError(
                f"offload={offload!r} moves weights to an accelerator: {error}. Without one, leave it out"
            ) from error
    return lens
