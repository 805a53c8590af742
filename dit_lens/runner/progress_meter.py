"""Progress of long work: units done, the current one, and the time left, estimated from the work that is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from dit_lens.progress import Progress
from dit_lens.store.base import WAITING, Store


class ProgressMeter:
    """Counts finished units and calls a progress function. Safe to call from several threads.

    Args:
        progress: ``progress(done, total, what)``; None for a bar.
        costs: The work of every unit, by key, in any measure that they share.
        store: Where finished units are kept; those that other processes finish count as well.
    """

    def __init__(self, progress: Progress | None, costs: Mapping[str, float], store: Store) -> None:
        self._progress = progress_bar() if progress is None else progress
        self._costs, self._store = costs, store
        self._missing = set(store.missing(list(costs)))
        self._left = sum(costs[key] for key in self._missing)
        self._worked, self._began = 0.0, time.perf_counter()
        self._lock = threading.Lock()
        self._call("begun" if len(self._missing) == len(costs) else "resumed")

    def finished(self, unit: Any) -> None:
        """Count a unit that is done and kept."""
        with self._lock:
            self._drop(unit.key)
            self._worked += self._costs[unit.key]
            self._call(str(unit))

    def begins(self, what: str) -> None:
        """Report the current work."""
        with self._lock:
            self._call(what)

    def waiting(self) -> None:
        """Report that other processes are working on all that is left."""
        with self._lock:
            self._look()
            self._call(WAITING)

    def complete(self) -> None:
        """Report the end, and count what other processes finished."""
        with self._lock:
            if self._missing:
                self._look()
                self._call("done")

    def _look(self) -> None:
        for key in self._missing - set(self._store.missing(list(self._missing))):
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self._missing:
            self._missing.remove(key)
            self._left -= self._costs[key]

    def _call(self, what: str) -> None:
        later = ""
        if self._worked and self._left:
            later = f"; about {human_time((time.perf_counter() - self._began) * self._left / self._worked)} left"
        self._progress(len(self._costs) - len(self._missing), len(self._costs), what + later)


def progress_bar(name: str = "") -> Progress:
    """Make a bar for notebooks and terminals; its time left is estimated from the work of the units that are left."""
    from tqdm.auto import tqdm

    bars: list[Any] = []

    def tell(done: int, total: int, what: str) -> None:
        if not bars:
            form = "{desc}|{bar}| {n}/{total} [{elapsed}{postfix}]"
            bars.append(tqdm(total=total, initial=done, bar_format=form))
            bars[0].set_description_str(name)
        bar = bars[0]
        bar.set_postfix_str(what.rsplit("; ", 1)[1] if "; about" in what else "", refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return tell


def human_time(seconds: float) -> str:
    """Format seconds for readers."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def human_size(size: float) -> str:
    """Format bytes for readers."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
