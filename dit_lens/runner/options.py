"""Options of all long work: how to sample, where to keep results, where to run, and how to report progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dit_lens.progress import Progress
from dit_lens.store.base import Store
from dit_lens.wan.sampling import Sampling, SamplingArguments, SamplingLike, merged


class Options(SamplingArguments, total=False):
    """Keyword arguments that every experiment takes: ``**options: Unpack[Options]``; see :class:`Running`.

    ``sampling`` is a :class:`dit_lens.Sampling`; its fields can also be given one by one.
    """

    sampling: SamplingLike | None
    folder: str | Path | Store | None
    progress: Progress | None
    executor: Any
    shard: str | tuple[int, int]


@dataclass(frozen=True)
class Running:
    """How long work is run. No field changes a number.

    Args:
        folder: Keep what is finished there; the same call with the same folder continues. None keeps nothing.
        progress: Called as ``progress(done, total, what)``; a bar by default, ``dit_lens.progress.silent`` for none.
        executor: ``"serial"``, ``"ray"``, or a :class:`dit_lens.runner.Ray`.
        shard: This process's part, ``"0/4"`` or ``(0, 4)``; the parts share a folder.
    """

    folder: str | Path | Store | None = None
    progress: Progress | None = None
    executor: Any = "serial"
    shard: str | tuple[int, int] = (0, 1)


RUNNING = tuple(f.name for f in fields(Running))


def split_options(options: Mapping[str, Any], of: Callable[..., Any] | None = None) -> tuple[Sampling, Running]:
    """Split a call's ``**options`` into sampling and running.

    Args:
        options: As a function took them.
        of: That function; its own arguments are suggested for a misspelt name, too.

    Returns:
        The sampling, and the running.

    Raises:
        SamplerError: Unknown names, or sampling arguments that are wrong.
    """
    running = {name: options[name] for name in RUNNING if name in options}
    given = {name: value for name, value in options.items() if name not in (*RUNNING, "sampling")}
    return merged(options.get("sampling"), given, of), Running(**running)
