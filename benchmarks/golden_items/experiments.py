"""Every experiment at a small number of puzzles."""

from __future__ import annotations

from typing import Any

import xarray as xr

import dit_lens as dl
from dit_lens import experiments as e
from golden_items.claims import of_rows
from golden_items.table import Numbers, flat, item, ordered, puzzles


@item
def swap(lens: Any) -> Numbers:
    """Layer swapping: single layers, groups, windows, heads, the whole stream."""
    layers = [0, range(3, 6)]
    found = {
        "update": e.swap(lens, puzzles(), layers, [0, range(0, 5)], hooks=("update", "cross_attn_out"), seed=1),
        "stream": e.swap(lens, puzzles("maze"), [2, 7], [1], hooks="resid_post", horizons=("local",)),
        "heads": e.swap(
            lens, puzzles(), [4], [0], hooks="z", heads=[1], tokens="goal", branches="cond", placebo_seed=50
        ),
    }
    return flat(found)


@item
def noise_steps(lens: Any) -> Numbers:
    """Every kind of noise at a step, with the map of propagation, its curve and peak."""
    tasks = puzzles(("choose", "maze"), 2)
    found = e.noise_at_step(lens, tasks, [0, 2, 4], hook="resid_post", tokens=64)
    one = e.noise_at_step(lens, tasks, [3], ("unit", "renewed"), frames=[2], noise_seed=5)
    curve = e.sensitivity(found)
    first = curve.isel(kind=0, hook=0, metric=0)
    return flat({
        "found": found, "one_frame": one, "curve": curve, "lost": e.score_lost(found),
        "peak": e.peak(first.fillna(0), 5),
    })  # fmt: skip


@item
def noise_frames(lens: Any) -> Numbers:
    """Every kind of noise at a frame, latent and pixel, all steps and some."""
    tasks = puzzles(("occlude", "maze"), 2)
    return flat({
        "latent": e.noise_at_frame(lens, tasks, [0, 2], seed=3),
        "pixel": e.noise_at_frame(lens, tasks, [6], ("unit", "matched"), unit="pixel", steps=range(3), noise_seed=2),
    })  # fmt: skip


@item
def branching(lens: Any) -> Numbers:
    """Branches at steps, fresh seeds, the placebo; a fork by itself."""
    tasks = e.several("maze", 2)
    run = lens.generate(tasks[0], seed=2)
    forks = [fork.final for fork in e.fork(lens, run, 2, [1, None])]
    return flat({"found": e.branching(lens, tasks, [0, 2, 4], n=2, seed=1), "forks": forks})


@item
def ensembles(lens: Any) -> Numbers:
    """Shared latents in every mode and two windows, and their controls."""
    found = e.ensembles(lens, puzzles("maze"), k=2, other_layers=[range(0, 3)], repeats=2, num_inference_steps=3)
    return flat(found.drop_sel(kind="fresh seeds"))


@item
def schedules(lens: Any) -> Numbers:
    """Few steps under two samplers, and lengths of the video."""
    return flat({
        "steps": e.few_steps(lens, puzzles("maze"), (2, 6), seed=1),
        "frames": e.frames_curve(lens, puzzles("maze", seed=3), (5, 9, 13)),
    })  # fmt: skip


@item
def chain_of_steps(lens: Any) -> Numbers:
    """Commitment and candidates over steps, puzzles and seeds."""
    return flat({
        "maze": e.chain_of_steps(lens, puzzles("maze", seed=2), (0, 1)),
        "pattern": e.chain_of_steps(lens, puzzles("pattern"), (3,), at_least=0.8),
    })  # fmt: skip


@item
def attention_by_depth(lens: Any) -> Numbers:
    """Enrichment of regions as keys, by layer and head."""
    return flat(e.attention_by_depth(lens, puzzles(("choose", "occlude"), 2), steps=[0, 3], draws=2, seed=4))


@item
def knockouts(lens: Any) -> Numbers:
    """Cut attention, beside random cuts; to the text as well."""
    layers = {"all": "all", "middle": range(4, 8)}
    return flat({
        "self": e.knockouts(lens, puzzles(), layers=layers, seed=2),
        "text": e.knockouts(lens, puzzles(), [("all", "text")], kind="cross", steps=[0, 1]),
    })  # fmt: skip


@item
def energy(lens: Any) -> Numbers:
    """Energy and variance of the foreground, over depth and steps."""
    return flat({
        "regions": e.energy(lens, puzzles(("choose", "pattern"), 2), draws=4),
        "own": e.energy(lens, puzzles("maze"), ("walls",), hooks=("update",), steps=[1, 4], draws=2, seed=7),
    })  # fmt: skip


@item
def layer_readout(lens: Any) -> Numbers:
    """Layers read out, raw and translated, in the model and in shuffled weights."""
    fit = dl.tasks.batch(("choose", "maze"), 2, split="train")
    return flat(ordered(e.layer_readout(lens, puzzles(), fit, steps=[0, 4], tokens=64), "kind", "task"))


@item
def behaviours(lens: Any) -> Numbers:
    """Answers on the way, the lag of motion behind perception, planted mistakes."""
    tasks = puzzles(("choose", "maze", "occlude"), 3)
    watched = e.watch_answers(lens, tasks, seed=3)
    plain = e.watch_answers(lens, puzzles("pattern"), curves=None)
    return flat({
        "watched": watched, "lag": e.perception_lag(watched), "pattern": plain,
        "planted": ordered(e.plant_mistakes(lens, puzzles(), [1, 3]), "kind", "task", "step"),
        "corrections": dl.measures.corrections(xr.concat([watched["verdict"], plain["verdict"]], "task")),
    })  # fmt: skip


@item
def memory(lens: Any) -> Numbers:
    """What is hidden: read, and used; the claims on both, whose own call takes many more puzzles."""
    tasks = puzzles("occlude", 4)
    seen = e.decodable_while_hidden(lens, tasks, at=(0, 3), layers=[2, 6, 10], folds=2, num_inference_steps=5)
    used = e.used_while_hidden(lens, tasks[:2], layers=range(2, 9), steps=[0, 1, 2], num_inference_steps=5)
    claims = of_rows("memory", {"read": seen, "use": used})
    seen = seen.sel(kind=["hidden", "elsewhere", "shuffled"])
    return flat({"read": seen, "used": ordered(used, "label", "kind", "task"), "claims": claims})
