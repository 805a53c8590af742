"""What a measure needs of a task, asked before any run is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dit_lens.errors import TaskError


def needed(tasks: Sequence[Any], *parts: str, cure: str) -> None:
    """Refuse tasks that lack what an experiment reads, before it makes any run.

    Args:
        tasks: The tasks to look at.
        parts: Names of attributes that each must have.
        cure: What the caller can do instead, in words.

    Raises:
        TaskError: For the first task that lacks one.
    """
    for task in tasks:
        missing = [part for part in parts if not hasattr(task, part)]
        if missing:
            raise TaskError(f"{task!r} has no {' and no '.join(missing)}: {cure}, or use dit_lens.tasks.load(...)")
