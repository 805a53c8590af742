"""What the tests of saved runs share: a run with something in every field, comparison to the bit, and damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import FAMILIES, Family
from safetensors.torch import load_file, save_file

from dit_lens.store.identity import checksum
from dit_lens.wan.run import Run

STEPS = 3
FAMILY = FAMILIES["i2v22"]


def go(lens: Any, family: Family = FAMILY, **more: Any) -> Any:
    return lens.generate(**{**family.call, "seed": 3, "num_inference_steps": STEPS, "guidance_scale": 5.0, **more})


def same_tensor(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    nan = (a != a) & (b != b) if a.shape == b.shape else torch.tensor(False)  # a region without tokens has mean NaN
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | nan).all())


def assert_same(a: Run, b: Run) -> None:
    for name in ("plan", "size", "grid", "seed", "prompt", "edited", "fired", "dims", "meta"):
        assert getattr(a, name) == getattr(b, name), name
    drop = {"scheduler": None}
    assert dataclasses.replace(a.sampling, **drop) == dataclasses.replace(b.sampling, **drop)
    assert type(a.sampling.scheduler) is type(b.sampling.scheduler)
    if a.sampling.scheduler is not None:
        assert dict(a.sampling.scheduler.config) == dict(b.sampling.scheduler.config)
    assert same_tensor(a.latents, b.latents) and same_tensor(a.velocity, b.velocity)
    assert all(same_tensor(v, b.conditions.items()[k]) for k, v in a.conditions.items().items())
    assert a.activations.keys() == b.activations.keys()
    assert all(same_tensor(v, b.activations[k]) for k, v in a.activations.items())
    assert a.regions.keys() == b.regions.keys()
    assert all(v.dtype == b.regions[k].dtype and np.array_equal(v, b.regions[k]) for k, v in a.regions.items())
    for hook, dims in a.dims.items():
        assert list(dims) == list(b.dims[hook]), "the order of axes"


def edit(folder: Path, **changes: Any) -> None:
    """Another header, with a checksum that fits it."""
    about = {**json.loads((folder / "run.json").read_text()), **changes}
    del about["checksum"]
    (folder / "run.json").write_text(json.dumps({**about, "checksum": checksum(about)}))


def retensor(folder: Path, **changes: Any) -> None:
    """Other tensors, with a checksum that fits them."""
    tensors = {k: v for k, v in {**load_file(folder / "run.safetensors"), **changes}.items() if v is not None}
    save_file(tensors, folder / "run.safetensors")
    edit(folder, tensors=hashlib.sha256((folder / "run.safetensors").read_bytes()).hexdigest())


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
