"""Long work on disk: finished items in folders that belong to their parameters, and the files of saved runs.

Fetched when they are named, so that what only writes a file does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit_lens.store.base import Store
    from dit_lens.store.folder import open_store, part_of
    from dit_lens.store.identity import describe, source_identity, task_identity
    from dit_lens.store.items import Content

_HOMES = {
    "Content": "items", "Store": "base", "describe": "identity", "open_store": "folder", "part_of": "folder",
    "source_identity": "identity", "task_identity": "identity",
}  # fmt: skip

__all__ = ["Content", "Store", "describe", "open_store", "part_of", "source_identity", "task_identity"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
