"""Runs on disk, with their puzzles: :func:`load_run` makes the task of a run again from its name, seed and split."""

from __future__ import annotations

from pathlib import Path

from dit_lens import tasks
from dit_lens.store import runs
from dit_lens.wan.run import Run


def load_run(folder: str | Path) -> Run:
    """Read a run written by ``run.save(folder)``; ``lens.attach(run)`` lets it decode and be resumed.

    Errors: :class:`StoreError` for a missing, damaged or newer folder.
    """
    return runs.load_run(folder, revive=tasks.load)
