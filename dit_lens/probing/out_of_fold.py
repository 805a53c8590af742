"""Out-of-fold decisions at one place: by moments for ridge, by scikit-learn for any other estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.probing.labels import OUT
from dit_lens.probing.ridge_moments import ALPHA, Moments, targets

#: From features (rows, d) and folds (rows,) to a function: labels (rows, T) -> decisions (rows, columns, T).
Reader = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray, int], np.ndarray]]


@dataclass(frozen=True)
class Ridge:
    """Ridge (regression, or on -1 and 1), exactly scikit-learn's, many labels at the price of one.

    Decisions about classes are relative to the classes' shares of the training rows, so that each weighs the same.
    """

    alpha: float = ALPHA

    def __call__(self, x: np.ndarray, fold: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        moments = Moments.of(x, fold, self.alpha)

        def decide(y: np.ndarray, classes: int) -> np.ndarray:
            wanted = y[:, None].astype(float) if not classes else targets(y, classes)  # (rows, columns, T)
            flat = wanted.reshape(len(y), -1)
            found, mean = (a.reshape(wanted.shape) for a in moments.decisions(flat))
            if not classes:
                return found
            # Share of a class that x speaks for over its share of the training rows, (1 + y_hat) / (1 + ybar): without
            # this the larger classes would be said too often, and a feature that says nothing would fall below chance.
            if classes == 2:
                return found - mean
            there = mean > -1  # in the training rows; what is not there is never said
            return np.where(there, (found - mean) / np.where(there, 1 + mean, 1), -np.inf)

        return decide


@dataclass(frozen=True)
class Estimator:
    """Any scikit-learn estimator, fitted behind a scaler once a fold and label."""

    estimator: Any

    def __call__(self, x: np.ndarray, fold: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        def decide(y: np.ndarray, classes: int) -> np.ndarray:
            columns = 1 if classes in (0, 2) else classes
            out = np.zeros((len(y), columns, y.shape[1]))
            for t in range(y.shape[1]):
                for i in np.unique(fold):
                    test = fold == i
                    model = make_pipeline(StandardScaler(), clone(self.estimator)).fit(x[~test], y[~test, t])
                    score = model.predict if not classes else model.decision_function
                    found = np.asarray(score(x[test])).reshape(test.sum(), -1)
                    if found.shape[1] != columns:  # a class that this fold's training part lacks is never chosen
                        both = found if found.shape[1] > 1 else np.concatenate([-found, found], axis=1)
                        found = np.full((len(both), columns), -np.inf)
                        found[:, model.classes_.astype(int)] = both
                    out[test, :, t] = found
            return out

        return decide


class Place:
    """The features of one place, (scenes, units, d): what labels that count the same units share is computed once."""

    def __init__(self, reader: Reader, x: np.ndarray) -> None:
        self.reader, self.x = reader, x
        self._ready: dict[tuple[bytes, bytes], Callable[[np.ndarray, int], np.ndarray]] = {}

    def decisions(self, y: np.ndarray, used: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
        """Decisions (scenes, units, columns, T) on labels ``y`` (scenes, units, T), each by probes of other folds.

        ``used``, ``fold``: (scenes, units); units that are not used take no part and get 0.
        """
        key = used.tobytes(), fold.tobytes()
        if key not in self._ready:
            # Folds numbered without gaps, as a label may leave a fold empty.
            dense = np.unique(fold[used], return_inverse=True)[1]
            self._ready[key] = self.reader(self.x[used], dense)
        found = self._ready[key](np.where(y[used] == OUT, 0, y[used]) if classes else y[used], classes)
        out = np.zeros((*used.shape, *found.shape[1:]))
        out[used] = found
        return out
