"""Features: activations of many scenes by address, one file a scene, read back one step at a time.

A full grid of the lab model (20 steps x 12 layers x 144 tokens x 128 channels) is 18 MB a scene, so scenes are written
as they are generated and memory holds one scene while collecting, and one step of one hook of all scenes while fitting.
A folder goes on where it stopped, and several processes may share it: a scene is an item of a store
(:mod:`dit_lens.store`), there whole or not at all, and other parameters are refused with the difference.

Beside the hooks asked for stands ``input``: what the model is given at the step, noisy latents and image channels, one
row of patch values per token. A label that can be read from it needs no model.

Rows are *units*: tokens, frames, regions or whole videos, by the reducer. Scenes with the same first picture are
one group, and no split parts a group.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dit_lens.address import Address, Branch
from dit_lens.errors import ProbeError, StoreError
from dit_lens.progress import Progress, silent
from dit_lens.runner.parts import make_parts
from dit_lens.store.base import WAITING, Store
from dit_lens.store.folder import open_store
from dit_lens.store.identity import describe, task_identity
from dit_lens.store.items import HEADER, Content
from dit_lens.wan.lens import Lens
from dit_lens.wan.recording import record
from dit_lens.wan.reduce import FrameMean, Raw, Reducer, RegionMean, Tokens, VideoMean, reducer
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import SamplingArguments, SamplingLike, merged
from dit_lens.wan.token_grid import Grid

INPUT = "input"


@dataclass(frozen=True, eq=False)
class Scene:
    """One generation.

    Attributes:
        task: Its task.
        seed: Of its noise.
        answer: What its video answers, or None.
        group: Scenes of one group are in one fold.
        file: Where its activations are.
    """

    task: Any
    seed: int
    answer: Any
    group: str
    file: Path = field(repr=False)


@dataclass(frozen=True, eq=False)
class Features:
    """Activations (scene, unit, d) at every (step, layer, hook) that was kept; read with ``cell`` or ``block``.

    Attributes:
        scenes: What was generated.
        grid: The token grid of every scene.
        steps: Steps that were kept.
        sigmas: Their noise levels.
        layers: Layers that were kept.
        hooks: Hooks that were kept.
        branch: ``cond`` or ``uncond``.
        unit: What one row is: "token", "frame", "region" or "video".
        units: Token indices, frame numbers, region names, or (0,).
        about: Model, generation and recipe; plain JSON values.
        pooled: Whether rows are averaged over units as they are read.
    """

    scenes: tuple[Scene, ...]
    grid: Grid
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    layers: tuple[int, ...]
    hooks: tuple[str, ...]
    branch: Branch
    unit: str  # "token", "frame", "region" or "video"
    units: tuple[Any, ...]  # token indices, frame numbers, region names, or (0,)
    about: Mapping[str, Any] = field(repr=False)
    pooled: bool = False
    _folder: Any = field(default=None, repr=False)  # a temporary folder lives as long as this

    @property
    def groups(self) -> np.ndarray:
        """The group of every scene, (scenes,)."""
        return np.array([scene.group for scene in self.scenes])

    def block(self, hook: str, step: int) -> np.ndarray:
        """All layers of one hook at one step.

        Args:
            hook: A hook that was kept, or ``input``, which has one layer.
            step: A step that was kept.

        Returns:
            float32 (layers, scenes, units, d).

        Raises:
            ProbeError: They were not kept.
        """
        self._check(hook, step)
        layers = (-1,) if hook == INPUT else self.layers
        out: np.ndarray | None = None
        for i, scene in enumerate(self.scenes):
            with _reading(scene.file) as kept:
                for j, layer in enumerate(layers):
                    values = self._rows(kept.get_tensor(_key(hook, step, layer)))  # (units, d)
                    if out is None:
                        out = np.empty((len(layers), len(self.scenes), *values.shape), np.float32)
                    out[j, i] = values
        assert out is not None
        return out

    def cell(self, hook: str, step: int, layer: int = -1) -> np.ndarray:
        """One place.

        Args:
            hook: A hook that was kept, or ``input``.
            step: A step that was kept.
            layer: A layer that was kept; ``input`` has none.

        Returns:
            (scenes, units, d).

        Raises:
            ProbeError: It was not kept.
        """
        self._check(hook, step)
        if hook != INPUT and layer not in self.layers:
            raise ProbeError(f"layer {layer} of {hook!r} was not kept: layers {list(self.layers)} were")
        key, rows = _key(hook, step, layer), []
        for scene in self.scenes:
            with _reading(scene.file) as kept:
                rows.append(self._rows(kept.get_tensor(key)))
        return np.stack(rows)

    def per_video(self) -> Features:
        """The same scenes with one row each, the mean over units: for labels that a scene has one of."""
        return replace(self, pooled=True, unit="video", units=(0,))

    def _rows(self, kept: Tensor) -> np.ndarray:
        values = kept.float().numpy()
        return values.mean(0, keepdims=True) if self.pooled else values

    def only(self, hook: str, step: int, layer: int) -> Features:
        """The same scenes at one place.

        Args:
            hook: A hook that was kept.
            step: A step that was kept.
            layer: A layer that was kept.

        Raises:
            ProbeError: It was not kept.
        """
        self._check(hook, step)
        if hook == INPUT or layer not in self.layers:
            raise ProbeError(f"layer {layer} of {hook!r} was not kept: layers {list(self.layers)} were")
        sigma = self.sigmas[self.steps.index(step)]
        return replace(self, steps=(step,), sigmas=(sigma,), layers=(layer,), hooks=(hook,))

    def _check(self, hook: str, step: int) -> None:
        if hook not in (*self.hooks, INPUT) or step not in self.steps:
            raise ProbeError(
                f"hook {hook!r} at step {step} was not kept: hooks {list(self.hooks)} at steps {list(self.steps)} were"
            )

    def identity(self) -> dict[str, Any]:
        """What numbers that are made from these features depend on; reads every scene once."""
        digest = hashlib.sha256()
        for scene in self.scenes:
            with scene.file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return {
            "about": describe(self.about), "steps": list(self.steps), "layers": list(self.layers),
            "hooks": list(self.hooks), "branch": self.branch, "unit": self.unit, "pooled": self.pooled,
            "groups": describe([scene.group for scene in self.scenes]), "content": digest.hexdigest()[:16],
        }  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"Features of {len(self.scenes)} scenes ({len(set(self.groups))} groups), {len(self.units)} {self.unit}s "
            f"each: hooks {', '.join(self.hooks)}, {len(self.layers)} layers, {len(self.steps)} steps, {self.branch}"
        )


def collect(
    lens: Lens,
    tasks: Sequence[Any],
    *hooks: str,
    steps: Any = "all",
    layers: Any = "all",
    branch: Branch = "cond",
    reduce: str | Reducer = "raw",
    seed: int = 0,
    seeds: int = 1,
    folder: str | Path | Store | None = None,
    regions: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
    sampling: SamplingLike | None = None,
    progress: Progress = silent,
    **given: Unpack[SamplingArguments],
) -> Features:
    """Generate every task and keep what probes are fitted on; with ``folder`` it can be stopped and gone on with.

    Args:
        lens: The model.
        tasks: Tasks of one size.
        *hooks: Points; ``"resid_post"`` by default.
        steps: Steps to keep.
        layers: Layers to keep.
        branch: ``cond`` or ``uncond``.
        reduce: ``"raw"`` (per token), ``"frame_mean"``, ``"region_mean"``, ``"video_mean"``, or a value such as
            ``dit_lens.reduce.Tokens(...)``.
        seed: Scene i has noise seed ``seed + i``.
        seeds: How often each task is generated; its runs share a group.
        folder: Where scenes are kept; a temporary place by default.
        regions: As of ``lens.generate``.
        stop_after: As of ``lens.generate``.
        sampling: Sampling arguments as one :class:`dit_lens.Sampling`.
        progress: Called as ``progress(done, total, what)``.
        **given: Sampling arguments, flat.

    Raises:
        ProbeError: For no tasks, or tasks of different sizes.
        StoreError: For a folder that was begun under other parameters, with the difference.
    """
    hooks = hooks or ("resid_post",)
    sampled = merged(sampling, given, collect)
    if not tasks:
        raise ProbeError("no tasks: give a list, such as [dit_lens.tasks.load('maze', seed=i) for i in range(60)]")
    grids = {lens.grid_of(task, sampled) for task in tasks}
    if len(grids) > 1:
        raise ProbeError(f"the tasks have different token grids ({', '.join(map(str, grids))}): collect each by itself")
    how = reducer(reduce)
    jobs = [(task, seed + i + len(tasks) * k) for k in range(seeds) for i, task in enumerate(tasks)]
    plan = lens.plan(sampled)
    recipe = {
        "fingerprint": lens.fingerprint, "sigmas": list(plan.sigmas),
        "guidance_scale": plan.guidance_scale,
        "hooks": list(hooks), "steps": describe(steps),
        "layers": describe(layers), "branch": branch, "reduce": describe(how),
        "sampling": describe(sampled.given()), "regions": describe(regions), "stop_after": stop_after,
        "scenes": [{"task": task_identity(task), "seed": s} for task, s in jobs],
    }  # fmt: skip
    if isinstance(folder, Store):
        folder = folder.place
    temporary = tempfile.TemporaryDirectory(prefix="dit_lens-features-") if folder is None else None
    identity = {**lens.identity(sampled.scheduler), **recipe}
    kept = open_store(temporary.name if temporary else folder, "features", identity)
    wanted = record(*hooks, reduce=how, steps=steps, layers=layers, branches=branch)
    kept_steps = wanted.where.steps_of(plan.n_steps)

    def scene(i: int) -> Content:
        progress(i, len(jobs), f"features of scene {i}")
        # Nothing after the last step is needed but the answer, which the finished video gives.
        task, s = jobs[i]
        run = lens.generate(task, seed=s, record=wanted, sampling=sampled, regions=regions, stop_after=stop_after)
        return _content(run, how, list(run.activations))

    makes = {_name(i): partial(scene, i) for i in range(len(jobs))}
    make_parts(kept, makes, waiting=lambda: progress(kept.done, len(jobs), WAITING))
    scenes = [_scene(kept, i, task, s, task) for i, (task, s) in enumerate(jobs)]
    grid = grids.pop()
    unit, units = _units(how, grid, tasks[0])
    return Features(
        tuple(scenes), grid, kept_steps, tuple(plan.sigmas[s] for s in kept_steps),
        wanted.where.layers_of(lens.n_layers), tuple(hooks), branch, unit, units,
        {**lens.about, "recipe": _short(recipe)}, _folder=temporary,
    )  # fmt: skip


def from_runs(runs: Sequence[Run], hook: str, branch: Branch = "cond") -> Features:
    """Features of runs that recorded a hook already, all of them at the same places and in the same way.

    Args:
        runs: The runs.
        hook: The name under which activations are filed.
        branch: ``cond`` or ``uncond``.

    Raises:
        ProbeError: For runs of different models, grids or records.
    """
    if not runs:
        raise ProbeError("no runs: give a list of runs that recorded the hook to be probed")
    where = [[a for a in run.activations if a.hook == hook and a.branch == branch] for run in runs]
    places = {frozenset((a.step, a.layer) for a in found) for found in where}
    if not where[0]:
        raise ProbeError(f"{hook!r} ({branch}) was not recorded: generate with record=dit_lens.record({hook!r})")
    prints, grids = {run.meta.get("fingerprint") for run in runs}, {run.grid for run in runs}
    axes = [run.dims.get(hook, {}) for run in runs]
    if len(places) > 1 or len(prints) > 1 or len(grids) > 1 or any(d != axes[0] for d in axes):
        raise ProbeError(
            f"the runs do not fit together (models {prints}, {len(grids)} token grids, {len(places)} sets of places): "
            "probe runs of one model, one size and one record"
        )
    first, grid = runs[0], runs[0].grid
    axis = next(iter(axes[0]), "")
    named = axes[0].get(axis)
    count = first.activations[where[0][0]].shape[0]
    units = named if isinstance(named, tuple) else tuple(range(count))
    if axis not in _HOW or (axis == "token" and count != grid.n_tokens):
        raise ProbeError(
            f"{hook!r} was recorded as {axis or 'one vector'} x {count}, and rows must be all tokens, or frames, "
            "regions or the video: record it so, or use dit_lens.probing.collect(...)"
        )
    steps = tuple(sorted({a.step for a in where[0]}))
    temporary = tempfile.TemporaryDirectory(prefix="dit_lens-features-")
    kept = open_store(temporary.name, "features", {})
    scenes = []
    for i, run in enumerate(runs):
        kept.put(_name(i), _content(run, _HOW[axis](units), where[i]))
        scenes.append(_scene(kept, i, run.task, run.seed, run if run.task is None else run.task))
    return Features(
        tuple(scenes), grid, steps, tuple(first.sigmas[s] for s in steps), tuple(sorted({a.layer for a in where[0]})),
        (hook,), branch, axis, units,
        {**first.meta, "recipe": _short({"scenes": [{"prompt": r.prompt, "seed": r.seed} for r in runs]})},
        _folder=temporary,
    )  # fmt: skip


#: The reducer that makes rows of a kind.
_HOW: Mapping[str, Callable[[tuple[Any, ...]], Reducer]] = {
    "token": lambda units: Raw(),
    "frame": lambda units: FrameMean(),
    "region": lambda units: RegionMean(units),
    "video": lambda units: VideoMean(),
}


def _input(run: Run, step: int) -> Tensor:
    """What enters the model at a step, one row of values per token, (N, values)."""
    parts = [run.latents[step]]
    if run.conditions.image_latents is not None:
        parts.append(run.conditions.image_latents[0])
    x = torch.cat([p.float() for p in parts if p.shape[1:] == parts[0].shape[1:]])  # (C, F, h, w)
    g = run.grid
    return rearrange(
        x, "c (f a) (r b) (k e) -> (f r k) (c a b e)", f=g.frames, r=g.rows, k=g.cols
    ).contiguous()  # (N, C patch)


def _content(run: Run, how: Reducer, places: Sequence[Address]) -> Content:
    """A run's activations, its input at the same steps, and its answer."""
    kept = {_key(a.hook, a.step, a.layer): run.activations[a].flatten(1).contiguous() for a in places}
    masks = {name: torch.from_numpy(np.asarray(mask))[None] for name, mask in run.regions.items()}
    for step in sorted({a.step for a in places}):
        kept[_key(INPUT, step, -1)] = how(_input(run, step)[None], run.grid, masks)[0].contiguous()
    answer = run.task.answer(run.video) if hasattr(run.task, "answer") and run.complete else None
    return Content(kept, {"answer": answer})


def _reading(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{file} cannot be read ({error}): remove this one file and collect again") from error


def _short(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the list of scenes as their number, their tasks' names and a checksum."""
    scenes = recipe["scenes"]
    text = json.dumps(scenes, sort_keys=True, default=str)
    names = sorted({str(s.get("task", {}).get("name", "own")) for s in scenes})
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {**recipe, "scenes": {"n": len(scenes), "tasks": names, "first seed": scenes[0]["seed"], "digest": digest}}


def _units(how: Reducer, grid: Grid, task: Any) -> tuple[str, tuple[Any, ...]]:
    if isinstance(how, Raw):
        return "token", tuple(range(grid.n_tokens))
    if isinstance(how, Tokens):
        return "token", tuple(how.index)
    if isinstance(how, FrameMean):
        return "frame", tuple(range(grid.frames))
    if isinstance(how, VideoMean):
        return "video", (0,)
    if isinstance(how, RegionMean):
        return "region", how.names or tuple(task.regions)
    raise ProbeError(
        f"{type(how).__name__} gives no rows to probe: use 'raw', 'frame_mean', 'region_mean', 'video_mean' or Tokens"
    )


def _scene(kept: Store, i: int, task: Any, seed: int, shows: Any) -> Scene:
    file = kept.file(_name(i))
    if file is None:
        raise StoreError(f"scene {i} is no longer in {kept}: collect the features again")
    with _reading(file) as opened:
        answer = json.loads(opened.metadata()[HEADER])["answer"]
    return Scene(task, seed, _tuples(answer), _group(shows), file)


def _name(i: int) -> str:
    return f"scene-{i:05d}"


def _group(task: Any) -> str:
    """Scenes with the same first picture are one, whatever is asked of them; without a picture, the prompt tells."""
    image = getattr(task, "image", None)
    what = str(getattr(task, "prompt", None)).encode() if image is None else np.asarray(image).tobytes()
    return hashlib.sha256(what).hexdigest()[:16]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _key(hook: str, step: int, layer: int) -> str:
    return f"{hook}/{step}/{layer}"
