"""What a planted network computes, in its features: parts, and the causal model that they make.

A mechanism is a tuple of parts, each in one component of one layer::

    Attend(layer, head, region, reads, writes)   every token adds the mean of `reads` over the tokens of a region
    Tell(layer, reads, writes)                   every token adds what the text says (cross-attention)
    Units(layer, units)                          hidden units of the feed-forward: out * gelu(in . features + bias)

The causal model runs these parts on feature coordinates (tokens x features), with the network's own LayerNorm and
gates, but without its weights, torch, or a hook. :mod:`dit_lens.planted.weights` writes the same parts into a Wan
transformer. So what an intervention does to the model is known from outside: patch, remove or replace parts *here*, and
compare with what a method measured *there* (:mod:`dit_lens.planted.truth`).

The two agree to rounding (a test holds them to 1e-5): the attention of ``Attend`` is a softmax whose other weights are
below e-30, and the units of the library (``gate``, ``both``, ...) are exact where GELU is saturated.

When not to use: for networks with a noisy rest, whose rest is in no mechanism.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dit_lens.planted.directions import CONSTANT, FEATURES, GATED, INDEX, LENGTH_SQUARED, NAMES, WIDTH
from dit_lens.planted.pictures import COLS, FRAMES, ROWS, PlantTask

Component = Literal["attention", "cross_attention", "mlp"]
COMPONENTS: tuple[Component, ...] = ("attention", "cross_attention", "mlp")
N = FRAMES * ROWS * COLS
#: What a normalised stream holds of a feature of length 1, as long as nothing was written.
UNIT = float(np.sqrt(WIDTH / LENGTH_SQUARED))
SHARP = 24.0  # how far in GELU's flat parts units sit


@dataclass(frozen=True)
class Attend:
    """One head of self-attention: attends to the cells whose ``region`` colour is on, and copies a feature.

    Attributes:
        layer: Where.
        head: Which head.
        region: "green" (the region "key") or "blue" ("other").
        reads: The feature that is averaged over the region.
        writes: The feature that it is added to, or None: the head attends, and writes nothing.
        gain: What is added for a ``reads`` of 1.
        level: How sharply it attends: 1 leaves nothing elsewhere. Only a head that writes nothing may attend less.
    """

    layer: int
    head: int = 0
    region: str = "green"
    reads: str = "red"
    writes: str | None = "answer"
    gain: float = 1.0
    level: float = 1.0
    component: Component = field(default="attention", init=False)


@dataclass(frozen=True)
class Tell:
    """Cross-attention that adds a feature of the text ("word" or "flag") to every token."""

    layer: int
    reads: str = "word"
    writes: str = "answer"
    gain: float = 1.0
    component: Component = field(default="cross_attention", init=False)


@dataclass(frozen=True)
class Unit:
    """One hidden unit: ``out[f] += weight * gelu(sum_g into[g] x_g / UNIT + bias)``, x the normalised stream."""

    into: Mapping[str, float]
    bias: float
    out: Mapping[str, float]


@dataclass(frozen=True)
class Units:
    """Hidden units of one feed-forward."""

    layer: int
    units: tuple[Unit, ...]
    component: Component = field(default="mlp", init=False)


Part = Attend | Tell | Units


# -- units that compute something


def constant(writes: str, gain: float = 1.0) -> tuple[Unit, ...]:
    """``writes += gain``."""
    return (Unit({}, SHARP, {writes: gain / SHARP}),)


def linear(reads: Mapping[str, float], writes: str) -> tuple[Unit, ...]:
    """``writes += sum of weight * feature``: gelu(x) - gelu(-x) = x."""
    turned = {name: -weight for name, weight in reads.items()}
    return Unit(dict(reads), 0.0, {writes: 1.0}), Unit(turned, 0.0, {writes: -1.0})


def gate(reads: str, by: str | Mapping[str, float], writes: str, gain: float = 1.0) -> tuple[Unit, ...]:
    """``writes += gain * reads`` where every feature of ``by`` is 1, else nothing (``reads`` is 1, -1 or 0).

    Args:
        reads: The feature that is copied.
        by: Features that are 1, -1 or 0; one with the weight -1 has to be -1.
        writes: Where it is copied to.
        gain: What is added for a ``reads`` of 1.
    """
    k = SHARP
    open_by = {by: 1.0} if isinstance(by, str) else dict(by)
    into = {name: 2 * k * weight for name, weight in open_by.items()}
    return tuple(
        Unit({reads: sign * k, **into}, -2 * k * len(into), {writes: sign * gain / k}) for sign in (1.0, -1.0)
    )


def both(one: str, other: str, by: str, writes: str, gain: float = 1.0) -> tuple[Unit, ...]:
    """Where ``by`` is 1: ``writes += gain`` if both are 1, and ``-= gain`` if one is -1; elsewhere nothing."""
    k = SHARP
    joint = Unit({one: k, other: k, by: 2 * k}, -3 * k, {writes: 2 * gain / k})
    return joint, Unit({by: k}, 0.0, {writes: -gain / k})


# -- the causal model


@dataclass(frozen=True)
class Network:
    """A mechanism with what surrounds it.

    Attributes:
        n_layers: Blocks.
        parts: For each expert the parts of its mechanism.
        sigmas: Noise level before each step, and 0 after the last.
        experts: The expert of each step.
        guidance: Guidance scale; above 1 there are two branches.
        open: Steps at which the channels of ``late`` and ``note`` can be written.
    """

    n_layers: int
    parts: Mapping[str, tuple[Part, ...]]
    sigmas: tuple[float, ...]
    experts: tuple[str, ...]
    guidance: float = 1.0
    open: tuple[int, ...] | None = None

    @property
    def n_steps(self) -> int:
        """Steps of a generation."""
        return len(self.experts)

    @property
    def branches(self) -> tuple[str, ...]:
        """Denoiser calls of a step."""
        return ("cond", "uncond") if self.guidance > 1 else ("cond",)


@dataclass(frozen=True)
class Where:
    """One write: the place at which a part adds to the stream."""

    step: int
    branch: str
    layer: int
    component: Component
    head: int | None


#: What becomes of a write (tokens x features), given where it happens.
Change = Callable[[Where, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Calls:
    """What a run of the causal model did.

    Attributes:
        writes: Every write.
        velocity: Redness and greenness of each step's guided velocity, (steps, tokens, 2).
        streams: The stream after each layer, (tokens, features), by (step, branch, layer).
    """

    writes: Mapping[Where, np.ndarray]
    velocity: np.ndarray
    streams: Mapping[tuple[int, str, int], np.ndarray]


def run(network: Network, task: PlantTask, change: Change | None = None) -> Calls:
    """Run the causal model.

    Args:
        network: What is run.
        task: Its picture and text.
        change: Called with every write; what it returns is written instead.
    """
    writes: dict[Where, np.ndarray] = {}
    streams: dict[tuple[int, str, int], np.ndarray] = {}
    velocity = []
    for step, expert in enumerate(network.experts):
        found = {}
        for branch in network.branches:
            stream = entry(task)
            for layer in range(network.n_layers):
                stream = _block(network, task, step, expert, branch, layer, stream, change, writes)
                streams[step, branch, layer] = stream
            found[branch] = read_out(stream)
        v = found["cond"]
        if network.guidance > 1:
            v = found["uncond"] + network.guidance * (v - found["uncond"])
        velocity.append(v)
    return Calls(writes, np.stack(velocity), streams)


def entry(task: PlantTask) -> np.ndarray:
    """What enters block 0, (tokens, features)."""
    stream = np.zeros((N, len(NAMES)))
    stream[:, INDEX["constant"]] = CONSTANT
    first = ROWS * COLS
    for i, name in enumerate(("red", "green", "blue")):
        stream[:first, INDEX[name]] = task.cells[:, i]
    stream[first:, INDEX["later"]] = np.sqrt(3)
    return stream


def normalised(stream: np.ndarray) -> np.ndarray:
    """LayerNorm of the stream, in features."""
    return stream / np.sqrt((stream**2).sum(1, keepdims=True) / WIDTH + 1e-6)


def read_out(stream: np.ndarray) -> np.ndarray:
    """(redness, greenness) of the velocity of each token: an answer of 1 that stands alone gives 1."""
    seen = normalised(stream) / UNIT
    return np.stack([seen[:, INDEX["answer"]] + seen[:, INDEX["late"]], seen[:, INDEX["clutter"]]], 1)


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh approximation, which Wan's feed-forward uses."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def text(task: PlantTask, branch: str) -> Mapping[str, float]:
    """Features of the text, averaged over its tokens."""
    label = float(task.label) if task.asks == "text" else 1.0
    return {"word": label, "flag": 1.0} if branch == "cond" else {"word": 0.0, "flag": -1.0}


def _block(
    network: Network, task: PlantTask, step: int, expert: str, branch: str, layer: int, stream: np.ndarray,
    change: Change | None, writes: dict[Where, np.ndarray],
) -> np.ndarray:  # fmt: skip
    for component in COMPONENTS:
        mine = parts_at(network.parts[expert], layer, component)
        seen = normalised(stream)
        added = np.zeros_like(stream)
        for part in mine:
            where = Where(step, branch, layer, component, part.head if isinstance(part, Attend) else None)
            write = _write(part, seen, task, branch)
            if component != "cross_attention" and network.open is not None and step not in network.open:
                write[:, [i for name, i in INDEX.items() if FEATURES[name] == GATED]] = 0.0
            if change is not None:
                write = change(where, write)
            writes[where] = write
            added = added + write
        stream = stream + added
    return stream


def _write(part: Part, seen: np.ndarray, task: PlantTask, branch: str) -> np.ndarray:
    """What a part adds, (tokens, features), from the normalised stream."""
    out = np.zeros_like(seen)
    if isinstance(part, Attend):
        if part.writes is not None:
            region = seen[:, INDEX[part.region]] > 0
            out[:, INDEX[part.writes]] = part.gain * seen[region, INDEX[part.reads]].mean() / UNIT
    elif isinstance(part, Tell):
        out[:, INDEX[part.writes]] = part.gain * text(task, branch)[part.reads]
    else:
        for unit in part.units:
            hidden = unit.bias + sum(w * seen[:, INDEX[name]] / UNIT for name, w in unit.into.items())
            for name, weight in unit.out.items():
                out[:, INDEX[name]] += weight * gelu(np.asarray(hidden, float) * np.ones(N))
    return out


def parts_at(parts: Sequence[Part], layer: int, component: Component) -> list[Part]:
    """The parts in one component of one layer."""
    return [part for part in parts if part.layer == layer and part.component == component]
