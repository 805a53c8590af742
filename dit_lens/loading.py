"""``dit_lens.load``: from a name, a folder, a hub id or a pipeline to a lens."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    that you built. ``dtype``: a torch dtype or its name (``"bfloat16"``); float32 without one, whatever the file holds.
    ``device``: as diffusers takes it. ``offload``: ``"model"`` or ``"sequential"``, enabled *after* the points are in
    place. ``lora``: LoRA files, the second for the low-noise expert, or a folder or hub id that holds the pair
    (:mod:`dit_lens.wan.lora`; DiffSynth's names are understood). ``kwargs`` go to
    ``DiffusionPipeline.from_pretrained``.

    Errors: :class:`LoadError` for what cannot be used, :class:`BypassError` for hooks that would run around the points.
    """
    from dit_lens import lab  # names the codec that the lab pipeline's index refers to
    from dit_lens.wan import guards
    from dit_lens.wan import lora as lora_files
    from dit_lens.wan.lens import Defaults, Lens

    if offload is not None and offload not in _OFFLOAD:
        raise LoadError(f"offload={offload!r} is unknown: choose from {sorted(_OFFLOAD)}, or None")
    dtype = _dtype(dtype)
    name = what if isinstance(what, str) else ""
    if isinstance(what, str | Path):
        from diffusers import DiffusionPipeline

        source = str(lab.weights_path()) if what == "lab" else str(what)
        more = kwargs if dtype is None else {"dtype": dtype, **kwargs}
        try:
            with _expected(what == "lab"):
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
        lora_files.add(pipe, lora)
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


def _dtype(wanted: Any) -> Any:
    """A torch dtype by its name: diffusers takes a name for float32, with a word in the log only."""
    if not isinstance(wanted, str):
        return wanted
    import torch

    found = getattr(torch, wanted.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LoadError(f"dtype={wanted!r} is unknown: 'bfloat16', 'float16', 'float32', or a torch dtype")
    return found


@contextmanager
def _expected(codec_is_ours: bool) -> Iterator[None]:
    """Silence diffusers' remark that lab's codec is not the one its pipeline names: that is so on purpose."""
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")

    def other(record: logging.LogRecord) -> bool:
        return not (codec_is_ours and record.getMessage().startswith("Expected types for vae"))

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
