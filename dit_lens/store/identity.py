"""What a number depends on, as plain JSON values: kept work may be continued when these are equal.

An identity holds what changes a number and nothing else, and is the same in every process. Tensors and arrays stand
as short hashes of their content, functions as their name with a hash of their code and everything they close over.
An object says its own identity with a method ``identity()``; without one its dataclass fields or attributes are used.

When not to use: as proof against forgery. Hashes are cut to 16 hex digits.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinMethodType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.errors import StoreError
from dit_lens.pictures import picture

MOST = 12  # differences that a message lists
_PLAIN = (bool, int, float, str, tuple, list, dict, Tensor, np.ndarray)
_TASK = ("name", "seed", "split", "height", "width", "num_frames")


def describe(value: Any, _seen: tuple[Any, ...] = ()) -> Any:
    """A plain JSON value that is the same for equal content, in every process.

    Args:
        value: Anything: plain values, tensors, functions, schedulers, modules, dataclasses, or what has ``identity()``.

    Returns:
        None, numbers, texts, and lists and mappings of them.

    Raises:
        StoreError: The value is an opaque object whose content cannot be read.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype} {_digest(_bits(value))}"
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype} {_digest(_array_bytes(value))}"
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, (range, PurePath, torch.dtype, torch.device)):
        return str(value)
    if any(value is one for one in _seen):
        return "itself"
    seen = (*_seen, value)
    if isinstance(value, partial):
        return describe({"function": value.func, "args": value.args, "keywords": value.keywords}, seen)
    if isinstance(value, Mapping):
        return {str(k): describe(v, seen) for k, v in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((describe(v, seen) for v in value), key=_text)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [describe(v, seen) for v in value]
    if isinstance(value, MethodType):
        return {"method": describe(value.__func__, seen), "of": describe(value.__self__, seen)}
    if isinstance(value, BuiltinMethodType) and value.__self__ is not None and not inspect.ismodule(value.__self__):
        return {"method": value.__name__, "of": describe(value.__self__, seen)}
    if isinstance(value, FunctionType):
        return _function(value, seen)
    return _object(value, seen)


def configured(value: Any) -> dict[str, Any]:
    """The identity of a scheduler or another object of diffusers that is made from a configuration.

    Private keys of the configuration and keys that its class does not take change no number and have no part in it:
    ``_use_default_values``, for one, is the dump of a set, so that its order changes from process to process.

    Args:
        value: An object with ``config``, a mapping of what it was made from.

    Returns:
        The class and every argument of it.
    """
    taken = inspect.signature(type(value).__init__).parameters
    free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    kept = {k: v for k, v in dict(value.config).items() if not k.startswith("_") and (free or k in taken)}
    return {"_class_name": type(value).__name__, **{k: describe(kept[k]) for k in sorted(kept)}}


def task_identity(task: Any) -> dict[str, Any]:
    """What a task asks and shows: prompt, picture, regions, and the names and sizes that it gives.

    Args:
        task: Any task.

    Returns:
        Plain JSON values, with hashes for picture and regions.
    """
    image = getattr(task, "image", None)
    return {
        "prompt": describe(getattr(task, "prompt", None)),
        "image": None if image is None else describe(np.asarray(picture(image))),
        "regions": {k: describe(np.asarray(v)) for k, v in (getattr(task, "regions", None) or {}).items()},
        **{k: getattr(task, k) for k in _TASK if isinstance(getattr(task, k, None), (str, int))},
    }


def source_identity(source: Any) -> Any:
    """What activations are taken from.

    Args:
        source: A run, a task, a function of the task, or one of them for each task.

    Returns:
        Plain JSON values.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [source_identity(one) for one in source]
    is_task = hasattr(source, "prompt") and not hasattr(source, "identity")
    return task_identity(source) if is_task else describe(source)


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two trees of plain values differ.

    Args:
        old: A tree.
        new: Another.
        at: The place of both in a larger tree.

    Returns:
        One line each: ``edit.hook: 'update' -> 'attn_out'``.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}, key=str):
            place = f"{at}.{key}" if at else str(key)
            if key not in old or key not in new:
                lines.append(f"{place}: {'absent' if key not in old else _short(old[key])} -> "
                             f"{'absent' if key not in new else _short(new[key])}")  # fmt: skip
            else:
                lines += differences(old[key], new[key], place)
        return lines
    return [] if old == new else [f"{at}: {_short(old)} -> {_short(new)}"]


def told(old: Any, new: Any) -> str:
    """The differences of two trees as an indented list for a message, outermost first; empty where there are none.

    Args:
        old: A tree of plain values.
        new: Another.
    """
    changed = sorted(differences(old, new), key=lambda line: line.partition(":")[0].count("."))
    listed = changed[:MOST] + ([f"and {len(changed) - MOST} more"] if len(changed) > MOST else [])
    return "".join(f"\n  {line}" for line in listed)


def checksum(*parts: Any) -> str:
    """64 hex digits of plain JSON values; equal ones have the same, also 5 and 5.0, and mappings in another order."""
    return hashlib.sha256(_text(_canonical(parts)).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    return [_canonical(v) for v in value] if isinstance(value, (list, tuple)) else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _object(value: Any, seen: tuple[Any, ...]) -> Any:
    """An object that is no plain value, by the best word on its content."""
    if isinstance(value, (type, bytes)):
        return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else f"bytes {_digest(value)}"
    if callable(getattr(value, "identity", None)):
        return describe(value.identity(), seen)
    name = type(value).__qualname__
    if is_dataclass(value):
        return {"class": name, **{f.name: describe(getattr(value, f.name), seen) for f in fields(value)}}
    parts: dict[str, Any] = {}
    if isinstance(getattr(value, "config", None), Mapping):  # diffusers
        parts |= configured(value)
    if callable(getattr(value, "state_dict", None)):  # torch
        parts |= {"class": name, "weights": describe(value.state_dict(), seen)}
    if parts:
        return parts
    if callable(getattr(value, "get_params", None)):  # scikit-learn, whose repr is cut
        return {"class": name, **describe(value.get_params(deep=False), seen)}
    if hasattr(value, "__array_interface__"):  # pictures
        return describe(np.asarray(value))
    text = repr(value)
    if " at 0x" not in text:
        return text
    if not hasattr(value, "__dict__"):  # an address says nothing of the content
        raise StoreError(
            f"{text} says nothing of its content, so kept work could not be told from work under another one: give "
            "its class a method identity() that returns plain values, or leave folder= out"
        )
    return {"class": name, **describe(vars(value), seen)}


def _function(value: FunctionType, seen: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"function": f"{value.__module__}.{value.__qualname__} {_digest(_code(value))}"}
    held: dict[str, Any] = {}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            held[name] = None
    if value.__defaults__ or value.__kwdefaults__:
        held["defaults"] = [value.__defaults__, value.__kwdefaults__]
    if not value.__module__.startswith("dit_lens."):  # ours: the version says what they name
        named = {name: value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__}
        held |= {
            name: one
            for name, one in named.items()
            if isinstance(one, _PLAIN) or (isinstance(one, FunctionType) and one.__module__ == value.__module__)
        }
    return found | describe(held, seen)


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _code(function: FunctionType) -> bytes:
    """What a function does, whatever its comments and its docstring say."""
    code = function.__code__
    consts = code.co_consts[1:] if code.co_consts[:1] == (function.__doc__,) else code.co_consts
    return _bytes(code.replace(co_consts=consts))


def _bytes(code: CodeType) -> bytes:
    consts = (_bytes(c) if isinstance(c, CodeType) else _constant(c).encode() for c in code.co_consts)
    return b"\0".join([code.co_code, repr((code.co_names, code.co_freevars, code.co_cellvars)).encode(), *consts])


def _constant(value: Any) -> str:
    """A constant of code as text; the order of a set of texts changes with the hash seed."""
    if isinstance(value, frozenset):
        return f"set {sorted(map(_constant, value))}"
    return f"({', '.join(map(_constant, value))})" if isinstance(value, tuple) else repr(value)


def _bits(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _array_bytes(value: np.ndarray) -> bytes:
    if value.dtype.hasobject:
        return _text(describe(value.tolist())).encode()
    return np.ascontiguousarray(value).tobytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
