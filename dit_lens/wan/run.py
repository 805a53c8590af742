"""A recorded generation: latents, velocities, activations by address, video, and what is needed to go on from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dit_lens.address import BRANCHES, Address, Branch
from dit_lens.errors import AddressError, RecordError
from dit_lens.store.identity import describe
from dit_lens.store.items import Content
from dit_lens.store.run_files import write_run
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.conditions import Conditions, Size
from dit_lens.wan.editing import Fired
from dit_lens.wan.run_content import content_of, fields_of
from dit_lens.wan.sampler import x0_hat
from dit_lens.wan.sampling import Sampling
from dit_lens.wan.token_grid import Grid

HOOKED = "user hooks"  # in ``meta``: points that carried hooks which the user had put there by hand


@dataclass(frozen=True, eq=False)
class Run:
    """Everything one generation recorded. Tensors are on the CPU.

    Attributes:
        plan: Its denoiser calls.
        sampling: How it was sampled.
        size: Pixels and frames.
        grid: The token grid.
        seed: Of the noise.
        prompt: The text, or ``(embeddings)``.
        latents: (S + 1, C, F, h, w), what entered each of the S steps done, and what left the last.
        velocity: (S, C, F, h, w), after guidance.
        conditions: Encoded text and image.
        activations: Address -> reduced activation, without batch axis; read them with ``run[...]`` or
            ``run.array(...)``.
        dims: Hook -> axes of its activations.
        regions: Name -> bool (n_tokens,).
        edited: Steps before which an intervention changed the latents.
        fired: What each intervention touched.
        task: Whatever was generated from (prompt, truth, scorer), or None.
        meta: Model, fingerprint and versions; ``"traced"`` where a trace had a body, ``"user hooks"`` where points
            carried hooks that were put there by hand (``point.add_hook``), which ``fired`` cannot know.
    """

    plan: Plan
    sampling: Sampling = field(repr=False)
    size: Size
    grid: Grid
    seed: int
    prompt: str
    latents: Tensor = field(repr=False)
    velocity: Tensor = field(repr=False)
    conditions: Conditions = field(repr=False)
    activations: Mapping[Address, Tensor] = field(default_factory=dict, repr=False)
    dims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    regions: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)  # bool (n_tokens,)
    edited: tuple[int, ...] = ()
    fired: tuple[Fired, ...] = ()
    task: Any = field(default=None, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _decode: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    # -- the trajectory

    @property
    def n_steps(self) -> int:
        """Steps done."""
        return len(self.velocity)

    @property
    def complete(self) -> bool:
        """Whether all steps of the plan are done."""
        return self.n_steps == self.plan.n_steps

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, one more than steps of the plan."""
        return self.plan.sigmas

    def x0_hat(self, step: int) -> Tensor:
        """The clean latents that the model expects at a step: x - sigma v (paper, eq. 2).

        Args:
            step: A step that was done; negative ones count from the end.

        Returns:
            (C, F, h, w).

        Raises:
            AddressError: The step was not run.
        """
        i = self._step(step)
        return x0_hat(self.latents[i][None], self.velocity[i][None], self.sigmas[i], self.conditions)[0]

    @property
    def final(self) -> Tensor:
        """The latents that are decoded, (C, F, h, w): the last ones, with a given first frame put back (TI2V)."""
        return x0_hat(self.latents[-1][None], torch.zeros_like(self.latents[-1][None]), 0.0, self.conditions)[0]

    # -- pictures

    @property
    def video(self) -> np.ndarray:
        """The decoded video, float32 in [0, 1], (frames, H, W, 3); of a stopped run, that of its last x0_hat."""
        if "video" not in self._cache:
            self._cache["video"] = self.decode(self.final if self.complete else self.x0_hat(-1))
        return self._cache["video"]

    def film(self, steps: Sequence[int] | None = None) -> np.ndarray:
        """The x0_hat of each step as video.

        Args:
            steps: Which steps; all by default.

        Returns:
            float32 in [0, 1], (steps, frames, H, W, 3).
        """
        chosen = range(self.n_steps) if steps is None else steps
        return np.stack([self.decode(self.x0_hat(step)) for step in chosen])

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (C, F, h, w) to video, float32 in [0, 1], (frames, H, W, 3).

        Raises:
            RecordError: The run was loaded without its model.
        """
        if self._decode is None:
            raise RecordError("this run was loaded without its model: lens.attach(run) gives it back a decoder")
        return self._decode(latents[None])[0].permute(0, 2, 3, 1).float().cpu().numpy()

    @property
    def score(self) -> Any:
        """The task's verdict on the video.

        Raises:
            RecordError: The run has no task that can score it.
        """
        if self.task is None or not hasattr(self.task, "score"):
            raise RecordError("this run has no task that can score it: generate from dit_lens.tasks.load(...)")
        return self.task.score(self.video)

    # -- activations

    def __getitem__(self, address: str | Address) -> Tensor:
        """One recorded activation: ``run["step=5 layer=7 hook=resid_post branch=cond"]``.

        Raises:
            AddressError: Nothing was recorded there.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        if place not in self.activations:
            raise AddressError(f"nothing was recorded at {place}; {self._recorded()}")
        return self.activations[place]

    def array(self, hook: str, branch: Branch | None = None) -> xr.DataArray:
        """All recorded activations of one hook as a labelled array.

        Args:
            hook: The name under which they are filed.
            branch: Picks one and drops the axis.

        Returns:
            (step, branch, layer, ...), float32, NaN where not recorded. Steps carry their ``sigma`` and ``expert``.
            Points outside the blocks have no ``layer`` axis.

        Raises:
            AddressError: Nothing was recorded of that hook.
        """
        found = {a: v for a, v in self.activations.items() if a.hook == hook and (branch is None or a.branch == branch)}
        if not found:
            raise AddressError(
                f"nothing was recorded of hook {hook!r}{f' in {branch}' if branch else ''}; {self._recorded()}"
            )
        steps = sorted({a.step for a in found})
        branches = [b for b in BRANCHES if any(a.branch == b for a in found)]
        layers = sorted({a.layer for a in found})
        sample = next(iter(found.values()))
        values = np.full((len(steps), len(branches), len(layers), *sample.shape), np.nan, dtype=np.float32)
        for a, v in found.items():
            values[steps.index(a.step), branches.index(a.branch), layers.index(a.layer)] = v.float().numpy()
        names = [*self.dims.get(hook, {})] or [f"axis_{i}" for i in range(sample.ndim)]
        coords: dict[str, Any] = {"step": steps, "branch": branches, "layer": layers}
        coords["sigma"] = ("step", [self.sigmas[s] for s in steps])
        coords["expert"] = ("step", [self.plan.at(s).expert for s in steps])
        coords |= {k: list(v) for k, v in self.dims.get(hook, {}).items() if isinstance(v, tuple)}
        array = xr.DataArray(values, dims=("step", "branch", "layer", *names), coords=coords, name=hook)
        if layers == [-1]:
            array = array.isel(layer=0, drop=True)
        return array if branch is None else array.isel(branch=0, drop=True)

    def _recorded(self) -> str:
        hooks = sorted({a.hook for a in self.activations})
        return f"recorded hooks: {hooks}" if hooks else "pass record=dit_lens.record(...) to lens.generate"

    # -- going on

    def until(self, step: int) -> Run:
        """The run as it stood when a step was about to begin: ``lens.generate(resume=run.until(5))`` forks there.

        Args:
            step: From 0 to the number of steps done.

        Raises:
            AddressError: For another step.
        """
        if not 0 <= step <= self.n_steps:
            raise AddressError(f"cannot go back to step {step}: this run did steps 0 to {self.n_steps - 1}")
        return replace(
            self,
            latents=self.latents[: step + 1],
            velocity=self.velocity[:step],
            activations={a: v for a, v in self.activations.items() if a.step < step},
            edited=tuple(s for s in self.edited if s < step),
            fired=tuple(f for f in (fired.until(step) for fired in self.fired) if f.touched),
            _cache={},
        )

    # -- on disk

    def save(self, folder: str | Path) -> None:
        """Write to a folder of safetensors and JSON, whole or not at all; ``dit_lens.load_run`` reads it.

        Raises:
            StoreError: The place cannot be written or holds something else, or the run cannot be stored.
        """
        write_run(self.content(), folder)

    def content(self) -> Content:
        """Named tensors and a header of plain JSON values, as stores keep them."""
        return content_of(self)

    @classmethod
    def from_content(cls, content: Content | Run) -> Run:
        """The run of such content, without its task and decoder; a run is returned as it is.

        Raises:
            StoreError: The content is not that of a run.
        """
        return content if isinstance(content, Run) else cls(**fields_of(content))

    def identity(self) -> dict[str, Any]:
        """What numbers that are made from this run depend on."""
        return {"run": describe(self.latents), "seed": self.seed}

    def __getstate__(self) -> dict[str, Any]:
        # The decoder is the pipeline's: a run travels without, and lens.attach(run) gives it back.
        return {**self.__dict__, "_decode": None, "_cache": {}}

    def __copy__(self) -> Run:
        return replace(self, _cache={})

    def __deepcopy__(self, memo: Any) -> Run:
        own = {f.name: copy.deepcopy(getattr(self, f.name), memo) for f in fields(self) if not f.name.startswith("_")}
        return replace(self, **own, _cache={})

    def _step(self, step: int) -> int:
        i = step + self.n_steps if step < 0 else step
        if not 0 <= i < self.n_steps:
            raise AddressError(f"step {step} was not run: this run did steps 0 to {self.n_steps - 1}")
        return i

    def __repr__(self) -> str:
        done = "" if self.complete else f" (stopped after {self.n_steps} of {self.plan.n_steps} steps)"
        kept = f", {len(self.activations)} activations" if self.activations else ""
        edits = "".join(f"\n  {f}" for f in self.fired)
        if self.meta.get(HOOKED):
            edits += f"\n  hooks of your own, put on points by hand: {', '.join(self.meta[HOOKED])}"
        return f"Run of {self.prompt!r}, seed {self.seed}: {self.plan.n_steps} steps{done}, {self.grid}{kept}{edits}"

    def _repr_html_(self) -> str:
        from dit_lens.display.lens_and_run import run_html

        return run_html(self)
