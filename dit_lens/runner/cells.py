"""The cells of a sweep: one frozen value per number that is measured, in the order that reuses most.

A cell holds its item (task and seed), its place (steps, layers, hook, head, region, branch) and its kind (``effect``:
taken from the source; ``placebo``: taken from the placebo). Cells with the same item and first step share their prefix,
so they stand together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

from dit_lens.address import ALL, groups, indices, label, names
from dit_lens.errors import AddressError
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.points import IMAGE_CONTEXT, point

Kind = Literal["effect", "placebo"]
AFTER_BLOCKS = ("final_norm", "velocity")  # hooks that no block comes after


@dataclass(frozen=True)
class Cell:
    """One measurement.

    ``steps`` and ``layers`` are those that the edit holds at once; ``layers`` is () outside the blocks. ``hook`` is
    None for edits of the latents, which have no place inside the model.
    """

    item: int
    steps: tuple[int, ...]
    layers: tuple[int, ...]
    hook: str | None
    branch: str = ALL
    kind: Kind = "effect"
    head: int | None = None
    region: str | None = None

    @property
    def key(self) -> str:
        """A name for files: the same cell has the same one everywhere."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def group(self) -> str:
        """Cells of one item that begin at the same step share most of their work."""
        return f"{self.item}-{self.steps[0]}"

    def entry(self, n_layers: int) -> int:
        """The first block that has to run: whatever lies before it is shared with the base."""
        if self.layers:
            return self.layers[0]
        return n_layers if self.hook in AFTER_BLOCKS else 0

    def touches(self, branch: str) -> bool:
        """Whether a call of this branch is changed."""
        return self.branch in (ALL, branch)

    def arguments(self) -> dict[str, Any]:
        """The place, as keyword arguments of interventions."""
        if self.hook is None:
            return {"steps": self.steps}
        place: dict[str, Any] = {"steps": self.steps, "hook": self.hook, "branches": self.branch}
        if self.layers:
            place["layers"] = self.layers
        if self.head is not None:
            place["heads"] = (self.head,)
        if self.region is not None:
            place["tokens"] = self.region
        return place

    def __str__(self) -> str:
        more = "".join(f" {k}={v}" for k, v in (("head", self.head), ("region", self.region)) if v is not None)
        return (
            f"item {self.item} steps={label(self.steps)} layers={label(self.layers)} {self.hook or 'latents'} "
            f"branch={self.branch}{more} ({self.kind})"
        )


@dataclass(frozen=True)
class Axes:
    """The axes of a sweep, spelled out: every entry of ``steps`` and ``layers`` is a group that is held at once."""

    steps: tuple[tuple[int, ...], ...]
    layers: tuple[tuple[int, ...], ...]
    hooks: tuple[str | None, ...]
    heads: tuple[int | None, ...]
    regions: tuple[str | None, ...]
    branches: tuple[str, ...]

    def cells(self, items: int, kinds: Sequence[Kind]) -> list[Cell]:
        """All cells: item outermost, then first step, then layer, so that what is shared is computed once."""
        found = [
            Cell(item, steps, layers if _in_block(hook) else (), hook, branch, kind, head, region)
            for item in range(items)
            for steps, layers, hook, branch, kind, head, region in product(
                self.steps, self.layers, self.hooks, self.branches, kinds, self.heads, self.regions
            )
        ]
        unique = dict.fromkeys(found)  # a hook outside the blocks has one cell, not one a layer
        return sorted(unique, key=lambda cell: (cell.item, cell.steps[0], cell.layers))

    def cell(self, places: Sequence[int], item: int, kind: Kind) -> Cell:
        """The cell at the positions of the axes, in the order of :meth:`coords`."""
        step, layer, hook, head, region, branch = places
        name = self.hooks[hook]
        layers = self.layers[layer] if _in_block(name) else ()
        return Cell(
            item, self.steps[step], layers, name, self.branches[branch], kind, self.heads[head], self.regions[region]
        )

    def places(self, cell: Cell) -> list[tuple[int, ...]]:
        """Where a cell stands, in the order of :meth:`coords`; one outside the blocks stands at every layer."""
        layers = [self.layers.index(cell.layers)] if cell.layers else range(len(self.layers))
        rest = (
            self.hooks.index(cell.hook),
            self.heads.index(cell.head),
            self.regions.index(cell.region),
            self.branches.index(cell.branch),
        )
        return [(self.steps.index(cell.steps), layer, *rest) for layer in layers]

    def coords(self) -> dict[str, list[Any]]:
        """Labels of each axis, in the order of the result's dims."""
        return {
            "step": _labels(self.steps),
            "layer": _labels(self.layers),
            "hook": ["latents" if h is None else h for h in self.hooks],
            "head": [-1 if h is None else h for h in self.heads],
            "region": ["all" if r is None else r for r in self.regions],
            "branch": list(self.branches),
        }


def axes(
    plan: Plan,
    n_layers: int,
    n_heads: int,
    steps: Any = ALL,
    layers: Any = ALL,
    hooks: str | Sequence[str] | None = "update",
    heads: Any = None,
    regions: str | Sequence[str] | None = None,
    branches: str | Sequence[str] = ALL,
    image_context: bool = True,
) -> Axes:
    """Spell out the axes of a sweep.

    Args:
        plan: The denoiser calls of a generation.
        n_layers: Number of layers.
        n_heads: Number of heads.
        steps: ``"all"``, or a list whose entries are one index or a *group* held at once: a range or a tuple.
        layers: Likewise, also a :class:`dit_lens.Depth`.
        hooks: Names of hooks; None for edits of the latents, which have steps and nothing else.
        heads: Indices of heads, each by itself.
        regions: Names of regions.
        branches: ``"all"`` (both at once), ``"cond"``, ``"uncond"``, or a list.
        image_context: Whether the model has a CLIP image context.

    Returns:
        The axes.

    Raises:
        AddressError: A place outside the plan or the model, or one that a hook does not have.
    """
    if hooks is None:
        if heads is not None or regions is not None or branches != ALL or layers not in (ALL, None):
            raise AddressError(
                "hooks=None is for edits of the latents, which have only steps: leave layers=, heads= and regions= out"
            )
        return Axes(groups(steps, plan.n_steps, "step"), ((),), (None,), (None,), (None,), (ALL,))
    chosen = (hooks,) if isinstance(hooks, str) else tuple(hooks)
    if not chosen:
        raise AddressError("a sweep needs at least one hook, for example hooks='update'")
    asked = (branches,) if isinstance(branches, str) else tuple(branches)
    for one in asked:
        names(one, plan.branches, "branch")
    named = (None,) if regions is None else (regions,) if isinstance(regions, str) else tuple(regions)
    if not all(one is None or isinstance(one, str) for one in named):
        raise AddressError(
            "a sweep's regions are names, which label its cells: give the mask a name where the videos "
            "are made, regions={'left': mask}"
        )
    numbered: tuple[int | None, ...] = (None,) if heads is None else indices(heads, n_heads, "head", "a model")
    found = Axes(
        groups(steps, plan.n_steps, "step"), groups(layers, n_layers, "layer"),
        tuple(point(hook).name for hook in chosen), numbered, named, asked,
    )  # fmt: skip
    for hook in chosen:
        p = point(hook)
        if p.name in IMAGE_CONTEXT and not image_context:
            raise AddressError(f"{hook!r} exists only in Wan2.1 I2V models, which see the image through CLIP")
        if heads is not None and not p.per_head:
            raise AddressError(
                f"heads= needs hooks with heads (q, k, v, z, cross_q, ...), found {hook!r}: leave heads= out"
            )
        if regions is not None and p.axis != "N":
            raise AddressError(f"regions= selects video tokens, but {hook!r} is {p.shape}: leave regions= out")
    for axis, values in (("steps", found.steps), ("layers", found.layers), ("hooks", found.hooks),
                         ("regions", found.regions), ("branches", found.branches)):  # fmt: skip
        if len(set(values)) < len(values):
            raise AddressError(f"{axis} holds an entry twice: {values}; give each once")
    return found


def _in_block(hook: str | None) -> bool:
    return hook is not None and point(hook).in_block


def _labels(places: tuple[tuple[int, ...], ...]) -> list[Any]:
    """Numbers where every group is one index, texts otherwise."""
    return [g[0] for g in places] if all(len(g) == 1 for g in places) else [label(g) for g in places]
