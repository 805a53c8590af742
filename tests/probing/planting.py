"""Features made by hand: what they hold is known beforehand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dit_lens.probing.features import Features, Scene
from dit_lens.wan.token_grid import Grid

GRID = Grid(3, 2, 4)


@dataclass(frozen=True)
class Puzzle:
    """As much of a task as features need."""

    name: str = "planted"
    seed: int = 0


def planted(
    folder: Path,
    scenes: int = 30,
    steps: tuple[int, ...] = (0, 1),
    layers: tuple[int, ...] = (0, 1),
    d: int = 6,
    units: int = 24,
    seed: int = 0,
    add: Any = lambda i, step, layer: 0.0,
    group: Any = str,
    fingerprint: str = "planted",
) -> Features:
    """Gaussian noise plus ``add(scene, step, layer)``, broadcast to (units, d). The input is noise alone."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(scenes):
        kept = {f"input/{s}/-1": torch.from_numpy(rng.standard_normal((units, 4), np.float32)) for s in steps}
        for s in steps:
            for layer in layers:
                x = rng.standard_normal((units, d)) + add(i, s, layer)
                kept[f"resid_post/{s}/{layer}"] = torch.from_numpy(x.astype(np.float32))
        file = folder / f"{fingerprint}-{i}.safetensors"
        save_file(kept, file, {"answer": json.dumps(None)})
        made.append(Scene(Puzzle(seed=i), i, None, group(i), file))
    unit = "token" if units > 1 else "video"
    about = {"fingerprint": fingerprint, "model": "planted", "seed": seed}
    sigmas = tuple(1 - s / 10 for s in steps)
    return Features(tuple(made), GRID, steps, sigmas, layers, ("resid_post",), "cond", unit, tuple(range(units)), about)
