"""Named parts of one piece of work, each made once: by this process, or by another one on the same folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dit_lens.store.base import Store


def make_parts(
    store: Store,
    makes: Mapping[str, Callable[[], Any]],
    beside: Callable[[str], Sequence[str]] = lambda name: (),
    waiting: Callable[[], None] | None = None,
) -> None:
    """Make the parts that are not done and keep each as soon as it is finished.

    Args:
        store: Where parts are kept; intermediate results of a part may be kept in ``store.child(name)``, which is
            dropped when the part is kept.
        makes: Part -> a function that returns what is kept.
        beside: Part -> further items that its function keeps in ``store`` itself; where one is missing, the part is
            made again.
        waiting: Called each time that other processes are working on all the rest.

    Raises:
        StoreError: A part cannot be written; the message says what is kept and how to continue.
    """
    with store.todo({name: [name, *beside(name)] for name in makes}, waiting) as todo:
        for name, _ in todo:
            store.put(name, makes[name]())
            store.drop_child(name)
    for name in makes:
        store.drop_child(name)  # after a kill just before the line above
