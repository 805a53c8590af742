"""What there is one of: it serves one thread at a time, and can be neither copied nor pickled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, NoReturn

from dit_lens.errors import LoadError, SamplerError


class Exclusive:
    """The base of a lens, whose points are in one pipeline of one process."""

    def __init__(self) -> None:
        self._lock = RLock()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The one thread that is at work; it may enter again.

        Raises:
            SamplerError: For a second thread, whose hooks would mix with those of the first.
        """
        if not self._lock.acquire(blocking=False):
            raise SamplerError(
                "this lens is at work in another thread, and the hooks of two would mix: load a lens (and a pipeline) "
                "for each thread, or let threads take turns with a threading.Lock around every call"
            )
        try:
            yield
        finally:
            self._lock.release()

    def __copy__(self) -> NoReturn:
        raise LoadError(
            "a lens cannot be copied: its points are in one pipeline, and closing the copy would take them from the "
            "original. Load another with dit_lens.load(...); runs can be copied"
        )

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise LoadError(
            "a lens cannot be pickled: its points are in one pipeline, in this process. Send what dit_lens.load takes, "
            "and load it there; runs travel by run.save(folder) or pickle, and lens.attach(run) gives them a decoder"
        )
