"""What can be planted: one frozen value for each kind of mechanism, decoy and null.

    LayerPlant(layer=3, component="mlp")           one component of one layer
    HeadPlant(layer=2, head=1)                     one head
    StepPlant(step=1, layer=3)                     one layer, at one step: the timestep's modulation opens its gate
    ExpertPlant(expert="low", layer=2)             one layer of one expert
    BranchPlant(branch="uncond", layer=2)          one layer, in one branch of guidance
    LabelPlant(step=1, layer=2, used=False)        a label that can be decoded from there on
    BackupPlant(layers=(1, 4))                     the second layer restores what the first fails to write
    CancellingPlant(layers=(1, 4), layer=3)        two layers that cancel, beside one that works
    AndPlant(layers=(1, 2), layer=4)               the answer needs two layers, and a third joins them
    RegionPlant(layer=3, decoy=1)                  the attended region; decoy: attention to one that is never written
    LoudUpdate(layer=3, decoy=1)                   decoy: the loudest layer writes where nothing is read
    UnusedLabel(layer=3, decoy=1)                  decoy: a label that can be decoded everywhere, and nothing uses

Every spec takes ``n_layers``, ``n_steps`` and ``rest``, the strength of the network around the mechanism (0: it adds
nothing; 1: each other component adds random vectors as long as a part's own). Whole maps and nulls are in
:mod:`dit_lens.planted.whole_specs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dit_lens.errors import MeasureError
from dit_lens.planted.mechanism import Attend, Component, Part, Tell, Units, both, gate, linear
from dit_lens.planted.pictures import Asks, Shown
from dit_lens.planted.weights import HEADS


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What all plants have.

    Attributes:
        n_layers: Blocks of each expert.
        n_steps: Denoising steps.
        rest: Strength of the network around the mechanism.
    """

    n_layers: int = 6
    n_steps: int = 3
    rest: float = 0.0

    asks: ClassVar[Asks] = "picture"
    shown: ClassVar[Shown] = "later"
    guidance: ClassVar[float] = 1.0
    experts: ClassVar[tuple[str, ...]] = ("high",)

    def __post_init__(self) -> None:
        places = {part.layer for part in (*self.mechanism(), *self.decoys())}
        if not all(0 <= layer < self.n_layers for layer in places):
            raise MeasureError(f"{self} plants at layers {sorted(places)}: a network of {self.n_layers} has 0 to "
                               f"{self.n_layers - 1}; raise n_layers")  # fmt: skip
        heads = {part.head for part in self.mechanism() if isinstance(part, Attend)}
        if not all(0 <= head < HEADS for head in heads):
            raise MeasureError(f"{self}: heads are 0 to {HEADS - 1}")
        if self.n_steps < 1 or self.rest < 0:
            raise MeasureError(f"{self}: a generation has one step or more, and a rest has a strength of 0 or more")

    def mechanism(self) -> tuple[Part, ...]:
        """The parts that make the answer."""
        raise NotImplementedError

    def decoys(self) -> tuple[Part, ...]:
        """Parts that do something, and nothing to the answer."""
        return ()

    def context(self) -> tuple[Part, ...]:
        """Parts that the mechanism needs, and that write the same whatever the answer is: a patch cannot see them."""
        return ()

    def parts(self, expert: str) -> tuple[Part, ...]:
        """What stands in an expert."""
        return (*self.mechanism(), *self.context(), *self.decoys())

    @property
    def open(self) -> tuple[int, ...] | None:
        """Steps at which the gated features can be written; all of them by default."""
        return None


@dataclass(frozen=True, kw_only=True)
class LayerPlant(Spec):
    """One component of one layer makes the answer."""

    layer: int
    component: Component = "attention"

    @property
    def asks(self) -> Asks:  # type: ignore[override]
        """By text where cross-attention makes the answer."""
        return "text" if self.component == "cross_attention" else "picture"

    @property
    def shown(self) -> Shown:  # type: ignore[override]
        """At the key where the feed-forward makes the answer: it moves nothing between tokens."""
        return "key" if self.component == "mlp" else "later"

    def mechanism(self) -> tuple[Part, ...]:
        """One part, of the component that was chosen."""
        if self.component == "attention":
            return (Attend(self.layer),)
        if self.component == "cross_attention":
            return (Tell(self.layer),)
        return (Units(self.layer, gate("red", "green", "answer")),)


@dataclass(frozen=True, kw_only=True)
class HeadPlant(Spec):
    """One head of one layer makes the answer; the layer's other heads attend elsewhere and write nothing."""

    layer: int
    head: int = 1

    def mechanism(self) -> tuple[Part, ...]:
        """One head."""
        return (Attend(self.layer, self.head),)

    def decoys(self) -> tuple[Part, ...]:
        """The layer's other heads."""
        others = [head for head in range(HEADS) if head != self.head]
        return tuple(Attend(self.layer, head, region="blue", writes=None) for head in others)


@dataclass(frozen=True, kw_only=True)
class StepPlant(Spec):
    """One layer makes the answer at one step: the timestep's modulation opens its gate there."""

    step: int
    layer: int
    component: Literal["attention", "mlp"] = "attention"

    @property
    def shown(self) -> Shown:  # type: ignore[override]
        """At the key where the feed-forward makes the answer: it moves nothing between tokens."""
        return "key" if self.component == "mlp" else "later"

    @property
    def open(self) -> tuple[int, ...]:
        """The one step."""
        return (self.step,)

    def mechanism(self) -> tuple[Part, ...]:
        """One part, which writes to a gated feature."""
        if self.component == "attention":
            return (Attend(self.layer, writes="late"),)
        return (Units(self.layer, gate("red", "green", "late")),)


@dataclass(frozen=True, kw_only=True)
class ExpertPlant(Spec):
    """One layer of one expert makes the answer; the other expert does nothing."""

    expert: Literal["high", "low"]
    layer: int

    experts: ClassVar[tuple[str, ...]] = ("high", "low")

    def mechanism(self) -> tuple[Part, ...]:
        """One layer's attention."""
        return (Attend(self.layer),)

    def parts(self, expert: str) -> tuple[Part, ...]:
        """All parts in the one expert, none in the other."""
        return super().parts(expert) if expert == self.expert else ()


@dataclass(frozen=True, kw_only=True)
class BranchPlant(Spec):
    """One layer makes the answer in one branch of guidance: it reads in the text which of them it is in."""

    branch: Literal["cond", "uncond"]
    layer: int

    shown: ClassVar[Shown] = "key"
    guidance: ClassVar[float] = 3.0

    def mechanism(self) -> tuple[Part, ...]:
        """One part that reads the branch in the text, and one that makes the answer in it."""
        mine = 1.0 if self.branch == "cond" else -1.0
        gain = 1 / self.guidance if self.branch == "cond" else 1 / (1 - self.guidance)  # so that guidance undoes it
        return (Units(self.layer, gate("red", {"green": 1.0, "flag": mine}, "answer", gain)),)

    def context(self) -> tuple[Part, ...]:
        """The part that reads the branch in the text."""
        return (Tell(self.layer, "flag", "flag"),)


@dataclass(frozen=True, kw_only=True)
class LabelPlant(Spec):
    """From one layer of one step on the label stands at the later frames; ``used``: the answer is read from there.

    A label that is not used is not all there is: another part makes the answer, at other tokens.
    """

    step: int
    layer: int
    used: bool = True

    @property
    def shown(self) -> Shown:  # type: ignore[override]
        """At the later frames if the label is used, else at the key."""
        return "later" if self.used else "key"

    @property
    def open(self) -> tuple[int, ...]:
        """The one step."""
        return (self.step,)

    def mechanism(self) -> tuple[Part, ...]:
        """The layer that writes the label, if it is used; else the last feed-forward."""
        if self.used:
            return (Attend(self.layer, writes="late"),)
        return (Units(self.n_layers - 1, gate("red", "green", "answer")),)

    def decoys(self) -> tuple[Part, ...]:
        """The layer that writes the label, if it is not used."""
        return () if self.used else (Attend(self.layer, writes="note"),)


@dataclass(frozen=True, kw_only=True)
class BackupPlant(Spec):
    """Two redundant layers: the first makes the answer, and the second adds what is missing of it."""

    layers: tuple[int, int]

    shown: ClassVar[Shown] = "key"

    def mechanism(self) -> tuple[Part, ...]:
        """Both layers."""
        first, second = self.layers
        if not first < second:
            raise MeasureError(f"layers={self.layers}: the layer that backs up comes later")
        missing = (*gate("red", "green", "answer"), *linear({"answer": -1.0}, "answer"))
        return Units(first, gate("red", "green", "answer")), Units(second, missing)


@dataclass(frozen=True, kw_only=True)
class CancellingPlant(Spec):
    """Two layers whose writes cancel, beside one that makes the answer."""

    layers: tuple[int, int]
    layer: int

    shown: ClassVar[Shown] = "key"

    def mechanism(self) -> tuple[Part, ...]:
        """The layer that makes the answer."""
        return (Units(self.layer, gate("red", "green", "answer")),)

    def decoys(self) -> tuple[Part, ...]:
        """The two layers that cancel."""
        return tuple(
            Units(layer, gate("red", "green", "answer", gain))
            for layer, gain in zip(self.layers, (1.0, -1.0), strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class AndPlant(Spec):
    """The answer is 1 only where two layers say so, and a third layer joins what they say."""

    layers: tuple[int, int]
    layer: int

    shown: ClassVar[Shown] = "key"

    def mechanism(self) -> tuple[Part, ...]:
        """The two layers and the one that joins them."""
        if not max(self.layers) < self.layer:
            raise MeasureError(f"layers={self.layers}, layer={self.layer}: the layer that joins comes last")
        one, other = self.layers
        return (
            Units(one, gate("red", "green", "a")),
            Units(other, gate("red", "green", "b")),
            Units(self.layer, both("a", "b", "green", "answer")),
        )


@dataclass(frozen=True, kw_only=True)
class RegionPlant(Spec):
    """One layer attends to the region "key" and makes the answer of what stands there.

    ``decoy``: a layer that attends to the region "other" as sharply, and writes nothing of it.
    """

    layer: int
    decoy: int | None = None

    def mechanism(self) -> tuple[Part, ...]:
        """One layer's attention to the region "key"."""
        return (Attend(self.layer),)

    def decoys(self) -> tuple[Part, ...]:
        """All heads of the decoy layer, at the region "other"."""
        heads = range(HEADS) if self.decoy is not None else ()
        return tuple(Attend(int(self.decoy or 0), head, region="blue", writes=None) for head in heads)


@dataclass(frozen=True, kw_only=True)
class LoudUpdate(Spec):
    """Decoy: the largest update, which depends on the label as well, lies where nothing is read."""

    layer: int
    decoy: int
    loudness: float = 6.0

    shown: ClassVar[Shown] = "key"

    def mechanism(self) -> tuple[Part, ...]:
        """The layer that makes the answer."""
        return (Units(self.layer, gate("red", "green", "answer")),)

    def decoys(self) -> tuple[Part, ...]:
        """The loud layer."""
        return (Units(self.decoy, gate("red", "green", "loud", self.loudness)),)


@dataclass(frozen=True, kw_only=True)
class UnusedLabel(Spec):
    """Decoy: a second bit of the picture, which stands in every token of later frames, and which nothing reads."""

    layer: int
    decoy: int

    def mechanism(self) -> tuple[Part, ...]:
        """The layer that makes the answer."""
        return (Attend(self.layer),)

    def decoys(self) -> tuple[Part, ...]:
        """The head that copies the second bit."""
        return (Attend(self.decoy, head=3, region="blue", writes="b"),)
