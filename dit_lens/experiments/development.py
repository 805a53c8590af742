"""Development: what a model solves, shows and does in depth, along the checkpoints of its training.

    found = development(["lab40@100", "lab40@1600", "lab40"], tasks, at=(0, 5), folder="development")
    stats.share_interval(found["solved"])                       # (model,): share, low, high, n, over tasks
    stats.mean_interval(found["readout"].mean("step"))          # (model, layer)

For every model and task one generation, with the task's noise the same under every model, and of it:

    solved, value        the task's score
    support              share of what x0_hat shows at a step that right answers show (measures.candidates)
      blind_support      its null: the same of an average over right and wrong answers, which knows only the state
    fewest               right answers visible, at least;  ideal_fewest: in the ideal denoiser's x0_hat, its null
    writing              log2 of (|update| on the foreground / elsewhere), by layer, minus the same of random masks
    readout              gain of the layer lens, cosine(v_l, v) - cosine(v_{l-1}, v), by layer

The last two are the cheap ones among the map's evidence (:mod:`dit_lens.layer_map`): they need no second run of a task.
``dl.map`` of a single checkpoint has the others, and models that learned nothing beside it.

Models are opened one after the other. Each keeps its tasks in a folder of its own, so that an interrupted study goes on
where it was, and a later checkpoint can be added to it.

When not to use: as a time of learning between two checkpoints, which is not seen; as evidence about other trainings
(intervals are over tasks); or for the order in which layers learn from ``readout`` alone, which compares every layer
with what the *same* checkpoint says in the end, be that right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr

from dit_lens.errors import MeasureError
from dit_lens.experiments.energy_by_depth import FOREGROUND
from dit_lens.measures.candidates import candidates, pool
from dit_lens.measures.energy import energy_ratio
from dit_lens.measures.ideal_denoiser import MOST, ideal_denoiser
from dit_lens.measures.layer_lens import layer_lens
from dit_lens.measures.token_masks import region_mask
from dit_lens.progress import prefixed
from dit_lens.runner import Item, Options, over_tasks
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run


def development(
    models: Sequence[Any] | Mapping[str, Any],
    tasks: Sequence[Any],
    at: Sequence[int] = (0, 2, 5),
    *,
    iterations: Mapping[str, float] | None = None,
    foreground: Sequence[str] = FOREGROUND,
    seed: int = 0,
    draws: int = 8,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Scores, candidates and profiles over depth of several models, on the same tasks and noises.

    Args:
        models: What :func:`dit_lens.load` takes, in the order of training: names, folders, pipelines; or lenses. A
            mapping names them; else they are named as they are called.
        tasks: The tasks, of any families, levels and sizes.
        at: Steps at which x0_hat and the layers are read.
        iterations: Name -> training iterations; those of a name such as ``lab40@1600`` are read from it.
        foreground: Names of regions, of which each task has some.
        seed: Task i is generated with ``seed + i``, under every model.
        draws: Random masks of ``writing``.
        **options: Sampling and running (:class:`dit_lens.runner.Options`); ``folder`` holds one folder for each model.

    Returns:
        ``solved`` and ``value`` (model, task); ``support``, ``blind_support``, ``fewest``, ``ideal_fewest`` (model,
        task, step), NaN for tasks that cannot draw their answers; ``writing`` and ``readout`` (model, task, step,
        layer), NaN at layers that a model does not have. Beside ``model`` stand ``iteration`` (NaN where it is not
        known), ``n_layers`` and ``weights``, a hash; beside ``task`` its ``family``, which tells the level; ``depth``
        (model, layer) is layer / layers, by which a model that grew is compared with what it grew from.

    Raises:
        MeasureError: No model or task, names that are not distinct, or models that sample at other noise levels.
        AddressError: A step outside the plan.
        StoreError: A folder of other parameters.
    """
    called = _called(models)
    if not called:
        raise MeasureError("no model to look at: give some, e.g. models=['lab40@100', 'lab40@1600', 'lab40']")
    known = dict(iterations or {})
    if strange := sorted(set(known) - set(called)):
        raise MeasureError(f"iterations of {strange}, which are no models here: the names are {list(called)}")

    def row(item: Item) -> xr.Dataset:
        run = item.generate(record=record("update", reduce="token_norm", branches="cond", steps=tuple(at)))
        return _one(item.lens, run, at, foreground, seed, draws)

    folder, progress = options.get("folder"), options.get("progress")
    parts, weights, plans, sizes = [], [], [], []
    for name, model in called.items():
        how: Any = dict(options)
        if folder is not None:
            how["folder"] = Path(str(folder)) / name.replace("/", "_")
        if progress is not None:
            how["progress"] = prefixed(progress, name)
        with nullcontext(model) if isinstance(model, Lens) else load(model) as lens:
            found = over_tasks(lens, tasks, row, seed=seed, options=how, of=development)
            weights.append(lens.fingerprint)
        plans.append([round(float(s), 6) for s in found["sigma"].values])
        sizes.append(found.sizes["layer"])
        parts.append(found)
    if plans != plans[:1] * len(plans):
        raise MeasureError(
            "these models sample at other noise levels, so their steps are not the same places: compare those of one "
            "recipe, with num_inference_steps= for all"
        )
    whole = xr.concat(parts, "model", join="outer", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    when = [known.get(name, _iteration(name)) for name in called]
    coords: dict[str, Any] = {
        "model": list(called), "iteration": ("model", when, {"long_name": "training iteration"}),
        "weights": ("model", weights), "n_layers": ("model", sizes),
    }  # fmt: skip
    depth = (whole["layer"] / xr.DataArray(sizes, dims="model")).transpose("model", "layer")  # layers from 0 on
    coords["depth"] = depth.where(depth < 1)
    return whole.assign_coords(coords)


def _called(models: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Name -> model."""
    if isinstance(models, Mapping):
        return dict(models)
    if isinstance(models, str):
        models = [models]
    names = [_name(m) for m in models]
    if len(set(names)) < len(names):
        raise MeasureError(f"models called {names} cannot be told apart: give a mapping, models={{'name': model, ...}}")
    return dict(zip(names, models, strict=True))


def _name(model: Any) -> str:
    if isinstance(model, Lens):
        return model.name
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def _iteration(name: str) -> float:
    found = re.search(r"@(\d+)$", name)
    return float(found[1]) if found else np.nan


def _one(lens: Lens, run: Run, at: Sequence[int], foreground: Sequence[str], seed: int, draws: int) -> xr.Dataset:
    steps = list(at)
    mask = region_mask(run, foreground)
    with np.errstate(invalid="ignore", divide="ignore"):  # the update of a muted layer is zero everywhere
        energy = energy_ratio(run, mask, "update", draws, seed).isel(branch=0, drop=True).sel(step=steps)
    written = energy.sel(kind="region", drop=True) - energy.sel(kind="null", drop=True)
    read = layer_lens(lens, run, tuple(steps), entry=True)["cosine"].sel(reading="raw", drop=True)
    profiles = {
        "writing": (written, "update on the foreground against elsewhere", "log2, above random masks"),
        "readout": (read.diff("layer"), "gain of the read-out", "cosine"),  # labelled by the later layer
    }
    found: dict[str, Any] = {
        "solved": ((), float(run.score.solved), {"long_name": "solved", "units": "share"}),
        "value": ((), float(run.score.value), {"long_name": "partial credit", "units": ""}),
    }
    for name, (values, told, unit) in profiles.items():
        plain = values.transpose("step", "layer").reset_coords(drop=True)
        found[name] = (("step", "layer"), plain.values, {"long_name": told, "units": unit})
    for name, (numbers, told, unit) in _shown(lens, run, steps).items():
        found[name] = ("step", numbers, {"long_name": told, "units": unit})
    layers = list(range(lens.n_layers))
    return xr.Dataset(found, coords={"step": steps, "layer": layers})


def _shown(lens: Lens, run: Run, steps: list[int]) -> dict[str, tuple[np.ndarray, str, str]]:
    """Candidates of the network and of its nulls at some steps; NaN where the answers cannot be drawn."""
    task, nothing = run.task, np.full(len(steps), np.nan)
    names = {
        "support": ("shown by right answers", "share of what is shown"),
        "blind_support": ("shown by right answers, not knowing the task", "share of what is shown"),
        "fewest": ("right answers visible, at least", "answers"),
        "ideal_fewest": ("right answers that an average over them shows, at least", "answers"),
    }
    found = dict.fromkeys(names, nothing)
    if all(hasattr(task, name) for name in ("solutions", "render", "decoys")) and len(task.solutions) <= MOST:
        frames = _frames(task)

        def read(film: np.ndarray) -> xr.Dataset:
            return candidates(run, film=film, steps=steps, frames=frames)

        wrong = task.decoys(min(len(task.solutions), 20))
        ideal = ideal_denoiser(task, lens)
        own, best = read(run.film(steps)), read(ideal.film(run, steps))
        found |= {"support": own["support"].values, "fewest": own["fewest"].values.astype(float)}
        found["ideal_fewest"] = best["fewest"].values.astype(float)
        if wrong:
            blind = ideal_denoiser(task, lens, answers=(*task.solutions, *wrong))
            found["blind_support"] = read(blind.film(run, steps))["support"].values
    return {name: (found[name], *told) for name, told in names.items()}


def _frames(task: Any) -> tuple[int, ...]:
    """The last frame where it tells the right answers apart, else all."""
    try:
        pool(task)
    except MeasureError:
        return tuple(range(task.num_frames))
    return (-1,)
