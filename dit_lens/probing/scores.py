"""How well decision values fit a label: one number a scene, so that intervals and tests resample scenes.

Three measures, chosen by what the label is, each with a known value for a read-out that knows nothing:

- a label of two classes that differs between units of one scene: the area under the ROC curve *within* each scene,
  P(decision of a positive unit > decision of a negative one), ties counted half; nothing: .5;
- classes that a scene has one of: whether the largest decision is the right class, each class weighing the same
  (balanced accuracy); nothing: 1 / classes;
- a regression: 1 - (squared error) / (squared distance to the mean), over all scenes; nothing: 0.
"""

from __future__ import annotations

import numpy as np

from dit_lens.errors import ProbeError
from dit_lens.probing.labels import Labels


def metric(labels: Labels) -> str:
    """Which of the three: ``"auc"``, ``"balanced_accuracy"`` or ``"r2"``."""
    if labels.regression:
        return "r2"
    if labels.per_unit and len(labels.classes) == 2:
        return "auc"
    return "balanced_accuracy"


def chance(labels: Labels) -> float:
    """What a read-out that knows nothing scores."""
    return {"auc": 0.5, "balanced_accuracy": 1 / max(len(labels.classes), 1), "r2": 0.0}[metric(labels)]


def per_scene(labels: Labels, decisions: np.ndarray) -> np.ndarray:
    """Score of each scene (scenes, ...); NaN where a scene says nothing. The mean over scenes is the score.

    ``decisions``: (scenes, units, columns, ...), a column a class (one for two classes or a regression); further axes
    are kept. Scenes weigh so that their mean is the measure named above.
    """
    kind = metric(labels)
    if decisions.shape[:2] != labels.codes.shape:
        raise ProbeError(f"decisions of shape {decisions.shape} do not fit {labels.codes.shape} scenes and units")
    if kind == "auc":
        return auc(decisions[:, :, 0], labels.codes == 1, labels.used)
    return r2(labels, decisions[:, :, 0]) if kind == "r2" else accuracy(labels.codes, decisions, len(labels.classes))


def auc(values: np.ndarray, positive: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Area under the ROC curve within each scene. ``values`` (scenes, units, ...), the others (scenes, units)."""
    out = np.full((len(values), *values.shape[2:]), np.nan)
    for i, (row, pos, count) in enumerate(zip(values, positive, used, strict=True)):
        a, b = row[pos & count][:, None], row[~pos & count][None]  # (positives, 1, ...), (1, negatives, ...)
        if len(a) and b.shape[1]:
            out[i] = ((a > b).mean((0, 1)) + (a >= b).mean((0, 1))) / 2
    return out


def accuracy(codes: np.ndarray, decisions: np.ndarray, classes: int) -> np.ndarray:
    """Right or not, weighted so that the mean over scenes is the balanced accuracy."""
    if decisions.shape[2] == 1:
        decisions = np.concatenate([-decisions, decisions], axis=2)
    used = codes >= 0
    spread = (..., *[None] * (decisions.ndim - 3))
    hit: np.ndarray = np.equal(decisions.argmax(2), codes[spread])  # (scenes, units, ...)
    count = np.array([max((codes == c).sum(), 1) for c in range(classes)])
    weight = np.where(used, 1 / count[np.clip(codes, 0, None)], 0) / max(len(np.unique(codes[used])), 1)
    says: np.ndarray = np.any(used, axis=1)  # (scenes,)
    found = (hit * weight[spread]).sum(1) * says.sum()
    return np.where(says[spread], found, np.nan)


def r2(labels: Labels, predicted: np.ndarray) -> np.ndarray:
    """1 - error / spread, each scene's part of it."""
    assert labels.values is not None
    spread = (..., *[None] * (predicted.ndim - 2))
    true, used = np.nan_to_num(labels.values), labels.used
    around = np.where(used, (true - true[used].mean()) ** 2, 0).sum()
    wrong = np.where(used[spread], (predicted - true[spread]) ** 2, 0).sum(1)  # (scenes, ...)
    says: np.ndarray = np.any(used, axis=1)  # (scenes,)
    return np.where(says[spread], 1 - wrong * says.sum() / around, np.nan)
