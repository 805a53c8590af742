"""Probes at every place: what can be read where and when, each (label, hook, step, layer) beside its controls.

Scores are out of fold, with whole scenes held out (:mod:`.scores` says which measure a label has). Beside each are

- ``null``, ``p``: the mean over shuffled labels, and the share of shuffles whose *best* place beats this one,
  (1 + #{max over places of the shuffled score >= score}) / (1 + shuffles): corrected for choosing the best place of
  one label;
- ``p_corrected``: p times the number of labels (Bonferroni), at most 1: holds over all places of all labels. Of two
  labels that say nothing one is below .05 by p in .07 to .09 of grids, by p_corrected in .03 (docs/statistics.md);
- ``control``, ``selectivity``: the control task, and score - control;
- ``input``: the same label from what enters the network at that step; ``plain``: from features without a model;
- ``untrained``: from a network that learned nothing, when its features are given.

A score is a finding where its interval clears ``input``, ``plain`` and ``untrained`` and ``p_corrected`` is small.
``untrained`` is *one* other network: that a score lies above it has no p.

When not to use: as evidence that the model *uses* what is read; see :mod:`.causal_check`. A label of one value a scene
(a colour, a first move) is read from every unit; use ``features.per_video()`` to read it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score

from dit_lens.checks import number
from dit_lens.errors import ProbeError
from dit_lens.probing import scores
from dit_lens.probing.controls import BASELINES, baselines, control_task, shuffles
from dit_lens.probing.features import INPUT, Features
from dit_lens.probing.labels import Label, Labels, label
from dit_lens.probing.out_of_fold import Estimator, Place, Reader, Ridge
from dit_lens.probing.ridge_moments import ALPHA
from dit_lens.probing.splits import folds_of
from dit_lens.progress import Progress, silent
from dit_lens.runner.parts import make_parts
from dit_lens.runner.task_rows import task_names
from dit_lens.stats.smallest_p import LEVEL, of_shuffles
from dit_lens.store.base import WAITING, Store
from dit_lens.store.folder import open_store
from dit_lens.store.identity import describe
from dit_lens.store.items import Content
from dit_lens.wan.versions import versions

Asked = str | Label | Labels
FEWEST_SHUFFLES = 49
TIE = 1e-9  # the same score summed in another order is a tie: a shuffle that gives it counts


def grid(
    features: Features,
    labels: Sequence[Asked] | Mapping[str, Any],
    *,
    estimator: Any = None,
    alpha: float = ALPHA,
    folds: int = 5,
    permutations: int | None = None,
    untrained: Features | None = None,
    seed: int = 0,
    folder: str | Path | Store | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Fit and score a probe at every place of ``features``, for every label.

    Args:
        features: Activations at the places.
        labels: Names, :class:`Label` or :class:`Labels` values, or a mapping name -> array.
        estimator: A scikit-learn estimator, fitted for every shuffle (hours instead of minutes); ridge by sufficient
            statistics by default.
        alpha: Strength of the ridge. With tens of scenes and one row each, a smaller one suits regressions better.
        folds: Number of folds; scenes are held out as a whole.
        permutations: Number of shuffled labels behind ``null`` and ``p``; by default 49, or as many as it takes that
            a ``p_corrected`` of .05 exists.
        untrained: Features of an untrained network at the same places.
        seed: Seed of folds, shuffles and controls.
        folder: Where finished steps are kept, so that a stopped grid is resumed.
        progress: Called with the number of finished (hook, step).

    Returns:
        ``score, low, high, null, p, p_corrected, control, selectivity`` (label, hook, step, layer), ``n`` (label,),
        ``input`` (label, step), ``plain`` (label, baseline), ``untrained`` like ``score``, and the values of each scene
        behind them: ``per_scene``, ``per_scene_input``, ``per_scene_untrained`` (..., task). ``attrs["smallest_p"]`` is
        the smallest p_corrected that so many shuffles give, and ``attrs["no_mark"]`` says so where it lies above .05.

    Raises:
        ProbeError: A label without two classes, fewer scenes than folds, NaN features, or untrained features of other
            scenes or places.
        StoreError: A folder that cannot be used.
    """
    if isinstance(labels, Mapping):
        chosen = [label(features, values, name) for name, values in labels.items()]
    else:
        chosen = [one if isinstance(one, Labels) else label(features, one) for one in labels]
    if not chosen:
        raise ProbeError("no labels: give names such as ['wall', 'path'], or a mapping of your own arrays")
    if untrained is not None:
        _check_twin(features, untrained)
    if permutations is None:
        permutations = max(FEWEST_SHUFFLES, round(len(chosen) / LEVEL) - 1)
    alpha = number(alpha, "alpha", 0, error=ProbeError)
    reader: Reader = Ridge(alpha) if estimator is None else Estimator(estimator)
    fold = folds_of(features.groups, folds, seed)
    jobs = [_Job(features, one, fold, permutations, seed) for one in chosen]

    def identity() -> dict[str, Any]:
        return {
            "features": features.identity(), "untrained": None if untrained is None else untrained.identity(),
            "labels": {f"{i} {one.name}": describe(one) for i, one in enumerate(chosen)}, "reader": describe(reader),
            "folds": folds, "permutations": permutations, "seed": seed,
            "versions": {"dit-lens": versions()["dit-lens"], "scikit-learn": sklearn.__version__},
        }  # fmt: skip

    kept = open_store(folder, "probe grid", identity)
    blocks = {f"{hook}-{step}": (hook, step) for hook in features.hooks for step in features.steps}

    def block(number: int, hook: str, step: int) -> Content:
        progress(number, len(blocks), f"probes of {hook} at step {step}")
        arrays = _block(features, untrained, hook, step, jobs, reader)
        return Content({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()})

    makes = {name: partial(block, i, *place) for i, (name, place) in enumerate(blocks.items())}
    make_parts(kept, makes, waiting=lambda: progress(kept.done, len(blocks), WAITING))
    found = {
        place: {k: v.numpy() for k, v in kept.get(name).tensors.items()} for name, place in blocks.items()
    }  # fmt: skip
    return _dataset(features, jobs, found, folds, permutations, seed, reader)


class _Job:
    """One label with its folds, shuffles and control task, which are the same at every place."""

    def __init__(self, features: Features, labels: Labels, fold: np.ndarray, permutations: int, seed: int) -> None:
        self.labels = labels
        used = labels.used
        self.fold = np.broadcast_to(fold[:, None], used.shape)
        there = np.unique(self.fold[used])
        if len(there) < 2:
            raise ProbeError(
                f"label {labels.name!r} is known in the scenes of {len(there)} fold(s) only: give more scenes that "
                "have it, or fewer folds"
            )
        for i in there:
            train = used & (self.fold != i)
            if labels.classes and len(np.unique(labels.codes[train])) < len(labels.classes):
                raise ProbeError(
                    f"label {labels.name!r}: some class of {list(labels.classes)} stands in the scenes of one fold "
                    "only, so it cannot be learned from the others: give more scenes of it, or leave it out"
                )
        truth = labels.codes if labels.values is None else labels.values
        self.y = truth[..., None]
        if permutations:
            self.y = np.concatenate([self.y, shuffles(features, labels, permutations, seed + 1)], axis=-1)
        self.control, self.control_fold = control_task(features, labels, seed + 2)

    def scores(self, place: Place, only_true: bool = False) -> np.ndarray:
        """Out-of-fold scores of the label and of its shuffles.

        Args:
            place: Features of one place.
            only_true: Leave the shuffles out.

        Returns:
            Per scene, (scenes, 1 + permutations); the label itself comes first.
        """
        y = self.y[..., :1] if only_true else self.y
        out = np.empty((len(y), y.shape[-1]))
        found = place.decisions(y, self.labels.used, self.fold, len(self.labels.classes))
        for t in range(y.shape[-1]):  # each shuffle is scored against its own labels
            out[:, t] = scores.per_scene(self.labels.relabelled(y[..., t]), found[..., t])
        return out

    def controlled(self, place: Place) -> float:
        """Score of the control task; NaN without one."""
        used = self.control >= 0
        if not used.any():
            return float("nan")
        classes = max(len(self.labels.classes), 2)
        found = place.decisions(self.control[..., None], used, self.control_fold, classes)[..., 0]
        if scores.metric(self.labels) == "balanced_accuracy":
            return float(np.nanmean(scores.accuracy(self.control, found, classes)))
        # One ranking over all scenes: within a scene this label does not differ.
        return float(roc_auc_score(self.control[used], found[used][:, 0]))


def _block(
    features: Features, untrained: Features | None, hook: str, step: int, jobs: Sequence[_Job], reader: Reader
) -> dict[str, np.ndarray]:
    """All layers of one hook at one step."""
    out: dict[str, list[Any]] = {"scenes": [], "null": [], "control": [], "untrained": []}
    for x in features.block(hook, step):  # (scenes, units, d), layer by layer
        place = Place(reader, x)
        found = [job.scores(place) for job in jobs]
        out["scenes"].append([s[:, 0] for s in found])
        out["null"].append([np.nanmean(s[:, 1:], 0) for s in found])
        out["control"].append([job.controlled(place) for job in jobs])
    for x in () if untrained is None else untrained.block(hook, step):
        place = Place(reader, x)
        out["untrained"].append([job.scores(place, only_true=True)[:, 0] for job in jobs])
    entering = Place(reader, features.cell(INPUT, step))
    rows = {k: np.array(v, dtype=np.float64).swapaxes(0, 1) for k, v in out.items() if v}  # (label, layer, ...)
    return {**rows, "input": np.array([job.scores(entering, only_true=True)[:, 0] for job in jobs])}


def _dataset(
    features: Features,
    jobs: Sequence[_Job],
    found: Mapping[tuple[str, int], Mapping[str, np.ndarray]],
    folds: int,
    permutations: int,
    seed: int,
    reader: Reader,
) -> xr.Dataset:
    def gather(name: str) -> np.ndarray:
        """Values of all blocks, (label, hook, step, ...)."""
        rows = [[found[hook, step][name] for step in features.steps] for hook in features.hooks]
        return np.moveaxis(np.array(rows), 2, 0)

    dims = ("label", "hook", "step", "layer")
    scenes = xr.DataArray(gather("scenes"), dims=(*dims, "task"))
    data: dict[str, Any] = {"per_scene": scenes}
    parts = [scores.interval(job.labels, scenes.isel(label=i)) for i, job in enumerate(jobs)]
    summary = xr.concat(parts, "label", combine_attrs="drop_conflicts")
    data |= {"score": summary["value"], "low": summary["low"], "high": summary["high"]}
    data["n"] = summary["n"].isel(hook=0, step=0, layer=0, drop=True)
    if permutations:
        null = gather("null")  # (label, hook, step, layer, permutation)
        best = null.max((1, 2, 3))  # (label, permutation)
        score = data["score"].values[..., None]
        beaten = (best[:, None, None, None] >= score - TIE).sum(-1)
        p = (1 + beaten) / (1 + permutations)
        data["null"] = (dims, null.mean(-1))
        data["best_null"] = ("label", np.quantile(best, 0.95, axis=-1))
        data |= {"p": (dims, p), "p_corrected": (dims, np.minimum(1.0, len(jobs) * p))}
    data["control"] = (dims, gather("control"))
    data["selectivity"] = (dims, data["score"].values - data["control"][1])
    entering = xr.DataArray(gather("input")[:, 0], dims=("label", "step", "task"))
    data |= {"input": entering.mean("task"), "per_scene_input": entering}
    if "untrained" in next(iter(found.values())):
        blank = xr.DataArray(gather("untrained"), dims=(*dims, "task"))
        data |= {"untrained": blank.mean("task"), "per_scene_untrained": blank}
    width = features.cell(features.hooks[0], features.steps[0], features.layers[0]).shape[-1]
    plain = baselines(features, width, seed)
    places = [Place(reader, np.asarray(plain[name])) for name in BASELINES]
    rows = [[np.nanmean(job.scores(place, only_true=True)) for place in places] for job in jobs]
    data["plain"] = (("label", "baseline"), rows)
    named = task_names([scene.task for scene in features.scenes])
    out = xr.Dataset(
        data,
        coords={
            "label": [job.labels.name for job in jobs],
            "kind": ("label", [job.labels.kind for job in jobs]),
            "metric": ("label", [scores.metric(job.labels) for job in jobs]),
            "chance": ("label", [scores.chance(job.labels) for job in jobs]),
            "hook": list(features.hooks),
            "step": list(features.steps),
            "sigma": ("step", list(features.sigmas)),
            "layer": list(features.layers),
            "baseline": list(BASELINES),
            "task": [f"{name}, seed {scene.seed}" for name, scene in zip(named, features.scenes, strict=True)],
        },
        attrs={
            "unit": features.unit, "branch": features.branch, "folds": folds, "permutations": permutations,
            "seed": seed, "estimator": repr(reader), "model": features.about.get("model", ""),
            "fingerprint": features.about.get("fingerprint", ""),
            **(of_shuffles(permutations, len(jobs)).attrs() if permutations else {}),
        },
    )  # fmt: skip
    for name in ("score", "null", "control", "selectivity", "input", "untrained", "plain"):
        if name in out:
            out[name].attrs = {"long_name": f"{name.replace('_', ' ')} of linear probes", "units": "see metric"}
    return out


def _check_twin(features: Features, untrained: Features) -> None:
    same = ("steps", "layers", "hooks", "unit", "units")
    other = [name for name in same if getattr(features, name) != getattr(untrained, name)]
    if [s.group for s in features.scenes] != [s.group for s in untrained.scenes]:
        other.append("scenes")
    if other:
        raise ProbeError(f"the untrained features differ in {other}: collect both with the same arguments")
    if features.about.get("fingerprint") == untrained.about.get("fingerprint"):
        raise ProbeError("the untrained features are of the same weights: collect them with another lens")
