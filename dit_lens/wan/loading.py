"""``dit_lens.load``: from a name, a folder, a hub id or a pipeline to a lens."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dit_lens.errors import DitLensError, LoadError

_OFFLOAD = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}


def load(
    what: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    offload: str | None = None,
    lora: str | Path | Sequence[str | Path] | None = None,
    defaults: Any = None,
    **kwargs: Any,
) -> Any:
    """Make a :class:`Lens` on a Wan pipeline.

    Args:
        what: ``"lab"`` (the model in the package, offline) or another model of the lab (:mod:`dit_lens.lab.models`), a
            hub id or a folder in diffusers layout, or a pipeline that you built.
        dtype: A torch dtype or its name (``"bfloat16"``); float32 without one, whatever the file holds.
        device: As diffusers takes it.
        offload: ``"model"`` or ``"sequential"``, enabled *after* the points are in place.
        lora: LoRA files, the second for the low-noise expert, or a folder or hub id that holds the pair
            (:mod:`dit_lens.wan.lora`; DiffSynth's names are understood).
        defaults: What ``generate`` takes unless told otherwise: another lens's ``defaults``, or a mapping such as
            ``{"height": 96, "width": 96, "num_frames": 13}``. A pipeline does not know the size it was trained at, and
            what is not said here is Wan's own (480 x 832, 81 frames, 50 steps).
        **kwargs: For ``DiffusionPipeline.from_pretrained``.

    Raises:
        LoadError: For what cannot be used.
        BypassError: For hooks that would run around the points.
    """
    from dit_lens.lab import models
    from dit_lens.wan import bypass_guards
    from dit_lens.wan import lora as lora_files
    from dit_lens.wan.lens import Lens

    if offload is not None and offload not in _OFFLOAD:
        raise LoadError(f"offload={offload!r} is unknown: choose from {sorted(_OFFLOAD)}, or None")
    dtype = _dtype(dtype)
    name = what if isinstance(what, str) else ""
    of_lab = models.find(what)
    if isinstance(what, str | Path):
        from diffusers import DiffusionPipeline

        source = str(of_lab.folder if of_lab else what)
        more = kwargs if dtype is None else {"dtype": dtype, **kwargs}
        with _read(source), _whole(source), _quiet() if of_lab else nullcontext():
            pipe = DiffusionPipeline.from_pretrained(source, **more)
        if of_lab:
            of_lab.equip(pipe)
        pipe.set_progress_bar_config(disable=True)
    elif kwargs:
        raise LoadError(f"{sorted(kwargs)} are for loading from a name; this pipeline is already built")
    else:
        pipe = what
    bypass_guards.check_pipeline(pipe)
    settings = _defaults(pipe, defaults, of_lab.settings if of_lab else {})
    if pipe is what and any(change is not None for change in (dtype, lora, device)):
        Lens(pipe, settings, name).close()  # what cannot be wrapped is refused before anything is changed
    if pipe is what and dtype is not None:
        pipe.to(dtype=dtype)
    added = [] if lora is None else lora_files.add(pipe, lora)
    try:
        if device is not None:
            pipe.to(device)
        lens = Lens(pipe, settings, name)
        if offload is not None:
            _offload(lens, offload)
    except BaseException:
        lora_files.remove(added)
        raise
    return lens


def _offload(lens: Any, offload: str) -> None:
    """Let weights wait off the accelerator; a failure closes the lens."""
    try:
        getattr(lens.pipe, _OFFLOAD[offload])()
    except BaseException as error:
        lens.close()
        if not isinstance(error, RuntimeError):
            raise
        raise LoadError(
            f"offload={offload!r} moves weights to an accelerator: {error}. Without one, leave it out"
        ) from error


def outline(what: str | Path) -> Any:
    """A lens on the shape of a model alone, for its points and plans; it cannot generate.

    Configuration files are read, or fetched; no weights are.

    Args:
        what: As for :func:`load`, but no pipeline.

    Raises:
        LoadError: For what cannot be used.
    """
    import diffusers
    import torch

    from dit_lens.wan import bypass_guards
    from dit_lens.wan.lens import Lens

    source = _source(what)
    with _read(source):
        index = index_of(what)
        parts: dict[str, Any] = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
        scheduler = getattr(diffusers, index["scheduler"][1])
        parts["scheduler"] = scheduler.from_pretrained(source, subfolder="scheduler")
        for name in ("transformer", "transformer_2"):
            if index.get(name, [None])[0] is not None:
                config = diffusers.WanTransformer3DModel.load_config(source, subfolder=name)
                with torch.device("meta"):
                    parts[name] = diffusers.WanTransformer3DModel.from_config(config)
    options = {name: index[name] for name in ("boundary_ratio", "expand_timesteps") if name in index}
    pipe = getattr(diffusers, index["_class_name"])(**parts, **options)
    pipe.register_to_config(_name_or_path=source)
    bypass_guards.check_pipeline(pipe)
    return Lens(pipe, _defaults(pipe, None), str(what))


def index_of(what: str | Path) -> dict[str, Any]:
    """``model_index.json`` of a model: its pipeline's class, and its parts.

    Args:
        what: As for :func:`load`, but no pipeline.

    Raises:
        LoadError: There is none, or it is of a pipeline that a lens cannot wrap.
    """
    from diffusers import DiffusionPipeline

    from dit_lens.wan import bypass_guards

    source = _source(what)
    with _read(source):
        index: dict[str, Any] = DiffusionPipeline.load_config(source)
        bypass_guards.check_kind(index["_class_name"])
    return index


def _dtype(wanted: Any) -> Any:
    """A torch dtype by its name: diffusers takes a name for float32, with a word in the log only."""
    if not isinstance(wanted, str):
        return wanted
    import torch

    found = getattr(torch, wanted.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LoadError(f"dtype={wanted!r} is unknown: 'bfloat16', 'float16', 'float32', or a torch dtype")
    return found


def _source(what: str | Path) -> str:
    from dit_lens.lab import models  # its package names the codec that the lab pipelines' indices refer to

    of_lab = models.find(what)
    return str(of_lab.folder if of_lab else what)


def _defaults(pipe: Any, given: Any, named: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """As given, else as the model's name says, else as its folder does, else Wan's own."""
    from dit_lens.wan.defaults import Defaults

    known = Defaults.__dataclass_fields__
    given = asdict(given) if isinstance(given, Defaults) else given or {}
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise LoadError(f"defaults={given!r}: give a mapping with some of {', '.join(known)}, or a lens's defaults")
    folder = pipe.config.get("_name_or_path")
    settings = Path(folder, "lab.json") if folder else None
    found = json.loads(settings.read_text()) if settings is not None and settings.is_file() else {}
    found.update(named)
    return Defaults(**{k: v for k, v in found.items() if k in known} | dict(given))


@contextmanager
def _read(source: str) -> Iterator[None]:
    """Say in a line why a model cannot be had."""
    try:
        with warnings.catch_warnings():  # of an argument that diffusers gives huggingface_hub
            warnings.filterwarnings("ignore", ".*local_dir_use_symlinks")
            yield
    except DitLensError:
        raise
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        why: BaseException = error
        while not Path(source).is_dir() and (under := why.__cause__ or why.__context__) is not None:
            why = under  # of a model on the hub much is said; that there is no network stands lowest
        said = next(iter(str(why).strip().splitlines()), type(why).__name__).rstrip(" .:")
        raise LoadError(
            f"{source!r} cannot be loaded as a pipeline in diffusers layout: {said}. Give 'lab', a folder with "
            "model_index.json, a hub id that can be reached, or a pipeline object"
        ) from error


@contextmanager
def _whole(source: str) -> Iterator[None]:
    """Refuse files that lack weights: diffusers fills those in with random numbers, and only its log tells."""
    logger, missing = logging.getLogger("diffusers.models.modeling_utils"), []
    level, heard = logger.level, logger.getEffectiveLevel()

    def listen(record: logging.LogRecord) -> bool:
        if "newly initialized" in record.getMessage():
            missing.append(record.getMessage().partition("You should")[0].strip())
        return record.levelno >= heard

    logger.setLevel(min(heard, logging.WARNING))
    logger.addFilter(listen)
    try:
        yield
    finally:
        logger.removeFilter(listen)
        logger.setLevel(level)
    if missing:
        raise LoadError(
            f"{source!r} lacks weights, and would run with random numbers: {missing[0][:300]}. Fetch it again, or save "
            "it again"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Load lab without bars and remarks.

    Bars would only flicker, and the remarks are on what is so on purpose: its codec is not the one that its pipeline
    names, and it has no use for torchvision.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    def other(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return not (said.startswith("Expected types for vae") or "requires torchvision" in said)

    names = ("diffusers.pipelines.pipeline_utils", "transformers.utils.import_utils")
    loggers = [logging.getLogger(name) for name in names]
    # Not by transformers' own switch, which also turns that of huggingface_hub.
    libraries: list[Any] = [of_diffusers, of_transformers]
    shown = [library._tqdm_active for library in libraries]
    for library, logger in zip(libraries, loggers, strict=True):
        library._tqdm_active = False
        logger.addFilter(other)
    try:
        yield
    finally:
        for library, logger, was in zip(libraries, loggers, shown, strict=True):
            library._tqdm_active = was
            logger.removeFilter(other)
