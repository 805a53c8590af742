"""All modules below one, quickly: ``nn.Module.modules()`` takes a millisecond for a small model, every time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def modules(root: Any) -> Iterator[Any]:
    """``root`` and every module below it, in no particular order; a module held in two places comes twice."""
    waiting: list[Any] = [root]
    while waiting:
        module = waiting.pop()
        yield module
        children = module.__dict__["_modules"]
        if children:
            waiting += [child for child in children.values() if child is not None]
