"""A probe keeps the pattern of its training rows beside its normals; one without says so."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import planted
from sklearn.linear_model import RidgeClassifier
from stored import fitted, probe

import dit_lens as dl
from dit_lens.errors import ProbeError
from dit_lens.probing import Probe, load_probe

AT = "step=1 layer=0 hook=resid_post"
SCENES, UNITS = 20, 24
#: The label moves the first channel; the second is noise that the first holds as well, so that a normal subtracts it.
LABELS: dict[str, Any] = {
    "two": np.random.default_rng(0).integers(0, 2, (SCENES, UNITS)),
    "several": np.array(list("abc"))[np.random.default_rng(1).integers(0, 3, (SCENES, UNITS))].astype(object),
    "number": np.random.default_rng(2).normal(size=(SCENES, UNITS)),
}


def features(folder: Path, y: np.ndarray) -> Any:
    codes = np.unique(y, return_inverse=True)[1].reshape(y.shape) if y.dtype.kind != "f" else y

    def add(i: int, step: int, layer: int) -> np.ndarray:
        x = np.zeros((UNITS, 6))
        x[:, 1] = 4 * np.random.default_rng([i, step, layer]).normal(size=UNITS)
        x[:, 0] = codes[i] + x[:, 1] + 10
        return x

    return planted(folder, scenes=SCENES, units=UNITS, add=add)


@pytest.mark.parametrize("kind", LABELS)
def test_a_fitted_probe_keeps_the_pattern_of_its_rows(kind: str, tmp_path: Path) -> None:
    y = LABELS[kind].copy()
    if kind == "several":
        y[0, :5] = None  # left out of fit and pattern alike
    made = features(tmp_path, LABELS[kind])
    found = dl.probe(made, y, AT, permutations=0, folds=2)
    x = made.cell("resid_post", 1, 0).astype(np.float64)
    if kind == "two":
        exact = [x[y == 1].mean(0) - x[y == 0].mean(0)]
    elif kind == "several":
        every = x[[[v is not None for v in row] for row in y]].mean(0)
        exact = [x[y == c].mean(0) - every for c in "abc"]
    else:
        exact = [[np.cov(x[..., i].ravel(), y.ravel(), bias=True)[0, 1] / y.var() for i in range(6)]]
    assert found.patterns is not None and found.patterns.shape == found.normals.shape
    np.testing.assert_allclose(found.patterns, exact, atol=1e-9)
    units = np.atleast_2d(found.pattern)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    cosine = (units * np.atleast_2d(found.direction)).sum(1)
    assert found.pattern.shape == found.direction.shape
    assert (np.abs(cosine) < 0.9).all()  # another direction
    moved = [1] if kind != "several" else [-1, None, 1]  # what the label moves; the middle class is the mean
    for row, normal, sign in zip(found.patterns, found.normals, moved, strict=True):
        if sign is not None:
            assert np.sign(row[0]) == sign == np.sign(normal[0])


def test_another_estimator_keeps_it_and_it_travels(tmp_path: Path) -> None:
    made = features(tmp_path, LABELS["two"])
    how: dict[str, Any] = {"permutations": 0, "folds": 2}
    found = dl.probe(made, LABELS["two"] > 0, AT, estimator=RidgeClassifier(), **how)
    other = dl.probe(made, LABELS["two"] > 0, AT, **how)
    assert found.patterns is not None and np.array_equal(found.patterns, other.patterns)  # the label's, not the fit's
    again = load_probe(found.save(tmp_path / "p"))
    assert np.array_equal(again.patterns, found.patterns) and np.array_equal(again.pattern, found.pattern)


def test_patterns_are_kept_as_they_were_given() -> None:
    given = np.arange(18.0).reshape(3, 6)
    found = probe(patterns=given)
    given[0] = np.nan
    assert np.array_equal(found.patterns, np.arange(18.0).reshape(3, 6))
    with pytest.raises(ValueError, match="read-only"):
        found.patterns[0] = 0
    with pytest.raises(FrozenInstanceError):
        found.patterns = None
    assert replace(found, patterns=None).patterns is None and probe().patterns is None
    assert probe(fitted(classes=2), patterns=np.ones((1, 6), int)).pattern.shape == (6,)


def test_a_probe_without_a_pattern_says_how_to_get_one() -> None:
    with pytest.raises(ProbeError, match=r"fit it anew with dit_lens\.probe\(.*or give Probe\(patterns="):
        _ = probe().pattern


@pytest.mark.parametrize(
    "wrong",
    [np.ones(6), np.ones((1, 6)), np.ones((3, 5)), np.full((3, 6), np.nan), np.full((3, 6), np.inf)],
    ids=["flat", "one class", "narrow", "nan", "infinite"],
)
def test_patterns_that_do_not_fit_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ProbeError, match=r"give finite numbers \(3, 6\).*or leave them out"):
        Probe(**{**vars(probe()), "patterns": wrong})
