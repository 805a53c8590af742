"""TransformerLens's ``run_with_cache`` and ``run_with_hooks`` for a whole generation, with every activation addressed.

TransformerLens keys a cache by point name alone, so in a generation the last call overwrites all earlier ones. Here
the key is the address (step, branch, layer, hook), and ``cache.at(step, branch)`` is the cache of one forward as its
users know it. Reached through :meth:`Lens.run_with_cache` and :meth:`Lens.run_with_hooks`.

When not to use: for more than a few points or steps of a real model, ``generate(record=...)`` with a reducer is the
same thing with fewer words and less memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dit_lens.address import Address, Branch, Call, Indices, Select
from dit_lens.errors import AddressError, InterventionError, RecordError
from dit_lens.wan.editing import Context, Edit
from dit_lens.wan.expert import Expert, Hook
from dit_lens.wan.points import BY_NAME, point, split_path
from dit_lens.wan.recording import Record, record
from dit_lens.wan.reduce import Reducer
from dit_lens.wan.run import Run

#: What names points: a path (``blocks.3.hook_resid_post``), several, a predicate on the path, or None for all.
Names = str | Sequence[str] | Callable[[str], bool] | None


def paths(wanted: Names, expert: Expert) -> tuple[str, ...]:
    """The point paths that a TransformerLens name filter selects.

    Args:
        wanted: A path, several, a predicate on the path, or None for all.
        expert: The expert whose points are meant.

    Returns:
        Full paths, each once, in the order of the points.

    Raises:
        AddressError: For an unknown path, and for a filter that matches nothing.
    """
    if wanted is None:
        return tuple(expert.hook_dict)
    if isinstance(wanted, str):
        wanted = (wanted,)
    if callable(wanted):
        found = tuple(path for path in expert.hook_dict if wanted(path))
    else:
        for path in wanted:
            if path in BY_NAME and path not in expert.hook_dict:
                raise AddressError(
                    f"{path!r} is a short name: write the full path, for example {BY_NAME[path].at(0)!r}, or for all "
                    f"layers a filter, lambda path: path.endswith({BY_NAME[path].path.rsplit('.', 1)[-1]!r})"
                )
            expert.hook(path)
        found = tuple(path for path in expert.hook_dict if path in set(wanted))
    if not found:
        some = ", ".join(list(expert.hook_dict)[4:7])
        raise AddressError(
            f"the filter matches none of the {len(expert.hook_dict)} points, whose paths look like {some}: see "
            "lens.points(), or pass None for all"
        )
    return found


class AddressedCache(Mapping[Address, Tensor]):
    """Activations of a generation by address; tensors keep TransformerLens's batch axis (one row per run).

    ``cache["blocks.3.hook_resid_post", 5]`` (path, step, and branch if not ``cond``), ``cache["resid_post", 3, 5]``
    (hook, layer, step, branch), ``cache["step=5 layer=3 hook=resid_post"]``, or an :class:`Address`.
    """

    def __init__(
        self, runs: Sequence[Run], addresses: Sequence[Address], experts: Mapping[str, Expert], raw: bool
    ) -> None:
        self.runs, self.experts, self.raw = tuple(runs), experts, raw
        self._addresses = dict.fromkeys(addresses)

    def __getitem__(self, key: Any) -> Tensor:
        """The activation at a key, with one row per run.

        Raises:
            AddressError: For what is not in the cache (a ``LookupError``, not a ``KeyError``).
        """
        address = self._address(key)
        if address not in self._addresses:
            hooks = sorted({a.hook for a in self._addresses})
            steps = sorted({a.step for a in self._addresses})
            raise AddressError(
                f"{address} is not in this cache, which holds hooks {hooks} of steps {steps} and branches "
                f"{sorted({a.branch for a in self._addresses})}: widen names_filter=, steps= or branches="
            )
        return torch.stack([run.activations[address] for run in self.runs])

    def __iter__(self) -> Iterator[Address]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)

    def __contains__(self, key: object) -> bool:
        try:
            return self._address(key) in self._addresses
        except AddressError:
            return False

    def at(self, step: int, branch: Branch = "cond") -> dict[str, Tensor]:
        """The cache of one denoiser call.

        Args:
            step: A step of the plan.
            branch: ``cond`` or ``uncond``.

        Returns:
            Path -> tensor, as TransformerLens returns it for one forward.

        Raises:
            AddressError: For a call outside the plan, or one that was not cached.
        """
        self.runs[0].plan.at(step, branch)
        found = {point(a.hook).at(a.layer): self[a] for a in self if a.step == step and a.branch == branch}
        if not found:
            steps = sorted({a.step for a in self._addresses})
            raise AddressError(f"step {step} {branch} was not cached (only steps {steps}): widen steps= or branches=")
        return found

    def to_activation_cache(self, step: int, branch: Branch = "cond") -> Any:
        """One call as a ``transformer_lens.ActivationCache``: shorthands (``cache["q", 1]``) and stacking work.

        Not its decompositions and logit attributions: Wan's parts are gated, and there is no vocabulary.

        Args:
            step: A step of the plan.
            branch: ``cond`` or ``uncond``.

        Raises:
            AddressError: As of :meth:`at`.
            RecordError: For a cache of reduced activations.
        """
        from transformer_lens import ActivationCache

        if not self.raw:
            raise RecordError("an ActivationCache holds whole activations: run_with_cache(reduce='raw')")
        return ActivationCache(self.at(step, branch), self.experts[self.runs[0].plan.at(step, branch).expert])

    def _address(self, key: Any) -> Address:
        if isinstance(key, Address):
            return key
        if isinstance(key, str) and "=" in key:
            return Address.parse(key)
        if isinstance(key, tuple) and key and isinstance(key[0], str):
            (name, *rest), layer = key, None
            if name in BY_NAME and BY_NAME[name].in_block:
                hook, layer = name, rest.pop(0) if rest else None
            else:
                found, layer = split_path(name)
                hook = found.name
            branch = rest[1] if len(rest) == 2 else "cond"
            if layer is not None and rest and len(rest) <= 2 and isinstance(rest[0], int) and isinstance(branch, str):
                return Address(rest[0], branch, layer, hook)  # type: ignore[arg-type]
        raise AddressError(
            f"cannot read the key {key!r}: write cache['blocks.3.hook_resid_post', step, branch], "
            "cache['resid_post', layer, step, branch] or cache['step=5 layer=3 hook=resid_post branch=cond']"
        )

    def __repr__(self) -> str:
        hooks, steps = sorted({a.hook for a in self}), sorted({a.step for a in self})
        return f"AddressedCache({len(self)} activations of {len(self.runs)} run(s): hooks {hooks}, steps {steps})"


def run_with_cache(
    lens: Any,
    task: Any,
    names_filter: Names,
    steps: Indices,
    branches: Any,
    reduce: str | Reducer,
    arguments: dict[str, Any],
) -> tuple[Any, AddressedCache]:
    """Generate and cache; arguments and results are those of :meth:`Lens.run_with_cache`."""
    chosen = [split_path(path) for path in paths(names_filter, lens.experts["high"])]
    layers: dict[str, tuple[int, ...]] = {}
    for p, layer in chosen:
        layers[p.name] = (*layers.get(p.name, ()), layer)
    together: dict[tuple[int, ...], list[str]] = {}
    for hook, where in layers.items():
        together.setdefault(where, []).append(hook)
    records = [
        record(*hooks, reduce=reduce, steps=steps, branches=branches, layers=where if where != (-1,) else 0)
        for where, hooks in together.items()
    ]
    more = arguments.pop("record", ())
    more = (more,) if isinstance(more, Record) else tuple(more)
    before = arguments.get("resume")
    out = lens.generate(task, record=(*more, *records), **arguments)
    runs = out if isinstance(out, list) else [out]
    wanted = {(p.name, layer) for p, layer in chosen}
    calls = {(c.step, c.branch) for c in records[0].where.calls_of(runs[0].plan.calls)}
    begin = 0 if before is None else before.n_steps
    addresses = [
        a
        for a in runs[0].activations
        if (a.hook, a.layer) in wanted and (a.step, a.branch) in calls and a.step >= begin
    ]
    return out, AddressedCache(runs, addresses, lens.experts, reduce == "raw")


@dataclass(frozen=True)
class Hooks:
    """TransformerLens hooks as an intervention: pairs of a name filter and ``fn(activation, hook)``.

    ``fn`` returns the new activation, or None to leave it (writing in place works too). During the call
    ``hook.ctx["call"]`` is the :class:`Call`, so that one function can tell steps and branches apart.

    Attributes:
        fwd_hooks: The pairs.
        where: The calls in which they act.
    """

    fwd_hooks: tuple[tuple[Any, Callable[..., Any]], ...]
    where: Select = field(default_factory=Select)

    def bind(self, context: Context) -> Edit:
        """See :class:`~dit_lens.wan.editing.Intervention`."""
        return _Hooks(self, context)


class _Hooks(Edit):
    def __init__(self, value: Hooks, context: Context) -> None:
        super().__init__("run_with_hooks")
        if not value.fwd_hooks:
            raise InterventionError("fwd_hooks is empty: give pairs, [('blocks.3.hook_resid_post', fn)]")
        self.calls = set(value.where.calls_of(context.plan.calls))
        self.pairs = [(path, fn) for names, fn in value.fwd_hooks for path in paths(names, context.experts["high"])]

    def hooks(self, call: Call, latents: Tensor) -> Sequence[Hook]:
        """See :class:`~dit_lens.wan.editing.Edit`."""
        return [(path, self._at(call, path, fn)) for path, fn in self.pairs] if call in self.calls else ()

    def _at(self, call: Call, path: str, fn: Callable[..., Any]) -> Callable[..., Tensor | None]:
        p, layer = split_path(path)
        address = Address(call.step, call.branch, layer, p.name)

        def use(x: Tensor, hook: Any) -> Tensor | None:
            hook.ctx["call"] = call
            try:
                new = fn(x, hook=hook)
            finally:
                hook.ctx.pop("call", None)
            if new is not None and (not isinstance(new, Tensor) or new.shape != x.shape):
                found = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise InterventionError(
                    f"the hook at {address} returned {found} for an activation of shape {tuple(x.shape)}: return a "
                    "tensor of that shape, or None to leave it"
                )
            self.fired[address] += 1
            return new

        return use
