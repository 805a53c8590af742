"""A claim of the paper beside what was found: one row of docs/findings.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dit_lens.errors import MeasureError
from dit_lens.stats.verdict import Verdict

UNTESTABLE = "cannot be tested on this model"


@dataclass(frozen=True)
class Claim:
    """One row: a claim beside what was found.

    ``value``, ``low`` and ``high`` are in ``unit``, and so are the null and the paired difference of ``judged``.

    Attributes:
        id: The row's id in the table.
        paper: The paper's claim in our words.
        measure: What is measured.
        unit: Its unit.
        value: Our number.
        low: Lower end of its 95 % interval; NaN where it has none.
        high: Upper end.
        n: Tasks.
        null: The same number under the placebo.
        null_low: Lower end of its interval.
        null_high: Upper end.
        null_name: What the null is.
        rule: When the verdict is "supported" and when "contradicted", in words, so that a reader can disagree.
        judged: The paired verdict, corrected over the rows of the page; None where this model cannot decide the claim.
        also: Other claims that read the same number of every task and are judged alike: they are this row too.
        remark: What else a reader should know.
    """

    id: str
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
    judged: Verdict | None
    also: tuple[str, ...] = ()
    remark: str = ""

    def __post_init__(self) -> None:
        if self.judged is not None and not math.isfinite(self.value):
            raise MeasureError(f"{self.measure}: a verdict needs a finite number, found {self.value}")

    @property
    def verdict(self) -> str:
        """What the numbers say: an outcome of :class:`dit_lens.stats.Verdict`, or that nothing could be measured."""
        return UNTESTABLE if self.judged is None else self.judged.outcome

    def __str__(self) -> str:
        if self.judged is None:
            return f"{self.paper}\n  {UNTESTABLE}: {self.remark}"
        found = f"{self.measure}: {_ends(self.value, self.low, self.high)} {self.unit}, n = {self.n}"
        null = f"{self.null_name}: {_ends(self.null, self.null_low, self.null_high)}"
        return f"{self.paper}\n  {found}; {null}\n  {self.judged}" + (f"\n  {self.remark}" if self.remark else "")


def _ends(value: float, low: float, high: float) -> str:
    return f"{value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if math.isfinite(low) else "")


def untestable(id: str, paper: str, why: str) -> Claim:
    """A claim that this model cannot decide.

    Args:
        id: The row's id.
        paper: The claim.
        why: The reason, for its remark.
    """
    nan = math.nan
    return Claim(id, paper, "", "", nan, nan, nan, 0, nan, nan, nan, "", "", None, remark=why)
