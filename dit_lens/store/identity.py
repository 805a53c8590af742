"""What a number depends on, as plain JSON values: kept work may be gone on with when these are equal.

Tensors and runs stand as short hashes of their content; functions as their name and a hash of their code, with what
they close over, their defaults and the plain values and functions of their own module that they name.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor

from dit_lens.wan.run import Run

_PLAIN = (bool, int, float, str, tuple, list, dict, Tensor, np.ndarray)


def describe(value: Any, _seen: tuple[Any, ...] = ()) -> Any:
    """A plain value that is the same for equal content, in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {_digest(value.detach().float().cpu().numpy().tobytes())}"
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {_digest(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Run):
        return f"run seed {value.seed} {describe(value.latents)}"
    if isinstance(value, partial):
        parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return describe(parts, _seen)
    if isinstance(value, range):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): describe(v, _seen) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, Sequence):
        return [describe(v, _seen) for v in value]
    if any(value is one for one in _seen):
        return "itself"
    _seen = (*_seen, value)
    if isinstance(value, MethodType):
        return {"method": describe(value.__func__, _seen), "of": describe(value.__self__, _seen)}
    if isinstance(value, FunctionType):
        return _function(value, _seen)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "class": type(value).__name__,
            **{f.name: describe(getattr(value, f.name), _seen) for f in fields(value)},
        }
    if " at 0x" in repr(value) and hasattr(value, "__dict__"):  # an address says nothing of the content
        return {"class": type(value).__qualname__, **describe(vars(value), _seen)}
    return repr(value)


def task_identity(task: Any) -> dict[str, Any]:
    """What a task asks and shows."""
    image = getattr(task, "image", None)
    return {
        "prompt": describe(getattr(task, "prompt", None)),
        "image": None if image is None else describe(np.asarray(image)),
        "regions": {k: describe(np.asarray(v)) for k, v in (getattr(task, "regions", None) or {}).items()},
        **{
            k: getattr(task, k)
            for k in ("name", "seed", "split", "height", "width", "num_frames")
            if isinstance(getattr(task, k, None), (str, int))
        },
    }


def source_identity(source: Any) -> Any:
    """What activations are taken from: a run, a task, a function of the task, or one of them for each task."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [source_identity(one) for one in source]
    return task_identity(source) if hasattr(source, "prompt") and not isinstance(source, Run) else describe(source)


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two trees of plain values differ, one line each: ``edit.hook: 'update' -> 'attn_out'``."""
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _function(value: FunctionType, seen: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"function": f"{value.__module__}.{value.__qualname__} {_digest(_code(value))}"}
    if value.__module__.startswith("dit_lens."):
        return found  # ours: the version says the rest
    held = {f"closure {i}": cell.cell_contents for i, cell in enumerate(value.__closure__ or ())}
    named = {name: value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__}
    held |= {
        name: one
        for name, one in named.items()
        if isinstance(one, _PLAIN) or (isinstance(one, FunctionType) and one.__module__ == value.__module__)
    }
    if value.__defaults__ or value.__kwdefaults__:
        held["defaults"] = [value.__defaults__, value.__kwdefaults__]
    return found | describe(held, seen)


def _code(function: FunctionType) -> bytes:
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        return _bytes(function.__code__)


def _bytes(code: CodeType) -> bytes:
    consts = (_bytes(c) if isinstance(c, CodeType) else repr(c).encode() for c in code.co_consts)
    return b"".join([code.co_code, repr(code.co_names).encode(), *consts])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
