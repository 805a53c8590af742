"""What can be read where and when: a probe for every (label, hook, step, layer), each beside its controls.

Scores are out of fold, with whole scenes held out (:mod:`.scores` says which measure a label has). Beside each stand

- ``null``, ``p``: the mean over shuffled labels, and the share of shuffles whose *best* place beats this one,
  (1 + #{max over places of the shuffled score >= score}) / (1 + shuffles): corrected for choosing the best place;
- ``control``, ``selectivity``: the control task, and score - control;
- ``input``: the same label from what enters the network at that step; ``plain``: from features without a model;
- ``untrained``: from a network that learned nothing, when its features are given.

A score is a finding where its interval clears ``input``, ``plain`` and ``untrained`` and p is small.

When not to use: to say that the model *uses* what is read; see :mod:`.usage`. And a label that a scene has one of (a
colour, a first move) is asked of every unit; ``features.per_video()`` asks the scene once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from dit_lens.checks import number
from dit_lens.errors import ProbeError, StoreError
from dit_lens.probing import scores
from dit_lens.probing.controls import BASELINES, baselines, control_task, shuffles
from dit_lens.probing.features import INPUT, Features
from dit_lens.probing.labels import Label, Labels, label
from dit_lens.probing.out_of_fold import Estimator, Place, Reader, Ridge
from dit_lens.probing.ridge_moments import ALPHA
from dit_lens.probing.splits import folds_of
from dit_lens.progress import Progress, silent
from dit_lens.stats.summary import puzzle_names, summarise
from dit_lens.store.atomic import new_file

FORMAT = 1
Asked = str | Label | Labels


def grid(
    features: Features,
    labels: Sequence[Asked] | Mapping[str, Any],
    *,
    estimator: Any = None,
    alpha: float = ALPHA,
    folds: int = 5,
    permutations: int = 49,
    untrained: Features | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Fit and score a probe at every place of ``features``, for every label.

    ``labels``: names, :class:`Label` or :class:`Labels` values, or a mapping name -> array. ``estimator``: ridge of
    strength ``alpha``, by sufficient statistics, unless a scikit-learn estimator is given (then every shuffle is a fit
    of its own: minutes become hours). With tens of scenes and one row each, a smaller ``alpha`` suits numbers better.
    ``folder``: finished steps are kept there and not done again.

    Returns ``score, low, high, null, p, control, selectivity`` (label, hook, step, layer), ``n`` (label,),
    ``input`` (label, step), ``plain`` (label, baseline), ``untrained`` like ``score``, and the numbers of each scene
    behind them: ``per_scene``, ``per_scene_input``, ``per_scene_untrained`` (..., puzzle).

    Errors: :class:`ProbeError` for a label without two classes, fewer scenes than folds, NaN features, or untrained
    features of other scenes or places.
    """
    if isinstance(labels, Mapping):
        chosen = [label(features, values, name) for name, values in labels.items()]
    else:
        chosen = [one if isinstance(one, Labels) else label(features, one) for one in labels]
    if not chosen:
        raise ProbeError("no labels: give names such as ['wall', 'path'], or a mapping of your own arrays")
    if untrained is not None:
        _check_twin(features, untrained)
    alpha = number(alpha, "alpha", 0, error=ProbeError)
    reader: Reader = Ridge(alpha) if estimator is None else Estimator(estimator)
    fold = folds_of(features.groups, folds, seed)
    jobs = [_Job(features, one, fold, permutations, seed) for one in chosen]
    blank = None if untrained is None else untrained.about
    kept = _Kept(folder, [FORMAT, features.about, features.unit, *map(_content, chosen), repr(reader), folds,
                          permutations, seed, blank])  # fmt: skip
    blocks = [(hook, step) for hook in features.hooks for step in features.steps]
    found: dict[tuple[str, int], Mapping[str, np.ndarray]] = {}
    for i, (hook, step) in enumerate(blocks):
        progress(i, len(blocks), f"probes of {hook} at step {step}")
        name = f"{hook}-{step}"
        found[hook, step] = kept.get(name) or kept.put(name, _block(features, untrained, hook, step, jobs, reader))
    return _dataset(features, jobs, found, folds, permutations, seed, reader)


class _Job:
    """One label made ready: its folds, shuffles and control, the same at every place."""

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
        """Per scene, (scenes, 1 + permutations)."""
        y = self.y[..., :1] if only_true else self.y
        out = np.empty((len(y), y.shape[-1]))
        found = place.decisions(y, self.labels.used, self.fold, len(self.labels.classes))
        for t in range(y.shape[-1]):  # each shuffle is scored against its own labels
            out[:, t] = scores.per_scene(self.labels.relabelled(y[..., t]), found[..., t])
        return out

    def controlled(self, place: Place) -> float:
        """Score of the control task; NaN where there is none."""
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
        """(label, hook, step, ...)"""
        rows = [[found[hook, step][name] for step in features.steps] for hook in features.hooks]
        return np.moveaxis(np.array(rows), 2, 0)

    dims = ("label", "hook", "step", "layer")
    scenes = xr.DataArray(gather("scenes"), dims=(*dims, "puzzle"))
    data: dict[str, Any] = {"per_scene": scenes}
    summary = summarise(scenes)
    data |= {"score": summary["value"], "low": summary["low"], "high": summary["high"]}
    data["n"] = summary["n"].isel(hook=0, step=0, layer=0, drop=True)
    if permutations:
        null = gather("null")  # (label, hook, step, layer, permutation)
        best = null.max((1, 2, 3))  # (label, permutation)
        score = data["score"].values[..., None]
        beaten = (best[:, None, None, None] >= score).sum(-1)
        data["null"] = (dims, null.mean(-1))
        data["best_null"] = ("label", np.quantile(best, 0.95, axis=-1))
        data["p"] = (dims, (1 + beaten) / (1 + permutations))
    data["control"] = (dims, gather("control"))
    data["selectivity"] = (dims, data["score"].values - data["control"][1])
    entering = xr.DataArray(gather("input")[:, 0], dims=("label", "step", "puzzle"))
    data |= {"input": entering.mean("puzzle"), "per_scene_input": entering}
    if "untrained" in next(iter(found.values())):
        blank = xr.DataArray(gather("untrained"), dims=(*dims, "puzzle"))
        data |= {"untrained": blank.mean("puzzle"), "per_scene_untrained": blank}
    width = features.cell(features.hooks[0], features.steps[0], features.layers[0]).shape[-1]
    plain = baselines(features, width, seed)
    places = [Place(reader, np.asarray(plain[name])) for name in BASELINES]
    rows = [[np.nanmean(job.scores(place, only_true=True)) for place in places] for job in jobs]
    data["plain"] = (("label", "baseline"), rows)
    named = puzzle_names([scene.task for scene in features.scenes])
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
            "puzzle": [f"{name}, seed {scene.seed}" for name, scene in zip(named, features.scenes, strict=True)],
        },
        attrs={
            "unit": features.unit, "branch": features.branch, "folds": folds, "permutations": permutations,
            "seed": seed, "estimator": repr(reader), "model": features.about.get("model", ""),
            "fingerprint": features.about.get("fingerprint", ""),
        },
    )  # fmt: skip
    for name in ("score", "null", "control", "selectivity", "input", "untrained", "plain"):
        if name in out:
            out[name].attrs = {"long_name": f"{name.replace('_', ' ')} of linear probes", "units": "see metric"}
    return out


class _Kept:
    """Finished blocks on disk, under a name that holds everything they depend on."""

    def __init__(self, folder: str | Path | None, depends: Any) -> None:
        text = json.dumps(depends, sort_keys=True, default=str)
        self.folder = None
        if folder is not None:
            self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot keep probes in {folder}: {error}; choose one that can be written") from error

    def get(self, name: str) -> dict[str, np.ndarray] | None:
        file = None if self.folder is None else self.folder / f"{name}.safetensors"
        if file is None or not file.exists():
            return None
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{file} cannot be read ({error}): remove this one file and run again") from error

    def put(self, name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.folder is not None:
            file = self.folder / f"{name}.safetensors"
            try:
                with new_file(file) as scratch:
                    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, scratch)
            except (OSError, SafetensorError) as error:
                raise StoreError(f"cannot write {file}: {error}; make room, then run the same grid again") from error
        return arrays


def _content(labels: Labels) -> list[Any]:
    values = labels.codes if labels.values is None else labels.values
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return [labels.name, list(labels.classes), digest]


def _check_twin(features: Features, untrained: Features) -> None:
    same = ("steps", "layers", "hooks", "unit", "units")
    other = [name for name in same if getattr(features, name) != getattr(untrained, name)]
    if [s.group for s in features.scenes] != [s.group for s in untrained.scenes]:
        other.append("scenes")
    if other:
        raise ProbeError(f"the untrained features differ in {other}: collect both with the same arguments")
    if features.about.get("fingerprint") == untrained.about.get("fingerprint"):
        raise ProbeError("the untrained features are of the same weights: collect them with another lens")
