"""A claim of the paper beside what was found: one row of docs/findings.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dit_lens.errors import MeasureError

Verdict = Literal["supported", "not supported", "cannot be tested on this model"]


@dataclass(frozen=True)
class Claim:
    """One row: the paper's claim in our words (``paper``), our number for it, its null, and the verdict.

    ``value`` with its 95 % interval ``low, high`` over ``n`` puzzles, in ``unit``; ``null`` (with interval) is the same
    number under the placebo. ``rule`` says in words when the verdict is "supported", so that a reader can disagree.
    """

    paper: str
    measure: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    null: float
    null_low: float
    null_high: float
    null_name: str
    rule: str
    verdict: Verdict
    remark: str = ""

    def __post_init__(self) -> None:
        if self.verdict != "cannot be tested on this model" and not math.isfinite(self.value):
            raise MeasureError(f"{self.measure}: a verdict needs a finite number, found {self.value}")


def untestable(paper: str, why: str) -> Claim:
    """A claim that this model cannot decide, and why."""
    nan = math.nan
    return Claim(paper, "", "", nan, nan, nan, 0, nan, nan, nan, "", "", "cannot be tested on this model", why)
