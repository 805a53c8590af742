"""Folds by group: units of one scene, and scenes with the same first picture, are in one fold.

When not to use: to hold out units of a scene; see :func:`.control_task`.
"""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import GroupKFold

from dit_lens.errors import ProbeError


def folds_of(groups: np.ndarray, folds: int = 5, seed: int = 0) -> np.ndarray:
    """The fold of each scene, by ``sklearn.model_selection.GroupKFold``.

    Args:
        groups: Group of each scene, (scenes,).
        folds: Number of folds.
        seed: Seed of the assignment.

    Returns:
        (scenes,), 0 to folds - 1.

    Raises:
        ProbeError: Fewer groups than folds.
    """
    there = len(np.unique(groups))
    if folds < 2 or there < folds:
        raise ProbeError(
            f"{there} different scenes cannot be split in {folds} folds: give more scenes, or folds= from 2 to {there}"
        )
    out = np.empty(len(groups), int)
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    for i, (_, test) in enumerate(splitter.split(np.zeros(len(groups)), groups=groups)):
        out[test] = i
    return out
