"""Two arms of the same tasks in one cell, and what can be asked of their difference.

What answers depends on the outcome, and :class:`Pairs` chooses:

=========================  ======================================  =====================================
outcome                    p                                       interval
=========================  ======================================  =====================================
differences that vary      sign flips                              what sign flips do not reject
two-valued, paired         sign flips (McNemar's exact test)       Newcombe, paired shares
two-valued, null known     exact binomial                          Blaker
bounded, null known        Gaffke's interval, inverted             Gaffke
all differences equal      sign flips, or what bounds allow        Gaffke, the bounds being those of differences
=========================  ======================================  =====================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, nct
from scipy.stats import t as student

from dit_lens.errors import MeasureError
from dit_lens.stats.bounded import bounded_ends, bounded_p
from dit_lens.stats.intervals import FEWEST
from dit_lens.stats.methods import newcombe, varies
from dit_lens.stats.shares import share_ends
from dit_lens.stats.sign_flips import ends, p_above, p_below, sign_vectors, subset_means

POWER = 0.8  # of the smallest effect that could have been seen


class Pairs:
    """Effect and null of the same tasks.

    Args:
        effect: Values (tasks,); NaN where a task has none.
        null: Values of the same tasks, or one number that is known.
        bounds: The least and the greatest value of an arm, where there are such.
        seed: For the random flips that stand in for all of them above twelve tasks.
    """

    def __init__(
        self,
        effect: np.ndarray,
        null: np.ndarray | float,
        bounds: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.known = not isinstance(null, np.ndarray)
        other = np.broadcast_to(np.asarray(null, float), effect.shape)
        seen = np.isfinite(effect) & np.isfinite(other)
        self.effect, self.null = effect[seen].astype(float), other[seen]
        self.bounds = bounds
        self.d = self.effect - self.null
        self.n = len(self.d)
        self.value = float(self.d.mean()) if self.n else np.nan
        self.sd = float(self.d.std(ddof=1)) if self.n > 1 else np.nan
        self._means = subset_means(self.d, sign_vectors(self.n, seed)) if self.n > 1 else np.zeros(0)

    @property
    def two_valued(self) -> bool:
        """Whether the outcome only has the two bounds as values."""
        arms = self.effect if self.known else np.concatenate([self.effect, self.null])
        return bool(self.bounds is not None and self.n and np.isin(arms, self.bounds).all())

    @property
    def varies(self) -> bool:
        """Whether the differences differ."""
        return bool(self.n and varies(self.d))

    def p(self) -> float:
        """Two-sided p that there is no difference; NaN where these tasks cannot say."""
        return float(np.minimum(1.0, 2 * np.minimum(self.p_greater(), self.p_smaller())))

    def p_greater(self, than: float = 0.0) -> float:
        """One-sided p of "the difference is greater".

        Args:
            than: Than what, in the unit of the outcome.

        Returns:
            NaN where these tasks cannot say.
        """
        if not self._answers(than):
            return np.nan
        if np.isinf(than):
            return float(than > 0)
        if self.two_valued and self.known:
            return self._binomial(than, "greater")
        if self._by_bounds(than):
            return bounded_p(self.d, self._reach, than)
        if self.two_valued and than != 0:
            return self._inverted(lambda ends: ends[0] > than)
        return p_above(self._means, than)

    def p_smaller(self, than: float = 0.0) -> float:
        """One-sided p of "the difference is smaller".

        Args:
            than: Than what, in the unit of the outcome.

        Returns:
            NaN where these tasks cannot say.
        """
        if not self._answers(than):
            return np.nan
        if np.isinf(than):
            return float(than < 0)
        if self.two_valued and self.known:
            return self._binomial(than, "less")
        if self._by_bounds(than):
            least, greatest = self._reach
            return bounded_p(-self.d, (-greatest, -least), -than)
        if self.two_valued and than != 0:
            return self._inverted(lambda ends: ends[1] < than)
        return p_below(self._means, than)

    def _answers(self, than: float) -> bool:
        """Whether these tasks say anything: equal differences without bounds only tell their sign."""
        return self.n >= FEWEST and (self.varies or self.bounds is not None or than == 0)

    def _by_bounds(self, than: float) -> bool:
        """Whether bounds answer: flips take outcomes for symmetric, which scores beside a number need not be."""
        if self.bounds is None or self.two_valued:
            return False
        return self.known or (than != 0 and not self.varies)

    def _binomial(self, than: float, side: str) -> float:
        least, greatest = self._bounds
        share = (than + float(self.null[0]) - least) / (greatest - least)
        hits = int((self.effect == greatest).sum())
        return float(binomtest(hits, self.n, min(max(share, 0.0), 1.0), alternative=side).pvalue)

    def _inverted(self, clear: Callable[[tuple[float, float]], bool]) -> float:
        """The smallest a for which the interval of level 1 - 2 a is clear of what is asked; 1 where none is."""
        least, greatest = 1e-6, 0.499
        if not clear(self.interval(1 - 2 * greatest)):
            return 1.0
        while greatest - least > 1e-6:
            middle = (least + greatest) / 2
            least, greatest = (least, middle) if clear(self.interval(1 - 2 * middle)) else (middle, greatest)
        return greatest

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the mean difference.

        Args:
            level: Coverage.

        Returns:
            Lower and upper end; NaN below five tasks, and where equal differences say nothing.
        """
        if self.n < FEWEST:
            return np.nan, np.nan
        if self.two_valued:
            return self._shares(level)
        if self.varies and not self._by_bounds(0.0):
            return ends(self._means, level)
        if self.bounds is None:
            return np.nan, np.nan
        low, high = bounded_ends(self.d, self._reach, level)
        return float(low), float(high)

    def _shares(self, level: float) -> tuple[float, float]:
        least, greatest = self._bounds
        wide = greatest - least
        a, b = self.effect == greatest, self.null == greatest
        if self.known:
            low, high = (float(end) for end in share_ends(np.array(a.sum()), np.array(self.n), level))
            shift = least - float(self.null[0])
            return low * wide + shift, high * wide + shift
        both, first, second, neither = (int((x & y).sum()) for x, y in ((a, b), (a, ~b), (~a, b), (~a, ~b)))
        low, high = newcombe(both, first, second, neither, level)
        return low * wide, high * wide

    @property
    def _bounds(self) -> tuple[float, float]:
        if self.bounds is None:
            raise MeasureError("this outcome has no bounds: pass bounds=(least, greatest)")
        return self.bounds

    @property
    def _reach(self) -> tuple[float, float]:
        """The least and the greatest difference."""
        least, greatest = self._bounds
        of_null = (float(self.null[0]),) * 2 if self.known else (greatest, least)
        return least - of_null[0], greatest - of_null[1]

    def detectable(self, level: float = 0.95, power: float = POWER) -> float:
        """The smallest difference that this n and spread would have shown.

        Args:
            level: One minus the size of the test.
            power: Share of studies in which it is to be found.

        Returns:
            NaN where they say nothing. Where all differences are equal there is no spread to reckon with, and where
            bounds answer a rare difference could be anywhere within them: it is then at least how far the interval
            reaches.
        """
        if self.n < FEWEST:
            return np.nan
        by_spread = detectable(self.sd, self.n, level, power) if self.varies else 0.0
        if self.varies and not self._by_bounds(0.0):
            return by_spread
        low, high = self.interval(level)
        return float(np.max([by_spread, self.value - low, high - self.value]))  # NaN where there is no interval


def detectable(sd: float, n: int, level: float = 0.95, power: float = POWER) -> float:
    """Smallest mean difference that a two-sided paired t test finds with this power.

    Args:
        sd: Standard deviation of the differences.
        n: Tasks, two or more.
        level: One minus the size of the test.
        power: Share of studies in which it is to be found.

    Returns:
        The difference, in the unit of ``sd``.

    Raises:
        MeasureError: For fewer than two tasks.
    """
    if n < 2:
        raise MeasureError(f"n={n}: nothing can be detected with fewer than two tasks")
    return _shift(n, level, power) * sd / float(np.sqrt(n))


@lru_cache(maxsize=64)
def _shift(n: int, level: float, power: float) -> float:
    """Noncentrality at which a two-sided t test of ``n`` has this power."""
    edge = student.ppf(0.5 + level / 2, n - 1)
    return float(brentq(lambda ncp: float(nct.sf(edge, n - 1, ncp)) - power, 0.0, edge + 10.0))
