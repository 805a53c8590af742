"""Decodability as evidence for the map: what each layer adds to the decodability of the scene, and of the decision.

For a label c, a scene and a step, with score s_l after layer l and s_{-1} that of the network's input,

    gain_l = s_l - s_{l-1},

averaged over the labels of one kind: *perception* (walls, goals: visible in the first picture) or *decision* (the
path, which of several routes: the model had to find them). A layer perceives as far as it adds to the first, and
decides, readably, as far as it adds to the second. The same from an untrained network is the null.

When not to use: as proof that anything is used; and a gain shows where information becomes *linearly* readable, not
where it enters: the input may have held it in another form before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.errors import ProbeError
from dit_lens.probing.features import Features, collect
from dit_lens.probing.labels import NAMES, Labels, label
from dit_lens.probing.probe_grid import grid
from dit_lens.progress import Progress, silent
from dit_lens.store.base import Store
from dit_lens.store.folder import part_of
from dit_lens.wan.lens import Lens
from dit_lens.wan.reduce import Tokens
from dit_lens.wan.sampling import DEFAULT, Sampling

LABELS = ("wall", "goal", "path", "route")
ROWS = 512  # tokens of a scene; of larger videos as many, drawn once


def decodability(
    lens: Lens,
    untrained: Lens,
    tasks: Sequence[Any],
    steps: Sequence[int],
    *,
    labels: Sequence[str] = LABELS,
    folds: int = 4,
    seed: int = 0,
    sampling: Sampling = DEFAULT,
    folder: str | Path | Store | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Probe scores of ``resid_post`` (:func:`dit_lens.probing.grid`), beside those of an untrained model.

    Args:
        lens: The model.
        untrained: The control, on the same scenes and noise.
        tasks: The scenes that probes are fitted on.
        steps: The steps to read.
        labels: Labels to read; those that these tasks do not have are left out.
        folds: Number of folds, by scene.
        seed: Seed of generation and of the probes.
        sampling: How the scenes are generated.
        folder: Features and finished steps are kept there, and the same call continues from them.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        As :func:`dit_lens.probing.grid`, for both models; empty if the tasks have none of the labels.
    """
    shape = lens.grid_of(tasks[0], sampling)
    chosen = np.random.default_rng(seed).permutation(shape.n_tokens)[:ROWS]
    how: Any = "raw" if shape.n_tokens <= ROWS else Tokens(tuple(sorted(int(i) for i in chosen)))
    total = 2 * len(tasks)
    seen = collect(
        lens, tasks, steps=tuple(steps), reduce=how, seed=seed, sampling=sampling, folder=part_of(folder, "features"),
        progress=lambda done, of, what: progress(done, total, f"probing, {what}"),
    )  # fmt: skip
    blank = collect(
        untrained, tasks, steps=tuple(steps), reduce=how, seed=seed, sampling=sampling, stop_after=max(steps),
        folder=part_of(folder, "control"),
        progress=lambda done, of, what: progress(len(tasks) + done, total, f"probing the control, {what}"),
    )  # fmt: skip
    ready = [one for name in labels if (one := _known(seen, name, folds)) is not None]
    if not ready:
        return xr.Dataset(coords={"label": [], "step": list(steps), "layer": list(seen.layers)})
    scan = grid(
        seen, ready, folds=folds, permutations=0, untrained=blank, seed=seed, folder=part_of(folder, "scan")
    )  # fmt: skip
    return scan.isel(hook=0)


def gains(found: xr.Dataset, experts: Sequence[str]) -> tuple[xr.Dataset, xr.Dataset]:
    """Gains in decodability, layer by layer.

    Args:
        found: From :func:`decodability`.
        experts: The expert of each step.

    Returns:
        (trained, control): ``scene`` and ``choice`` (task, expert, layer) each; a kind without labels is absent.
    """
    out = []
    for suffix in ("", "_untrained"):
        score = found[f"per_scene{suffix}"].transpose("label", "step", "layer", "task")
        before = score.shift(layer=1).where(score["layer"] != score["layer"][0], found["per_scene_input"])
        gain = score - before  # (label, step, layer, task)
        kinds = {}
        for name, kind in (("scene", "perception"), ("choice", "decision")):
            some = gain.isel(label=np.flatnonzero(found["kind"].values == kind))
            if some.sizes["label"]:
                kinds[name] = some.mean("label")
        data = xr.Dataset(kinds).drop_vars(["hook"], errors="ignore")
        order = [e for e in ("high", "low") if e in experts]
        parts = [data.isel(step=[i for i, x in enumerate(experts) if x == e]).mean("step") for e in order]
        joined = xr.concat(parts, dim="expert").assign_coords(expert=order).transpose("task", "expert", "layer")
        out.append(joined.reset_coords(drop=True))
    return out[0], out[1]


def _known(features: Features, name: str, folds: int) -> Labels | None:
    """The label, if enough of these scenes have it."""
    try:
        found = label(features, NAMES[name])
    except ProbeError:  # one class or none: these tasks do not ask for it
        return None
    return found if len(set(features.groups[found.used.any(1)])) >= 2 * folds else None
