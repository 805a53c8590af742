"""Kept work as a set of finished items by key: what is common to folders and to their twin in memory.

    store = open_store(folder, "sweep", identity)            # folder=None: the same in memory
    with store.todo({"0-5": ["a", "b"]}) as todo:
        for group, keys in todo:  # claimed while the loop is at it
            for key in keys:
                store.put(key, measure(key))
    results = {key: store.get(key) for key in ("a", "b")}

An item is there whole or not at all. Several processes may do the same work on one folder: each group of keys is
claimed by one of them, and one that finds all the rest claimed waits and reads what the others made.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dit_lens.store.manifest import Manifest

T = TypeVar("T")
WAIT, LONGEST = 0.05, 2.0  # seconds between two looks at what another process holds
WAITING = "waiting for another process on the same folder"


class Store(ABC):
    """Finished items by key.

    Attributes:
        manifest: What the items belong to.
        made: How many items this object put.
        wanted: Keys of the items that messages count; set by :meth:`todo` where the caller has not set them.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.made = 0
        self.wanted: set[str] | None = None
        self._at_first: set[str] = set()  # keys that were there when it was opened

    @property
    def found(self) -> int:
        """How many items of the work were there when the store was opened."""
        return len(self._at_first if self.wanted is None else self._at_first & self.wanted)

    @property
    def done(self) -> int:
        """How many items of the work are there now."""
        return len(self.keys() if self.wanted is None else self.keys() & self.wanted)

    def __str__(self) -> str:
        return "memory" if self.place is None else str(self.place)

    # -- items

    @property
    @abstractmethod
    def place(self) -> Path | None:
        """The folder; None in memory."""

    @abstractmethod
    def keys(self) -> set[str]:
        """Keys of all items that are there now, by this process or another; whether they are whole is not looked at."""

    @abstractmethod
    def get(self, key: str, default: Any = None) -> Any:
        """A finished item. A damaged one is set aside and counts as not done.

        Args:
            key: Its key.
            default: Returned where there is none.

        Raises:
            StoreError: The folder or a whole item cannot be read.
        """

    def file(self, key: str) -> Path | None:
        """The file of a finished item, checked to be whole, to be read in parts; None where there is none."""
        return None

    @abstractmethod
    def put(self, key: str, value: Any) -> None:
        """Keep an item: plain JSON values, tables by name, or :class:`~dit_lens.store.items.Content`.

        After this returns no crash loses it. An item under the same key is replaced.

        Raises:
            StoreError: It cannot be written; the message says what is safe and how to go on.
        """

    @abstractmethod
    def drop(self, key: str) -> None:
        """Remove an item, if it is there."""

    @abstractmethod
    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that are not done, in their order.

        Looks again at what other processes made, and checks that what is there is whole.
        """

    def __contains__(self, key: str) -> bool:
        return not self.missing([key])

    def once(self, key: str, make: Callable[[], T]) -> T:
        """A finished item, or a new one, which is kept. Its child of the same name is dropped then.

        Args:
            key: The item.
            make: Makes it where it is not done.
        """
        if key in self:
            value = self.get(key)
        else:
            value = make()
            self.put(key, value)
        self.drop_child(key)  # also after a kill just here
        return value

    # -- parts that take long

    @abstractmethod
    def child(self, name: str) -> Store:
        """A store for what is kept on the way to one item. It may be given as ``folder=`` to other long work."""

    @abstractmethod
    def drop_child(self, name: str) -> None:
        """Remove a child with everything in it."""

    def tidy(self) -> None:  # noqa: B027
        """Remove what a folder without a single item holds beside them, where it was made for nothing."""

    # -- several processes

    @abstractmethod
    def claim(self, group: str) -> AbstractContextManager[bool]:
        """Whether this process may work on a group: False while another process or thread does.

        A claim ends with its process. Where a file system has no locks the answer is always True: the same work may be
        done twice then, with the same result.

        Args:
            group: The group's name.
        """

    @contextmanager
    def todo(
        self, groups: Mapping[str, Sequence[str]], waiting: Callable[[], None] | None = None
    ) -> Iterator[Iterator[tuple[str, list[str]]]]:
        """The groups that are not done, each with its missing keys, one at a time and claimed meanwhile.

        When the loop ends every key is finished, by this process or by another one on the same folder. ctrl-C inside
        says how to go on, and whatever ends the block gives the claims back.

        Args:
            groups: Keys by the name of their group. A group is the unit of work that processes share.
            waiting: Called each time that all the rest is found to be claimed by others.
        """
        if self.wanted is None:
            self.wanted = {key for keys in groups.values() for key in keys}
        with self.stoppable(), closing(self._claimed(groups, waiting)) as found:
            yield found

    def _claimed(
        self, groups: Mapping[str, Sequence[str]], waiting: Callable[[], None] | None
    ) -> Generator[tuple[str, list[str]], None, None]:
        left, pause = dict(groups), WAIT
        while left:
            worked = False
            for group, keys in list(left.items()):
                if not self.missing(keys):
                    del left[group]
                    continue
                with self.claim(group) as ours:
                    keys = self.missing(keys) if ours else []  # what another made before it gave the claim back
                    if keys:
                        yield group, keys
                    if ours:
                        del left[group]
                        worked = True
            if left and not worked:
                if waiting is not None:
                    waiting()
                time.sleep(pause)
            pause = WAIT if worked else min(LONGEST, 2 * pause)

    # -- messages

    def resumed(self) -> str:
        """What to say of the items that were there already; empty where none were."""
        return f"going on after {self.found}{self._of()} {self.manifest.unit}" if self.found else ""

    def stopped(self) -> str:
        """What to say when the work was interrupted."""
        done = f"stopped with {self.done}{self._of()} {self.manifest.unit} done"
        if self.place is None:
            return f"{done}; nothing was kept: give folder= to be able to go on"
        return f"{done}; run the same {self.manifest.kind} with folder={str(self.place)!r} to go on"

    def _of(self) -> str:
        return "" if self.wanted is None else f" of {len(self.wanted)}"

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """In this block ctrl-C says how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self.stopped()) from None
