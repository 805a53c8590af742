"""What a call may take over from the same call made before, so that work shared by many edits is done once.

A call whose latents nobody changed, run again with hooks on blocks l and later, computes blocks 0 .. l-1 to the same
bits. So it may begin at block l with the stream that was kept (``streams``); a call that no hook touches at all needs
no run (``velocities``). Both are exact, and both are decided here from the hooks themselves: what was edited before an
entry, or latents that were changed, simply make no use of it.

When not to use: for calls of other latents, text or image than those of ``kept_by``, the run that the parts came from;
``check`` refuses a fork of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dit_lens.address import Call
from dit_lens.errors import SamplerError
from dit_lens.wan.expert import Hook

Replay = Callable[[Sequence[Any], Call, Sequence[Hook]], Tensor]


@dataclass
class Reuse:
    """Kept parts of the calls of one run, by call index. Fill it with :func:`capture`.

    Attributes:
        kept_by: The run.
        streams: Call -> layer -> what enters that block, (B, N, d); the layer after the last one is what leaves it.
        velocities: Call -> velocity of its branch (B, C, F, h, w).
        starts: Steps done -> what the lens goes on from there with.
    """

    kept_by: Any  # the run
    streams: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    velocities: dict[int, Tensor] = field(default_factory=dict)
    starts: dict[int, Any] = field(default_factory=dict)  # steps done -> what the lens goes on from there with

    def entry(self, call: Call, hooks: Iterable[Hook]) -> tuple[int, Tensor] | None:
        """The latest kept stream that a call may begin from.

        Args:
            call: The call.
            hooks: What will be held during it.

        Returns:
            (layer, stream), or None.
        """
        kept = self.streams.get(call.index, {})
        first = min((_layer(path) for path, _ in hooks), default=_LAST)
        layer = max((layer for layer in kept if layer <= first), default=None)
        return None if layer is None else (layer, kept[layer])

    def finished(self, call: Call, hooks: Sequence[Hook]) -> Tensor | None:
        """The velocity of a call that no hook touches, (B, C, F, h, w); None where it has to run."""
        return None if hooks else self.velocities.get(call.index)

    def check(self, run: Any) -> None:
        """Refuse a run whose next calls are not those that were kept.

        Raises:
            SamplerError: They are not.
        """
        mine, n = self.kept_by, run.n_steps
        same = run.plan == mine.plan and run.conditions is mine.conditions and run.edited == mine.until(n).edited
        same = same and torch.equal(run.latents, mine.latents[: n + 1]) and torch.equal(run.velocity, mine.velocity[:n])
        if not same:
            raise SamplerError("reuse holds parts of another run's calls: capture them from the run that is forked")


def capture(replay: Replay, run: Any, calls: Mapping[Call, Collection[int]], n_layers: int) -> Reuse:
    """Run calls of a recorded run once more and keep streams and velocities.

    Args:
        replay: As ``lens.replay``.
        run: The run.
        calls: Call -> layers whose entering stream is kept; a layer of ``n_layers`` means what leaves the last block.
        n_layers: Layers of the experts.
    """
    kept = Reuse(run)
    for call, layers in calls.items():
        streams = kept.streams.setdefault(call.index, {})
        hooks: list[Hook] = []
        for layer in layers:
            path = f"blocks.{layer}.hook_resid_pre" if layer < n_layers else f"blocks.{n_layers - 1}.hook_resid_post"
            hooks.append((path, lambda x, hook, i=layer, s=streams: s.__setitem__(i, x.detach())))
        kept.velocities[call.index] = replay([run], call, hooks)
    return kept


class Remembered:
    """A replay that keeps the activations of recorded runs, so that many edits with one source run it once a call.

    Anything else is run again: slower, never different.

    Args:
        replay: As ``lens.replay``.
        wanted: (run, call, paths) of what will be asked for; the paths of a call are all kept at the first request.
    """

    def __init__(self, replay: Replay, wanted: Iterable[tuple[Any, Call, Collection[str]]]) -> None:
        self._replay = replay
        self._wanted = {(id(run), call.index): (run, paths) for run, call, paths in wanted}  # holds the runs: ids stay
        self._kept: dict[tuple[int, int], dict[str, Tensor]] = {}

    def __call__(self, runs: Sequence[Any] | Any, call: Call, hooks: Sequence[Hook] = ()) -> Tensor | None:
        """As ``lens.replay``; returns nothing where no model was run."""
        runs = list(runs) if isinstance(runs, Sequence) else [runs]
        key = (id(runs[0]), call.index)
        run, wanted = self._wanted.get(key, (None, ()))
        if len(runs) > 1 or run is None or not hooks or not {path for path, _ in hooks} <= set(wanted):
            return self._replay(runs, call, hooks)
        if key not in self._kept:
            found: dict[str, Tensor] = {}
            self._replay(runs, call, [(p, lambda x, hook, p=p: found.__setitem__(p, x.detach())) for p in wanted])
            self._kept[key] = found
        for path, fn in hooks:
            fn(self._kept[key][path], None)
        return None


def _layer(path: str) -> int:
    """The block that must run for a point to be computed: 0 for what comes before the blocks, a large one for after."""
    if path.startswith("blocks."):
        return int(path.split(".")[1])
    return _LAST if path in ("hook_final_norm", "hook_velocity") else 0


_LAST = 1 << 30
