"""Ridge from sufficient statistics is scikit-learn's ridge; scores are what scikit-learn says they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as RidgeRegression
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.errors import ProbeError
from dit_lens.probing import scores
from dit_lens.probing.labels import OUT, Labels
from dit_lens.probing.out_of_fold import Estimator, Place, Ridge
from dit_lens.probing.ridge_moments import Moments, targets


def case(seed: int, rows: int = 60, d: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    y[:classes] = range(classes)
    y[-classes:] = range(classes)  # every class outside every fold
    x = rng.standard_normal((rows, d)) * 10.0 ** rng.integers(-3, 4, d) + rng.standard_normal(d) * 50
    return x + y[:, None] * rng.standard_normal(d), y, np.arange(rows) % 4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.sampled_from([2, 3, 4]), alpha=st.sampled_from([0.1, 10.0, 1000.0]))
def test_decisions_are_those_of_the_pipeline(seed: int, classes: int, alpha: float) -> None:
    x, y, fold = case(seed, classes=classes)
    found = Moments.of(x, fold, alpha).decisions(targets(y, classes))[0]  # (rows, columns)
    for i in range(4):
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha)).fit(x[fold != i], y[fold != i])
        wanted = model.decision_function(x[fold == i]).reshape(-1, found.shape[1])
        np.testing.assert_allclose(found[fold == i], wanted, rtol=1e-6, atol=1e-8)


def test_regression_and_many_targets_at_once() -> None:
    x, _, fold = case(1)
    y = np.random.default_rng(0).standard_normal((len(x), 7))
    found = Moments.of(x, fold, 3.0).decisions(y)[0]
    for i in range(4):
        model = make_pipeline(StandardScaler(), RidgeRegression(alpha=3.0)).fit(x[fold != i], y[fold != i])
        np.testing.assert_allclose(found[fold == i], model.predict(x[fold == i]), rtol=1e-6, atol=1e-8)


def test_a_constant_channel_is_scaled_by_one_as_in_scikit_learn() -> None:
    x, y, fold = case(2, classes=2)
    x[:, 2] = 7.25
    found = Moments.of(x, fold, 1.0).decisions(targets(y, 2))[0]
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0)).fit(x[fold != 0], y[fold != 0])
    np.testing.assert_allclose(found[fold == 0, 0], model.decision_function(x[fold == 0]), rtol=1e-6, atol=1e-8)


def test_any_estimator_gives_the_same_shape_and_ridge_the_same_order() -> None:
    x, y, fold = case(3, classes=2)
    shape = (12, 5)
    used = np.ones(shape, bool)
    args = (y.reshape(*shape, 1), used, fold.reshape(shape), 2)
    fast = Place(Ridge(5.0), x.reshape(*shape, -1)).decisions(*args)
    slow = Place(Estimator(RidgeClassifier(alpha=5.0)), x.reshape(*shape, -1)).decisions(*args)
    assert fast.shape == (12, 5, 1, 1) == slow.shape
    for i in range(4):  # one shift a fold: the threshold at which both classes weigh the same
        gap = (slow - fast)[fold.reshape(shape) == i]
        np.testing.assert_allclose(gap, np.where(y == 1, 1.0, -1.0)[fold != i].mean(), rtol=1e-6)


def test_decisions_are_relative_to_the_shares_of_the_classes() -> None:
    """(1 + y_hat) / (1 + ybar) - 1, computed here from scikit-learn's own decisions."""
    x, y, fold = case(5, classes=3)
    found = Ridge(10.0)(x, fold)(y[:, None], 3)[..., 0]
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=10.0)).fit(x[fold != 2], y[fold != 2])
    share = np.bincount(y[fold != 2]) / (fold != 2).sum()
    wanted = (1 + model.decision_function(x[fold == 2])) / 2 / share - 1
    np.testing.assert_allclose(found[fold == 2], wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_features_that_say_nothing_score_exactly_chance_however_uneven_the_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    y = np.r_[
        np.arange(classes),
        np.arange(classes),
        rng.choice(classes, 50, p=np.r_[0.8, [0.2 / (classes - 1)] * (classes - 1)]),
    ]
    fold = rng.integers(0, 5, len(y))
    decisions = Ridge(1.0)(np.zeros((len(y), 1)), fold)(y[:, None], classes)
    found = scores.accuracy(y[:, None], decisions.reshape(len(y), 1, -1), classes)
    assert found.mean() == pytest.approx(1 / classes)


def test_a_fold_never_sees_itself() -> None:
    """Changing the labels of one fold changes the decisions of all others and none of its own."""
    x, y, fold = case(4, classes=2)
    other = np.where(fold == 1, 1 - y, y)
    one, two = (Ridge(1.0)(x, fold)(labels[:, None], 2)[..., 0] for labels in (y, other))
    np.testing.assert_allclose(one[fold == 1], two[fold == 1], rtol=1e-12)
    assert (np.abs(one - two)[fold != 1] > 1e-9).all()


def test_nan_features_are_refused() -> None:
    x, _, fold = case(0)
    x[3, 1] = np.nan
    with pytest.raises(ProbeError, match="region without tokens"):
        Moments.of(x, fold)


def labels_of(codes: np.ndarray, classes: int, per_unit: bool) -> Labels:
    return Labels("l", "own", codes, tuple(range(classes)), per_unit)


def test_auc_is_scikit_learns_within_each_scene() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (8, 30))
    values = rng.integers(0, 5, (8, 30, 1, 2)).astype(float)  # with ties
    found = scores.per_scene(labels_of(codes, 2, True), values)
    for i in range(8):
        used = codes[i] != OUT
        for t in range(2):
            assert found[i, t] == pytest.approx(roc_auc_score(codes[i, used], values[i, used, 0, t]))


def test_auc_of_a_scene_with_one_class_is_unknown() -> None:
    codes = np.array([[0, 0, 1], [1, 1, 1]])
    found = scores.per_scene(labels_of(codes, 2, True), np.arange(6.0).reshape(2, 3, 1))
    assert found[0] == 1 and np.isnan(found[1])


def test_mean_over_scenes_is_the_balanced_accuracy() -> None:
    rng = np.random.default_rng(1)
    codes = rng.choice(3, (40, 1), p=[0.7, 0.2, 0.1])
    values = rng.standard_normal((40, 1, 3))
    found = scores.per_scene(labels_of(codes, 3, False), values)
    assert found.mean() == pytest.approx(balanced_accuracy_score(codes[:, 0], values[:, 0].argmax(-1)))


def test_mean_over_scenes_is_r2() -> None:
    rng = np.random.default_rng(2)
    true, said = rng.standard_normal((2, 10, 4))
    labels = Labels("l", "own", np.zeros((10, 4), int), (), True, true)
    found = scores.per_scene(labels, said[:, :, None])
    assert found.mean() == pytest.approx(r2_score(true.reshape(-1), said.reshape(-1)))


@pytest.mark.parametrize(("labels", "expected"), [
    (labels_of(np.tile([0, 1], (6, 2)), 2, True), 0.5),
    (labels_of(np.arange(6)[:, None] % 3, 3, False), 1 / 3),
])  # fmt: skip
def test_chance_is_what_a_constant_scores(labels: Labels, expected: float) -> None:
    columns = 1 if len(labels.classes) == 2 else len(labels.classes)
    constant = np.zeros((*labels.codes.shape, columns))
    assert np.nanmean(scores.per_scene(labels, constant)) == pytest.approx(expected) == scores.chance(labels)
