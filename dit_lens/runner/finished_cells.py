"""What of a sweep is done: each finished cell is stored, counted and told, with the time that is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from dit_lens.progress import Progress
from dit_lens.runner.cells import Cell
from dit_lens.store import Store

Result = dict[str, float]


class Tally:
    """Results of the cells of one process. ``costs``: work of each cell, in any unit, for the time left."""

    def __init__(self, costs: Mapping[Cell, int], store: Store, progress: Progress | None) -> None:
        self.costs, self.store = costs, store
        self.progress = progress_bar() if progress is None else progress
        store.wanted = {cell.key for cell in costs}
        stored = {cell: store.get(cell.key) for cell in costs}
        self.results: dict[Cell, Result] = {cell: found for cell, found in stored.items() if found is not None}
        self._left = sum(cost for cell, cost in costs.items() if cell not in self.results)
        self._worked, self._began = 0, time.perf_counter()
        self._lock = threading.Lock()
        self._tell("resumed" if self.results else "begun")

    def deliver(self, cell: Cell, found: Result) -> None:
        """Take a finished cell; when this returns it is safe."""
        with self._lock:
            self.store.put(cell.key, found)
            self._take(cell, found)
            self._worked += self.costs[cell]
            self._tell(str(cell))

    def missing(self, cells: list[Cell]) -> list[Cell]:
        """Which of these are not done yet, by this process or by another one on the same folder."""
        with self._lock:
            for cell in cells:
                if cell not in self.results:
                    found = self.store.get(cell.key)
                    if found is not None:
                        self._take(cell, found)
            return [cell for cell in cells if cell not in self.results]

    def _take(self, cell: Cell, found: Result) -> None:
        self.results[cell] = found
        self._left -= self.costs[cell]

    def _tell(self, what: str) -> None:
        left = ""
        if self._worked and self._left:
            left = f"; about {human_time((time.perf_counter() - self._began) * self._left / self._worked)} left"
        self.progress(len(self.results), len(self.costs), what + left)


def progress_bar() -> Progress:
    """A bar in notebooks and terminals, with the time left by the work in the cells that are left."""
    from tqdm.auto import tqdm

    bars: list[Any] = []

    def tell(done: int, total: int, what: str) -> None:
        if not bars:
            bars.append(
                tqdm(
                    total=total, initial=done, unit="cell", bar_format="{desc}|{bar}| {n}/{total} [{elapsed}{postfix}]"
                )
            )
            bars[0].set_description_str("sweep")
        bar = bars[0]
        bar.set_postfix_str(what.rsplit("; ", 1)[1] if "; about" in what else "", refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return tell


def human_time(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def human_size(size: float) -> str:
    """Bytes as a person says them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
