"""Recording: which activations a generation keeps, reduced inside the hook, and never more than fits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from dit_lens.address import Address, Call, Depth, Indices, Places, Select, select
from dit_lens.checks import number
from dit_lens.errors import AddressError, RecordError
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.expert import Hook
from dit_lens.wan.points import IMAGE_CONTEXT, Point, point
from dit_lens.wan.reduce import Masks, Reducer, TokenNorm, reducer
from dit_lens.wan.token_grid import Grid

Depths = Mapping[str, int]  # layers of each expert
DEFAULT_LIMIT = 4 * 2**30  # bytes one generation may keep unless the caller says otherwise


@dataclass(frozen=True)
class Record:
    """What to keep.

    Attributes:
        hooks: Short names of points.
        where: Calls and layers.
        reduce: How each activation is reduced.
        name: The name to file it under; the hook's own by default.
    """

    hooks: tuple[str, ...]
    where: Select
    reduce: Reducer
    name: str | None = None

    def key(self, hook: str) -> str:
        """The name under which a hook's activations are filed."""
        return hook if self.name is None else self.name


def record(
    *points: str,
    reduce: str | Reducer = "raw",
    steps: Indices | None = None,
    layers: Indices | Depth | None = None,
    name: str | None = None,
    **places: Unpack[Places],
) -> Record:
    """A recording request: ``record("resid_post", steps=[0, 5], layers=range(4, 8), reduce="token_norm")``.

    Args:
        points: Short names (``lens.points()``), also ``"update"`` for what a block adds.
        reduce: ``"raw"``, ``"token_norm"``, ``"region_mean"``, ``"frame_mean"``, ``"video_mean"`` or a reducer value,
            such as ``dit_lens.reduce.Tokens(...)`` for some tokens.
        steps: One, a range, a list or ``"all"`` (the default).
        layers: Likewise, also ``Depth(.5, .75)``.
        name: The name to file it under, for recording one hook in two ways.
        places: ``branches``, ``experts``, and ``step``, ``layer``, ``branch``, ``expert``, ``hook`` for exactly one:
            :func:`dit_lens.address.select`. ``hooks`` may also stand here.

    Raises:
        AddressError: For an unknown hook or selector.
        RecordError: For an unknown reducer, and for heads and tokens, which a reducer chooses.
    """
    if points:
        if places.get("hooks") is not None or places.get("hook") is not None:
            raise AddressError(f"hooks are given twice, {list(points)} and by name: write record('update', 'z')")
        places["hooks"] = points
    where = select(steps=steps, layers=layers, **places)
    if not where.hooks:
        raise RecordError("record() needs at least one hook, for example dit_lens.record('resid_post')")
    if where.heads is not None or where.tokens is not None:
        raise RecordError(
            "a recording keeps all heads, and its reducer chooses the tokens: leave heads= and tokens= out, and give "
            "reduce=dit_lens.reduce.Tokens(...) or 'region_mean'"
        )
    if name is not None and len(where.hooks) > 1:
        raise RecordError(
            f"name={name!r} can stand for one hook only, found {where.hooks}: write one record(...) per hook"
        )
    names = tuple(point(hook).name for hook in where.hooks)
    return Record(names, where.but(hooks=()), reducer(reduce), name)


@dataclass(frozen=True)
class Extent:
    """The sizes behind the letters of the point table, for one expert and one video.

    Attributes:
        sizes: Letter -> size.
        image_context: Whether the model has one.
        per_token_time: Whether timesteps are per token (Wan2.2 TI2V).
    """

    sizes: Mapping[str, int]
    image_context: bool
    per_token_time: bool

    def shape(self, p: Point) -> tuple[int, ...]:
        """Shape of an activation, batch included."""
        axes = p.shape.split()
        if self.per_token_time and p.name in ("time_embed", "modulation"):
            axes.insert(1, "N")
        return tuple(6 * self.sizes["d"] if a == "6d" else self.sizes[a] for a in axes)


def extent_of(config: Any, conditions: Any, grid: Grid, image_context: bool) -> Extent:
    """The sizes of a denoiser's activations for given conditions on a grid."""
    heads, width = config.num_attention_heads, config.attention_head_dim
    context = conditions.image_context
    sizes = {
        "B": conditions.prompt.shape[0], "N": grid.n_tokens, "M": conditions.prompt.shape[1],
        "I": 0 if context is None else context.shape[1], "d": heads * width, "H": heads, "D": width,
        "f": config.ffn_dim, "p": config.out_channels * math.prod(config.patch_size),
    }  # fmt: skip
    return Extent(sizes, image_context, conditions.frame_mask is not None)


def needed_bytes(
    records: Sequence[Record], plan: Plan, depths: Depths, extent: Extent, grid: Grid, masks: Masks
) -> int:
    """Bytes that a recording will hold: exact in fp32, an upper bound where raw activations are narrower.

    Args:
        records: What is kept.
        plan: The calls.
        depths: Layers of each expert.
        extent: Sizes, with the batch.
        grid: The token grid.
        masks: Region name -> bool (B, N).

    Raises:
        RecordError: A reducer does not fit its hook.
        AddressError: A place outside the plan or an expert.
    """
    total = 0
    for r in records:
        calls = r.where.calls_of(plan.calls)
        for hook in r.hooks:
            p = point(hook)
            places = sum(len(layers_at(r.where, call, depths)) for call in calls) if p.in_block else len(calls)
            total += places * 4 * math.prod(_reduced(p, extent.shape(p), r.reduce, grid, masks))
    return total


def layers_at(where: Select, call: Call, depths: Depths) -> tuple[int, ...]:
    """The layers that a selection means in one call: those of its expert.

    Raises:
        AddressError: For a layer that this expert does not have.
    """
    name = "a model" if len(set(depths.values())) == 1 else f"expert {call.expert!r} (choose experts= as well)"
    return where.layers_of(depths[call.expert], name)


def check_limit(needed: int, limit: int) -> None:
    """Refuse a recording that would hold more bytes than allowed.

    Raises:
        RecordError: It would, or the limit is no number.
    """
    if needed > number(limit, "limit", 0, error=RecordError):
        raise RecordError(
            f"this recording needs {needed / 2**30:.2f} GiB, more than the limit of {limit / 2**30:.2f} GiB: "
            "choose fewer steps or layers, a reducer (reduce='token_norm', 'region_mean', 'frame_mean', ...), or "
            "raise limit="
        )


def _reduced(p: Point, shape: tuple[int, ...], reduce: Reducer, grid: Grid, masks: Masks) -> tuple[int, ...]:
    if reduce.tokens and p.axis != "N":
        raise RecordError(f"{type(reduce).__name__} reduces video tokens; {p.name!r} is {p.shape}: use reduce='raw'")
    dims = list(reduce.dims(grid, masks).values())
    first = shape[1] if dims[0] is None else (dims[0] if isinstance(dims[0], int) else len(dims[0]))
    if isinstance(reduce, TokenNorm):
        return (shape[0], *shape[1:-1])
    last = dims[-1] if isinstance(dims[-1], int) else shape[-1]
    return (shape[0], first, *shape[2:-1], last) if len(shape) > 2 else (shape[0], last)


class Recorder:
    """Collects the recorded activations of one live generation, batch axis first.

    Attributes:
        kept: Address -> reduced activation, on the CPU.
    """

    def __init__(
        self,
        records: Sequence[Record],
        plan: Plan,
        depths: Depths,
        extent: Extent,
        grid: Grid,
        masks: Masks,
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        for r in records:
            for hook in r.hooks:
                if not extent.image_context and point(hook).name in IMAGE_CONTEXT:
                    raise RecordError(f"{hook!r} exists only in Wan2.1 I2V models, which see the image through CLIP")
        check_limit(needed_bytes(records, plan, depths, extent, grid, masks), limit)
        self.grid, self.masks = grid, masks
        self.kept: dict[Address, Tensor] = {}
        self._by_call: dict[int, list[tuple[str, str, int, Reducer, str]]] = {}
        taken: set[Address] = set()
        filed: dict[str, tuple[str, Reducer]] = {}
        for r in records:
            for hook in r.hooks:
                if filed.setdefault(r.key(hook), (hook, r.reduce)) != (hook, r.reduce):
                    raise RecordError(
                        f"{r.key(hook)!r} would hold two kinds of value (another hook or reducer): give one of the "
                        "records name='...'"
                    )
            for call in r.where.calls_of(plan.calls):
                for hook in r.hooks:
                    p = point(hook)
                    for layer in layers_at(r.where, call, depths) if p.in_block else (-1,):
                        address = Address(call.step, call.branch, layer, r.key(hook))
                        if address in taken:
                            raise RecordError(f"{address} is asked for twice: give one of the records name='...'")
                        taken.add(address)
                        entry = (hook, p.at(layer), layer, r.reduce, r.key(hook))
                        self._by_call.setdefault(call.index, []).append(entry)

    def hooks(self, call: Call) -> list[Hook]:
        """The hooks of one call; each files its reduced activation under the call's address."""
        found: list[Hook] = []
        for hook, path, layer, reduce, key in self._by_call.get(call.index, ()):
            address = Address(call.step, call.branch, layer, key)
            if hook == "update":
                found += update_hooks(layer, lambda u, a=address, r=reduce: self._keep(a, u, r))
            else:
                found.append((path, lambda x, hook, a=address, r=reduce: self._keep(a, x, r)))
        return found

    def _keep(self, address: Address, x: Tensor, reduce: Reducer) -> None:
        with torch.no_grad():
            self.kept[address] = reduce(x.detach(), self.grid, self.masks).cpu()


def update_hooks(layer: int, use: Any) -> list[Hook]:
    """Hooks that read what a block adds to the stream.

    Args:
        layer: The block.
        use: Called as ``use(update)``, with the update in fp32, (B, N, d).
    """
    entering: list[Tensor] = []

    def enter(x: Tensor, hook: Any) -> None:
        entering[:] = [x]

    def leave(x: Tensor, hook: Any) -> None:
        use(x.float() - entering.pop().float())

    return [(f"blocks.{layer}.hook_resid_pre", enter), (f"blocks.{layer}.hook_resid_post", leave)]


def update_paths(layers: Iterable[int]) -> set[str]:
    """The points from which the updates of these layers are read."""
    return {f"blocks.{layer}.hook_resid_{end}" for layer in layers for end in ("pre", "post")}


def labels(
    p: Point, reduce: Reducer, extent: Extent, grid: Grid, masks: Masks
) -> dict[str, tuple[str, ...] | int | None]:
    """Axis names of a reduced activation without its batch axis, in order.

    Args:
        p: The point.
        reduce: The reducer.
        extent: Sizes.
        grid: The token grid.
        masks: Region name -> bool (B, N).

    Returns:
        Axis -> coordinates, a size, or None where the axis is the activation's own.
    """
    dims = dict(reduce.dims(grid, masks))
    if len(extent.shape(p)) == 2:  # one vector a call: no token axis
        dims.pop("token", None)
    if p.per_head:
        keys = list(dims)
        dims = {keys[0]: dims[keys[0]], "head": None, **{k: dims[k] for k in keys[1:]}}
    return dims
