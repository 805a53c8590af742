"""Long work on disk: finished items in folders that belong to their parameters, and the files of saved runs."""

from dit_lens.store.base import Store
from dit_lens.store.folder import open_store, part_of
from dit_lens.store.identity import describe, source_identity, task_identity
from dit_lens.store.items import Content

__all__ = ["Content", "Store", "describe", "open_store", "part_of", "source_identity", "task_identity"]
