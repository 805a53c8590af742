"""A claim of the paper beside what was found: one row of docs/findings.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dit_lens.errors import MeasureError

Verdict = Literal["supported", "not supported", "cannot be tested on this model"]


@dataclass(frozen=True)
class Claim:
    """One row: a claim beside what was found.

    ``value``, ``low`` and ``high`` are in ``unit``, and so is the null.

    Attributes:
        paper: The paper's claim in our words.
        measure: What is measured.
        unit: Its unit.
        value: Our number.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Tasks.
        null: The same number under the placebo.
        null_low: Lower end of its interval.
        null_high: Upper end.
        null_name: What the null is.
        rule: When the verdict is "supported", in words, so that a reader can disagree.
        verdict: What the numbers say.
        remark: What else a reader should know.
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
    """A claim that this model cannot decide.

    Args:
        paper: The claim.
        why: The reason, for its remark.
    """
    nan = math.nan
    return Claim(paper, "", "", nan, nan, nan, 0, nan, nan, nan, "", "", "cannot be tested on this model", why)
