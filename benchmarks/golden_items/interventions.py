"""Every intervention at one place: the final latents."""

from __future__ import annotations

from typing import Any

import numpy as np

import dit_lens as dl
from dit_lens.interventions import ensemble_mode, noise_mean, redraw, renoise, restart
from golden_items.table import FAR, Numbers, direction, flat, item, puzzle, trio

AT = {"step": 2, "layers": 4}


@item
def interventions(lens: Any) -> Numbers:
    """Patch, ablate, noise, steer, knockout, erase, redraw, renoise, restart, each in its kinds."""
    base, source, _ = trio(lens)
    u, v = direction(128), direction(128, 1)
    edits = {
        "patch": dl.patch(source=source, **AT),
        "patch_window": dl.patch(steps=range(0, 3), layers=dl.Depth(0.25, 0.5), source=source, hook="attn_gated"),
        "patch_heads": dl.patch(source=source, hook="z", heads=[1, 2], tokens="goal", branches="cond", **AT),
        "patch_stream": dl.patch(source=source, hook="resid_post", **AT),
        "patch_velocity": dl.patch(step=2, source=source, hook="velocity"),
        "ablate_zero": dl.ablate(**AT),
        "ablate_mean": dl.ablate(hook="mlp_out", to="mean", **AT),
        "ablate_tokens": dl.ablate(hook="resid_post", to="mean", tokens="agent", **AT),
        "noise_unit": dl.noise(step=2, seed=1),
        "noise_matched": dl.noise(step=2, matched=True, frames=[1, 3]),
        "noise_frame": dl.noise(frames=2),
        "steer": dl.steer(u, 3.0, **AT),
        "steer_relative": dl.steer(u, 0.2, relative=True, tokens="goal", **AT),
        "steer_remove": dl.steer(u, remove=True, branches="cond", **AT),
        "knockout": dl.knockout("all", "goal", layers=range(2, 6)),
        "knockout_heads": dl.knockout("agent", ("goal", "walls"), heads=[0, 3], renormalise=False, **AT),
        "knockout_text": dl.knockout("all", "text", kind="cross", branches="cond", **AT),
        "erase": dl.erase(np.outer(u, u), v, **AT),
        "redraw": redraw(source.final, 2, frames=[1, 2], seed=4),
        "renoise": renoise(base, 2, seed=5),
        "renoise_own": renoise(base, 3, seed=None),
        "restart": restart(3),
    }
    runs = {name: lens.generate(resume=base.until(0), interventions=edit) for name, edit in edits.items()}
    runs["two"] = lens.generate(
        puzzle(), seed=6, interventions=[edits["knockout"], edits["patch"], edits["noise_unit"]]
    )
    return flat({
        "final": {name: run.final for name, run in runs.items()},
        "fired": {name: [sum(f.touched.values()) for f in run.fired] for name, run in runs.items()},
    })  # fmt: skip


@item
def shared(lens: Any) -> Numbers:
    """Ensembles in all their modes: the final latents of every member."""
    sources = tuple(lens.generate(puzzle(), seed=[FAR, FAR + 1]))
    edits = {
        "ensemble": dl.ensemble(), "alpha": dl.ensemble(step=1, layers=range(3, 6), alpha=0.4, rescale=True),
        "tokens": dl.ensemble(step=0, layers=2, hook="resid_post", tokens="goal"),
        **{mode: ensemble_mode(mode, step=0) for mode in ("lockstep", "cached", "updates", "velocity")},
        "mode_alpha": ensemble_mode("alpha", step=0, alpha=0.5, rescale=True),
        "sources": ensemble_mode("cached", step=0, sources=sources), "noise": noise_mean(),
    }  # fmt: skip
    return flat({
        name: [run.final for run in lens.generate(puzzle(), seed=[0, 1], interventions=edit)]
        for name, edit in edits.items()
    })  # fmt: skip
