"""A row of the table of claims: what the paper says, what is measured for it, and how the number is read and judged.

    Row(id="branching/undecided", paper="An early step has not decided yet ...", measure="share of branches ...",
        unit="share", null_name="the run's own noise", read=undecided, smallest=SMALLEST["share"], zero_null=True)

A row holds no code that runs a model. ``read`` is a pure function of what the row's experiment measured; it gives one
number per task for the effect and one for its null, paired by task wherever both exist on the same tasks. The verdict
follows from what the row states (:func:`dit_lens.stats.verdict`), and ``Row.decides`` says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import xarray as xr

from dit_lens.replication.claim import Claim, untestable
from dit_lens.stats.against_controls import against_controls
from dit_lens.stats.intervals import mean_interval
from dit_lens.stats.pairs import Pairs
from dit_lens.stats.smallest_p import FEWEST_CONTROLS, of_controls
from dit_lens.stats.verdict import ROUNDING, Verdict, verdict

#: What the runs of one experiment gave: datasets by name.
Measured = Mapping[str, Any]


class Estimate(NamedTuple):
    """A number over tasks with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end; NaN where there is no interval.
        high: Upper end.
        n: Tasks.
    """

    value: float
    low: float
    high: float
    n: int

    def words(self, digits: int = 3) -> str:
        """The number and its interval, where it has one.

        Args:
            digits: After the point.
        """
        value, low, high = (f"{number:.{digits}f}" for number in self[:3])
        return f"{value} [{low}, {high}]" if math.isfinite(self.low) else value

    def __str__(self) -> str:
        return f"{self.words()}, n = {self.n}"


@dataclass(frozen=True, eq=False)
class Reading:
    """What a row reads from its experiment.

    Args:
        effect: The effect, one number a task, (task,).
        null: The same under the null, (task,): of the same tasks in the same order where ``paired``.
        remark: What else a reader should know, in words with numbers.
        words: What fills the places in braces of the row's ``measure``, ``unit`` and ``null_name``.
        paired: Whether ``null`` is of the same tasks.
        estimates: Effect and null with intervals, where the number is no mean over tasks of ``effect`` and ``null``.
        tested: Whether a test of its own finds the effect, where there is one: without it the claim is not supported.
        controls: The same number of other networks, (control,), where the null is of networks: it is they that the
            network is tested against, and tasks cannot stand in for them.
    """

    effect: xr.DataArray
    null: xr.DataArray
    remark: str = ""
    words: Mapping[str, Any] = field(default_factory=dict)
    paired: bool = True
    estimates: tuple[Estimate, Estimate] | None = None
    tested: bool | None = None
    controls: xr.DataArray | None = None

    @classmethod
    def along(
        cls,
        values: xr.DataArray,
        dim: str,
        pair: tuple[str, str],
        remark: str = "",
        words: Mapping[str, Any] | None = None,
    ) -> Reading:
        """A reading of values that hold effect and null side by side.

        Args:
            values: (task, dim).
            dim: The dim of effect and null.
            pair: Their names along it.
            remark: As of the class.
            words: As of the class.
        """
        effect, null = (values.sel({dim: name}, drop=True) for name in pair)
        return cls(effect, null, remark, words or {})

    def summary(self, bounds: tuple[float, float] | None = None, zero_null: bool = False) -> tuple[Estimate, Estimate]:
        """Effect and null with their intervals.

        Args:
            bounds: The least and the greatest value of a task.
            zero_null: The null is zero by construction: where it is, up to rounding, its interval has no width.
        """
        if self.estimates:
            return self.estimates
        least = ROUNDING * (bounds[1] - bounds[0]) if bounds else 0.0
        zero = zero_null and bool((abs(self.null.dropna("task")) <= least).all())
        return mean(self.effect, bounds), mean(self.null * 0 if zero else self.null, bounds, exact=zero)


@dataclass(frozen=True)
class Untestable:
    """What ``read`` returns where the model or its runs cannot decide a claim, and why."""

    why: str


@dataclass(frozen=True)
class Row:
    """One claim of the paper.

    Args:
        id: The experiment's key, a slash, and a name that stays: "noise/peak-of-score".
        paper: The claim in our words, with its figure or section.
        measure: What is measured. Places in braces are filled from the data.
        unit: Its unit.
        null_name: What the null is.
        read: What the experiment measured -> :class:`Reading`, :class:`Untestable`, or None where the data were taken
            without what the row needs.
        smallest: Smallest effect of interest, stated before measuring, in ``unit``; see ``SMALLEST``.
        zero_null: The null is zero by construction, so that lying above it is no evidence by itself.
        less: The claim says "below the null".
        within: A range that the effect itself has to lie in.
        nothing: The value of an effect that is none, where that is known apart from the null.
        bounds: The least and the greatest value that a task can have.
        compared: Whether the claim compares with its null at all; else it is on ``within`` alone.
        networks: Whether the null is of other networks, so that ``Reading.controls`` holds what decides.
    """

    id: str
    paper: str
    measure: str
    unit: str
    null_name: str
    read: Callable[[Measured], Reading | Untestable | None]
    smallest: float | None = None
    zero_null: bool = False
    less: bool = False
    within: tuple[float, float] | None = None
    nothing: float | None = None
    bounds: tuple[float, float] | None = None
    compared: bool = True
    networks: bool = False

    @property
    def experiment(self) -> str:
        """Key of the experiment that the row reads."""
        return self.id.split("/")[0]

    @property
    def decides(self) -> str:
        """When the claim is supported and when contradicted, in words."""
        least, side = f"{self.smallest:g}" if self.smallest else "", "below" if self.less else "above"
        need, deny = [], []
        if self.compared:
            beyond = f"{least} {side} it (the null is zero by construction)" if self.zero_null else f"{side} it"
            if self.networks:
                need.append(
                    f"the network lies {side} its control networks, by its rank among {FEWEST_CONTROLS} or more"
                )
            else:
                need.append(f"the interval of the paired difference from the null lies {beyond}")
                deny.append(
                    f"it excludes every difference of {least} or more" if least else "it lies on the other side"
                )
        if self.within:
            need.append(f"the effect itself lies {_range(*self.within)}")
            deny.append("the effect lies outside that range" if len(need) > 1 else "it lies outside that range")
        return f"supported where {' and '.join(need)}; contradicted where {' or '.join(deny)}"

    def claim(self, found: Reading | Untestable, judged: Verdict | None = None, also: tuple[str, ...] = ()) -> Claim:
        """The row beside what was read.

        Args:
            found: What ``read`` gave.
            judged: Its verdict on a page; by default that of this row alone.
            also: Other claims that are the same number.
        """
        if isinstance(found, Untestable):
            return untestable(self.id, self.paper, found.why)
        effect, null = found.summary(self.bounds, self.zero_null)
        measure, unit, null_name = (text.format(**found.words) for text in (self.measure, self.unit, self.null_name))
        return Claim(
            self.id, self.paper, measure, unit, *effect, *null[:3], null_name, self.decides,
            judged or self.judged(found), also, found.remark,
        )  # fmt: skip

    def verdict(self, measured: Measured) -> Verdict | Untestable | None:
        """The paired verdict of this row alone; over a page, see :func:`dit_lens.replication.judge`."""
        found = self.read(measured)
        return self.judged(found) if isinstance(found, Reading) else found

    def judged(self, found: Reading) -> Verdict:
        """The verdict on what was read. A null of other tasks enters as its mean, a number."""
        null: xr.DataArray | float = found.null if found.paired else float(found.null.mean())
        judged: Verdict = verdict(
            found.effect,
            null if self.compared else 0.0,
            smallest=self.smallest,
            zero_null=self.zero_null,
            less=self.less,
            within=self.within,
            nothing=self.nothing,
            bounds=self.bounds,
        )
        if found.controls is not None:
            return self._among(found.controls, found.effect, judged)
        return replace(judged, p=1.0, p_corrected=1.0) if found.tested is False else judged

    def _among(self, controls: xr.DataArray, effect: xr.DataArray, judged: Verdict) -> Verdict:
        """The verdict by the network's rank among control networks; undecided where they are too few for a p."""
        tested = against_controls(effect.mean(), controls)
        least = of_controls(tested.attrs["controls"])
        sided = bool(tested["value"] < 0) if self.less else bool(tested["value"] > 0)
        need, against = [float(tested["p"]) if least.reaches and sided else 1.0], math.nan
        if self.within:
            inside = Pairs(effect.values.astype(float), 0.0, self.bounds)
            need.append(2 * max(inside.p_greater(self.within[0]), inside.p_smaller(self.within[1])))
            against = min(1.0, 2 * min(inside.p_smaller(self.within[0]), inside.p_greater(self.within[1])))
        p = min(1.0, max(need))
        return replace(
            judged, p=p, p_corrected=p, p_against=against, p_against_corrected=against, placebo_too=False,
            detectable=math.nan, no_p="" if least.reaches else str(least).rstrip("."),
        )  # fmt: skip


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"above {low:g}"
    return f"below {high:g}" if math.isinf(low) else f"between {low:g} and {high:g}"


def stored(cell: xr.Dataset, value: str, low: str, high: str, n: str) -> Estimate:
    """An estimate that an experiment's result holds already.

    Args:
        cell: One cell of the result.
        value: Name of the mean.
        low: Name of the lower end.
        high: Name of the upper end.
        n: Name of the number of tasks.
    """
    return Estimate(float(cell[value]), float(cell[low]), float(cell[high]), int(cell[n]))


def mean(values: xr.DataArray, bounds: tuple[float, float] | None, *, exact: bool = False) -> Estimate:
    """Mean over tasks of (task,) values, with its interval.

    Args:
        values: One number a task.
        bounds: The least and the greatest value of a task, ``SHARE`` or ``DIFFERENCE`` of shares; None where there is
            neither. It has no default: an interval of a share that was made as that of a mean leaves 0 to 1.
        exact: The number is the same for every task by construction.
    """
    s = mean_interval(values, bounds=bounds, exact=exact)
    return Estimate(float(s["value"]), float(s["low"]), float(s["high"]), int(s["n"]))


def text(values: xr.DataArray, bounds: tuple[float, float] | None) -> str:
    """Mean and interval of (task,) values in words; arguments as of :func:`mean`."""
    return str(mean(values, bounds))


#: Smallest effects of interest by kind of number, chosen before any verdict was made with them, and why.
REASONS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "share": (0.1, "one task in ten; the paper speaks of complete flips, and of 25 % against 68 % of branches"),
        "variance": (0.1, "a tenth of what varies between layers"),
        "score": (0.05, "below the least loss that the paper reports (.685 to .605 with four steps)"),
        "gain": (0.025, "just below the paper's gains (.031 over no ensemble, .026 over all layers)"),
        "log2": (0.1, "7 % more; the paper shows maps without a scale, and less than that is not seen in one"),
        "effect": (0.05, "a twentieth of the way from base to source"),
        "correlation": (0.1, "the least that Cohen (1988) calls a correlation at all; cosines and 1 - CKA alike"),
        "accuracy": (0.05, "a tenth of the way from chance (one half) to certain"),
        "depth": (0.05, "two layers of 40, a fifth of the bands of ten layers that the paper compares"),
        "steps": (1.0, "one step of the sampler: no film shows less"),
    }
)
SMALLEST: Mapping[str, float] = MappingProxyType({kind: least for kind, (least, _) in REASONS.items()})
SHARE = (0.0, 1.0)
DIFFERENCE = (-1.0, 1.0)  # of two shares; a cosine likewise
UP, HALF_UP = (0.0, math.inf), (0.5, math.inf)
