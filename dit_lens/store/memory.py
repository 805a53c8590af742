"""The twin of a folder in memory, so that work with and without ``folder=`` takes one way through the code."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dit_lens.store.base import Store
from dit_lens.store.manifest import Manifest


class MemoryStore(Store):
    """Items as they were put. They go with this object."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._items: dict[str, Any] = {}
        self._children: dict[str, MemoryStore] = {}
        self._claims: dict[str, threading.Lock] = {}

    @property
    def place(self) -> None:
        """None."""
        return None

    def keys(self) -> set[str]:
        """See :class:`Store`."""
        return set(self._items)

    def get(self, key: str, default: Any = None) -> Any:
        """See :class:`Store`."""
        return self._items.get(key, default)

    def put(self, key: str, value: Any) -> None:
        """See :class:`Store`."""
        self.made += key not in self._items
        self._items[key] = value

    def drop(self, key: str) -> None:
        """See :class:`Store`."""
        self._items.pop(key, None)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """See :class:`Store`."""
        return [key for key in keys if key not in self._items]

    def child(self, name: str) -> MemoryStore:
        """See :class:`Store`."""
        return self._children.setdefault(name, MemoryStore(self.manifest.inner(name)))

    def drop_child(self, name: str) -> None:
        """See :class:`Store`."""
        self._children.pop(name, None)

    @contextmanager
    def claim(self, group: str) -> Iterator[bool]:
        """See :class:`Store`; between threads."""
        lock = self._claims.setdefault(group, threading.Lock())
        if not lock.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
