"""What the numbers say of a claim: supported, contradicted, undecided, or shown by the placebo too.

A claim says that an effect lies above its null (``less=True``: below) on the same tasks, and may also name a range that
the effect itself lies in ("above .9", "between .4 and .6"). With d the paired difference in the claim's direction,
delta the smallest effect of interest and two-sided tests of size a::

    supported     d > m, and the effect lies in its range.  m is 0, or delta where the null is zero by construction
    contradicted  d < delta (d < 0 where no delta was stated), or the effect lies outside its range
    placebo too   not supported, and effect and placebo each exceed "nothing" by delta
    undecided     anything else; ``detectable`` says what this n and spread would have shown

"Contradicted" so covers an interval around nothing that is narrower than what is of interest, and one beyond zero on
the other side. A difference that is there and smaller than delta is contradicted: that is what stating delta means.
Where the null is zero by construction (a placebo that changes nothing, a criterion built to give zero) to lie above it
is no evidence, so that such a claim stays undecided until a delta is stated.

One p is a promise about one row. :func:`corrected` takes all rows of a page and judges again with p-values that hold
over all of them.

When not to use: with a delta that was chosen after the numbers were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.stats.corrections import fdr, paired_difference
from dit_lens.stats.intervals import FEWEST, by_task
from dit_lens.stats.pairs import Pairs

Outcome = Literal["supported", "contradicted", "undecided", "shown, and the placebo shows it too"]
PLACEBO_TOO: Outcome = "shown, and the placebo shows it too"
LEVEL = 0.05
ROUNDING = 1e-6  # of the distance of the bounds: a null that is zero by construction is so up to it


@dataclass(frozen=True)
class Verdict:
    """What a claim's numbers say, and all that the saying rests on.

    Args:
        difference: Mean paired difference, effect minus null, in the claim's direction.
        low: Lower end of its interval.
        high: Upper end.
        n: Tasks.
        p: Of "supported", two-sided: the larger one where a claim needs two things.
        p_corrected: The same over all rows of a page (:func:`corrected`); ``p`` until then.
        p_against: Of "contradicted", two-sided; NaN where nothing was stated that could be contradicted.
        p_against_corrected: The same over all rows of a page.
        placebo_too: Whether effect and placebo each exceed nothing.
        detectable: The smallest difference that this n and spread would have shown in 80 % of studies.
        smallest: Smallest effect of interest, as stated beforehand.
        zero_null: The null is zero by construction.
        interval_over: The level that was resampled.
        level: Size of the tests.
        no_p: Why there is no p of the comparison, where there can be none: too few control networks.
    """

    difference: float
    low: float
    high: float
    n: int
    p: float
    p_corrected: float
    p_against: float
    p_against_corrected: float
    placebo_too: bool = False
    detectable: float = float("nan")
    smallest: float | None = None
    zero_null: bool = False
    interval_over: str = "task"
    level: float = LEVEL
    no_p: str = ""

    @property
    def outcome(self) -> Outcome:
        """The verdict, by the corrected p-values."""
        if self.n < FEWEST:
            return "undecided"
        against, supported = self.p_against_corrected <= self.level, self.p_corrected <= self.level
        if self.placebo_too and (against or not supported):
            return PLACEBO_TOO
        if against:
            return "contradicted"
        return "supported" if supported else "undecided"

    @property
    def why(self) -> str:
        """What the verdict rests on, in words with numbers."""
        if self.n < FEWEST:
            return f"{self.n} tasks give no verdict: measure {FEWEST + 1} or more"
        least = "" if self.smallest is None else f", smallest effect of interest {self.smallest:g}"
        said = f"difference {self.difference:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}{least}"
        if self.outcome == "undecided":
            if self.no_p:
                return f"{said}; {self.no_p[0].lower()}{self.no_p[1:]}"
            if self.zero_null and self.smallest is None:
                return f"{said}; the null is zero by construction, so state the smallest effect of interest beforehand"
            if np.isnan(self.detectable):
                return f"{said}; all differences are equal, which says nothing of other tasks unless bounds are stated"
            return f"{said}; a difference of {self.detectable:.3g} would have been seen in 80 % of studies"
        p = self.p_corrected if self.outcome == "supported" else self.p_against_corrected
        return f"{said}; corrected p = {p:.3g}"

    def __str__(self) -> str:
        return f"{self.outcome}: {self.why}"


def verdict(
    effect: xr.DataArray,
    null: xr.DataArray | float,
    over: str | Sequence[str] = "task",
    *,
    smallest: float | None = None,
    zero_null: bool = False,
    less: bool = False,
    within: tuple[float, float] | None = None,
    nothing: float | None = None,
    bounds: tuple[float, float] | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> Verdict:
    """Judge a claim by its effect and null on the same tasks.

    Args:
        effect: One number a task along ``over``; NaN where a task has none.
        null: The same under the null, or a number that is known.
        over: A dim, or several from the top level down.
        smallest: Smallest effect of interest, above zero, in the unit of ``effect``, stated before measuring.
        zero_null: The null is zero by construction, so that the effect has to exceed ``smallest``.
        less: The claim says "below the null".
        within: A range that the effect itself must lie in, as (.9, inf).
        nothing: The value of an effect that is none, if that is known apart from the null: effect and null are then
            each tested against it, for "the placebo shows it too".
        bounds: The least and the greatest value of an arm.
        level: Size of the tests.
        seed: For random flips.

    Returns:
        The verdict, its ``p_corrected`` equal to ``p``.

    Raises:
        MeasureError: For arrays with other dims than ``over`` or of other tasks, a ``smallest`` that is not above zero
            or a ``within`` that is no range.
    """
    levels = [over] if isinstance(over, str) else list(over)
    _checked(effect, levels, smallest, within)
    paired_difference(effect, null, over)  # refuses what is no pair
    a = by_task(effect, over).values
    b: np.ndarray | float = by_task(null, over).values if isinstance(null, xr.DataArray) else float(null)
    if zero_null and isinstance(b, np.ndarray):
        there = b[np.isfinite(b)]
        width = bounds[1] - bounds[0] if bounds else 0.0
        if len(there) and np.ptp(there) <= ROUNDING * width:  # known: no spread that other tasks could add
            a, b = np.where(np.isfinite(b), a, np.nan), float(there[0])
    up, bounds_up = (-1.0, bounds and (-bounds[1], -bounds[0])) if less else (1.0, bounds)
    pairs = Pairs(up * a, up * b, bounds_up, seed)
    margin = smallest if zero_null else 0.0
    need = [np.nan if margin is None else 2 * pairs.p_greater(margin)]
    deny = [2 * pairs.p_smaller(smallest or 0.0)]
    if within is not None:
        inside = Pairs(a, 0.0, bounds, seed)
        need.append(2 * max(inside.p_greater(within[0]), inside.p_smaller(within[1])))
        deny.append(2 * min(inside.p_smaller(within[0]), inside.p_greater(within[1])))
    p, against = (float(np.minimum(1.0, found)) for found in (np.max(need), len(deny) * np.min(deny)))
    too = nothing is not None and _too(a, b, nothing, up, smallest, bounds, level)
    low, high = pairs.interval(1 - level)
    return Verdict(
        difference=pairs.value, low=low, high=high, n=pairs.n, p=p, p_corrected=p, p_against=against,
        p_against_corrected=against, placebo_too=too,
        detectable=pairs.detectable(1 - level), smallest=smallest, zero_null=zero_null, interval_over=levels[0],
        level=level,
    )  # fmt: skip


def _checked(
    effect: xr.DataArray, levels: Sequence[str], smallest: float | None, within: tuple[float, float] | None
) -> None:
    if smallest is not None and not smallest > 0:
        raise MeasureError(
            f"smallest={smallest}: the smallest effect of interest lies above zero; leave it out if none"
        )
    if within is not None and not within[0] < within[1]:
        raise MeasureError(f"within={within}: give the lower and the upper end of a range, e.g. (.9, inf)")
    if set(effect.dims) != set(levels):
        raise MeasureError(
            f"a verdict is on one number: effect has dims {list(effect.dims)} and over={list(levels)}; select the "
            "others, or take stats.paired and stats.max_statistic for many cells"
        )


def _too(
    a: np.ndarray, b: np.ndarray | float, nothing: float, up: float, smallest: float | None,
    bounds: tuple[float, float] | None, level: float,
) -> bool:  # fmt: skip
    """Whether effect and placebo each exceed nothing, by more than the smallest effect of interest."""
    if not isinstance(b, np.ndarray):
        return False
    turned = bounds if up > 0 or bounds is None else (-bounds[1], -bounds[0])
    return all(2 * Pairs(up * arm, up * nothing, turned).p_greater(smallest or 0.0) <= level for arm in (a, b))


def corrected(verdicts: Sequence[Verdict], *, any_dependence: bool = False) -> list[Verdict]:
    """The verdicts of one page, judged again with the false discovery rate held over all of them.

    Args:
        verdicts: Every row of the page that was tested, also those without a finding.
        any_dependence: As of :func:`dit_lens.stats.fdr`.

    Returns:
        The same rows in the same order; p of "supported" and of "contradicted" are each corrected over all rows.
    """
    p = fdr([v.p for v in verdicts], any_dependence=any_dependence)
    against = fdr([v.p_against for v in verdicts], any_dependence=any_dependence)
    return [
        replace(v, p_corrected=float(a), p_against_corrected=float(b))
        for v, a, b in zip(verdicts, p, against, strict=True)
    ]
