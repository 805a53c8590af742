"""Runs on disk, with their tasks: :func:`load_run` makes the task of a run again from its name, seed and split."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dit_lens import tasks
from dit_lens.errors import DitLensError, StoreError
from dit_lens.store.run_files import read_run
from dit_lens.wan.run import Run
from dit_lens.wan.run_content import task_content


def load_run(folder: str | Path) -> Run:
    """Read a run that ``run.save(folder)`` wrote. ``lens.attach(run)`` lets it decode and be resumed.

    Where its task cannot be made again, or comes back as another task, the run has none and a warning says so.

    Raises:
        StoreError: The folder is missing or damaged, or of another format.
    """
    content = read_run(folder)
    try:
        run = Run.from_content(content)
    except StoreError as error:
        raise StoreError(f"{folder}: {error}") from error
    stored = content.header.get("task")
    return run if stored is None else replace(run, task=_task(folder, stored))


def _task(folder: str | Path, stored: Mapping[str, Any]) -> Any:
    name, seed, split, content = (stored[part] for part in ("name", "seed", "split", "content"))
    try:
        task = tasks.load(name, seed, split)
        if task_content(task) == content:
            return task
        reason = "another task than the run was made from"
    except DitLensError as error:
        reason = str(error)
    warnings.warn(
        f"the run in {folder} is read without its task ({name!r}, seed {seed}, split {split!r}), which cannot be made "
        f"again here: {reason}. Give it one with dataclasses.replace(run, task=...)",
        stacklevel=3,
    )
    return None
