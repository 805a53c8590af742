"""Several processes on one folder, so that a command uses the cores of a laptop.

The lab's models are so small that a second thread gains nothing in one process. Long work keeps its parts in a folder
that processes share (docs/how-to/long-work.md): so each core gets a process of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

MOST = 8  # processes that are started without being asked for: each holds the model


def processes(model: str, device: str | None, jobs: int) -> int:
    """How many processes share the work.

    Args:
        model: As it was given.
        device: Likewise.
        jobs: What the user asked for; 0 for one a core for the lab's models on the CPU, and one for all others.

    Returns:
        One or more.
    """
    from dit_lens.lab.models import find

    if jobs:
        return jobs
    small = find(model) is not None and device in (None, "cpu")
    return min(_cores(), MOST) if small else 1


@contextmanager
def shared(jobs: int, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Let ``jobs - 1`` further processes call ``work(*arguments)`` while the block runs; the cores are shared out.

    They print nothing and end with the block. What goes wrong in one goes wrong in the block, too, which says it.

    Args:
        jobs: Processes with this one.
        work: A function of a module.
        *arguments: Of the function; they are pickled.

    Yields:
        Nothing.
    """
    import torch

    if jobs == 1:
        yield
        return
    before, threads = torch.get_num_threads(), max(1, _cores() // jobs)
    context = torch.multiprocessing.get_context("spawn")
    others = [context.Process(target=_helper, args=(threads, work, arguments), daemon=True) for _ in range(jobs - 1)]
    torch.set_num_threads(threads)
    try:
        for other in others:
            other.start()
        yield
    finally:
        torch.set_num_threads(before)
        for other in others:
            if other.pid is not None:
                other.terminate()
                other.join()


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _helper(threads: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the first process, which ends this one
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    torch.set_num_threads(threads)
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    work(*arguments)


def _end_with(parent: int) -> None:
    """End this process when the first one was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
