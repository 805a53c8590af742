"""What a sweep reads off each cell: a number from the patched run, with base and source to compare with.

A metric is any function ``metric(run, base, source) -> float``. ``run`` has been taken as far as the sweep's horizon;
a stopped run is read by its last x0_hat, a complete one by its final latents, and base and source at the same step. A
result is *normalised* as (m - m_base) / (m_source - m_base): 0 is the base, 1 the source; without a source, m - m_base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from dit_lens.errors import MeasureError
from dit_lens.wan.bypass_guards import check_floats
from dit_lens.wan.run import Run

Metric = Callable[[Run, Run, Run], float]


@dataclass(frozen=True, eq=False)
class Item:
    """The runs that one item's cells are about. ``source``, ``placebo`` are None for edits that take from no run."""

    base: Run
    source: Run | None
    placebo: Run | None
    ends: dict[int, tuple[float, float]] = field(default_factory=dict)  # steps done -> metric of base, of source

    def of(self, kind: str) -> Run | None:
        """The run that cells of a kind take from."""
        return self.source if kind == "effect" else self.placebo


class Reading(Protocol):
    """Reads the numbers of a cell from its patched run: ``step`` is the last patched one, ``last`` the last one run."""

    def __call__(self, run: Run, item: Item, step: int, last: int) -> Mapping[str, float]:
        """Read the numbers of one cell, by name."""


@dataclass(frozen=True)
class OneMetric:
    """The reading of a sweep: a metric of the patched run, and of base and source where it was read.

    Args:
        metric: ``metric(run, base, source) -> float``.
    """

    metric: Metric

    def __call__(self, run: Run, item: Item, step: int, last: int) -> dict[str, float]:
        """Read the metric of a patched run, and of base and source at the same step."""
        low, high = self.ends(item, last)
        return {"value": measured(self.metric, run, item.base, item.source or item.base), "base": low, "source": high}

    def ends(self, item: Item, last: int) -> tuple[float, float]:
        """The metric of base and source at step ``last``: what 0 and 1 mean there."""
        n, base, source = last + 1, item.base, item.source or item.base
        if n not in item.ends:
            low, high = (measured(self.metric, run.until(n), base, source) for run in (base, source))
            item.ends[n] = (low, high)
        return item.ends[n]


def state(run: Run, like: Run) -> Tensor:
    """The clean latents of ``run`` at the point that ``like`` has reached, (C, F, h, w), fp32."""
    return (run.final if like.complete else run.x0_hat(like.n_steps - 1)).float()


def projected(moved: Tensor, toward: Tensor) -> float:
    """< moved, toward > / |toward|^2: how far a change goes toward another state; NaN where there is no way to go."""
    size = float((toward * toward).sum())
    return float((moved * toward).sum()) / size if size else math.nan


def projection(run: Run, base: Run, source: Run) -> float:
    """< x - b, s - b > / |s - b|^2 of clean latents: 0 is the base, 1 the source, and noise across the two is 0.

    Raises:
        MeasureError: Base and source agree exactly, so that there is no direction to project on.
        SamplerError: A run holds NaN or infinity.
    """
    origin = state(base, run)
    found = projected(state(run, run) - origin, state(source, run) - origin)
    if math.isnan(found):
        for one in (run, base, source):
            check_floats(one.latents)
        raise MeasureError("base and source agree exactly here: choose a source with another answer, or a later step")
    return found


def change(run: Run, base: Run, source: Run) -> float:
    """|x - b|^2 / |b|^2 of clean latents: how much changed, whatever the direction; 0 is the base. Needs no source."""
    origin = state(base, run)
    return float(((state(run, run) - origin) ** 2).sum() / (origin * origin).sum())


def answer(run: Run, base: Run, source: Run) -> float:
    """1 if the video gives the answer that the source ends in, else 0, read by the base's task.

    0 everywhere where the source gives no answer.

    Raises:
        MeasureError: A task that reads no answers.
    """
    read = getattr(base.task, "answer", None)
    if read is None:
        raise MeasureError("metric 'answer' needs a task that reads answers: generate from dit_lens.tasks.load(...)")
    wanted = read(source.video)
    return float(wanted is not None and read(run.video) == wanted)


def score(run: Run, base: Run, source: Run) -> float:
    """The task's partial credit for the video, 0 to 1, from the base's task.

    Raises:
        MeasureError: A task without a scorer.
    """
    judge: Any = getattr(base.task, "score", None)
    if judge is None:
        raise MeasureError("metric 'score' needs a task with a scorer: generate from dit_lens.tasks.load(...)")
    return float(judge(run.video).value)


NAMED: dict[str, Metric] = {"projection": projection, "change": change, "answer": answer, "score": score}
READS_VIDEO = (answer, score)


def metric(wanted: str | Metric | None, has_source: bool, tasks: Sequence[Any]) -> Metric:
    """A metric from its name, or the function itself.

    Args:
        wanted: A name, a function, or None for ``projection``, and ``change`` without a source.
        has_source: Whether there is a source.
        tasks: The tasks that it has to read.

    Returns:
        ``metric(run, base, source) -> float``.

    Raises:
        MeasureError: One that cannot be read from these tasks.
    """
    if wanted is None:
        wanted = "projection" if has_source else "change"
    if not isinstance(wanted, str):
        if not callable(wanted):
            raise MeasureError(f"metric={wanted!r}: give a name of {sorted(NAMED)}, or a function (run, base, source)")
        return wanted
    if wanted not in NAMED:
        raise MeasureError(f"unknown metric {wanted!r}: choose from {sorted(NAMED)}, or pass metric(run, base, source)")
    if wanted in ("projection", "answer") and not has_source:
        raise MeasureError(f"metric {wanted!r} compares with a source, and none was given: use 'change' or 'score'")
    if wanted in ("answer", "score"):
        for task in tasks:
            if not callable(getattr(task, wanted, None)):
                raise MeasureError(
                    f"metric {wanted!r} needs tasks that can be judged, and {task!r} has no {wanted}(video): use "
                    "dit_lens.tasks.load(...), or another metric"
                )
    return NAMED[wanted]


def measured(function: Metric, run: Run, base: Run, source: Run) -> float:
    """The metric's value, checked.

    Raises:
        MeasureError: It is not one finite number.
    """
    raw: Any = function(run, base, source)
    found = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    if found.shape not in ((), (1,)) or (not np.issubdtype(found.dtype, np.number) and found.dtype != bool):
        raise MeasureError(f"a metric must return one number, found shape {found.shape} of {found.dtype}: reduce it")
    value = float(found.reshape(()))
    if not np.isfinite(value):
        raise MeasureError(
            f"the metric returned {value} for {run.task or run.prompt!r}: it must be finite on every cell; "
            "return a number such as 0.0 where there is nothing to measure, or leave those tasks out"
        )
    return value
