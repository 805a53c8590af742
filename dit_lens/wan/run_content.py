"""A run as plain content, and back: named tensors, and a header of JSON values.

A task that has a name, a seed and a split is stored by these, to be made again by whoever knows tasks; any other by
its prompt only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.address import Address, Call
from dit_lens.errors import StoreError
from dit_lens.store.items import Content
from dit_lens.wan.call_plan import SUPPORTED, ExplicitGridEuler, Plan
from dit_lens.wan.conditions import Conditions, Size
from dit_lens.wan.editing import Fired
from dit_lens.wan.sampling import Sampling
from dit_lens.wan.token_grid import Grid

_SCHEDULERS = {c.__name__: c for c in (*SUPPORTED, ExplicitGridEuler)}
_WRONG = (LookupError, TypeError, ValueError, AttributeError)


def content_of(run: Any) -> Content:
    """The content of a run.

    Raises:
        StoreError: It was sampled with a scheduler that is not known here.
    """
    tensors = {"latents": run.latents, "velocity": run.velocity}
    tensors |= {f"conditions.{k}": v for k, v in run.conditions.items().items() if v is not None}
    tensors |= {f"activation.{_key(a)}": v for a, v in run.activations.items()}
    tensors |= {f"region.{k}": torch.from_numpy(np.array(v)) for k, v in run.regions.items()}
    header = {
        "seed": run.seed,
        "prompt": run.prompt,
        "size": asdict(run.size),
        "grid": asdict(run.grid),
        "plan": asdict(run.plan),
        "sampling": asdict(replace(run.sampling, scheduler=None)),
        "scheduler": _scheduler(run.sampling.scheduler),
        "edited": list(run.edited),
        "dims": {k: dict(dims) for k, dims in run.dims.items()},
        "fired": [
            {"label": f.label, "touched": {_key(a): n for a, n in f.touched.items()}, "remarks": list(f.remarks)}
            for f in run.fired
        ],
        "task": _task(run.task),
        "meta": dict(run.meta),
    }
    return Content(tensors, header)


def fields_of(content: Content) -> dict[str, Any]:
    """The fields of a run, without its task and its decoder.

    Raises:
        StoreError: The content is not that of a run, or its parts do not fit together.
    """
    try:
        return _fields(content.header, content.tensors)
    except _WRONG as error:
        raise StoreError(f"the run is damaged ({error!r}): generate it again") from error


def task_content(task: Any) -> str:
    """A short hash of what a task asks and shows, to know it again."""
    digest = hashlib.sha256(str(getattr(task, "prompt", None)).encode())
    image = getattr(task, "image", None)
    if image is not None:
        digest.update(np.asarray(image).tobytes())
    return digest.hexdigest()[:16]


def _fields(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    plan, scheduler = about["plan"], about["scheduler"]
    latents, velocity = tensors["latents"], tensors["velocity"]
    grid, size, seed = Grid(**about["grid"]), Size(**about["size"]), about["seed"]
    regions = {k: v.numpy() for k, v in _below("region.", tensors).items()}
    if len(latents) != len(velocity) + 1:
        raise StoreError(
            f"the run is damaged: {len(velocity)} steps and {len(latents)} latents do not fit; generate it again"
        )
    numbers = (seed, *asdict(grid).values(), *asdict(size).values())
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers) or not isinstance(about["prompt"], str):
        raise StoreError(
            "the run is damaged: seed, size and grid are whole numbers and the prompt is text; generate it again"
        )
    if any(mask.shape != (grid.n_tokens,) for mask in regions.values()):
        raise StoreError(f"the run is damaged: a region is not of {grid.n_tokens} tokens; generate it again")
    if scheduler is not None:
        if scheduler["class"] not in _SCHEDULERS:
            raise StoreError(f"the run names an unknown scheduler {scheduler['class']!r}: use {sorted(_SCHEDULERS)}")
        scheduler = _SCHEDULERS[scheduler["class"]].from_config(scheduler["config"])
    return {
        "plan": Plan(
            tuple(Call(**c) for c in plan["calls"]), tuple(plan["sigmas"]),
            **{k: v for k, v in plan.items() if k not in ("calls", "sigmas")},
        ),
        "sampling": Sampling(**{**about["sampling"], "scheduler": scheduler}),
        "size": size,
        "grid": grid,
        "seed": seed,
        "prompt": about["prompt"],
        "latents": latents,
        "velocity": velocity,
        "conditions": Conditions(**_below("conditions.", tensors)),
        "activations": {_address(k): v for k, v in _below("activation.", tensors).items()},
        "dims": {
            k: {name: tuple(v) if isinstance(v, list) else v for name, v in dims.items()}
            for k, dims in about["dims"].items()
        },
        "regions": regions,
        "edited": tuple(about["edited"]),
        "fired": tuple(
            Fired(f["label"], {_address(a): n for a, n in f["touched"].items()}, tuple(f["remarks"]))
            for f in about["fired"]
        ),
        "meta": about["meta"],
    }  # fmt: skip


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _key(a: Address) -> str:
    # Not str(a): a recording may be filed under any name, also one with spaces.
    return json.dumps([a.step, a.branch, a.layer, a.hook])


def _address(text: str) -> Address:
    step, branch, layer, hook = json.loads(text)
    return Address(step, branch, layer, hook)


def _scheduler(scheduler: Any) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    if _SCHEDULERS.get(type(scheduler).__name__) is not type(scheduler):
        raise StoreError(
            f"a run sampled with a {type(scheduler).__name__} of your own cannot be stored: give generate(scheduler=) "
            f"one of {sorted(_SCHEDULERS)}, or set it as pipe.scheduler"
        )
    return {"class": type(scheduler).__name__, "config": dict(scheduler.config)}


def _task(task: Any) -> dict[str, Any] | None:
    if not all(hasattr(task, part) for part in ("name", "seed", "split")):
        return None
    return {"name": task.name, "seed": task.seed, "split": task.split, "content": task_content(task)}
