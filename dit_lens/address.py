"""Where an activation lives in one generation, and how to select such places.

A *call* is one denoiser forward. Wan calls a denoiser twice a step under guidance (``cond`` first, then ``uncond``),
and Wan2.2-A14B changes the denoiser at a noise boundary (expert ``high``, then ``low``). So a place is only ever named
by (step, branch, layer, hook): never by counting forwards, which starts over at the second expert and doubles under
guidance.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypedDict

from dit_lens.checks import is_integer
from dit_lens.errors import AddressError

Branch = Literal["cond", "uncond"]
ExpertName = Literal["high", "low"]

BRANCHES: tuple[Branch, ...] = ("cond", "uncond")
ALL: Final = "all"

#: Dims of labelled arrays, with their meaning: the only names that public results use (tests/test_dims.py).
DIMS: Final[Mapping[str, str]] = MappingProxyType({
    "model": "models that are compared: checkpoints of a training, training seeds, other depths",
    "task": "the tasks; the unit of every interval",
    "seed": "noise seeds",
    "step": "sampler steps, or groups of them; n_steps stands for the finished video",
    "branch": "`cond`, `uncond`",
    "expert": "`high`, `low`",
    "layer": "blocks, or groups of them; -1 is the stream before the first",
    "hook": "named points; also `latents` and `x0_hat`",
    "head": "attention heads",
    "frame": "latent frames",
    "region": "named sets of tokens",
    "kind": "what was done: effect and placebo, the masks of a measure, the arms of an experiment",
    "metric": "what was measured, where several numbers share one table",
    "reading": "how a state is turned into a video or a number: raw and translated, one member and all",
    "reference": "the final videos that a step is compared with",
    "label": "what a probe reads",
    "ending": "whose answer a run ends in: its own, the twin's, neither",
    "ball": "a ball of a scene",
    "candidate": "answers of a task, in the order of `task.solutions`",
    "verdict": "how an answer is judged: none, wrong, right",
    "horizon": "when an effect is read: `local`, `final`",
    "when": "an edit made once, or held over steps",
    "edge": "attention from one region to another",
    "query": "regions that attend",
    "key": "regions, words or frames that are attended",
    "direction": "directions of a probe: its normal, a pattern",
    "baseline": "predictions that use no activations",
    "draw": "repetitions with other random numbers",
    "part": "parts of one whole: in a region and the rest, halves of the scenes",
    "token": "tokens, frame-major",
    "row": "rows of the latent grid",
    "col": "columns of the latent grid",
    "video": "all tokens as one",
    "channel": "channels of an activation",
    "moment": "mean and variance",
    "component": "principal components; red, green, blue",
    "rank": "places in an order, the largest first",
    "pixel_frame": "frames of the decoded video",
    "num_frames": "lengths of the video",
    "num_inference_steps": "numbers of sampler steps",
    "sampler": "samplers by name",
    "n_layers": "numbers of layers that act",
    "length": "serial lengths of tasks, in bins",
    "other_step": "a second step that `step` is compared with",
    "other_layer": "a second layer that `layer` is compared with",
    "other_verdict": "the verdict one step later",
})  # fmt: skip

#: What a user may write for a set of steps or layers: one, a range, a list, or "all".
Indices = int | range | slice | Sequence[int] | Literal["all"]


@dataclass(frozen=True, order=True)
class Call:
    """One denoiser forward of a generation: what runs, when, and at which noise level.

    Attributes:
        index: Place among all calls of the generation.
        step: Sampler step.
        sigma: Noise level, the sampler's own.
        timestep: What the denoiser is told, in training steps.
        expert: Which denoiser runs.
        branch: Which text it sees.
    """

    index: int
    step: int
    sigma: float
    timestep: float
    expert: ExpertName
    branch: Branch

    def __str__(self) -> str:
        return f"call {self.index}: step={self.step} {self.branch} expert={self.expert} sigma={self.sigma:.4f}"


@dataclass(frozen=True, order=True)
class Address:
    """The place of one activation.

    Attributes:
        step: Sampler step.
        branch: ``cond`` or ``uncond``.
        layer: The block; -1 for points outside the blocks.
        hook: The point's short name, or the name that a recording was filed under.
    """

    step: int
    branch: Branch
    layer: int
    hook: str

    def __str__(self) -> str:
        layer = f" layer={self.layer}" if self.layer >= 0 else ""
        return f"step={self.step} branch={self.branch}{layer} hook={self.hook}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``"step=5 layer=7 hook=resid_post branch=cond"``; ``branch`` defaults to ``cond``, ``layer`` to -1.

        Raises:
            AddressError: For a text that is no address.
        """
        pairs = dict(re.findall(r"(\w+)=([^\s,]+)", text))
        unknown = set(pairs) - {f.name for f in fields(cls)}
        if unknown or "step" not in pairs or "hook" not in pairs:
            raise AddressError(
                f"cannot read the address {text!r}: write 'step=5 layer=7 hook=resid_post branch=cond' "
                f"(step and hook are needed{f'; unknown: {sorted(unknown)}' if unknown else ''})"
            )
        return cls(
            step=_integer(pairs["step"], "step"),
            branch=_branch(pairs.get("branch", "cond")),
            layer=_integer(pairs.get("layer", "-1"), "layer"),
            hook=pairs["hook"],
        )


@dataclass(frozen=True)
class Depth:
    """Layers by relative depth: ``Depth(0.5, 0.75)`` is the third quarter of any model (layers 20-29 of 40).

    Attributes:
        start: From 0, included.
        stop: Up to 1, left out.

    Raises:
        AddressError: For a range that is empty or leaves 0 to 1.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise AddressError(f"depth runs from 0 to 1 with start < stop, found {self.start} to {self.stop}")

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers l with start <= l / n_layers < stop.

        Raises:
            AddressError: There is none.
        """
        chosen = tuple(i for i in range(n_layers) if self.start <= i / n_layers < self.stop)
        if not chosen:
            raise AddressError(f"depth {self.start}-{self.stop} holds no layer of {n_layers}: widen it")
        return chosen


@dataclass(frozen=True)
class Select:
    """Which calls, layers, hooks, heads and tokens something applies to; :func:`select` makes one from arguments.

    Attributes:
        steps: An int, a range, a list or ``"all"``; negative numbers count from the end.
        layers: Likewise, or a :class:`Depth`.
        branches: ``"cond"``, ``"uncond"``, a tuple, or ``"all"``.
        experts: Likewise.
        heads: For per-head hooks; None for all.
        tokens: A region name, or token indices on the latent grid, frame-major; None for all.
        hooks: Names of points.
    """

    steps: Indices = ALL
    layers: Indices | Depth = ALL
    branches: Branch | Sequence[Branch] | Literal["all"] = ALL
    experts: ExpertName | Sequence[ExpertName] | Literal["all"] = ALL
    heads: Indices | None = None
    tokens: str | Sequence[int] | None = None
    hooks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Lists become tuples, so that a selection is hashable and cannot change under an intervention.
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))

    def steps_of(self, n_steps: int) -> tuple[int, ...]:
        """The steps selected from a plan, sorted.

        Raises:
            AddressError: One of them lies outside.
        """
        return indices(self.steps, n_steps, "step", "a plan")

    def layers_of(self, n_layers: int, where: str = "a model") -> tuple[int, ...]:
        """The layers selected from a model, sorted.

        Args:
            n_layers: How many there are.
            where: What has them, for messages.

        Raises:
            AddressError: One of them lies outside.
        """
        if isinstance(self.layers, Depth):
            return self.layers.layers(n_layers)
        return indices(self.layers, n_layers, "layer", where)

    def calls_of(self, calls: Sequence[Call]) -> tuple[Call, ...]:
        """The calls of a plan that are selected.

        Args:
            calls: The calls of the plan.

        Raises:
            AddressError: None is selected, with the reason, or a step or name is unknown.
        """
        n_steps = 1 + max(call.step for call in calls)
        steps = set(self.steps_of(n_steps))
        branches = names(self.branches, BRANCHES, "branch")
        experts = names(self.experts, ("high", "low"), "expert")
        chosen = tuple(c for c in calls if c.step in steps and c.branch in branches and c.expert in experts)
        if not chosen:
            raise AddressError(
                f"no denoiser call matches steps={self.steps} branches={self.branches} experts={self.experts}: this "
                f"plan has {n_steps} steps, branches {sorted({c.branch for c in calls})} and experts "
                f"{sorted({c.expert for c in calls})} (guidance <= 1 has no uncond branch); "
                "print(lens.plan(...)) lists them"
            )
        return chosen

    def but(self, **changes: Any) -> Select:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        """What was chosen; what was left as it is by default is left out."""
        said = {f.name: (repr(getattr(self, f.name)), repr(f.default)) for f in fields(self)}
        return f"Select({', '.join(f'{name}={now}' for name, (now, default) in said.items() if now != default)})"


#: Each selector by the name that takes one value, and by the name that takes a set.
SINGULAR = {
    "step": "steps", "layer": "layers", "branch": "branches", "expert": "experts", "hook": "hooks", "head": "heads",
}  # fmt: skip
PLACES = (*SINGULAR.values(), "tokens")


class Places(TypedDict, total=False):
    """Selectors that interventions take beside ``steps`` and ``layers``; see :func:`select`."""

    step: int
    layer: int
    branch: Branch
    expert: ExpertName
    hook: str
    head: int
    branches: Branch | Sequence[Branch] | Literal["all"] | None
    experts: ExpertName | Sequence[ExpertName] | Literal["all"] | None
    hooks: str | Sequence[str] | None
    heads: Any
    tokens: Any


def select(default: Select | None = None, /, **places: Any) -> Select:
    """One selection from the selectors that a user gave.

    Plural names (``steps``, ``layers``, ``branches``, ``experts``, ``hooks``, ``heads``, ``tokens``) take sets: one
    value, a list, a range, or ``"all"``. Singular ones (``step``, ``layer``, ``branch``, ``expert``, ``hook``,
    ``head``) take exactly one value.

    Args:
        default: The selection of what is not given.
        places: Selectors by name; None means not given.

    Raises:
        AddressError: For both forms of one selector, a set in a singular one, an unknown name, and for masks without
            tokens.
    """
    unknown = [name for name in places if name not in PLACES and name not in SINGULAR]
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*SINGULAR, *PLACES], n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise AddressError(f"unknown argument {unknown[0]!r}: {meant}Places are named by {', '.join(PLACES)}")
    chosen: dict[str, Any] = {}
    for one, many in SINGULAR.items():
        if places.get(one) is not None and places.get(many) is not None:
            raise AddressError(f"give {one}= or {many}=, not both: {one}= takes one value, {many}= a set")
        if places.get(one) is not None:
            chosen[many] = _one(places[one], one, many)
        elif places.get(many) is not None:
            chosen[many] = fixed(places[many])
    if isinstance(chosen.get("hooks"), str):
        chosen["hooks"] = (chosen["hooks"],)
    if places.get("tokens") is not None:
        chosen["tokens"] = _tokens(places["tokens"])
    return replace(default or Select(), **chosen)


def _one(value: Any, name: str, plural: str) -> Any:
    """The value of a singular selector."""
    named = name in ("branch", "expert", "hook")
    if named and isinstance(value, str) and value != ALL:
        return value
    if not named and is_integer(value):
        return int(value)
    kind = "name" if named else "integer"
    several = value == ALL if isinstance(value, str) else hasattr(value, "__len__") and getattr(value, "shape", True)
    cure = f"for a set write {plural}={value!r}" if several else f"give one {kind}, or a set of them by {plural}="
    raise AddressError(f"{name}={value!r}: {name}= takes exactly one {kind}; {cure}")


def fixed(wanted: Any) -> Any:
    """The same choice as a value that is hashable and that nobody can change later.

    Args:
        wanted: A set, list, array, tensor, or what is fixed already.
    """
    if isinstance(wanted, set | frozenset):
        return tuple(sorted(wanted))
    if isinstance(wanted, list):
        return tuple(wanted)
    if hasattr(wanted, "tolist"):  # numpy and torch
        kept = wanted.tolist()
        return tuple(kept) if isinstance(kept, list) else kept
    return wanted


def _tokens(wanted: Any) -> Any:
    """Token indices from indices or from a mask, such as ``run.regions["agent"]``."""
    if is_integer(wanted):
        return (int(wanted),)
    if isinstance(wanted, str | range | slice):
        return wanted
    import numpy as np  # here, so that the package stays quick to import

    array = np.atleast_1d(wanted.cpu() if hasattr(wanted, "cpu") else fixed(wanted))
    if array.dtype == bool:
        if array.ndim != 1 or not array.any():
            raise AddressError(
                f"tokens= got a mask of shape {array.shape} with {int(array.sum())} tokens: give one bool per token, "
                "as in run.regions['name'], with at least one of them True"
            )
        return MaskIndices(array)
    return tuple(array.tolist())


class MaskIndices(tuple[int, ...]):
    """Indices that were given as a mask: a tuple that knows how long the mask was, so that no other size takes it.

    Attributes:
        made_for: Length of the mask.
    """

    made_for: int

    def __new__(cls, mask: Iterable[Any]) -> MaskIndices:
        """The indices of a mask, one truth value for each place."""
        chosen = [bool(m) for m in mask]
        found = super().__new__(cls, (i for i, m in enumerate(chosen) if m))
        found.made_for = len(chosen)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        chosen = set(self)
        return type(self), ([i in chosen for i in range(self.made_for)],)


def indices(wanted: Any, size: int, what: str, where: str) -> tuple[int, ...]:
    """Spell out a choice as indices.

    Args:
        wanted: ``"all"``, an int, a range, a slice or a sequence; negative numbers count from the end.
        size: How many there are.
        what: What is chosen, in the singular, for messages.
        where: What has them, for messages.

    Returns:
        Sorted, each once, 0 to ``size - 1``.

    Raises:
        AddressError: Something outside, no integer, nothing, or a mask of another length.
    """
    if isinstance(wanted, MaskIndices) and wanted.made_for != size:
        raise AddressError(
            f"a mask of {wanted.made_for} {what}s does not fit {where} of {size}: make it for this size, one bool per "
            f"{what}, or pass generate(regions={{'name': mask}}) a mask per pixel"
        )
    if isinstance(wanted, str):
        if wanted != ALL:
            raise AddressError(f"{what}s={wanted!r} is not understood: give an int, a range, a list, or 'all'")
        return tuple(range(size))
    if isinstance(wanted, slice):
        wanted = range(size)[wanted]
    values: Iterable[Any] = wanted if isinstance(wanted, Iterable) else (wanted,)
    found = []
    for value in values:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise AddressError(f"{what} {value!r} is not an integer: give an int, a range, a list, or 'all'")
        i = int(value) + size if int(value) < 0 else int(value)
        if not 0 <= i < size:
            raise AddressError(f"{what} {value} is outside {where} of {size} {what}s: use 0 to {size - 1}, or 'all'")
        found.append(i)
    if not found:
        raise AddressError(f"no {what}s selected: give at least one of 0 to {size - 1}")
    return tuple(sorted(set(found)))


def groups(wanted: Any, size: int, what: str) -> tuple[tuple[int, ...], ...]:
    """Spell out places that are taken one after the other, some of them several indices held at once.

    Args:
        wanted: ``"all"`` (each index by itself), one index, or a list whose entries are an index or a *group*: a range,
            a tuple, a :class:`Depth`.
        size: How many there are.
        what: ``"step"`` or ``"layer"``, for messages.

    Returns:
        A tuple of indices for every entry.

    Raises:
        AddressError: Something outside, or nothing.
    """
    if isinstance(wanted, Depth):
        return (wanted.layers(size),)
    if isinstance(wanted, (str, slice)) or hasattr(wanted, "__index__"):
        return tuple((i,) for i in indices(wanted, size, what, "a model or plan"))
    if not isinstance(wanted, Iterable):
        raise AddressError(f"{what}s={wanted!r}: give 'all', or a list of indices and groups such as range(0, 4)")
    found = tuple(
        entry.layers(size) if isinstance(entry, Depth) else indices(entry, size, what, "a model or plan")
        for entry in wanted
    )
    if not found:
        raise AddressError(f"no {what}s selected: give at least one of 0 to {size - 1}")
    return found


def label(group: tuple[int, ...]) -> str:
    """A group as text: ``5``, ``0-3``, ``0,4,8``, ``-`` for none."""
    if not group:
        return "-"
    if len(group) > 1 and group == tuple(range(group[0], group[-1] + 1)):
        return f"{group[0]}-{group[-1]}"
    return ",".join(map(str, group))


def names(wanted: str | Sequence[str], allowed: Sequence[str], what: str) -> tuple[str, ...]:
    """Spell out a choice among a few names.

    Args:
        wanted: A name, several, or ``"all"``.
        allowed: The names.
        what: What is chosen, for messages.

    Raises:
        AddressError: For an unknown name, or none.
    """
    if wanted == ALL:
        return tuple(allowed)
    chosen = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    unknown = [name for name in chosen if name not in allowed]
    if unknown or not chosen:
        raise AddressError(f"{what} {unknown or wanted} is unknown: choose from {list(allowed)}, or 'all'")
    return chosen


def _integer(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise AddressError(f"{what}={text!r} is not an integer") from None


def _branch(text: str) -> Branch:
    names(text, BRANCHES, "branch")
    return text  # type: ignore[return-value]
