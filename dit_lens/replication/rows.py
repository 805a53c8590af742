"""What the experiments share: how they tell their progress, and the way from numbers per puzzle to a row of claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr

from dit_lens.errors import TaskError
from dit_lens.progress import Progress
from dit_lens.replication.claim import Claim
from dit_lens.stats.summary import summarise


def needed(tasks: Sequence[Any], *parts: str, cure: str) -> None:
    """Refuse tasks that lack what an experiment reads, before it makes any run. Errors: :class:`TaskError`."""
    for task in tasks:
        missing = [part for part in parts if not hasattr(task, part)]
        if missing:
            raise TaskError(f"{task!r} has no {' and no '.join(missing)}: {cure}, or use dit_lens.tasks.load(...)")


def prefixed(progress: Progress, name: str) -> Progress:
    """The same progress, told as part of a longer piece of work."""
    return lambda done, total, what: progress(done, total, f"{name}: {what}")


def numbers(values: xr.DataArray) -> dict[str, float]:
    """``value, low, high, n`` of numbers (puzzle)."""
    s = summarise(values)
    return {k: float(s[k]) for k in ("value", "low", "high", "n")}


def above_null(
    paper: str, measure: str, unit: str, pair: Sequence[xr.DataArray], null_name: str, remark: str = ""
) -> Claim:
    """A claim of the form "this effect is there": supported when its interval lies above that of its null.

    ``pair``: the effect and its null, (puzzle) each, with the sign that the claim gives it.
    """
    a, b = map(summarise, pair)
    return Claim(
        paper, measure, unit,
        float(a["value"]), float(a["low"]), float(a["high"]), int(a["n"]),
        float(b["value"]), float(b["low"]), float(b["high"]), null_name,
        "supported when the interval lies above the null's", "supported" if a["low"] > b["high"] else "not supported",
        remark,
    )  # fmt: skip


def text(values: xr.DataArray) -> str:
    """Mean and interval of (puzzle) values in words."""
    a = summarise(values)
    return f"{float(a['value']):.3f} [{float(a['low']):.3f}, {float(a['high']):.3f}], n = {int(a['n'])}"
