"""Runs on disk: tensors as safetensors, everything else as JSON, written to a new folder and moved into place.

Nothing in a folder is ever executed: no pickle, and no name in it is imported. ``run.json`` is written last and holds
the checksum of the tensors, so a folder that was cut short, mixed or changed by accident is refused. A task that has a
name, a seed and a split is stored by these and made again on loading by ``revive``; any other by its prompt only.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit_lens.address import Address, Call
from dit_lens.errors import DitLensError, StoreError
from dit_lens.store.atomic import new_folder
from dit_lens.wan.call_plan import SUPPORTED, ExplicitGridEuler, Plan
from dit_lens.wan.conditions import Conditions, Size
from dit_lens.wan.editing import Fired
from dit_lens.wan.run import Run
from dit_lens.wan.sampling import Sampling
from dit_lens.wan.token_grid import Grid

FORMAT = 3
ABOUT, TENSORS = "run.json", "run.safetensors"
_SCHEDULERS = {c.__name__: c for c in (*SUPPORTED, ExplicitGridEuler)}


def save_run(run: Run, folder: str | Path) -> Path:
    """Write a run; a folder that exists is replaced only when it is empty or holds a run and nothing else.

    Errors: :class:`StoreError` when the place cannot be written or holds something else, or when the run holds what
    JSON cannot say.
    """
    folder = Path(folder)
    tensors = {"latents": run.latents, "velocity": run.velocity}
    tensors |= {f"conditions.{k}": v for k, v in run.conditions.items().items() if v is not None}
    tensors |= {f"activation.{_key(a)}": v for a, v in run.activations.items()}
    tensors |= {f"region.{k}": torch.from_numpy(np.array(v)) for k, v in run.regions.items()}
    about = {
        "format": FORMAT,
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
    try:
        if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - {ABOUT, TENSORS}):
            raise StoreError(f"{folder} exists and is not a saved run: choose another folder, or remove it")
        with new_folder(folder) as scratch:
            save_file(_apart(tensors), scratch / TENSORS)
            about["tensors"] = _digest(scratch / TENSORS)
            (scratch / ABOUT).write_text(json.dumps(about, indent=1, default=_plain), encoding="utf-8")
    except StoreError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise StoreError(f"cannot write a run to {folder}: {error}; choose a folder that can be written") from error
    return folder


def load_run(folder: str | Path, revive: Callable[..., Any] | None = None) -> Run:
    """Read a run. It can be measured at once; ``lens.attach(run)`` lets it decode and be resumed.

    ``revive(name, seed, split)`` makes its task again. Where the task that comes back is another one than that which
    the run was made from, the run has none, and a warning says so.

    Errors: :class:`StoreError` for a missing or damaged folder, or one of another format.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise StoreError(
                f"the run in {folder} has format {about['format']!r} and this version of dit_lens reads {FORMAT}: load "
                "it with the version that wrote it, or generate it again"
            )
        if _digest(folder / TENSORS) != about["tensors"]:
            raise StoreError(f"the run in {folder} is damaged: {TENSORS} is not what was written; generate it again")
        run = _build(about, load_file(folder / TENSORS))
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{folder} holds no run: it needs {ABOUT} and {TENSORS}, as run.save() writes") from None
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error}; check that the folder may be read") from error
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the run in {folder} is damaged ({error!r}): generate it again") from error
    if about.get("task") is None or revive is None:
        return run
    return replace(run, task=_revived(folder, about["task"], revive))


def _build(about: dict[str, Any], tensors: dict[str, Tensor]) -> Run:
    plan, scheduler = about["plan"], about["scheduler"]
    if len(tensors["latents"]) != len(tensors["velocity"]) + 1:
        raise StoreError(
            f"the run is damaged: {len(tensors['velocity'])} steps and {len(tensors['latents'])} latents do not fit; "
            "generate it again"
        )
    if scheduler is not None:
        if scheduler["class"] not in _SCHEDULERS:
            raise StoreError(f"the run names an unknown scheduler {scheduler['class']!r}: use {sorted(_SCHEDULERS)}")
        scheduler = _SCHEDULERS[scheduler["class"]].from_config(scheduler["config"])
    return Run(
        plan=Plan(
            tuple(Call(**c) for c in plan["calls"]), tuple(plan["sigmas"]), plan["guidance_scale"],
            plan["guidance_scale_2"], plan["scheduler"],
        ),
        sampling=Sampling(**{**about["sampling"], "scheduler": scheduler}),
        size=Size(**about["size"]),
        grid=Grid(**about["grid"]),
        seed=about["seed"],
        prompt=about["prompt"],
        latents=tensors["latents"],
        velocity=tensors["velocity"],
        conditions=Conditions(**_below("conditions.", tensors)),
        activations={_address(k): v for k, v in _below("activation.", tensors).items()},
        dims={
            k: {name: tuple(v) if isinstance(v, list) else v for name, v in dims.items()}
            for k, dims in about["dims"].items()
        },
        regions={k: v.numpy() for k, v in _below("region.", tensors).items()},
        edited=tuple(about["edited"]),
        fired=tuple(
            Fired(f["label"], {_address(a): n for a, n in f["touched"].items()}, tuple(f["remarks"]))
            for f in about["fired"]
        ),
        meta=about["meta"],
    )  # fmt: skip


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _key(a: Address) -> str:
    # Not str(a): a recording may be filed under any name, also one with spaces.
    return json.dumps([a.step, a.branch, a.layer, a.hook])


def _address(text: str) -> Address:
    step, branch, layer, hook = json.loads(text)
    return Address(step, branch, layer, hook)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous and each with memory of its own, as safetensors needs them."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


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
    return {"name": task.name, "seed": task.seed, "split": task.split, "content": _content(task)}


def _content(task: Any) -> str:
    """A short hash of what a task asks and shows, to know it again."""
    digest = hashlib.sha256(str(getattr(task, "prompt", None)).encode())
    image = getattr(task, "image", None)
    if image is not None:
        digest.update(np.asarray(image).tobytes())
    return digest.hexdigest()[:16]


def _revived(folder: Path, stored: Mapping[str, Any], revive: Callable[..., Any]) -> Any:
    name, seed, split, content = (stored[part] for part in ("name", "seed", "split", "content"))
    try:
        task = revive(name, seed, split)
        if _content(task) == content:
            return task
        reason = "another puzzle than the run was made from"
    except DitLensError as error:
        reason = str(error)
    warnings.warn(
        f"the run in {folder} is read without its task ({name!r}, seed {seed}, split {split!r}), which cannot be made "
        f"again here: {reason}. Give it one with dataclasses.replace(run, task=...)",
        stacklevel=4,
    )
    return None


def _plain(value: Any) -> Any:
    """Numbers of other libraries as JSON's own; what has no plain form is refused rather than written as text."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
    raise StoreError(
        f"a run whose meta, sampling or dims hold a {type(value).__name__} cannot be stored: keep numbers and text"
    )
