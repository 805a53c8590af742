"""Sweeps, and attribution patching with its exact check."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import dit_lens as dl
from dit_lens.progress import silent
from golden_items.table import Numbers, direction, flat, item, puzzle, puzzles, trio


@item
def sweep_local(lens: Any) -> Numbers:
    """Two tasks, steps by themselves and a window, layers by themselves and groups."""
    found = dl.sweep(
        lens, tasks=puzzles(), source="other_answer", steps=[0, 3, range(0, 3)],
        layers=[0, range(2, 5), (1, 8), dl.Depth(0.5, 0.75)], hooks="update",
        branches=["all", "cond"], progress=silent,
    )  # fmt: skip
    return flat(found)


@item
def sweep_final(lens: Any) -> Numbers:
    """The finished video, heads by regions."""
    found = dl.sweep(
        lens, tasks=puzzles(), source="other_answer", steps=[range(0, 5), 1], layers=[3, range(4, 8)], hooks="z",
        heads=[3], regions=["agent", "goal"], horizon="final", progress=silent,
    )  # fmt: skip
    return flat(found)


@item
def sweep_kinds(lens: Any) -> Numbers:
    """Other edits, metrics, horizons, placebos; seeds of one task; a folder in two parts; the runs behind a cell."""
    base, source, placebo = trio(lens)
    two = {"steps": [1, 3], "layers": [2, 9]}
    steer = partial(dl.steer, direction(128), 3.0)
    random = partial(dl.steer, direction(128, 1), 3.0)

    def far(run: Any, base: Any, source: Any) -> float:
        return float((run.latents[-1] - base.latents[run.n_steps]).abs().max())

    ways: dict[str, dict[str, Any]] = {
        "runs": {"base": base, "source": source, "placebo": placebo, **two},
        "seeds": {"base": puzzle(), "source": "other_answer", "seeds": [0, 1], "hooks": ["z", "mlp_gated"], **two},
        "outside": {"base": base, "source": source, "steps": [2], "layers": [1, 5], "hooks": ["final_norm", "update"]},
        "ablate": {"base": base, "edit": dl.ablate, "placebo": "none", **two},
        "steer": {"base": base, "edit": steer, "placebo": random, "hooks": "resid_post", **two},
        "noise": {
            "tasks": puzzles(), "edit": dl.noise, "hooks": None, "placebo": partial(dl.noise, matched=True),
            "horizon": "final", "metric": "score",
        },
        "further": {"base": base, "source": source, "horizon": 1, "metric": "change", **two},
        "answer": {"tasks": puzzles(), "source": "other_answer", "metric": "answer", "horizon": "final",
                   "steps": ["all"], "layers": [range(0, 6)]},
        "own": {"base": base, "source": source, "metric": far, **two},
    }  # fmt: skip
    found: dict[str, Any] = {name: dl.sweep(lens, **how, progress=silent) for name, how in ways.items()}
    with tempfile.TemporaryDirectory() as folder:
        sweep = dl.Sweep(lens, base, source, steps=[0, 4], layers=[1, 6], folder=folder, shard="1/2")
        found["half"] = sweep.run(silent)
        found["whole"] = sweep.but(shard=(0, 1)).run(silent)
        clips = sweep.clips(step=4, layer=6)
    cost = sweep.plan(calibrate=False)
    return flat({**found, "clips": {k: run.latents for k, run in clips.items()}, "cost": [cost.cells, cost.blocks]})


@item
def attribution(lens: Any) -> Numbers:
    """Estimated local effects of updates, components and heads; the best measured exactly."""
    base, source, _ = trio(lens)
    found = dl.attribute(
        lens, base, source, steps=[0, 3], layers=[1, 4, 8], hooks=("update", "z", "mlp_gated"), path_points=3
    )
    kept = dl.attribute(lens, base, source, steps=1, layers=[2, 5], branches="cond", path_points=1, checkpoint=True)
    def energy(x0: Any) -> Any:
        return (x0[:, 1:] ** 2).mean()

    own = dl.attribute(lens, base, source, steps=2, layers=[3], path_points=2, objective=energy)
    check = dl.runner.recheck(lens, base, source, found, top=4, others=4)
    table = check.table[["step", "layer", "head", "estimate", "exact"]]
    return flat({
        "found": found, "checkpoint": kept, "own": own, "agreement": check.agreement,
        "recheck": {name: table[name].to_numpy() for name in table.columns},
    })  # fmt: skip
