"""Sets of cells: how much of the answer a circuit of a given size keeps (Mueller et al. 2025, arXiv 2504.13151).

Nodes are components of layers. A ranking orders them; the circuit of size k keeps its first k nodes as they are in the
base, and takes what every other node adds from the source, at all steps. With m the way from base to source that the
finished video goes (0 at the base),

    faithfulness(k) = (m(none kept) - m(k kept)) / (m(none kept) - m(all kept))         1: the whole network's answer

and over the share of nodes kept, from 0 to 1, by the trapezium rule,

    CPR = area under faithfulness, ranked by signed effects (what helps comes first); larger is better
    CMD = area between faithfulness and 1, ranked by absolute effects; smaller is better

Mueller et al. weigh edges and take sizes from .1 % on; here are nodes, and every size.

When not to use: as an exam of a ranking on one plant alone. The best CPR possible depends on the plant, so the ranking
by truth stands beside the others, and a random one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from dit_lens.interventions import patch
from dit_lens.planted.measuring import Tasks, ablate_components, attribute_components, patch_components
from dit_lens.planted.planting import Planted
from dit_lens.runner.metrics import projection
from dit_lens.wan.run import Run

RANKINGS = ("truth", "patch", "ablate", "attribute", "random")


def rankings(made: Planted, tasks: Tasks, seed: int = 0) -> dict[str, xr.DataArray]:
    """Scores of all nodes, (layer, hook), by each way of ranking."""
    measures = {"patch": patch_components, "ablate": ablate_components, "attribute": attribute_components}
    found = {name: measure(made, tasks).effect.mean("task") for name, measure in measures.items()}
    like = found["patch"]
    rng = np.random.default_rng([seed, 3])
    members = made.truth.members().any("step").transpose(*like.dims)
    return {
        "truth": members.astype(float), **{k: v.transpose(*like.dims) for k, v in found.items()},
        "random": like.copy(data=rng.standard_normal(like.shape)),
    }  # fmt: skip


def curves(made: Planted, tasks: Tasks, scores: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Faithfulness of the circuits of every size.

    Args:
        made: The plant.
        tasks: Those that circuits are tried on; better other ones than the scores are from.
        scores: Nodes' scores by the name of the ranking, (layer, hook).

    Returns:
        ``faithfulness`` (ranking, order, size), order "signed" or "absolute", size the share of nodes kept; ``cpr`` and
        ``cmd`` (ranking).
    """
    like = next(iter(scores.values()))
    nodes = [(int(layer), str(hook)) for layer in like["layer"].values for hook in like["hook"].values]
    n = len(nodes)
    orders = {
        (name, how): _order(score.transpose("layer", "hook").values.ravel(), how)
        for name, score in scores.items()
        for how in ("signed", "absolute")
    }
    moved = {key: np.zeros((len(tasks), n + 1)) for key in orders}
    for i, task in enumerate(tasks):
        base, source = (made.lens.generate(t, seed=i) for t in (task, task.twin("other_answer")))
        known: dict[frozenset[int], float] = {}
        for key, order in orders.items():
            for k in range(n + 1):
                kept = frozenset(order[:k].tolist())
                if kept not in known:
                    away = [node for j, node in enumerate(nodes) if j not in kept]
                    known[kept] = _moved(made, task, i, base, source, away)
                moved[key][i, k] = known[kept]
    values = np.zeros((len(scores), 2, n + 1))
    for j, found in enumerate(moved.values()):
        mean = found.mean(0)  # as in the paper, over tasks first
        values[j // 2, j % 2] = (mean[0] - mean) / (mean[0] - mean[-1])
    size = np.arange(n + 1) / n
    coords = {"ranking": list(scores), "order": ["signed", "absolute"], "size": size}
    faithfulness = xr.DataArray(values, coords=coords, dims=tuple(coords))
    cpr = np.trapezoid(faithfulness.sel(order="signed").values, size, axis=-1)
    cmd = np.trapezoid(abs(1 - faithfulness.sel(order="absolute").values), size, axis=-1)
    return xr.Dataset({"faithfulness": faithfulness, "cpr": ("ranking", cpr), "cmd": ("ranking", cmd)})


def _order(score: np.ndarray, how: str) -> np.ndarray:
    """Nodes from the first that is kept to the last; equal ones in the order of the network."""
    return np.argsort(-(score if how == "signed" else np.abs(score)).round(6), kind="stable")


def _moved(
    made: Planted, task: object, seed: int, base: Run, source: Run, away: Sequence[tuple[int, str]]
) -> float:
    """The way from base to source of a run in which these nodes add what they add in the source."""
    if not away:
        return 0.0
    hooks = dict.fromkeys(hook for _, hook in away)
    edits = [
        patch(layers=tuple(layer for layer, other in away if other == hook), hook=hook, source=source)
        for hook in hooks
    ]
    return projection(made.lens.generate(task, seed=seed, interventions=edits), base, source)
