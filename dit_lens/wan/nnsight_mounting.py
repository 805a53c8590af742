"""nnsight's changes to Python itself, kept to the time of a trace.

When it is imported, nnsight gives every object of the process a method ``save`` and puts a ``Tensor.backward`` of its
own in place. Both are needed inside the body of a trace, and surprise everything else: libraries that ask
``hasattr(x, "save")`` find it on numbers. A user who imported nnsight before us wants them, and keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_TENSOR: Any = Tensor


@contextmanager
def unmounted() -> Iterator[None]:
    """Import nnsight in this block; afterwards ``object`` and ``Tensor.backward`` are what they were before it."""
    there, backward = _mounted(), Tensor.backward
    try:
        yield
    finally:
        if not there and _mounted():
            from nnsight._c import unmount

            unmount("save")
        _TENSOR.backward = backward


@contextmanager
def mounted() -> Iterator[None]:
    """The body of a trace: ``value.save()`` and ``with loss.backward():`` work in this block."""
    from nnsight import save
    from nnsight._c import mount
    from nnsight.intervention.backward import _backward

    with unmounted():
        if mount is not None and not _mounted():
            mount(save, "save")
        _TENSOR.backward = _backward
        yield


def _mounted() -> bool:
    return "save" in vars(object)
