"""Whole maps: what the map's evidence and its model of depth say of networks whose profiles over depth are known.

The evidence is that of ``dl.map`` (attention, writing, effect, readout), at one step, beside the same from models that
learned nothing. What is asked of it: does each evidence follow the profile that was planted, are stages announced where
there are stages and none where there are none, and where.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from dit_lens.layer_map.controls import control_model
from dit_lens.layer_map.evidence import by_control, by_layer, puzzle_evidence
from dit_lens.layer_map.roles import roles
from dit_lens.planted.planting import plant
from dit_lens.planted.whole_specs import WholeMap

#: Each evidence, and the planted profile that it has to follow.
FOLLOWS = {"attention": "attention", "writing": "effect", "effect": "effect", "readout": "readout"}
CUTS = {"three": (0.225, 0.75), "two": (0.5,)}


def measure(spec: WholeMap, seed: int = 0, tasks: int = 6, controls: int = 2) -> xr.Dataset:
    """Evidence and model of depth of one whole map.

    Args:
        spec: What is planted.
        seed: Of the network, of tasks and of the controls.
        tasks: How many.
        controls: How many models that learned nothing.

    Returns:
        ``correlation`` (evidence) of the mean evidence above the control's with its profile, NaN where that is flat;
        ``evidence_value``, ``control``, ``profile`` (evidence, layer); ``kind``, the model of depth; ``cut``, whether
        stages were announced; ``place``, whether one place was; ``p``; ``off``, how far the nearest announced
        boundaries are from the planted ones, in depth.
    """
    with plant(spec, seed) as made:
        some = made.tasks(tasks, seed)
        seen = by_layer([puzzle_evidence(made.lens, task, i, [0], seed) for i, task in enumerate(some)])
        rows = []
        for c in range(controls):
            with control_model(made.lens, c, seed + 1) as nothing:
                rows.append([puzzle_evidence(nothing, task, i, [0], seed) for i, task in enumerate(some)])
    _, found = roles(seen, by_control(rows), draws=399, seed=seed, heights=())
    cut, blank = found.models["high"], by_control(rows).mean("control")
    planted = {name: spec.profiles()[profile] for name, profile in FOLLOWS.items()}
    values = {name: seen[name].mean(("task", "expert")).values for name in FOLLOWS}
    null = {name: blank[name].mean(("task", "expert")).values for name in FOLLOWS}
    agreement = [_correlation(values[name] - null[name], planted[name], spec) for name in FOLLOWS]
    staged = cut.kind in ("two", "three")
    starts = np.array(cut.starts[1:]) / spec.n_layers
    off = [min(abs(starts - true)) for true in CUTS.get(spec.shape, ())] if staged else []

    def rows_of(found: dict[str, np.ndarray]) -> tuple[tuple[str, str], np.ndarray]:
        return ("evidence", "layer"), np.stack(list(found.values()))

    return xr.Dataset(
        {
            "correlation": ("evidence", agreement), "evidence_value": rows_of(values), "control": rows_of(null),
            "profile": rows_of(planted), "kind": cut.kind, "cut": float(staged), "place": float(cut.kind == "one"),
            "p": float(cut.p),
            "off": float(np.mean(off)) if off else np.nan,
        },
        coords={"evidence": list(FOLLOWS), "layer": range(spec.n_layers)},
    )  # fmt: skip


def _correlation(found: np.ndarray, planted: np.ndarray, spec: WholeMap) -> float:
    """Pearson's r over the layers at which the evidence is finite; NaN for profiles that are flat but for jitter."""
    use = np.isfinite(found)
    if spec.shape == "none" or use.sum() < 3 or found[use].std() == 0:
        return float("nan")
    return float(np.corrcoef(found[use], planted[use])[0, 1])
