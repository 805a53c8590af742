"""Out-of-fold decisions at one place: by moments for ridge, by scikit-learn for any other estimator.

``sklearn.model_selection.cross_val_predict`` is not used: it raises where two classes of three are in the training part
of a fold, as happens with shuffled labels, and it would fit ridge once for each of the many shuffles.

When not to use: for decisions on other scenes than those of the folds; fit a probe (:mod:`.fit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dit_lens.probing.labels import OUT
from dit_lens.probing.resolution import resolved
from dit_lens.probing.ridge_moments import ALPHA, Moments, targets

#: From features (rows, d) and folds (rows,) to a function: labels (rows, T) -> decisions (rows, columns, T).
Reader = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray, int], np.ndarray]]


@dataclass(frozen=True)
class Ridge:
    """Ridge regression (of numbers, or of -1 and 1), equal to scikit-learn's; all labels share one factorisation.

    Decisions between classes are relative to their shares of the training rows, so that each class weighs the same.
    """

    alpha: float = ALPHA

    def __call__(self, x: np.ndarray, fold: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        """Prepare features (rows, d) and folds (rows,); returns the function of labels (see :data:`Reader`)."""
        moments = Moments.of(x, fold, self.alpha)

        def decide(y: np.ndarray, classes: int) -> np.ndarray:
            wanted = y[:, None].astype(float) if not classes else targets(y, classes)  # (rows, columns, T)
            flat = wanted.reshape(len(y), -1)
            found, mean = (a.reshape(wanted.shape) for a in moments.decisions(flat))
            if not classes:
                return found
            # Predicted share of a class over its share of the training rows, (1 + y_hat) / (1 + ybar): otherwise large
            # classes are predicted too often, and an uninformative feature scores below chance.
            if classes == 2:
                return found - mean
            there = mean > -1  # in the training rows; a class that is not is never predicted
            return np.where(there, (found - mean) / np.where(there, 1 + mean, 1), -np.inf)

        return decide


@dataclass(frozen=True)
class Estimator:
    """Any scikit-learn estimator, fitted behind a scaler once for each fold and label."""

    estimator: Any

    def __call__(self, x: np.ndarray, fold: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        """Prepare features (rows, d) and folds (rows,); returns the function of labels (see :data:`Reader`)."""

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
    """The features of one place, (scenes, units, d); labels with the same units and folds share their preparation."""

    def __init__(self, reader: Reader, x: np.ndarray) -> None:
        self.reader, self.x = reader, resolved(x)
        self._ready: dict[tuple[bytes, bytes], Callable[[np.ndarray, int], np.ndarray]] = {}

    def decisions(self, y: np.ndarray, used: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
        """Decide each unit by the probe that was fitted on the other folds.

        Args:
            y: Labels (scenes, units, T): codes, or values for a regression.
            used: Units that count, (scenes, units).
            fold: Fold of each unit, (scenes, units).
            classes: Number of classes; 0 for a regression.

        Returns:
            Decisions (scenes, units, columns, T), 0 for units that are not used.
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
