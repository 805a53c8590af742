"""Measures on recorded runs, each at its public calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

import dit_lens as dl
from dit_lens import measures as m
from golden_items.table import FAR, Numbers, flat, item, puzzle, trio


@item
def energies(lens: Any) -> Numbers:
    """Token energy by layer, region and mask, masks, channel variance and PCA maps."""
    run = lens.generate(puzzle("maze", 3), seed=0, record=[
        dl.record("resid_post", reduce="token_norm"), dl.record("update", reduce="token_norm"),
        dl.record("resid_post", reduce=m.ChannelMoments(("agent", "goal")), name="moments"),
        dl.record("resid_post", layers=6, branches="cond", name="raw"),
    ])  # fmt: skip
    masks = {
        "region": m.region_mask(run, ["agent", "goal"]), "change": m.change_mask(run),
        "share": m.change_mask(run, share=0.1), "given": m.given_mask(run, np.arange(144) % 5 == 0),
    }  # fmt: skip
    masks["shuffled"] = m.shuffled_mask(masks["region"], run.grid, np.random.default_rng(1))
    fitted = lens.generate(puzzle("maze", 3), seed=0, record=dl.record("resid_post", layers=6, branches="cond"))
    pca = m.fit_components([fitted], layer=6)
    read = lens.generate(puzzle(), seed=1, record=dl.record("resid_post", layers=6, reduce=pca.reducer, name="pca"))
    maps = {"own": m.pca_map(fitted, components=pca), "reduced": m.pca_map(read, "pca")}
    variance = m.channel_variance(run)
    return flat({
        "layer": m.layer_energy(run), "normalised": m.layer_energy(run, "update", normalise=True),
        "map": m.energy_map(run), "map_normalised": m.energy_map(run, normalise=True),
        "ratio": m.energy_ratio(run, masks["region"]), "region": m.region_energy(run, ["agent", "goal", "walls"]),
        "update_ratio": m.energy_ratio(run, masks["change"], "update", draws=5, seed=2), "masks": masks,
        "variance": variance, "variance_ratio": m.variance_ratio(run), "top": m.top_channels(variance, k=5),
        "pca": [pca.basis, pca.mean, pca.explained], "maps": maps, "rgb": {k: m.rgb(v) for k, v in maps.items()},
    })  # fmt: skip


@item
def attention(lens: Any) -> Numbers:
    """Attention by region, live and replayed, to the scene, to frames and to words."""
    task = puzzle()
    live = m.watch_attention(queries=("agent", "all"), keys=("goal", "walls"), steps=[0, 3], contribution=True)
    run = lens.generate(task, seed=0, interventions=[live])
    words = m.prompt_words(lens, task.prompt)
    some = dict(list(words.items())[:2])
    ways: dict[str, dict[str, Any]] = {
        "frames": {"queries": "agent", "keys": "frames", "steps": 2, "layers": [1, 6]},
        "regions": {"steps": 1, "layers": dl.Depth(0.5, 0.75), "branches": "cond", "draws": 2, "seed": 5},
        "text": {"keys": ("text", "pad"), "kind": "cross", "steps": 0, "layers": 3},
        "words": {"keys": some, "kind": "cross", "steps": 4, "branches": "cond", "contribution": True},
    }
    return flat({
        "watched": m.watched_attention(run), "words": {str(i): list(t) for i, t in enumerate(words.values())},
        "replayed": {name: m.region_attention(lens, run, **how) for name, how in ways.items()}, "final": run.final,
    })  # fmt: skip


@item
def layer_lens(lens: Any) -> Numbers:
    """The stream read out at every layer, raw and translated."""
    runs = lens.generate(dl.tasks.batch(("choose", "maze"), 3, split="train"), seed=[FAR, FAR + 1, FAR + 2])
    translators = m.fit_translators(lens, runs, steps=[0, 2, 4], tokens=64)
    run = lens.generate(puzzle(), seed=0)
    raw = m.layer_lens(lens, run, steps=[0, 2], answers=True)
    both = m.layer_lens(lens, run, steps=[0, 4], translators=translators)
    return flat({
        "raw": raw, "both": both, "velocity": m.layer_velocity(lens, run, 2, layers=[3, 11], entry=True),
        "translated": m.layer_velocity(lens, run, 4, layers=[3, 11], translators=translators),
        "film": m.layer_film(lens, run, [0, 4], layers=[2, 8], translators=translators),
        "settles": m.settles(raw["cosine"]),
    })  # fmt: skip


@item
def films(lens: Any) -> Numbers:
    """Commitment, motion, candidates, verdicts and corrections on the way of x0_hat; similarity of runs."""
    task = puzzle("maze", 3)
    record = dl.record("resid_post", layers=6, branches="cond")
    run, other = (lens.generate(task, seed=seed, record=record) for seed in (0, FAR))
    found = m.commitment(run, {"other": other})
    judged = [lens.generate(puzzle("maze", i), seed=i, num_inference_steps=3) for i in range(6)]
    states = xr.concat([m.verdicts(one) for one in judged], "task")
    x, y = (one["step=2 layer=6 hook=resid_post"].numpy() for one in (run, other))
    answers = [dl.tasks.load("pattern", seed=5), dl.experiments.several("maze", 1, 20, answers=4)[0]]
    more = [m.candidates(lens.generate(one, seed=1), decoys=3) for one in answers]
    return flat({
        "commitment": found, "step": {str(k): m.commit_step(v) for k, v in found.items()},
        "motion": m.motion_energy(run.video), "candidates": m.candidates(run), "more": more, "verdicts": states,
        "corrections": m.corrections(states, resamples=50), "dissimilarity": m.dissimilarity(run, other),
        "stream": m.dissimilarity(run, other, "resid_post", steps=[1, 3], layer=6),
        "cka": [m.linear_cka(x, y), m.debiased_cka(x, y)],
    })  # fmt: skip


@item
def statistics(lens: Any) -> Numbers:
    """Summaries, intervals and shares of planted numbers; no model."""
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.standard_normal((7, 3)), dims=("task", "step")).where(lambda v: v < 1.5)
    null = xr.DataArray(rng.standard_normal((7, 3)), dims=("task", "step"))
    curve = xr.DataArray(rng.random((7, 5)), dims=("task", "step"), coords={"step": range(5)})
    seeds = xr.DataArray(rng.standard_normal((4, 2, 3)), dims=("task", "seed", "step"))
    states = xr.DataArray(rng.integers(0, 3, (12, 6)), dims=("task", "step"), coords={"step": range(6)})
    return flat({
        "summary": dl.stats.mean_interval(values), "beside": dl.stats.summarise(values, null),
        "few": dl.stats.mean_interval(values, "step"), "share": dl.stats.share_interval(null > 0),
        "peak": dl.experiments.peak(curve, 5), "over_puzzles": dl.stats.mean_interval(seeds, ("task", "seed")),
        "corrections": m.corrections(states, resamples=50),
    })  # fmt: skip


@item
def local_effects(lens: Any) -> Numbers:
    """What each block's update does to x0_hat of its own step."""
    return flat({"effects": dl.experiments.local_effects(lens, *trio(lens), steps=[0, 1, 4])})
