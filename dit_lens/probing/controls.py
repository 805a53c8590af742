"""Controls of a probe's score: shuffled labels, a control task, and features without a model.

- ``shuffles``: the labels of other scenes. Scenes of one family exchange their labels as a whole, so that what all
  scenes share (the usual place of a wall) stays in the null. A scene that no other has the same units as cannot
  exchange; a binary label is inverted in a random half of these scenes.
- ``control_task`` (Hewitt and Liang 2019): a random class per scene, read from units of the *same* scenes that were not
  fitted on. It measures how well a linear probe can memorise scenes; score - control is the selectivity.
- ``baselines``: ``majority`` (a constant), ``sigma`` (the noise level, a constant within a step), ``random`` (Gaussian
  rows of the same width) and ``position`` (the index of the unit).

The input of the network and an untrained network are baselines too; :func:`dit_lens.probing.grid` reads them from
features.

When not to use: as a test by itself. A score needs all of them beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dit_lens.errors import ProbeError
from dit_lens.probing.features import Features
from dit_lens.probing.labels import OUT, Labels

BASELINES = ("majority", "sigma", "random", "position")


def shuffles(features: Features, labels: Labels, count: int, seed: int = 0) -> np.ndarray:
    """Labels that are independent of the features.

    One seed gives the same shuffles at every place, as the correction for choosing among places requires.

    Args:
        features: The scenes.
        labels: The label; its used units stay the used ones.
        count: Number of shuffles.
        seed: Seed of the shuffles.

    Returns:
        Codes, or values for a regression, (scenes, units, count).

    Raises:
        ProbeError: Fewer than five scenes can exchange labels.
    """
    rng = np.random.default_rng(seed)
    given = labels.codes if labels.values is None else labels.values
    strata = _strata(features, labels)
    lone = [s for s in strata if len({features.scenes[i].group for i in s}) < 2]
    turn = len(labels.classes) == 2 and labels.per_unit
    free = sum(len(s) for s in strata) - (0 if turn else sum(map(len, lone)))
    if free < 5:
        raise ProbeError(
            f"label {labels.name!r} has {free} scenes that could change labels: the test needs at least 5 scenes of "
            "one family that count the same units"
        )
    out = np.repeat(given[..., None], count, axis=-1)
    for k in range(count):
        for stratum in strata:
            groups: dict[str, list[int]] = {}
            for i in stratum:
                groups.setdefault(features.scenes[i].group, []).append(i)
            if len(groups) > 1:
                names = list(groups)
                for name, other in zip(names, rng.permutation(len(names)), strict=True):
                    giver = groups[names[other]]
                    for j, i in enumerate(groups[name]):
                        out[i, :, k] = given[giver[j % len(giver)]]
            elif turn and rng.random() < 0.5:
                out[stratum, :, k] = np.where(given[stratum] == OUT, OUT, 1 - given[stratum])
    return out


def control_task(features: Features, labels: Labels, seed: int = 0, folds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A random class per group of scenes, and folds that divide the units of a scene.

    Args:
        features: The scenes.
        labels: The label whose units and number of classes are taken; a regression has two classes here.
        seed: Seed of classes and folds.
        folds: Number of folds.

    Returns:
        Codes and folds, each (scenes, units). The codes are all ``OUT`` where most groups have a single unit.
    """
    rng = np.random.default_rng(seed)
    classes = max(len(labels.classes), 2)
    names, group = np.unique(features.groups, return_inverse=True)
    dealt = rng.permutation(np.arange(len(names)) % classes)[group]  # as many groups of each class as can be
    codes = np.where(labels.used, dealt[:, None], OUT)
    if labels.codes.shape[1] > 1:
        fold = np.broadcast_to(rng.permutation(np.arange(labels.codes.shape[1]) % folds), codes.shape)
    else:
        turns = np.zeros(len(group), int)  # index of the scene in its group
        for g in range(len(names)):
            turns[group == g] = np.arange((group == g).sum())
        fold = np.broadcast_to((turns % folds)[:, None], codes.shape)
        again = np.bincount(group)[group] > 1  # scenes whose group has another one
        if again.mean() < 0.5:
            codes = np.full_like(codes, OUT)
        codes[~again] = OUT
    return codes, np.array(fold)


def baselines(features: Features, width: int, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Features that hold no activation.

    Args:
        features: Those whose scenes and units they have.
        width: Channels of ``random``.
        seed: Of ``random``.

    Returns:
        Name of :data:`BASELINES` -> (scenes, units, k).
    """
    n, u = len(features.scenes), len(features.units)
    return {
        "majority": np.zeros((n, u, 1)),
        "sigma": np.full((n, u, 1), 0.5),
        "random": np.random.default_rng(seed).standard_normal((n, u, width)),
        "position": np.broadcast_to(np.eye(u), (n, u, u)),
    }


def _strata(features: Features, labels: Labels) -> list[list[int]]:
    """Lists of scenes that may exchange labels: of one family, with the same used units."""
    found: dict[tuple[str, bytes], list[int]] = {}
    for i, (scene, used) in enumerate(zip(features.scenes, labels.used, strict=True)):
        if used.any():
            found.setdefault((str(getattr(scene.task, "name", "")), used.tobytes()), []).append(i)
    return list(found.values())
