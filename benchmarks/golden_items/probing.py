"""Features, probes at two places with their controls, saved probes, erasing, and the causal check."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

import dit_lens as dl
from dit_lens import probing as p
from dit_lens.layer_map.decodability import decodability as evidence
from golden_items.table import Numbers, direction, flat, item, puzzle, puzzles

AT = "step=3 layer=7 hook=resid_post"
LATE = "step=4 layer=11 hook=resid_post"


def signs(task: Any, grid: Any) -> np.ndarray:
    """Tokens of the named goal away from, of the other goal towards."""
    return grid.tokens(task.regions["other_goal"]) * 1 - grid.tokens(task.regions["goal"]) * 1


def of_probe(probe: Any) -> dict[str, Any]:
    return {"scores": dict(probe.scores), "normals": probe.normals, "direction": probe.direction,
            "offset": probe.pipeline[-1].intercept_}  # fmt: skip


@item
def features(lens: Any) -> Numbers:
    """Collected features by token, frame, region and video, of several seeds, and from runs."""
    tasks = puzzles(("choose", "maze"), 2)
    ways: dict[str, dict[str, Any]] = {
        "raw": {}, "frame": {"reduce": "frame_mean"}, "region": {"reduce": dl.reduce.RegionMean(("goal", "agent"))},
        "video": {"reduce": "video_mean", "seeds": 2, "branch": "uncond"},
        "some": {"reduce": dl.reduce.Tokens((3, 77))},
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, how in ways.items():
        kept = p.collect(lens, tasks, "resid_post", steps=[1, 4], layers=[2, 9], seed=5, **how)
        found[name] = {"block": kept.block("resid_post", 4), "cell": kept.cell("resid_post", 1, 9)}
    many = p.collect(lens, puzzles(("choose", "maze", "occlude"), 9), steps=[1], layers=[2])
    found["input"], found["pooled"] = many.cell("input", 1), many.per_video().cell("resid_post", 1, 2)
    names = ("wall", "agent", "goal", "path", "route", "named_colour", "first_move", "agent_now", "hidden", "trail")
    labels = {name: p.label(many, name) for name in names}
    found["labels"] = {name: {"codes": label.codes, "used": label.used} for name, label in labels.items()}
    runs = [lens.generate(t, seed=5 + i, record=dl.record("z", steps=2, layers=3)) for i, t in enumerate(tasks)]
    return flat({**found, "from_runs": p.from_runs(runs, "z").cell("z", 2, 3)})


@item
def probe_grid(lens: Any) -> Numbers:
    """A probe at every place, with every control, untrained weights and an estimator; directions and their cosines."""
    tasks, how = puzzles(("choose", "maze"), 10), {"steps": [0, 3], "layers": [1, 7]}
    seen = p.collect(lens, tasks, "resid_post", **how)
    with dl.experiments.shuffled_weights(lens) as nothing:
        blank = p.collect(nothing, tasks, "resid_post", **how)
    number, half = np.arange(10) / 10.0, np.arange(10) % 3 == 0
    found = p.grid(seen, ["wall", "path"], permutations=5, untrained=blank)
    video = p.grid(seen.per_video(), {"half": half}, permutations=5, folds=2)
    own = p.grid(seen.per_video(), {"number": number}, alpha=3.0, folds=3, permutations=5, seed=2)
    fitted = p.grid(seen.only("resid_post", 3, 7), ["goal"], estimator=p.mean_difference(), folds=2, permutations=1)
    ways = p.directions(seen, "path")
    return flat({
        "found": found, "video": video, "own": own, "estimator": fitted, "directions": ways,
        "by_step": p.similarity(ways, "step"), "by_layer": p.similarity(ways, "layer"),
    })  # fmt: skip


@item
def probes(lens: Any) -> Numbers:
    """Probes fitted at two places: scores, controls, code length, normals; saved, read, and used on a run."""
    tasks = puzzles(("choose", "maze"), 10)
    seen = p.collect(lens, tasks, "resid_post", steps=[3, 4], layers=[7, 11])
    runs = [
        lens.generate(task, seed=i, record=dl.record("resid_post", reduce="frame_mean", steps=3, layers=7))
        for i, task in enumerate(tasks[:6])
    ]
    made = {
        "path": p.probe(seen, "path", AT, permutations=9, mdl=True),
        "wall": p.probe(seen, "wall", LATE, estimator=p.mean_difference(), permutations=9, folds=4),
        "scene": p.probe(
            seen.per_video(), np.arange(10) % 3 == 0, AT, estimator=p.logistic(0.1), permutations=4, folds=2
        ),
        "number": p.probe(runs, np.linspace(0, 1, 6)[:, None] + np.zeros((6, 4)), AT, folds=3, permutations=4),
    }
    run = lens.generate(puzzle("maze", 8), seed=9, record=dl.record("resid_post", steps=3, layers=7))
    with tempfile.TemporaryDirectory() as folder:
        made["path"].save(folder + "/probe")
        again = dl.load_probe(folder + "/probe")
    x = run[f"{AT} branch=cond"]
    return flat({
        **{name: of_probe(probe) for name, probe in made.items()}, "read": again.read(run), "loaded": of_probe(again),
        "predict": again.predict(x).astype(int), "decision": made["path"].decision(x),
        "ridge": p.ridge(2.0).fit(x.numpy(), x.numpy()[:, 0]).coef_,
    })  # fmt: skip


@item
def erasing(lens: Any) -> Numbers:
    """LEACE and code length on activations of the two goals."""
    x, named, scene = [], [], []
    for i in range(8):
        record = dl.record("resid_post", steps=3, layers=4)
        task = puzzle("choose", 100 + i)
        run = lens.generate(task, seed=i, record=record, stop_after=3)
        sign = signs(task, run.grid)
        x.append(run["step=3 layer=4 hook=resid_post"].numpy()[sign != 0])
        named.append(sign[sign != 0] < 0)
        scene.append(np.full(len(x[-1]), i))
    rows, label, groups = map(np.concatenate, (x, named, scene))
    eraser = p.leace(rows, label, shrinkage=0.1)
    stream = p.Leace([False, True])
    for part, z in zip(x, named, strict=True):
        stream.update(part, z)
    numbers = p.leace(rows, rows[:, :2].astype(float))
    run = lens.generate(puzzle(), seed=0, interventions=dl.erase(eraser, step=3, layers=4, branches="cond"))
    return flat({
        "pattern": eraser.pattern, "matrix": eraser.matrix, "mean": eraser.mean, "erased": eraser(rows),
        "streamed": stream.eraser(0.5).matrix, "numbers": numbers.matrix, "final": run.final,
        "code": p.online_code(rows, label, groups, orders=2),
    })  # fmt: skip


@item
def causal(lens: Any) -> Numbers:
    """Pushing along a probe and a pattern, erasing its normals, beside random directions; the summary."""
    tasks = puzzles("choose", 8, seed=100)
    seen = p.collect(lens, tasks, "resid_post", steps=[3], layers=[4])
    probe = p.probe(seen, "goal", "step=3 layer=4 hook=resid_post", permutations=1, folds=2)
    found = p.causal(
        lens, probe, puzzles(), signs=signs, pattern=direction(128), target=lambda task: task.twin("other_answer"),
        draws=1, layers=range(3, 6), strengths=(6.0,),
    )  # fmt: skip
    return flat({"found": found, "summary": p.summary(found)})


@item
def decodability(lens: Any) -> Numbers:
    """Evidence for the map from probes, beside shuffled weights."""
    with dl.experiments.shuffled_weights(lens, 1) as nothing:
        found = evidence(lens, nothing, puzzles(("maze", "choose"), 8, seed=50), [0, 4], labels=("goal", "path"))
    return flat(found)
