"""Methods that read a network: region attention, energy, the layer lens (two ways), probes and their causal check.

Each takes a planted network and tasks, calls the toolkit as a user would, and gives what it found of each task (of a
probe: of each label) beside the method's own null.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from dit_lens import probing
from dit_lens.experiments import attention_by_depth, energy
from dit_lens.measures import layer_lens, layer_velocity
from dit_lens.planted.measuring import Found, Tasks, redness
from dit_lens.planted.pictures import PlantTask
from dit_lens.planted.planting import Planted
from dit_lens.planted.weights import AMPLITUDE
from dit_lens.progress import silent
from dit_lens.stats import against_controls
from dit_lens.wan.reduce import RegionMean
from dit_lens.wan.shuffled_weights import shuffled_weights

#: The two bits of a picture: what the answer is, and what no planted network uses.
BITS = ("label", "unused")
LEAST = 2.0**-6  # below this an enrichment is none: log2 of nothing at all would decide every mean
STRENGTH = 0.15  # of steering, in norms of a token: three times what a part writes
PROBED = 24  # other tasks that a probe is fitted on
READS = 0.05  # p of a probe above which nothing was read, so that there is no direction to check
CONTROLS = 24  # networks with shuffled weights: the most extreme of 25 has a p of .04
CONTROLLED = 4  # tasks that each of them is asked: what counts there is networks


def region_attention(made: Planted, tasks: Tasks) -> Found:
    """log2 enrichment of each region in each head against random masks, (step, region, layer, head)."""
    steps = list(range(made.spec.n_steps))
    seen = attention_by_depth(made.lens, tasks, ("key",), steps=steps, draws=8, progress=silent)["enrichment"]
    seen = seen.sel(query="all", key=["key", "other"], drop=True)
    seen = seen.clip(LEAST).rename(key="region").assign_coords(task=range(len(tasks))).reset_coords(drop=True)
    seen = xr.apply_ufunc(np.log2, seen.transpose("task", "step", "region", "layer", "head", "kind"))
    return Found(seen.sel(kind="region", drop=True), seen.sel(kind="null", drop=True))


def update_energy(made: Planted, tasks: Tasks) -> Found:
    """log2 ratio of a block's update in the region "key" and elsewhere, against random masks, (layer)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # layers that add nothing
        found = energy(made.lens, tasks, ("key",), hooks=("update",), steps=[0], draws=8, progress=silent)["energy"]
    found = found.sel(region="regions", hook="update", drop=True).isel(step=0, drop=True)
    found = found.sel(layer=range(made.spec.n_layers)).assign_coords(task=range(len(tasks))).reset_coords(drop=True)
    most = -np.log2(LEAST)
    found = found.where(np.isfinite(found)).clip(-most, most).transpose("task", "layer", "kind")
    return Found(found.sel(kind="region", drop=True), found.sel(kind="null", drop=True))


def lens_answer(made: Planted, tasks: Tasks) -> Found:
    """How much of the answer each layer adds to the raw read-out, (layer): redness on the label's side, averaged."""
    rows = [_shown(made.lens, task, i) for i, task in enumerate(tasks)]
    return Found(xr.DataArray(np.stack(rows), dims=("task", "layer"), coords={"task": range(len(tasks)),
                              "layer": range(made.spec.n_layers)}))  # fmt: skip


def _shown(lens: Any, task: PlantTask, seed: int) -> np.ndarray:
    """Gains of one task, (layers,); 1 is a planted answer, and a velocity points away from x0_hat."""
    run = lens.generate(task, seed=seed)
    read = [
        [-float(redness(v, task)) * task.label / AMPLITUDE for v in layer_velocity(lens, run, step, entry=True)]
        for step in range(run.n_steps)
    ]
    return np.diff(np.mean(read, axis=0))


def lens_gain(made: Planted, tasks: Tasks) -> Found:
    """What each layer adds to the cosine of the raw read-out, (layer), beside networks with shuffled weights.

    Two networks differ whatever the tasks are, so that p is the network's rank among its controls
    (:func:`dit_lens.stats.against_controls`), corrected over layers.
    """
    some = tasks[:CONTROLLED]
    trained, rows = _gains(made.lens, some), []
    for number in range(CONTROLS):
        with shuffled_weights(made.lens, 1000 * (made.seed + 1) + number) as nothing:
            rows.append(_gains(nothing, some))
    controls = xr.concat(rows, "control")
    tested = against_controls(trained.mean("task"), controls.mean("task"), one_sided=True)
    return Found(trained, controls.mean("control"), tested["p_corrected"])


def _gains(lens: Any, tasks: Tasks) -> xr.DataArray:
    """(task, layer)."""
    rows = [_gain(lens, task, i) for i, task in enumerate(tasks)]
    return xr.concat(rows, "task").assign_coords(task=range(len(tasks)))


def _gain(lens: Any, task: Any, seed: int) -> xr.DataArray:
    run = lens.generate(task, seed=seed)
    cosine = layer_lens(lens, run, entry=True)["cosine"].sel(reading="raw", drop=True)
    return cosine.fillna(0.0).diff("layer").mean("step").reset_coords(drop=True)


def probe_places(made: Planted, tasks: Tasks) -> Found:
    """Scores of linear probes of both bits in the later frames' mean, above chance, (label, step, layer).

    The p-values are the grid's own: by shuffled labels, corrected over places and over both labels.
    """
    scored = probing.grid(features(made, tasks), bits(tasks), folds=4, permutations=99, seed=made.seed, progress=silent)
    scored = scored.isel(hook=0, drop=True)
    dims = ("task", "label", "step", "layer")
    score = (scored["per_scene"].isel(hook=0, drop=True) if "hook" in scored["per_scene"].dims else scored["per_scene"])
    p = scored["p_corrected"].reset_coords(drop=True).transpose(*dims[1:])
    kept = score.reset_coords(drop=True).transpose(*dims).assign_coords(task=range(len(tasks)))
    return Found(kept, 0.5, p)


def features(made: Planted, tasks: Tasks) -> probing.Features:
    """The mean stream of the later frames after every layer, one row a task."""
    return probing.collect(made.lens, tasks, reduce=RegionMean(("later",)), stop_after=None, progress=silent)


def bits(tasks: Tasks) -> dict[str, np.ndarray]:
    """Both bits of every task, by name."""
    return {"label": np.array([t.label for t in tasks]), "unused": np.array([t.unused for t in tasks])}


def steer_along_normals(made: Planted, tasks: Tasks) -> Found:
    """The causal check of a probe along its normal: see :func:`_steered`."""
    return _steered(made, tasks, "steer")


def steer_along_patterns(made: Planted, tasks: Tasks) -> Found:
    """The causal check of a probe along its pattern, as by default: see :func:`_steered`."""
    return _steered(made, tasks, "pattern")


def _steered(made: Planted, tasks: Tasks, kind: str) -> Found:
    """How much more often the answer changes when the stream is pushed along a probe than along random directions.

    The probes, one for each bit, are fitted after the last layer (:func:`features`), on other tasks; the push is held
    over all steps at which the answer can be written. A bit that no probe reads is not pushed: 0. Cells are (label).
    """
    rows = []
    others = made.tasks(PROBED, seed=9_000, linked=tasks[0].linked)
    seen = features(made, others)
    steps = made.spec.open or range(made.spec.n_steps)
    layer = made.spec.n_layers - 1
    place = f"step={steps[0]} layer={layer} hook=resid_post"
    for values in bits(others).values():
        fitted = probing.probe(seen, values, place, folds=4, permutations=39, seed=made.seed)
        if fitted.scores["p"] > READS:
            rows.append(xr.DataArray(np.zeros(len(tasks)), dims="task"))
            continue
        checked = probing.causal(
            made.lens, fitted, tasks, steps=steps, strengths=(STRENGTH,), relative=True, draws=1, kinds=[kind],
            progress=silent,
        )  # fmt: skip
        both = checked.sel(when="held").mean("kind")  # each sign changes the answers of one label
        rows.append((both["changed"] - both["changed_null"].mean("draw")).reset_coords(drop=True))
    effect = xr.concat(rows, "label").assign_coords(label=list(BITS), task=range(len(tasks)))
    return Found(effect.transpose("task", "label"))
