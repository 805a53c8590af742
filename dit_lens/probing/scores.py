"""Scores of decision values: one number a scene, so that intervals and tests resample scenes.

The measure depends on the label, and each has a known value at chance:

- a label of two classes that differs between units of one scene: the area under the ROC curve *within* each scene,
  P(decision of a positive unit > decision of a negative one), ties counted half; chance: .5;
- one class a scene: whether the largest decision is the right class, each class weighing the same (balanced accuracy);
  chance: 1 / classes;
- a regression: 1 - (squared error) / (squared distance to the mean), over all scenes; chance: 0.

The mean over scenes is scikit-learn's ``balanced_accuracy_score`` and ``r2_score``, and the mean of its
``roc_auc_score`` over scenes; those functions give no parts by scene, and take one shuffle at a time.

When not to use: to compare labels of different measures.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.errors import ProbeError
from dit_lens.probing.labels import Labels
from dit_lens.stats.intervals import mean_interval


def metric(labels: Labels) -> str:
    """Which of the three: ``"auc"``, ``"balanced_accuracy"`` or ``"r2"``."""
    if labels.regression:
        return "r2"
    if labels.per_unit and len(labels.classes) == 2:
        return "auc"
    return "balanced_accuracy"


def chance(labels: Labels) -> float:
    """Expected score of an uninformative read-out."""
    return {"auc": 0.5, "balanced_accuracy": 1 / max(len(labels.classes), 1), "r2": 0.0}[metric(labels)]


def per_scene(labels: Labels, decisions: np.ndarray) -> np.ndarray:
    """Score of each scene; the mean over scenes is the score.

    Args:
        labels: The truth.
        decisions: (scenes, units, columns, ...), a column a class, or one column for two classes or a regression.

    Returns:
        (scenes, ...), NaN for scenes without a used unit, or for the area without both classes.

    Raises:
        ProbeError: Decisions of another shape.
    """
    kind = metric(labels)
    if decisions.shape[:2] != labels.codes.shape:
        raise ProbeError(f"decisions of shape {decisions.shape} do not fit {labels.codes.shape} scenes and units")
    if kind == "auc":
        return auc(decisions[:, :, 0], labels.codes == 1, labels.used)
    return r2(labels, decisions[:, :, 0]) if kind == "r2" else accuracy(labels.codes, decisions, len(labels.classes))


def interval(labels: Labels, values: xr.DataArray) -> xr.Dataset:
    """Score with its interval over scenes.

    Args:
        labels: The truth.
        values: Score of each scene, (..., task), as :func:`per_scene` gives it.

    Returns:
        As :func:`dit_lens.stats.mean_interval`.
    """
    kind = metric(labels)
    if kind == "r2":
        return mean_interval(values)
    if kind == "auc":
        return mean_interval(values, bounds=(0, 1))
    most = np.nanmax(_weighted(labels.codes, np.ones(labels.codes.shape, bool), len(labels.classes)))
    found = mean_interval(values, bounds=(0, float(most)))
    return found.assign(high=found["high"].clip(max=1))  # a scene of a rare class weighs more than 1


def auc(values: np.ndarray, positive: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Area under the ROC curve within each scene.

    Args:
        values: Decisions (scenes, units, ...).
        positive: Units of the positive class, bool (scenes, units).
        used: Units that count, likewise.

    Returns:
        (scenes, ...); NaN where a scene lacks one of the classes.
    """
    out = np.full((len(values), *values.shape[2:]), np.nan)
    for i, (row, pos, count) in enumerate(zip(values, positive, used, strict=True)):
        a, b = row[pos & count][:, None], row[~pos & count][None]  # (positives, 1, ...), (1, negatives, ...)
        if len(a) and b.shape[1]:
            out[i] = ((a > b).mean((0, 1)) + (a >= b).mean((0, 1))) / 2
    return out


def accuracy(codes: np.ndarray, decisions: np.ndarray, classes: int) -> np.ndarray:
    """Correct decisions of each scene, weighted so that the mean over scenes is the balanced accuracy.

    Args:
        codes: Class of each unit, (scenes, units); negative where it does not count.
        decisions: (scenes, units, columns, ...), a column a class, or one for two classes.
        classes: How many there are.

    Returns:
        (scenes, ...); NaN for a scene without units that count.
    """
    if decisions.shape[2] == 1:
        decisions = np.concatenate([-decisions, decisions], axis=2)
    spread = (..., *[None] * (decisions.ndim - 3))
    return _weighted(codes, np.equal(decisions.argmax(2), codes[spread]), classes)


def _weighted(codes: np.ndarray, hit: np.ndarray, classes: int) -> np.ndarray:
    """Hits (scenes, units, ...) of each scene, weighted so that their mean is the balanced accuracy."""
    used, spread = codes >= 0, (..., *[None] * (hit.ndim - 2))
    count = np.array([max((codes == c).sum(), 1) for c in range(classes)])
    weight = np.where(used, 1 / count[np.clip(codes, 0, None)], 0) / max(len(np.unique(codes[used])), 1)
    says: np.ndarray = np.any(used, axis=1)  # (scenes,)
    found = (hit * weight[spread]).sum(1) * says.sum()
    return np.where(says[spread], found, np.nan)


def r2(labels: Labels, predicted: np.ndarray) -> np.ndarray:
    """Each scene's part of 1 - error / spread.

    Args:
        labels: A regression.
        predicted: (scenes, units, ...).

    Returns:
        (scenes, ...); NaN for a scene without units that count.
    """
    assert labels.values is not None
    spread = (..., *[None] * (predicted.ndim - 2))
    true, used = np.nan_to_num(labels.values), labels.used
    around = np.where(used, (true - true[used].mean()) ** 2, 0).sum()
    wrong = np.where(used[spread], (predicted - true[spread]) ** 2, 0).sum(1)  # (scenes, ...)
    says: np.ndarray = np.any(used, axis=1)  # (scenes,)
    return np.where(says[spread], 1 - wrong * says.sum() / around, np.nan)
