"""How long work tells where it is: ``progress(done, total, what)``, called before each piece of it."""

from __future__ import annotations

from collections.abc import Callable

#: Pieces done, of how many, and what comes next (in sweeps: what was done last), in words.
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """The progress that tells nothing."""


def prefixed(progress: Progress, name: str) -> Progress:
    """The same progress, told as part of a longer piece of work."""
    return lambda done, total, what: progress(done, total, f"{name}: {what}")
