"""Runs on disk: tensors as safetensors, everything else as JSON, written to a new folder and moved into place.

Nothing in a folder is ever executed: no pickle. A task that has a name, a seed and a split
is stored by these and made again on loading by ``revive``; any other is stored by its prompt only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dit_lens.address import Address, Call
from dit_lens.errors import StoreError
from dit_lens.wan.conditions import Conditions, Size
from dit_lens.wan.edits import Fired
from dit_lens.wan.grid import Grid
from dit_lens.wan.plan import Plan, Sampling
from dit_lens.wan.run import Run

FORMAT = 1


def save_run(run: Run, folder: str | Path) -> Path:
    """Write a run; a folder that exists is replaced only when it holds a run.

    Errors: :class:`StoreError` when the place cannot be written or holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "run.json").is_file():
        raise StoreError(f"{folder} exists and is not a saved run: choose another folder, or remove it")
    tensors = {"latents": run.latents, "velocity": run.velocity}
    tensors |= {f"conditions.{k}": v for k, v in run.conditions.items().items() if v is not None}
    tensors |= {f"activation.{a}": v for a, v in run.activations.items()}
    tensors |= {f"region.{k}": torch.from_numpy(np.array(v)) for k, v in run.regions.items()}
    scheduler = run.sampling.scheduler
    about = {
        "format": FORMAT,
        "seed": run.seed,
        "prompt": run.prompt,
        "size": asdict(run.size),
        "grid": asdict(run.grid),
        "plan": asdict(run.plan),
        "sampling": {**asdict(_plain(run.sampling)), "scheduler": None},
        "scheduler": None
        if scheduler is None
        else {"class": type(scheduler).__name__, "config": dict(scheduler.config)},
        "edited": list(run.edited),
        "dims": {
            k: {d: list(v) if isinstance(v, tuple) else v for d, v in dims.items()} for k, dims in run.dims.items()
        },
        "fired": [
            {"label": f.label, "touched": {str(a): n for a, n in f.touched.items()}, "remarks": list(f.remarks)}
            for f in run.fired
        ],
        "task": _task(run.task),
        "meta": dict(run.meta),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, scratch / "run.safetensors")
            (scratch / "run.json").write_text(json.dumps(about, indent=1, default=str), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"cannot write a run to {folder}: {error}; choose a folder that can be written") from error
    return folder


def load_run(folder: str | Path, revive: Any = None) -> Run:
    """Read a run. It can be measured at once; ``lens.attach(run)`` lets it decode and be resumed.

    Errors: :class:`StoreError` for a missing, damaged or newer folder.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "run.safetensors")
    except FileNotFoundError:
        raise StoreError(
            f"{folder} holds no run: it needs run.json and run.safetensors, as run.save() writes"
        ) from None
    except (json.JSONDecodeError, SafetensorError) as error:
        raise StoreError(f"the run in {folder} is damaged ({error}): generate it again") from error
    if about.get("format") != FORMAT:
        raise StoreError(
            f"the run in {folder} has format {about.get('format')}, this version reads {FORMAT}: update dit_lens"
        )
    plan = about["plan"]
    parts = {k.split(".", 1)[1]: v for k, v in tensors.items() if k.startswith("conditions.")}
    return Run(
        plan=Plan(
            tuple(Call(**c) for c in plan["calls"]), tuple(plan["sigmas"]), plan["guidance"], plan["guidance_2"],
            plan["scheduler"],
        ),
        sampling=_sampling(about),
        size=Size(**about["size"]),
        grid=Grid(**about["grid"]),
        seed=about["seed"],
        prompt=about["prompt"],
        latents=tensors["latents"],
        velocity=tensors["velocity"],
        conditions=Conditions(**parts),
        activations={Address.parse(k.split(".", 1)[1]): v for k, v in tensors.items() if k.startswith("activation.")},
        dims={k: _tuples(dims) for k, dims in about["dims"].items()},
        regions={k.split(".", 1)[1]: v.numpy() for k, v in tensors.items() if k.startswith("region.")},
        edited=tuple(about["edited"]),
        fired=tuple(
            Fired(f["label"], {Address.parse(a): n for a, n in f["touched"].items()}, tuple(f["remarks"]))
            for f in about["fired"]
        ),
        task=None if about["task"] is None or revive is None else revive(**about["task"]),
        meta=about["meta"],
    )  # fmt: skip


def _plain(sampling: Sampling) -> Sampling:
    return Sampling(sampling.steps, sampling.guidance, sampling.guidance_2, sampling.boundary_ratio)


def _sampling(about: dict[str, Any]) -> Sampling:
    scheduler = None
    if about["scheduler"] is not None:
        from dit_lens.wan import plan

        known = {c.__name__: c for c in (*plan.SUPPORTED, plan.ExplicitGridEuler)}
        scheduler = known[about["scheduler"]["class"]].from_config(about["scheduler"]["config"])
    return Sampling(**{**about["sampling"], "scheduler": scheduler})


def _task(task: Any) -> dict[str, Any] | None:
    if all(hasattr(task, part) for part in ("name", "seed", "split")):
        return {"name": task.name, "seed": task.seed, "split": task.split}
    return None


def _tuples(dims: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in dims.items()}
