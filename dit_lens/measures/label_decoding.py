"""Can a label be read from activations of scenes not seen before? Ridge classifiers, cross-validated by scene.

For features x_i, labels y_i and scenes g_i, each fold fits a ridge classifier on standardised features of all other
scenes and predicts those of its own; what is returned is, per sample, whether the prediction is right. ``choice`` asks
the forced question instead: of the candidates of one item, which is the true one? The candidate with the largest
decision value is chosen.

The null is the same with labels drawn anew from the other samples (``shuffled``): it also shows what an uneven mix of
labels gives away.

When not to use: as evidence that the model uses what can be read. That is a question for patches.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.errors import MeasureError


def decode(x: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: int = 5, alpha: float = 100.0) -> np.ndarray:
    """Whether each label is predicted from the samples of the other scenes.

    Args:
        x: Features (n, d).
        y: Labels (n,) of any hashable kind.
        groups: (n,), the scene of each sample.
        folds: Number of folds, by scene.
        alpha: Strength of the ridge.

    Returns:
        bool (n,).

    Raises:
        MeasureError: Too few scenes, or labels of one kind.
    """
    y = np.asarray(y)
    hit = np.zeros(len(y), bool)
    for train, test in _folds(x, y, groups, folds):
        if len(np.unique(y[train])) < 2:
            raise MeasureError("a fold has labels of one kind only: give more scenes, or fewer folds")
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha)).fit(x[train], y[train])
        hit[test] = model.predict(x[test]) == y[test]
    return hit


def choice(x: np.ndarray, true: np.ndarray, groups: np.ndarray, folds: int = 5, alpha: float = 100.0) -> np.ndarray:
    """Whether the true candidate of each item is chosen. Chance is 1 / candidates.

    Args:
        x: Features (n, candidates, d).
        true: (n,), the index of the true candidate.
        groups: (n,), the scene of each item.
        folds: Number of folds, by scene.
        alpha: Strength of the ridge.

    Returns:
        bool (n,).

    Raises:
        MeasureError: Too few scenes.
    """
    n, candidates = x.shape[:2]
    true = np.asarray(true)
    if candidates < 2:
        raise MeasureError("a choice needs at least two candidates: give features (n, candidates, d) with two or more")
    hit = np.zeros(n, bool)
    for train, test in _folds(x, true, groups, folds):
        hit[test] = names_true(fit_choice(x[train], true[train], alpha), x[test], true[test])
    return hit


def fit_choice(x: np.ndarray, true: np.ndarray, alpha: float = 100.0) -> Pipeline:
    """Fit a classifier that tells the true candidate of an item from the others.

    Args:
        x: Features (n, candidates, d).
        true: (n,), the index of the true candidate.
        alpha: Strength of the ridge.

    Returns:
        The classifier, for :func:`names_true`.
    """
    candidates, d = x.shape[1:]
    is_it = np.arange(candidates) == np.asarray(true)[:, None]  # (n, candidates)
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha))
    return model.fit(x.reshape(-1, d), is_it.reshape(-1))


def names_true(model: Pipeline, x: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether the candidate with the largest decision value is the true one.

    Args:
        model: From :func:`fit_choice`.
        x: Features of other items (n, candidates, d).
        true: (n,), the index of the true candidate.

    Returns:
        bool (n,).
    """
    n, candidates, d = x.shape
    value = model.decision_function(x.reshape(-1, d)).reshape(n, candidates)
    return np.asarray(value.argmax(1) == np.asarray(true))


def shuffled(y: np.ndarray, seed: int = 0) -> np.ndarray:
    """The labels in a random order: the null of :func:`decode`."""
    return np.random.default_rng(seed).permutation(np.asarray(y))


def _folds(x: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    if not len(x) == len(y) == len(groups):
        raise MeasureError(f"{len(x)} features, {len(y)} labels and {len(groups)} scenes: give one of each per sample")
    scenes = len(np.unique(groups))
    if scenes < folds or folds < 2:
        raise MeasureError(f"{scenes} scenes cannot be split in {folds} folds: give more scenes, or folds= from 2 up")
    if not np.isfinite(x).all():
        raise MeasureError(
            "features hold NaN or infinity (a region without tokens, or an unrecorded place): leave those out"
        )
    return list(GroupKFold(folds).split(x, y, groups))
