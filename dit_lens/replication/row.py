"""A row of the table of claims: what the paper says, what is measured for it, and how the number is read and judged.

    Row(id="branching/undecided", paper="An early step has not decided yet ...", measure="share of branches ...",
        unit="share", null="the run's own noise", read=undecided, rule=ABOVE_NULL)

A row holds no code that runs a model. ``read`` is a pure function of what the row's experiment measured; it gives one
number per task for the effect and one for its null, paired by task wherever both exist on the same tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import xarray as xr

from dit_lens.replication.claim import Claim, untestable
from dit_lens.stats.summary import summarise
from dit_lens.stats.verdict import Verdict, verdict

#: What the runs of one experiment gave: datasets by name.
Measured = Mapping[str, Any]


class Estimate(NamedTuple):
    """A number over tasks with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end.
        high: Upper end.
        n: Tasks.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


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
        tested: Whether the claim is supported, where a test of its own says so and not the row's rule.
    """

    effect: xr.DataArray
    null: xr.DataArray
    remark: str = ""
    words: Mapping[str, Any] = field(default_factory=dict)
    paired: bool = True
    estimates: tuple[Estimate, Estimate] | None = None
    tested: bool | None = None

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

    def summary(self) -> tuple[Estimate, Estimate]:
        """Effect and null with their intervals."""
        return self.estimates or (mean(self.effect), mean(self.null))


@dataclass(frozen=True)
class Untestable:
    """What ``read`` returns where the model or its runs cannot decide a claim, and why."""

    why: str


@dataclass(frozen=True)
class Rule:
    """When a claim is supported: in words, and as a function of the estimates of effect and null."""

    words: str
    holds: Callable[[Estimate, Estimate], bool]


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
        rule: When the claim is supported.
        smallest: Smallest effect of interest, stated before measuring, in ``unit``; see ``SMALLEST``.
        zero_null: The null is zero by construction, so that lying above it is no evidence by itself.
        less: The claim says "below the null".
        within: A range that the effect itself has to lie in.
        nothing: The value of an effect that is none, where that is known apart from the null.
        bounds: The least and the greatest value that a task can have.
        compared: Whether the claim compares with its null at all; else it is on ``within`` alone.
    """

    id: str
    paper: str
    measure: str
    unit: str
    null_name: str
    read: Callable[[Measured], Reading | Untestable | None]
    rule: Rule
    smallest: float | None = None
    zero_null: bool = False
    less: bool = False
    within: tuple[float, float] | None = None
    nothing: float | None = None
    bounds: tuple[float, float] | None = None
    compared: bool = True

    @property
    def experiment(self) -> str:
        """Key of the experiment that the row reads."""
        return self.id.split("/")[0]

    def claim(self, measured: Measured) -> Claim | None:
        """The row beside what was found; None where ``measured`` was taken without what the row needs."""
        found = self.read(measured)
        if found is None or isinstance(found, Untestable):
            return untestable(self.paper, found.why) if found else None
        effect, null = found.summary()
        supported = self.rule.holds(effect, null) if found.tested is None else found.tested
        measure, unit, null_name = (text.format(**found.words) for text in (self.measure, self.unit, self.null_name))
        return Claim(
            self.paper, measure, unit, *effect, *null[:3], null_name, self.rule.words,
            "supported" if supported else "not supported", found.remark,
        )  # fmt: skip

    def verdict(self, measured: Measured) -> Verdict | Untestable | None:
        """The paired verdict of this row alone; over a page, see :func:`dit_lens.replication.judge`."""
        found = self.read(measured)
        return self.judged(found) if isinstance(found, Reading) else found

    def judged(self, found: Reading) -> Verdict:
        """The verdict on what was read. A null of other tasks enters as its mean, a number."""
        null: xr.DataArray | float = found.null if found.paired else float(found.null.mean())
        return verdict(
            found.effect,
            null if self.compared else 0.0,
            smallest=self.smallest,
            zero_null=self.zero_null,
            less=self.less,
            within=self.within,
            nothing=self.nothing,
            bounds=self.bounds,
        )


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


def mean(values: xr.DataArray) -> Estimate:
    """Mean over tasks of (task,) values, with its interval."""
    s = summarise(values)
    return Estimate(float(s["value"]), float(s["low"]), float(s["high"]), int(s["n"]))


def text(values: xr.DataArray) -> str:
    """Mean and interval of (task,) values in words."""
    return str(mean(values))


#: Smallest effects of interest by kind of number, and why. They were chosen before any verdict was made with them.
SMALLEST = MappingProxyType(
    {
        "share": 0.1,  # one puzzle in ten
        "score": 0.05,  # the paper's losses are .08 (four steps) and .4 (noise)
        "gain": 0.025,  # the paper's gains are .031 over no ensemble and .026 over all layers
        "log2": 0.1,  # 7 % more
        "effect": 0.05,  # a twentieth of the way from base to source
        "correlation": 0.1,
        "accuracy": 0.05,
        "depth": 0.05,  # two layers of 40
        "steps": 1.0,
    }
)
SHARE = (0.0, 1.0)
UP, HALF_UP = (0.0, math.inf), (0.5, math.inf)

ABOVE_NULL = Rule("supported when the interval lies above the null's", lambda a, b: a.low > b.high)
ABOVE_ZERO = Rule(
    "supported when the interval lies above zero and above the null's", lambda a, b: a.low > max(0.0, b.high)
)


def above(level: float) -> Rule:
    """For a claim that names a size: the interval has to lie above it, and above the null's.

    Args:
        level: The size, in the row's unit.
    """
    return Rule(
        f"supported when the interval lies above {level:g} and above the null's",
        lambda a, b: a.low > max(level, b.high),
    )
