"""Every public function that returns labelled arrays: its dims are in :data:`dit_lens.address.DIMS`.

Each runs once, at its smallest size: two sampling steps of the lab model, two tasks, or planted numbers.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dit_lens as dl
from dit_lens import experiments as e
from dit_lens import measures as m
from dit_lens import probing as p
from dit_lens import stats
from dit_lens.address import DIMS
from dit_lens.wan.lens import Lens

ROOMS = ("experiments", "interventions", "measures", "probing", "replication", "runner", "stats", "tasks", "figures")
AT = "step=1 layer=7 hook=resid_post"


class World:
    """What the cases share; everything is made when it is first asked for."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        self.tasks = dl.tasks.batch("choose", 2)
        self.draws = np.random.default_rng(0)
        self.dims: dict[str, set[str]] = {}

    def dims_of(self, name: str) -> set[str]:
        """The dims of a case's result; each runs once."""
        if name not in self.dims:
            self.dims[name] = dims((CASES | MORE)[name](self))
        return self.dims[name]

    @cached_property
    def run(self) -> Any:
        return self.lens.generate(
            self.tasks[0], seed=0,
            interventions=[m.watch_attention(queries=("agent",), keys=("goal",), steps=1, layers=3)],
            record=[
                dl.record("resid_post", reduce="token_norm"), dl.record("z", layers=3, steps=1, reduce="frame_mean"),
                dl.record("resid_post", reduce=m.ChannelMoments(("agent", "goal")), name="moments"),
                dl.record("resid_post", layers=6, branches="cond", name="raw"),
                dl.record("resid_post", layers=6, reduce="region_mean", name="regions"),
                dl.record("resid_post", layers=6, reduce="video_mean", name="video"),
            ],
        )  # fmt: skip

    @cached_property
    def raw(self) -> Any:
        return self.lens.generate(self.tasks[0], seed=0, record=dl.record("resid_post", layers=6, branches="cond"))

    @cached_property
    def source(self) -> Any:
        return self.lens.generate(self.tasks[0].twin("other_answer"), seed=0)

    @cached_property
    def placebo(self) -> Any:
        return self.lens.generate(self.tasks[0], seed=1)

    @cached_property
    def states(self) -> xr.DataArray:
        return xr.concat([m.verdicts(run) for run in (self.run, self.source, self.placebo)] * 2, "task")

    @cached_property
    def noised(self) -> xr.Dataset:
        return e.noise_at_step(self.lens, self.tasks, [1], ("unit", "foreign"), hook="resid_post", tokens=16)

    @cached_property
    def steps(self) -> xr.Dataset:
        return e.solved_by_steps(self.lens, self.tasks, (1, 2))

    @cached_property
    def features(self) -> Any:
        return p.collect(self.lens, dl.tasks.batch("choose", 6), "resid_post", steps=[0, 1], layers=[2, 7])

    @cached_property
    def directions(self) -> xr.DataArray:
        return p.directions(self.features, "wall")

    @cached_property
    def causal(self) -> xr.Dataset:
        probe = p.probe(self.features, "wall", AT, permutations=1, folds=2)
        return p.causal(self.lens, probe, self.tasks, draws=1, pattern=np.arange(128.0))

    @cached_property
    def map(self) -> Any:
        return dl.map(self.lens, ["choose"], n=2, steps=[0], scenes=0, controls=1)

    def values(self, *dims: str) -> xr.DataArray:
        return xr.DataArray(self.draws.random((6,) * len(dims)), dims=dims)

    def memory(self) -> xr.Dataset:
        tasks = dl.tasks.batch("occlude", 2)
        return e.decodable_while_hidden(self.lens, tasks, at=(0,), layers=[2], folds=2, num_inference_steps=2)

    def used(self) -> xr.Dataset:
        tasks = dl.tasks.batch("occlude", 2)
        return e.used_while_hidden(self.lens, tasks, layers=[2], steps=[0], num_inference_steps=2)

    def readout(self) -> xr.Dataset:
        fit = dl.tasks.batch("choose", 2, split="train")
        return e.layer_readout(self.lens, self.tasks, fit, steps=[0], layers=[2, 7], tokens=32)

    def ensembles(self) -> xr.Dataset:
        return e.ensembles(self.lens, self.tasks, k=2, modes=["updates"], other_layers=(), repeats=2)

    def sweep(self) -> list[xr.Dataset]:
        how: dict[str, Any] = {"tasks": self.tasks, "source": "other_answer", "steps": [0]}
        many = dl.Sweep(self.lens, **how, layers=[3], hooks="z", heads=[0, 1], regions=["agent", "goal"])
        return [many.run(), many.raw(), dl.sweep(self.lens, **how, layers=[0, range(2, 4)], branches=["all", "cond"])]


#: Room and name -> a small call.
CASES: dict[str, Callable[[World], Any]] = {
    "experiments.attention_by_depth": lambda w: e.attention_by_depth(w.lens, w.tasks, steps=[0], draws=1),
    "experiments.branching": lambda w: e.branching(w.lens, w.tasks, [1], n=2),
    "experiments.by_depth": lambda w: e.by_depth(e.swap(w.lens, w.tasks, [3, 4], hooks=("update", "z"))),
    "experiments.chain_of_steps": lambda w: e.chain_of_steps(w.lens, dl.tasks.batch("maze", 2), (0, 1)),
    "experiments.decodable_while_hidden": World.memory,
    "experiments.development": lambda w: e.development({"lab": w.lens}, w.tasks, at=[0], num_inference_steps=2),
    "experiments.energy": lambda w: e.energy(w.lens, w.tasks, draws=1),
    "experiments.ensembles": World.ensembles,
    "experiments.few_steps": lambda w: e.few_steps(w.lens, w.tasks, (2,), ("own",)),
    "experiments.frames_curve": lambda w: e.frames_curve(w.lens, w.tasks, (5,)),
    "experiments.knockouts": lambda w: e.knockouts(w.lens, w.tasks, [("all", "goal")]),
    "experiments.layer_readout": World.readout,
    "experiments.local_effects": lambda w: e.local_effects(w.lens, w.raw, w.source, w.placebo, [0]),
    "experiments.noise_at_frame": lambda w: e.noise_at_frame(w.lens, w.tasks, [1], ("unit",)),
    "experiments.noise_at_step": lambda w: w.noised,
    "experiments.perception_lag": lambda w: e.perception_lag(e.watch_answers(w.lens, w.tasks)),
    "experiments.plant_mistakes": lambda w: e.plant_mistakes(w.lens, w.tasks, [1]),
    "experiments.score_lost": lambda w: e.score_lost(w.noised),
    "experiments.sensitivity": lambda w: e.sensitivity(w.noised),
    "experiments.side_by_side_models": lambda w: e.side_by_side_models({"lab": w.steps}),
    "experiments.solved_by_depth": lambda w: e.solved_by_depth(w.lens, w.tasks, (11,), (1,), draws=1),
    "experiments.solved_by_steps": lambda w: w.steps,
    "experiments.strongest": lambda w: e.strongest(e.swap(w.lens, w.tasks, [3, 4])),
    "experiments.support_by_step": lambda w: e.support_by_step(w.lens, w.tasks, steps=[0]),
    "experiments.swap": lambda w: e.swap(w.lens, w.tasks, [range(3, 6)], hooks=("update", "resid_post")),
    "experiments.hidden_colour": lambda w: e.hidden_colour(
        w.lens, dl.tasks.batch("emerge-hard", 2), num_inference_steps=2
    ),
    "experiments.hidden_colour_used": lambda w: e.hidden_colour_used(
        w.lens, dl.tasks.batch("emerge-hard", 1), num_inference_steps=2
    ),
    "experiments.used_while_hidden": World.used,
    "experiments.where_decided": lambda w: e.where_decided(
        w.lens, w.tasks, dl.tasks.batch("choose", 4, split="train"), steps=[0], held_layers=[3], num_inference_steps=6
    ),
    "experiments.watch_answers": lambda w: e.watch_answers(w.lens, w.tasks),
    "measures.after_errors": lambda w: m.after_errors(w.states),
    "measures.by_length": lambda w: m.by_length(w.steps["right"], [(1, 20)]),
    "measures.candidates": lambda w: m.candidates(w.run),
    "measures.channel_variance": lambda w: m.channel_variance(w.run),
    "measures.commit_step": lambda w: m.commit_step(m.commitment(w.run)["motion"]),
    "measures.commitment": lambda w: m.commitment(w.run, {"other": w.source}),
    "measures.corrections": lambda w: m.corrections(w.states, resamples=5),
    "measures.dissimilarity": lambda w: m.dissimilarity(w.run, w.source),
    "measures.energy_map": lambda w: m.energy_map(w.run),
    "measures.energy_ratio": lambda w: m.energy_ratio(w.run, m.region_mask(w.run, ["agent"]), draws=2),
    "measures.excess": lambda w: m.excess(w.run, m.ideal_denoiser(w.tasks[0], w.lens)),
    "measures.gain": lambda w: m.gain(w.steps, 1, 2),
    "measures.layer_energy": lambda w: m.layer_energy(w.run),
    "measures.layer_lens": lambda w: m.layer_lens(w.lens, w.run, 0, [2, 7], answers=True),
    "measures.pairs_by_length": lambda w: list(
        m.pairs_by_length(w.steps["right"].assign_coords(length=("task", [3, 8])))
    ),
    "measures.passes": lambda w: m.passes(w.steps),
    "measures.pca_map": lambda w: m.pca_map(w.raw, components=m.fit_components([w.raw], layer=6)),
    "measures.read_answers": lambda w: m.read_answers(w.run),
    "measures.redrawn": lambda w: m.redrawn(w.steps),
    "measures.region_attention": lambda w: m.region_attention(w.lens, w.run, steps=1, layers=3, draws=2),
    "measures.region_energy": lambda w: m.region_energy(w.run, ["agent", "goal"]),
    "measures.right_and_wrong": lambda w: m.right_and_wrong(w.run, m.choices(w.tasks[0], w.lens)),
    "measures.rgb": lambda w: m.rgb(m.pca_map(w.raw, components=m.fit_components([w.raw], layer=6))),
    "measures.settles": lambda w: m.settles(m.layer_lens(w.lens, w.run, 0, [2, 7])["cosine"]),
    "measures.top_channels": lambda w: m.top_channels(m.channel_variance(w.run), k=5),
    "measures.variance_ratio": lambda w: m.variance_ratio(w.run),
    "measures.verdicts": lambda w: m.verdicts(w.run),
    "measures.watched_attention": lambda w: m.watched_attention(w.run),
    "probing.causal": lambda w: w.causal,
    "probing.directions": lambda w: w.directions,
    "probing.grid": lambda w: p.grid(w.features, ["wall"], permutations=2, folds=2),
    "probing.online_code": lambda w: p.online_code(w.values("a", "b").values, [0, 1] * 3, range(6), orders=2),
    "probing.similarity": lambda w: [p.similarity(w.directions, along) for along in ("step", "layer")],
    "probing.summary": lambda w: p.summary(w.causal),
    "runner.attribute": lambda w: dl.attribute(
        w.lens, w.raw, w.source, layers=[3], hooks=("update", "z"), path_points=1
    ),
    "runner.over_tasks": lambda w: dl.runner.over_tasks(w.lens, w.tasks, lambda item: xr.Dataset({"one": 1.0})),
    "runner.sweep": World.sweep,
    "stats.against_controls": lambda w: stats.against_controls(w.values("step"), w.values("control", "step")),
    "stats.max_statistic": lambda w: stats.max_statistic(w.values("task", "step")),
    "stats.mean_interval": lambda w: stats.mean_interval(w.values("task", "step")),
    "stats.paired": lambda w: stats.paired(w.values("task", "step"), 0.0),
    "stats.share_interval": lambda w: stats.share_interval(w.values("task", "step").round()),
    "stats.summarise": lambda w: stats.summarise(w.values("task", "step"), w.values("task", "step")),
}  # fmt: skip
#: Methods and properties that give labelled arrays, too.
MORE: dict[str, Callable[[World], Any]] = {
    "Run.array": lambda w: [w.run.array(name) for name in ("resid_post", "moments", "raw", "regions", "video", "z")],
    "dl.map": lambda w: [one for one in vars(w.map).values() if isinstance(one, (xr.Dataset, xr.DataArray))],
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with dl.load("lab") as usual:
        defaults = replace(usual.defaults, num_inference_steps=2)
    with dl.load("lab", defaults=defaults) as lens:
        yield World(lens)


def dims(found: Any) -> set[str]:
    """The dims of labelled arrays."""
    if isinstance(found, (list, tuple)):
        assert found
        return set().union(*map(dims, found))
    assert isinstance(found, (xr.Dataset, xr.DataArray)), found
    return set(map(str, found.dims))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_dims_are_from_the_list(name: str, world: World) -> None:
    unknown = world.dims_of(name) - DIMS.keys()
    assert unknown == set(), f"{name}: name these as DIMS in dit_lens/address.py does, or add them there"


@pytest.mark.filterwarnings("ignore")
def test_nothing_in_the_list_is_unused(world: World) -> None:
    assert DIMS.keys() - set().union(*map(world.dims_of, CASES | MORE)) == set()


def test_every_public_function_is_among_them() -> None:
    """By what its annotation says it returns."""
    found = {
        f"{room}.{name}": function
        for room in ROOMS
        for name in importlib.import_module(f"dit_lens.{room}").__all__
        if inspect.isfunction(function := getattr(importlib.import_module(f"dit_lens.{room}"), name))
        and re.search(r"\b(xr|xarray)\b", str(inspect.signature(function).return_annotation))
    }  # fmt: skip
    tested = {found[name] for name in CASES if name in found}
    assert {name for name, function in found.items() if function not in tested} == set()
    assert CASES.keys() - found.keys() == set()


def test_the_page_has_the_list() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | {meaning} |" for name, meaning in DIMS.items()]
    part = page.partition("## Dims")[2].partition("\n## ")[0]
    shown = [line for line in part.splitlines() if line.startswith("| `")]
    assert shown == rows, "docs/concepts.md, section Dims: put these rows\n" + "\n".join(rows)
