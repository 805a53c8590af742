"""LoRA files: found, renamed where their names are DiffSynth's, loaded, and checked to be there in full.

DiffSynth-Studio, which the paper's adapters (``Video-Reason/VBVR-Wan2.2-diffsynth``) were trained with, names a layer
as the original Wan code does, adds the adapter's name, and puts nothing in front::

    blocks.0.self_attn.q.lora_A.default.weight   ->   diffusion_model.blocks.0.self_attn.q.lora_A.weight

diffusers reads the second form only; of the first it loads nothing and warns. Both mean W' = W + B A (with a stored
``alpha``: W' = W + alpha / rank B A), and nothing but names is changed here. DiffSynth adds B A into the weights; here
it stays beside them, so the two agree up to rounding (in bf16: to about 3 digits).

When not to use: for files that diffusers reads already; they pass through as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_lens.errors import LoadError

#: The two files of a pair for the two experts, as the hub repository and DiffSynth's tools name them.
PAIR = ("high_noise_lora.safetensors", "low_noise_lora.safetensors")

_WEIGHTS = (".safetensors", ".bin", ".pt")

_ORIGINAL = (
    r"blocks\.\d+\.(?:(?:self|cross)_attn\.(?:q|k|v|o|k_img|v_img)|ffn\.[02])"
    r"|(?:text|time)_embedding\.[02]|time_projection\.1|head\.head|img_emb\.proj\.[13]"
)
_PREFIX = r"(?:diffusion_model\.|pipe\.dit2?\.)?"
_WEIGHT = re.compile(rf"{_PREFIX}({_ORIGINAL})\.lora_([AB])(?:\.[^.]+)?\.weight")
_ALPHA = re.compile(rf"{_PREFIX}({_ORIGINAL})\.alpha")
_FORMS = (
    "DiffSynth ('blocks.0.self_attn.q.lora_A.default.weight'), 'diffusion_model.blocks.0.self_attn.q.lora_A.weight', "
    "or diffusers ('transformer.blocks.0.attn1.to_q.lora_A.weight')"
)


def is_diffsynth(names: Sequence[str]) -> bool:
    """Whether every name of a LoRA file is one that DiffSynth writes (with an adapter name, a prefix, or neither)."""
    return bool(names) and all(_WEIGHT.fullmatch(name) or _ALPHA.fullmatch(name) for name in names)


def remap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DiffSynth's names as diffusers reads them; the tensors are the same objects.

    Args:
        state: The tensors of a LoRA file by name.

    Raises:
        LoadError: For names of another kind, a half without its partner, or two adapters in one file.
    """
    found: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := _WEIGHT.fullmatch(name):
            layer, half = match.groups()
            if half in halves.setdefault(layer, {}):
                raise LoadError(
                    f"{layer} has two lora_{half}: the file holds several adapters. Save one adapter per file"
                )
            halves[layer][half] = found[f"diffusion_model.{layer}.lora_{half}.weight"] = value
        elif match := _ALPHA.fullmatch(name):
            found[f"diffusion_model.{match.group(1)}.alpha"] = value
        else:
            raise LoadError(f"{name!r} is not a name that DiffSynth gives a LoRA layer of Wan; known forms: {_FORMS}")
    for layer, pair in halves.items():
        if len(pair) < 2 or pair["A"].ndim != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {f"lora_{half}": tuple(value.shape) for half, value in pair.items()}
            raise LoadError(
                f"{layer}: a LoRA layer is lora_A (rank, in) and lora_B (out, rank), found {shapes}: the file is "
                "damaged or incomplete, so get it again"
            )
    return found


def files_of(lora: Any, experts: int) -> list[str]:
    """The files meant by ``lora=``.

    Args:
        lora: One path, several, or a folder or hub id that holds the pair of the two experts.
        experts: How many experts the model has.

    Returns:
        A file for each expert, high noise first; perhaps fewer than experts.

    Raises:
        LoadError: For more files than experts, a low-noise file in the high-noise place, or a folder without the pair.
    """
    given = [lora] if isinstance(lora, str | Path) else list(lora)
    files = _pair_of(given[0]) if len(given) == 1 else [str(f) for f in given]
    if len(files) > experts:
        raise LoadError(f"{len(files)} LoRA files, {experts} expert(s): give one file per expert, high noise first")
    names = [Path(f).name.lower() for f in files]
    if "low_noise" in names[0] or any("high_noise" in name for name in names[1:]):
        raise LoadError(f"{names}: the order is high noise first, then low noise; swap the files")
    return files


def _pair_of(source: Any) -> list[str]:
    """The pair in a folder, or in a hub repository; anything else is left to diffusers."""
    folder = Path(source)
    if folder.is_dir():
        if missing := [name for name in PAIR if not (folder / name).is_file()]:
            raise LoadError(f"the folder {str(folder)!r} lacks {missing}: name the LoRA files themselves, high first")
        return [str(folder / name) for name in PAIR]
    if folder.exists() or folder.suffix in _WEIGHTS or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        return [str(source)]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return [hf_hub_download(str(source), name) for name in PAIR]
    except EntryNotFoundError:
        return [str(source)]  # a repository with one adapter
    except (OSError, ValueError) as error:
        raise LoadError(
            f"{str(source)!r} is no file or folder here, and the hub does not give it: {error}. Give the path of a "
            ".safetensors file, a folder that holds " + " and ".join(PAIR) + ", or a hub id that can be reached"
        ) from error


Added = list[tuple[Any, str]]  # (expert, name of the adapter)


def add(pipe: Any, lora: Any) -> Added:
    """Load LoRA files into a pipeline's experts, the first into the high-noise one, each as an adapter of its own.

    A failure leaves nothing behind.

    Args:
        pipe: The pipeline.
        lora: As of :func:`files_of`.

    Returns:
        What was added, for :func:`remove`.

    Raises:
        LoadError: A file cannot be read, or a layer of it has no place in the model.
    """
    experts = (
        [pipe.transformer] if getattr(pipe, "transformer_2", None) is None else [pipe.transformer, pipe.transformer_2]
    )
    added: Added = []
    try:
        for i, file in enumerate(files_of(lora, len(experts))):
            if f"lora_{i}" not in getattr(experts[i], "peft_config", {}):  # an earlier one of that name is not ours
                added.append((experts[i], f"lora_{i}"))
            _add(pipe, experts[i], f"lora_{i}", file, {"load_into_transformer_2": True} if i else {})
    except BaseException:
        remove(added)
        raise
    return added


def remove(added: Added) -> None:
    """Take adapters out again; the last one of a model takes the LoRA layers with it."""
    for expert, adapter in reversed(added):
        there = getattr(expert, "peft_config", {})
        if list(there) == [adapter]:
            expert.unload_lora()
        elif adapter in there:
            expert.delete_adapters(adapter)


def _add(pipe: Any, expert: Any, adapter: str, file: str, low: Mapping[str, bool]) -> None:
    source = _local(file)
    try:
        converted = pipe.lora_state_dict(source)
        if is_diffsynth(list(converted)):  # on the hub; diffusers took the names for its own
            source = remap(converted)
            converted = pipe.lora_state_dict(source)
        # Renamed tensors were converted just now, and doing it twice would scale them twice. Of other files the
        # name is passed on: what their metadata holds, alpha for one, is read from the file itself.
        ready = dict(converted) if isinstance(source, dict) else source
        pipe.load_lora_weights(ready, adapter_name=adapter, **low)
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{file}: diffusers cannot read this LoRA ({error}). Known forms: {_FORMS}") from error
    _check(expert, converted, adapter, file)


def _local(file: str) -> Any:
    """What diffusers is given: the renamed tensors of a DiffSynth file, else the name itself."""
    if Path(file).suffix != ".safetensors" or not Path(file).is_file():
        return file
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except SafetensorError as error:
        raise LoadError(f"{file} is not a safetensors file ({error}): it may be incomplete, so get it again") from error
    return remap(state) if is_diffsynth(list(state)) else file


def _check(expert: Any, converted: Mapping[str, Tensor], adapter: str, file: str) -> None:
    """Refuse an adapter of which any layer did not arrive, with the file's own numbers: diffusers only warns."""
    layers = {
        key.removeprefix("transformer.").partition(".lora_A.")[0]: v
        for key, v in converted.items()
        if ".lora_A." in key
    }
    missing = []
    for layer, value in layers.items():
        try:
            there = expert.get_submodule(layer).lora_A[adapter].weight
        except (AttributeError, KeyError):
            missing.append(layer)
            continue
        if not torch.equal(there.detach().cpu(), value.to(there.dtype).cpu()):
            missing.append(layer)
    if missing or not layers:
        some = ", ".join(missing[:3]) or "none was recognised"
        raise LoadError(
            f"{file}: {len(layers) - len(missing)} of {len(layers)} LoRA layers found a place in this model ({some}). "
            f"Check that the adapter is for this model and its number of blocks. Known forms: {_FORMS}"
        )
