"""What fills a whole network, or none of it: maps over all layers, and nulls.

    WholeMap(shape="three", n_layers=40)           attention, answer and texture spread over all layers
    Nothing(rest=1.0)                              null: a network without a mechanism
    NothingGuided(rest=1.0)                        the same with two branches

They are specs like those of :mod:`dit_lens.planted.specs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dit_lens.planted.mechanism import Attend, Part, Units, constant, gate
from dit_lens.planted.pictures import Shown
from dit_lens.planted.specs import BranchPlant, Spec
from dit_lens.planted.weights import HEADS


@dataclass(frozen=True, kw_only=True)
class WholeMap(Spec):
    """All layers take part: they attend to the region, write the answer, and write texture, as profiles over depth say.

    Attributes:
        shape: "three" stages (cut at .225 and .75 of depth), "two" (at .5), a "ramp" without stages, "one" place that
            does everything, or "none": all layers alike.
        jitter: Spread of what a layer does around its profile, in natural logarithms.
        drawn: Seed of that.
    """

    shape: Literal["three", "two", "ramp", "one", "none"]
    n_layers: int = 12
    n_steps: int = 1
    rest: float = 0.05
    jitter: float = 0.2
    drawn: int = 0

    shown: ClassVar[Shown] = "key"

    def profiles(self) -> dict[str, np.ndarray]:
        """What each layer writes, (layers,), each of sum 1: "attention" of the region, "effect" and "readout"."""
        n = self.n_layers
        depth = (np.arange(n) + 0.5) / n
        one = (np.arange(n) == n // 2).astype(float)
        shapes = {
            "three": (depth < 0.225, (depth >= 0.225) & (depth < 0.75), depth >= 0.75),
            "two": (depth < 0.5, depth >= 0.5, depth >= 0.5),
            "ramp": (1 - depth, depth, depth),
            "one": (one, one, one),
            "none": (np.full(n, 0.5), np.ones(n), np.ones(n)),
        }
        rng = np.random.default_rng([self.drawn, n])
        found = [np.asarray(p, float) * np.exp(self.jitter * rng.standard_normal(n)) for p in shapes[self.shape]]
        return {name: p / p.sum() for name, p in zip(("attention", "effect", "readout"), found, strict=True)}

    @property
    def stages(self) -> int:
        """How many stages there are; 0 where there are none."""
        return {"three": 3, "two": 2}.get(self.shape, 0)

    def mechanism(self) -> tuple[Part, ...]:
        """Each layer's share of the answer, by the profile "effect"."""
        found = self.profiles()
        return tuple(
            Units(layer, gate("red", "green", "answer", float(gain)))
            for layer, gain in enumerate(found["effect"])
            if gain > 0
        )

    def decoys(self) -> tuple[Part, ...]:
        """What each layer's attention writes of the region, and the texture that it writes."""
        found = self.profiles()
        attention = tuple(  # where nothing reads it, by all heads together
            Attend(layer, head, reads="green", writes="loud", gain=float(gain) / HEADS)
            for layer, gain in enumerate(found["attention"])
            if gain > 0
            for head in range(HEADS)
        )
        texture = tuple(
            Units(layer, constant("clutter", float(gain))) for layer, gain in enumerate(found["readout"]) if gain > 0
        )
        return (*attention, *texture)


@dataclass(frozen=True, kw_only=True)
class Nothing(Spec):
    """No mechanism: random components, or with ``rest=0`` none that adds anything."""

    rest: float = 1.0

    def mechanism(self) -> tuple[Part, ...]:
        """No parts."""
        return ()


@dataclass(frozen=True, kw_only=True)
class NothingGuided(Nothing):
    """The same, sampled with guidance."""

    guidance: ClassVar[float] = BranchPlant.guidance
