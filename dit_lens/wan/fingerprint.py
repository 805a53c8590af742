"""A short hash of the weights, and a cheap way to see that they are still the same.

A run is tied to the weights that made it, so every generation asks for the fingerprint. Hashing each time would cost
more than a denoiser call of a small model; instead a *seal* remembers which storages were hashed, at which version.
While the seal holds, so does the hash. Storages are remembered weakly: a model that moves away is not kept alive, and
new weights at an old memory address are not mistaken for the old ones.

The hash reads names, shapes, dtypes and adapters (which are active, how strongly), tensors of up to ``WHOLE`` values
entirely, and of larger ones ``SAMPLE`` values that are spread over rows and columns.

When not to use: as proof against forgery, nor for a few values inside a large matrix. A write that goes around
autograd's version counter (``weight.data.add_(1)``) is not seen: write ``with torch.no_grad(): weight.add_(1)``.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dit_lens.wan.module_tree import modules

WHOLE = 2**20  # values: everything in a small model, all but the matrices in a real one
SAMPLE = 256
_GOLDEN = 0.6180339887498949  # spreads the sample evenly over rows and over columns
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_Mark = tuple[Any, int, int]  # storage (weak), address, version


class Fingerprint:
    """The fingerprint of a set of experts; ``read()`` hashes only what changed since the last time.

    Attributes:
        models: Name -> model.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self.models = models
        self._marks: list[_Mark] = []
        self._adapters: list[Any] = []
        self._hash = ""

    def read(self) -> str:
        """The hash, 16 hex digits.

        Weights that an offload hook holds elsewhere (meta) say nothing new: the last hash stays.
        """
        weights: list[Tensor] = []
        adapters: list[Any] = []
        for model in self.models.values():
            _collect(model, weights, adapters)
        if self._hash and (self._holds(weights, adapters) or any(w.is_meta for w in weights)):
            return self._hash
        self._marks, self._adapters = [_mark(w) for w in weights], adapters
        self._hash = digest(self.models)
        return self._hash

    def _holds(self, weights: list[Tensor], adapters: list[Any]) -> bool:
        if len(weights) != len(self._marks) or adapters != self._adapters:
            return False
        for weight, (storage, address, version) in zip(weights, self._marks, strict=True):
            if weight.untyped_storage() is not storage() or weight.data_ptr() != address or _version(weight) != version:
                return False
        return True


def digest(models: Mapping[str, nn.Module]) -> str:
    """The hash itself, from the values as they are now.

    Args:
        models: Name -> model; names are part of the hash.

    Returns:
        16 hex digits.
    """
    found = hashlib.sha256()
    for name, model in models.items():
        for key, value in model.state_dict().items():
            found.update(f"{name}.{key}{tuple(value.shape)}{value.dtype}".encode())
            if not value.is_meta:
                found.update(_content(value))
        adapters: list[Any] = []
        _collect(model, [], adapters)
        if adapters:
            found.update(repr(adapters).encode())
    return found.hexdigest()[:16]


def _content(value: Tensor) -> bytes:
    """What is read of one tensor: bits, so the same on every device."""
    bits = value.detach().flatten().view(_BITS[value.element_size()])
    n = bits.numel()
    if n <= WHOLE:
        return bits.cpu().numpy().tobytes()
    index = (torch.arange(SAMPLE, dtype=torch.float64) * _GOLDEN % 1 * n).long()
    return bits[index.to(bits.device)].cpu().numpy().tobytes()


def _mark(weight: Tensor) -> _Mark:
    return weakref.ref(weight.untyped_storage()), weight.data_ptr(), _version(weight)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _collect(model: nn.Module, weights: list[Tensor], adapters: list[Any]) -> None:
    """Add a model's tensors and the state of its LoRA layers. By hand, because ``state_dict()`` takes milliseconds."""
    for module in modules(model):
        state = module.__dict__
        for held in (state["_parameters"], state["_buffers"]):
            if held:
                weights += [w for w in held.values() if w is not None]
        if "merged_adapters" in state:
            # Merging writes into the weight around its version counter; scale and choice are no tensors at all.
            active, scaling = list(module.active_adapters), sorted(module.scaling.items())
            adapters.append((active, scaling, module.disable_adapters, list(module.merged_adapters)))
