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
        of: What gives it, "With 5 tasks".
        cure: What gives a smaller one, "take 6 tasks or more".
    """

    value: float
    of: str
    cure: str

    @property
    def reaches(self) -> bool:
        """Whether anything can stand out at .05."""
        return self.value <= LEVEL

    def __str__(self) -> str:
        return f"{self.of} no p lies below {self.value:.3g}, so that nothing can stand out at .05: {self.cure}."

    def attrs(self) -> dict[str, Any]:
        """Attributes of a result: ``smallest_p``, and ``no_mark`` where nothing can stand out."""
        return {"smallest_p": self.value} | ({} if self.reaches else {"no_mark": str(self)})


def of_tasks(n: int) -> SmallestP:
    """Two-sided sign flips over tasks.

    Args:
        n: Tasks that have a number.
    """
    value = min(1.0, 2.0 ** (1 - n)) if n <= ALL_UP_TO else 1 / (1 + RANDOM)
    return SmallestP(value, f"With {n} task{'s' * (n != 1)}", "take 6 tasks or more")


def of_controls(count: int) -> SmallestP:
    """The rank of a network among its control networks.

    Args:
        count: Control networks.
    """
    cure = f"take {FEWEST_CONTROLS} control networks or more"
    return SmallestP(1 / (1 + count), f"Against {count} control network{'s' * (count != 1)}", cure)


def of_shuffles(count: int, labels: int = 1) -> SmallestP:
    """Shuffled labels, corrected over several labels.

    Args:
        count: Shuffles of each label.
        labels: Labels that were asked.
    """
    said = f"With {count} shuffles" + (f" of each of {labels} labels" if labels > 1 else "")
    return SmallestP(min(1.0, labels / (1 + count)), said, f"take permutations={round(labels / LEVEL) - 1} or more")
