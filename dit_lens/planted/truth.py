"""What is true of a planted network: which places are causal, and by how much, from its causal model.

    truth.patch(tasks)                      exact local effects of a block's update taken from the source, (step, layer)
    truth.patch(tasks, hooks=True)          of each component, (step, layer, hook)
    truth.ablate(tasks, horizon="final")    of removing a block's update
    truth.members()                         the places at which the mechanism stands, (step, layer, hook)

An effect is the toolkit's projection: 0 is the base, 1 the source, which is the task's twin with the other answer. A
place can be a member without an effect of its own (two layers that back each other up), and have an effect without
being one (two layers that cancel).

When not to use: for the size of effects where a spec has a ``rest``; where the mechanism stands is the same with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr

from dit_lens.address import label
from dit_lens.planted.directions import FEATURES, GATED, INDEX
from dit_lens.planted.mechanism import (
    COMPONENTS,
    Attend,
    Calls,
    Component,
    Network,
    Part,
    Tell,
    Units,
    Where,
    entry,
    read_out,
    run,
)
from dit_lens.planted.pictures import PlantTask
from dit_lens.planted.specs import Spec
from dit_lens.planted.weights import HEADS

#: The hooks that hold what a component adds to the stream.
HOOKS: dict[Component, str] = {"attention": "attn_gated", "cross_attention": "cross_attn_out", "mlp": "mlp_gated"}
READ_OUT = ("answer", "late", "clutter")
Edit = Literal["patch", "ablate"]
Horizon = Literal["local", "final"]


@dataclass(frozen=True)
class Place:
    """Writes that are changed together.

    Attributes:
        steps: At these steps.
        layers: In these layers.
        component: In this component; in all by default.
        head: In this head of self-attention; in all by default.
        branch: In this branch; in both by default.
    """

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    component: Component | None = None
    head: int | None = None
    branch: str | None = None

    def holds(self, where: Where) -> bool:
        """Whether a write lies here."""
        return (
            where.step in self.steps
            and where.layer in self.layers
            and self.component in (None, where.component)
            and self.head in (None, where.head)
            and self.branch in (None, where.branch)
        )


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth of one plant.

    Attributes:
        spec: What was planted.
        network: Its causal model.
    """

    spec: Spec
    network: Network

    # -- where the mechanism stands

    def members(self) -> xr.DataArray:
        """Whether a part of the mechanism stands and writes there, bool (step, layer, hook)."""
        n = self.network
        found = np.zeros((n.n_steps, n.n_layers, len(COMPONENTS)), bool)
        for step, expert in enumerate(n.experts):
            for part in self._mechanism(expert):
                if self._writes(part, step):
                    found[step, part.layer, COMPONENTS.index(part.component)] = True
        coords = {"step": range(n.n_steps), "layer": range(n.n_layers), "hook": [HOOKS[c] for c in COMPONENTS]}
        return xr.DataArray(found, coords=coords, dims=tuple(coords))

    def member_heads(self) -> xr.DataArray:
        """Whether a head of self-attention is part of the mechanism, bool (layer, head)."""
        found = np.zeros((self.network.n_layers, HEADS), bool)
        for expert in self.network.parts:
            for part in self._mechanism(expert):
                if isinstance(part, Attend):
                    found[part.layer, part.head] = True
        return xr.DataArray(
            found, coords={"layer": range(len(found)), "head": range(HEADS)}, dims=("layer", "head")
        )

    def attends(self, mechanism: bool = False) -> xr.DataArray:
        """Whether a head attends to a region, bool (step, region, layer, head); ``mechanism``: for the answer."""
        names, n = {"green": "key", "blue": "other"}, self.network
        shape = (n.n_steps, 2, n.n_layers, HEADS)
        coords = {"step": range(shape[0]), "region": list(names.values()), "layer": range(shape[2]),
                  "head": range(HEADS)}  # fmt: skip
        found = xr.DataArray(np.zeros(shape, bool), coords=coords, dims=tuple(coords))
        for step, expert in enumerate(n.experts):
            for part in self._mechanism(expert) if mechanism else n.parts[expert]:
                if isinstance(part, Attend):
                    found.loc[step, names[part.region], part.layer, part.head] = True
        return found

    def writes_at_key(self, tasks: Sequence[PlantTask]) -> xr.DataArray:
        """Whether a layer writes in the region "key" and nowhere else, bool (layer); see :meth:`_layers`."""
        return self._layers(tasks, lambda where, write: write if where.component == "mlp" else write[:, :0])

    def writes_read_out(self, tasks: Sequence[PlantTask]) -> xr.DataArray:
        """Whether a layer writes what the output projection reads, bool (layer); see :meth:`_layers`."""
        read = [INDEX[name] for name in READ_OUT]
        return self._layers(tasks, lambda where, write: write[:, read])

    def _layers(self, tasks: Sequence[PlantTask], chosen: Callable[[Where, np.ndarray], np.ndarray]) -> xr.DataArray:
        """Layers at which the chosen features of a write are not nothing, on any of the first two tasks."""
        found = np.zeros(self.network.n_layers, bool)
        for task in tasks[:2]:
            for where, write in run(self.network, task).writes.items():
                found[where.layer] |= bool((abs(chosen(where, write)) > 0.1).any())
        return xr.DataArray(found, coords={"layer": range(len(found))}, dims="layer")

    def shown(self, tasks: Sequence[PlantTask]) -> xr.DataArray:
        """How much of the answer each layer adds to the read-out of the stream, averaged over steps and tasks.

        Args:
            tasks: Tasks of this plant.

        Returns:
            (layer), in planted answers: 1 is all of it.
        """
        n = self.network
        gains = np.zeros(n.n_layers)
        for task in tasks:
            there = task.regions["later" if task.shown == "later" else "key"]
            streams = run(n, task).streams
            for step in range(n.n_steps):
                read = {
                    branch: np.array([
                        read_out(stream)[there, 0].mean()
                        for stream in (entry(task), *(streams[step, branch, layer] for layer in range(n.n_layers)))
                    ])
                    for branch in n.branches
                }  # fmt: skip
                guided = read["cond"]
                if n.guidance > 1:
                    guided = read["uncond"] + n.guidance * (guided - read["uncond"])
                gains += np.diff(guided) * task.label / n.n_steps / len(tasks)
        return xr.DataArray(gains, coords={"layer": range(n.n_layers)}, dims="layer")

    def decodable(self, tasks: Sequence[PlantTask]) -> xr.DataArray:
        """Whether the later frames' mean stream after a layer tells the label, or the second bit.

        Args:
            tasks: Tasks of this plant, of which the first two are looked at.

        Returns:
            bool (label, step, layer).
        """
        n = self.network
        found = np.zeros((2, n.n_steps, n.n_layers))
        for task in tasks[:2]:
            for i, other in enumerate((task.twin("other_answer"), replace(task, unused=-task.unused))):
                runs = [run(n, one).streams for one in (task, other)]
                for step in range(n.n_steps):
                    for layer in range(n.n_layers):
                        a, b = (one[step, "cond", layer][task.regions["later"]].mean(0) for one in runs)
                        found[i, step, layer] = max(found[i, step, layer], np.abs(a - b).max())
        coords = {"label": ["label", "unused"], "step": range(n.n_steps), "layer": range(n.n_layers)}
        return xr.DataArray(found > 0.1, coords=coords, dims=tuple(coords))

    def _mechanism(self, expert: str) -> Iterable[Part]:
        there = self.network.parts[expert]
        return (part for part in self.spec.mechanism() if part in there)

    def _writes(self, part: Part, step: int) -> bool:
        """Whether the gates of a step let through anything that a part writes."""
        if self.network.open is None or step in self.network.open or isinstance(part, Tell):
            return True
        return any(FEATURES[name] != GATED for name in written(part))

    # -- what changes there do

    def patch(self, tasks: Sequence[PlantTask], **how: Any) -> xr.DataArray:
        """Exact effect of taking what is written at each place from the source; arguments as of :meth:`effects`."""
        return self.effects("patch", tasks, **how)

    def ablate(self, tasks: Sequence[PlantTask], **how: Any) -> xr.DataArray:
        """Exact effect of writing nothing at each place; arguments as of :meth:`effects`."""
        return self.effects("ablate", tasks, **how)

    def effects(
        self,
        edit: Edit,
        tasks: Sequence[PlantTask],
        *,
        steps: Sequence[Sequence[int] | int] | None = None,
        layers: Sequence[Sequence[int] | int] | None = None,
        hooks: bool = False,
        heads: bool = False,
        branches: bool = False,
        horizon: Horizon = "local",
    ) -> xr.DataArray:
        """Exact effects of an edit, averaged over tasks.

        Args:
            edit: "patch" or "ablate".
            tasks: The bases; sources are their twins.
            steps: Entries are one step, or several at once; each by itself by default.
            layers: Likewise.
            hooks: Also for each component by itself.
            heads: Also for each head of self-attention by itself; without ``hooks``.
            branches: Also for each branch by itself.
            horizon: "local", x0_hat at the last edited step, or "final", the finished video.

        Returns:
            (step, layer, and hook, head, branch where asked for); NaN where base and source do not differ.
        """
        n = self.network
        step_groups = _groups(range(n.n_steps) if steps is None else steps)
        layer_groups = _groups(range(n.n_layers) if layers is None else layers)
        components: Sequence[Component | None] = COMPONENTS if hooks else ("attention",) if heads else (None,)
        numbers: Sequence[int | None] = range(HEADS) if heads else (None,)
        sides: Sequence[str | None] = n.branches if branches else (None,)
        places = [
            Place(s, y, component, head, side)
            for s in step_groups
            for y in layer_groups
            for component in components
            for head in numbers
            for side in sides
        ]
        values = np.mean([self.of(edit, task, places, horizon) for task in tasks], 0)
        shape = (len(step_groups), len(layer_groups), len(components), len(numbers), len(sides))
        coords = {
            "step": _labels(step_groups), "layer": _labels(layer_groups),
            "hook": [HOOKS[c] if c else "update" for c in components],
            "head": [-1 if h is None else h for h in numbers],
            "branch": ["all" if b is None else b for b in sides],
        }  # fmt: skip
        found = xr.DataArray(values.reshape(shape), coords=coords, dims=tuple(coords))
        asked = {"hook": hooks, "head": heads, "branch": branches}
        return found.squeeze([dim for dim, wanted in asked.items() if not wanted], drop=True)

    def of(self, edit: Edit, task: PlantTask, places: Sequence[Place], horizon: Horizon = "local") -> np.ndarray:
        """Exact effects of an edit at some places, on one task, (places,)."""
        base, source = run(self.network, task), run(self.network, task.twin("other_answer"))
        found = []
        for place in places:
            edited = run(self.network, task, partial(_changed, edit, place, source))
            last = place.steps[-1] if horizon == "local" else None
            toward = self._moved(source.velocity - base.velocity, last)
            moved = self._moved(edited.velocity - base.velocity, last)
            size = (toward**2).sum()
            found.append((moved * toward).sum() / size if size > 1e-12 else np.nan)
        return np.asarray(found)

    def _moved(self, dv: np.ndarray, step: int | None) -> np.ndarray:
        """How far a change of velocities (steps, tokens, 2) moves x0_hat at a step, or the finished video."""
        sigmas = np.asarray(self.network.sigmas)
        end = len(dv) if step is None else step
        moved = np.tensordot(np.diff(sigmas)[:end], dv[:end], 1)
        return moved if step is None else moved - sigmas[step] * dv[step]


def written(part: Part) -> tuple[str, ...]:
    """The features that a part adds to."""
    if isinstance(part, Units):
        return tuple(dict.fromkeys(name for unit in part.units for name in unit.out))
    return () if part.writes is None else (part.writes,)


def _changed(edit: Edit, place: Place, source: Calls, where: Where, write: np.ndarray) -> np.ndarray:
    if not place.holds(where):
        return write
    return source.writes[where] if edit == "patch" else np.zeros_like(write)


def _groups(entries: Sequence[Sequence[int] | int]) -> list[tuple[int, ...]]:
    return [(entry,) if isinstance(entry, int) else tuple(entry) for entry in entries]


def _labels(groups: Sequence[tuple[int, ...]]) -> list[Any]:
    return [g[0] for g in groups] if all(len(g) == 1 for g in groups) else [label(g) for g in groups]
