"""Segments of a profile over layers (early, middle, late), with a test of whether there are any.

Each evidence is standardised over layers; the profile is cut into k runs of layers so that the variance *between* the
runs is largest (least squares, all cuts are tried)::

    explained = sum_segments n_s |mean_s - mean|^2 / sum_layers |x_l - mean|^2

The null is that layers are exchangeable: layers are permuted, all evidences together, and the best cut of the permuted
profile is searched again, so that p is corrected for choosing the best cut.
p = (1 + #{permuted >= found}) / (1 + draws).

``ruptures`` 1.1.10 (``KernelCPD(kernel="linear")``) finds the same cuts on 200 random profiles. It is not used: it
requires Python below 3.14, and would replace the three lines that list the cuts.

When not to use: on quantities that accumulate over layers (norms of the stream, cosines with the final velocity), which
are alike in neighbouring layers by construction, so that any cut has a small p. Use what each layer *adds*, above a
control model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError


@dataclass(frozen=True)
class Segments:
    """A cut of layers into runs.

    Attributes:
        starts: First layer of each run.
        n_layers: Number of layers.
        explained: Share of the variance over layers that lies between runs, 0 to 1.
        p: Permutation p-value.
        level: Level at which the null is rejected.
    """

    starts: tuple[int, ...]
    n_layers: int
    explained: float
    p: float
    level: float = 0.05

    @property
    def found(self) -> bool:
        """Whether the null, exchangeable layers, is rejected."""
        return self.p <= self.level

    def runs(self) -> tuple[range, ...]:
        """The layers of each run."""
        ends = (*self.starts[1:], self.n_layers)
        return tuple(range(a, b) for a, b in zip(self.starts, ends, strict=True))

    def __str__(self) -> str:
        if not self.found:
            return (
                f"no specialisation found (p = {self.p:.3f}): a cut of the layers into {len(self.starts)} runs "
                "explains no more than a cut of shuffled layers would"
            )
        names = ("early", "middle", "late") if len(self.starts) == 3 else tuple(map(str, range(len(self.starts))))
        parts = ", ".join(f"{n} {r[0]}-{r[-1]}" for n, r in zip(names, self.runs(), strict=True))
        return f"{parts} (explains {self.explained:.0%} of the variance between layers, p = {self.p:.3f})"


def segments(
    profile: xr.DataArray,
    k: int = 3,
    shortest: int | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.05,
) -> Segments:
    """Cut a profile into runs of layers.

    Args:
        profile: (layer, evidence). An evidence that is constant, or not finite at some layer, is left out.
        k: Number of runs.
        shortest: Least number of layers in a run; by default a tenth of all, at least 1.
        draws: Permutations for the p-value.
        seed: Seed of the permutations.
        level: Level at which the null is rejected.

    Raises:
        MeasureError: Too few layers, or no evidence is left.
    """
    data = profile.transpose("layer", ...).values.reshape(profile.sizes["layer"], -1).astype(float)  # (L, E)
    n = len(data)
    shortest = max(1, n // 10) if shortest is None else shortest
    if n < k * shortest or n < k + 2:
        raise MeasureError(f"{n} layers cannot be cut into {k} runs of {shortest} or more: use fewer runs")
    usable = np.isfinite(data).all(0)
    usable[usable] = data[:, usable].std(0) > 0
    if not usable.any():
        raise MeasureError(
            "no evidence varies over layers, or none is finite: give evidence that differs between layers"
        )
    data = (data[:, usable] - data[:, usable].mean(0)) / data[:, usable].std(0)
    cuts = np.array([
        (0, *c, n) for c in combinations(range(shortest, n), k - 1) if min(np.diff((0, *c, n))) >= shortest
    ])  # (cuts, k + 1)  # fmt: skip
    found = _between(data[None], cuts)[0]  # (cuts,)
    rng = np.random.default_rng(seed)
    best = np.array([_between(data[rng.permutation(n)][None], cuts).max() for _ in range(draws)])
    at = int(found.argmax())
    p = (1 + int((best >= found[at] - 1e-12).sum())) / (1 + draws)
    return Segments(tuple(int(c) for c in cuts[at][:-1]), n, float(found[at]), p, level)


def _between(data: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Share of variance between runs, (profiles, cuts), of standardised profiles (profiles, L, E)."""
    sums = np.concatenate([np.zeros_like(data[:, :1]), data.cumsum(1)], 1)  # (profiles, L + 1, E)
    parts = np.diff(sums[:, cuts], axis=2)  # (profiles, cuts, k, E)
    sizes = np.diff(cuts, axis=1)[None, :, :, None]
    return (parts**2 / sizes).sum((2, 3)) / (data**2).sum((1, 2))[:, None]
