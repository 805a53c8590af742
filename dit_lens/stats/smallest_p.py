"""The smallest p that a test can give. Where it lies above .05, nothing can stand out, whatever the numbers are.

    sign flips over n tasks                            2 / 2^n
    rank of a network among K control networks         1 / (K + 1)
    S shuffles of each of L labels                     L / (S + 1)

Results with p say it in ``attrs``: ``smallest_p``, and where that lies above .05 a sentence ``no_mark``, which reports
print beside the count of cells that stand out.

When not to use: as a power. A p that can be reached need not be likely (:func:`dit_lens.stats.detectable`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dit_lens.stats.sign_flips import ALL_UP_TO, RANDOM

LEVEL = 0.05
#: Fewer control networks give no p: that of the most extreme of 20 + 1 is .048.
FEWEST_CONTROLS = 20


@dataclass(frozen=True)
class SmallestP:
    """The smallest p of a test.

    Attributes:
        value: It.
        reaches: Whether anything can stand out at .05.
        said: The sentence for where nothing can.
    """

    value: float
    reaches: bool
    said: str

    def __str__(self) -> str:
        return self.said

    def attrs(self) -> dict[str, Any]:
        """Attributes of a result: ``smallest_p``, and ``no_mark`` where nothing can stand out."""
        return {"smallest_p": self.value} | ({} if self.reaches else {"no_mark": self.said})


def of_tasks(n: int, unit: str = "task") -> SmallestP:
    """Two-sided sign flips over tasks.

    Args:
        n: Tasks that have a number.
        unit: What they are, where it is something else that is flipped.
    """
    value = min(1.0, 2.0 ** (1 - n)) if n <= ALL_UP_TO else 1 / (1 + RANDOM)
    return _limit(value, f"With {_many(n, unit)}", f"6 {unit}s")


def of_controls(count: int) -> SmallestP:
    """The rank of a network among its control networks; fewer than twenty give no p.

    Args:
        count: Control networks.
    """
    said = f"Against {_many(count, 'control network')} there is no p, so that nothing can stand out"
    return SmallestP(1 / (1 + count), count >= FEWEST_CONTROLS, f"{said}: take {FEWEST_CONTROLS} or more.")


def of_shuffles(count: int, labels: int = 1) -> SmallestP:
    """Shuffled labels, corrected over several labels.

    Args:
        count: Shuffles of each label.
        labels: Labels that were asked.
    """
    said = f"With {_many(count, 'shuffle')}" + (f" of each of {labels} labels" if labels > 1 else "")
    return _limit(min(1.0, labels / (1 + count)), said, f"permutations={round(labels / LEVEL) - 1}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _limit(value: float, of: str, cure: str) -> SmallestP:
    said = f"{of} no p lies below {value:.3g}, so that nothing can stand out at {LEVEL:g}: take {cure} or more."
    return SmallestP(value, value <= LEVEL, said)
