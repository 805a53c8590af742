"""Claims about the division of labour over layers (paper, abstract)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import numpy as np
import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.layer_map.centres import centre
from dit_lens.layer_map.evidence import (
    EVIDENCE,
    by_control,
    by_layer,
    control_evidence,
    layer_evidence,
    puzzle_runs,
)
from dit_lens.layer_map.roles import ROLES, Roles, roles
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import SMALLEST, Estimate, Measured, Reading, Row
from dit_lens.wan.lens import Lens

CONTROLS = 2  # models that learned nothing
_PER_PUZZLE = 20  # shuffles of the layers that a single puzzle's null averages over


def measured(lens: Lens, n: int = 16, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks, of all families together.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        The evidence by layer at up to four steps, ``trained`` and in the ``control`` models.
    """
    last = lens.plan().n_steps - 1
    steps = sorted({round(q * last) for q in (0, 0.25, 0.5, 1)})
    tasks, seeds = puzzles.batch(puzzles.names(), n, seed), range(seed, seed + n)
    found = []
    for i, (task, number) in enumerate(zip(tasks, seeds, strict=True)):
        progress(i, len(tasks), f"layers, {task.name} {number}")
        found.append(layer_evidence(lens, *puzzle_runs(lens, task, number, steps), steps, seed=seed, exact=False))
    control = control_evidence(lens, tasks, seeds, steps, progress, seed, CONTROLS, exact=False)
    return {"trained": by_layer(found), "control": by_control(control)}


def _reading(
    m: Measured, number: Callable[[np.ndarray], float], tested: bool, resamples: int = 1000, seed: int = 0
) -> Reading:
    """A number of the mean profile, (L, expert, evidence).

    Its interval resamples tasks; its null shuffles the layers, all evidences together. ``tested``: the verdict is that
    of the comparison of models of depth.
    """
    trained, control = m["trained"], m["control"]
    _, found = roles(trained, control, seed=seed)
    nothing = control.mean("control") if "control" in control.dims else control
    above = (trained - nothing)[list(EVIDENCE)].to_dataarray("evidence")
    data = above.transpose("task", "layer", "expert", "evidence").values
    rng = np.random.default_rng(seed)
    n, n_layers = data.shape[:2]
    draws = [number(data[rng.integers(0, n, n)].mean(0)) for _ in range(resamples)]
    null = [number(data.mean(0)[rng.permutation(n_layers)]) for _ in range(resamples)]
    # The paired values: each puzzle's own profile, and the same with shuffled layers.
    own = [number(profile) for profile in data]
    mixed = [_mean([number(p[rng.permutation(n_layers)]) for _ in range(_PER_PUZZLE)]) for p in data]
    return Reading(
        xr.DataArray(own, dims="task"),
        xr.DataArray(mixed, dims="task"),
        " ".join(found.sentences()),
        {"p": ", ".join(f"{expert} {model.p:.3f}" for expert, model in found.models.items())},
        estimates=(
            Estimate(number(data.mean(0)), *_middle_95(draws), n),
            Estimate(float(np.nanmean(null)), *_middle_95(null), n),
        ),
        tested=_all_found(found) if tested else None,
    )


def _mean(numbers: list[float]) -> float:
    """Mean of those that are numbers; NaN where none is."""
    finite = [number for number in numbers if np.isfinite(number)]
    return float(np.mean(finite)) if finite else np.nan


def _middle_95(draws: list[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of draws, without NaN."""
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return float(low), float(high)


def _all_found(found: Roles) -> bool:
    return all(model.kind in ("two", "three") for model in found.models.values())


def in_order(profile: np.ndarray) -> float:
    """How far apart, in the order of ``ROLES``, the centres of the nearest two roles lie; mean over experts.

    Args:
        profile: (L, expert, evidence).

    Returns:
        In depth; negative where two roles lie in the other order.
    """
    depths = np.stack([centre(profile[:, :, EVIDENCE.index(name)]) for name in ROLES.values()])  # (role, expert)
    return float(np.diff(depths, axis=0).min(0).mean())


def explained(profile: np.ndarray) -> float:
    """What the best cut in three runs explains, mean over experts; layers without all evidence are left out.

    Args:
        profile: (L, expert, evidence).
    """
    return _mean([_explained(profile[:, e]) for e in range(profile.shape[1])])


def _explained(profile: np.ndarray) -> float:
    data = profile[np.isfinite(profile).all(1)]  # (L, E)
    data = data[:, data.std(0) > 0] if len(data) else data
    n = len(data)
    shortest = max(1, n // 10)
    cuts = [(0, a, b, n) for a, b in combinations(range(shortest, n - shortest + 1), 2) if b - a >= shortest]
    if not data.size or not cuts:
        return np.nan
    data = (data - data.mean(0)) / data.std(0)
    sums = np.concatenate([np.zeros_like(data[:1]), data.cumsum(0)])[np.array(cuts)]  # (cuts, 4, E)
    between = np.diff(sums, axis=1) ** 2 / np.diff(cuts, axis=1)[..., None]
    return float(between.sum((1, 2)).max() / (data**2).sum())


ROWS = (
    Row(
        "roles/divided",
        "Layers divide the work: early, middle and late ones differ in kind (abstract).",
        "variance between layers that a cut in three explains, mean over experts (p of a smooth profile: {p}; it has "
        "to be rejected in every expert)",
        "share", "layers shuffled", partial(_reading, number=explained, tested=True),
        smallest=SMALLEST["variance"],
    ),
    Row(
        "roles/order",
        "Early layers perceive, middle layers reason, late layers consolidate (abstract).",
        "depth of the centre of 'decides' (effect) behind 'perceives' (attention), and of 'consolidates' (readout) "
        "behind 'decides': the smaller of the two, mean over experts",
        "layer / layers", "layers shuffled", partial(_reading, number=in_order, tested=False),
        smallest=SMALLEST["depth"], within=(SMALLEST["depth"], np.inf),
    ),
)  # fmt: skip
