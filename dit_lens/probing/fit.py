"""Fit the probe of one place, for use: a stock scikit-learn pipeline with its scores and controls.

The score is that of the estimator itself, out of fold; the controls are those of :func:`dit_lens.probing.grid` at this
one place, by ridge, with the ridge's own score (``ridge``) to compare them with.

When not to use: for the p-value of a place that was picked from a grid. It holds for one place; take the grid's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as RidgeRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.address import Address
from dit_lens.errors import ProbeError
from dit_lens.probing import scores
from dit_lens.probing.description_length import online_code
from dit_lens.probing.features import Features, from_runs
from dit_lens.probing.label_pattern import patterns
from dit_lens.probing.labels import Labels
from dit_lens.probing.labels import label as make_label
from dit_lens.probing.linear_probe import Probe
from dit_lens.probing.out_of_fold import Estimator, Place
from dit_lens.probing.probe_grid import Asked, grid
from dit_lens.probing.resolution import resolved
from dit_lens.probing.ridge_moments import ALPHA
from dit_lens.probing.splits import folds_of
from dit_lens.wan.run import Run


def logistic(c: float = 0.01) -> LogisticRegression:
    """Logistic regression in which every class weighs the same; the default for classes.

    Args:
        c: Inverse strength of the regularisation, on scaled features.
    """
    return LogisticRegression(C=c, class_weight="balanced", max_iter=2000)


def ridge(alpha: float = ALPHA) -> RidgeRegression:
    """Ridge regression; the default for numbers.

    Args:
        alpha: Strength of the regularisation, on scaled features.
    """
    return RidgeRegression(alpha=alpha)


def mean_difference() -> LinearDiscriminantAnalysis:
    """The direction from one class's mean to the other's (on scaled features): full shrinkage leaves nothing else."""
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1.0)


def probe(
    source: Features | Sequence[Run],
    label: Asked | np.ndarray | Sequence[Any],
    at: str | Address,
    *,
    estimator: Any = None,
    folds: int = 5,
    permutations: int = 199,
    mdl: bool = False,
    seed: int = 0,
) -> Probe:
    """Fit a linear probe at one place.

    Args:
        source: Features, or runs that recorded the place.
        label: What to read, as in :func:`dit_lens.probing.label`.
        at: The place, such as ``"layer=7 step=5 hook=resid_post"``.
        estimator: A linear estimator of scikit-learn; ``logistic()``, or ``ridge()`` for numbers, by default.
        folds: Number of folds; scenes are held out as a whole.
        permutations: Number of shuffled labels behind ``null`` and ``p``.
        mdl: Also measure the online code length (:mod:`.description_length`), which takes more logistic fits.
        seed: Seed of folds, shuffles and controls.

    Returns:
        The probe and its patterns, fitted on all scenes. ``scores`` holds the score with its interval (``score, low,
        high, n``), the measure (``metric, chance``), and the controls.

    Raises:
        ProbeError: The place was not kept, or the label cannot be learned.
    """
    place = Address.parse(at) if isinstance(at, str) else at
    features = source if isinstance(source, Features) else from_runs(source, place.hook, place.branch)
    if place.branch != features.branch:
        raise ProbeError(f"{place}: these features are of branch {features.branch!r}; collect the other one")
    features = features.only(place.hook, place.step, place.layer)
    labels = label if isinstance(label, Labels) else make_label(features, label)
    given = estimator if estimator is not None else ridge() if labels.regression else logistic()
    controls = grid(features, [labels], folds=folds, permutations=permutations, seed=seed).isel(label=0).squeeze()
    x, used = features.cell(place.hook, place.step, place.layer), labels.used
    truth = labels.codes if labels.values is None else labels.values
    fold = np.broadcast_to(folds_of(features.groups, folds, seed)[:, None], used.shape)
    found = Place(Estimator(given), x).decisions(truth[..., None], used, fold, len(labels.classes))[..., 0]
    own = scores.interval(labels, xr.DataArray(scores.per_scene(labels, found), dims="task"))
    numbers = {k: float(own[k]) for k in ("value", "low", "high")}
    measured: dict[str, Any] = {
        "score": numbers.pop("value"),
        **numbers,
        "n": int(own["n"]),
        "chance": scores.chance(labels),
    }
    measured |= {"metric": scores.metric(labels), "ridge": float(controls["score"])}
    measured |= {k: float(controls[k]) for k in ("null", "p", "control", "selectivity", "input") if k in controls}
    measured |= {str(b): float(controls["plain"].sel(baseline=b)) for b in controls["baseline"].values}
    if labels.classes:
        said = found[used].argmax(-1) if found.shape[2] > 1 else (found[used][:, 0] > 0).astype(int)
        measured["accuracy"] = float((said == labels.codes[used]).mean())
        measured["majority_accuracy"] = float(np.bincount(labels.codes[used]).max() / used.sum())
        measured["balanced_accuracy"] = float(balanced_accuracy_score(labels.codes[used], said))
        measured["confusion"] = confusion_matrix(labels.codes[used], said).tolist()  # rows: true
        if mdl:
            groups = np.broadcast_to(features.groups[:, None], used.shape)[used]
            code = online_code(x[used], labels.codes[used], groups, seed=seed)
            measured |= {k: float(code[f"{k}_mean"]) for k in ("compression", "gain")}
    named = np.array(labels.classes)
    pipeline = make_pipeline(StandardScaler(), clone(given))
    rows, answers = resolved(x)[used], truth[used]  # (n, d), (n,)
    pipeline.fit(rows, named[answers] if labels.classes else answers)
    differ = patterns(rows, answers, range(len(labels.classes)))
    about = {**features.about, "folds": folds, "seed": seed, "permutations": permutations, "rows": int(used.sum()),
             "scenes": int(used.any(1).sum()), "groups": len(set(features.groups[used.any(1)])),
             "kind": labels.kind, "estimator": repr(given)}  # fmt: skip
    return Probe(pipeline, labels.name, place, features.unit, labels.classes, measured, about, differ)
