"""Mistakes that every experiment can meet, at each call that can meet them: an error of ours that says what to do.

An unknown region, a mask of the wrong grid, zero foreground tokens, an ensemble of one, a task without a scorer, NaN in
the latents. What each call says besides is tested beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens import experiments as ex
from dit_lens import measures as ms
from dit_lens.errors import DitLensError
from dit_lens.experiments.seed_ensembles import check_members
from dit_lens.experiments.self_correction import other_instruction
from dit_lens.interventions import ensemble_mode, knockout, noise_mean, redraw, renoise
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

HOW = {"sampling": {"num_inference_steps": 2}}
EMPTY = np.zeros((13, 96, 96), bool)
SMALL = np.ones(100, bool)  # a mask per token, of a video with 100 tokens; here are 144
TASKS = dl.tasks.batch("choose", 2)
TASK = TASKS[0]


class Mute(SimpleNamespace):
    """A task that can be generated and neither read nor scored, as a prompt with a picture is."""

    height, width, num_frames = 96, 96, 13

    def __repr__(self) -> str:
        return "Mute()"


MUTE = [Mute(prompt=t.prompt, image=t.image, regions=t.regions) for t in TASKS]


class Here:
    """The lab model and some runs of it."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        regions = {**TASK.regions, "none": EMPTY}
        records = dl.record("resid_post", reduce="token_norm")
        self.run: Run = lens.generate(TASK, num_inference_steps=2, regions=regions, record=records)
        self.other: Run = lens.generate(TASKS[1], seed=1, num_inference_steps=2)
        self.small: Run = lens.generate(TASK, num_inference_steps=2, height=64, width=64, regions={})
        self.mute: Run = lens.generate(MUTE[0], num_inference_steps=2)
        self.nan = replace(self.run, latents=torch.full_like(self.run.latents, torch.nan), _cache={})

    def go(self, *edits: Any, **more: Any) -> Any:
        regions = {**TASK.regions, "none": EMPTY}
        return self.lens.generate(TASK, **{"num_inference_steps": 2, "regions": regions, **more}, interventions=edits)


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    with dl.load("lab") as lens:
        yield Here(lens)


Call = Callable[[Here], Any]
UNKNOWN: list[tuple[Call, str]] = [
    (lambda h: ms.region_mask(h.run, ["nose"]), "only .*'agent'.*generate from a task"),
    (lambda h: ms.region_energy(h.run, ["nose"]), r"'nose'.*this run has \['agent'.*regions={"),
    (lambda h: h.go(record=dl.record("z", reduce=dl.reduce.RegionMean(("nose",)))), "'nose'.*regions={"),
    (lambda h: h.go(record=dl.record("z", reduce=ms.ChannelMoments(("nose",)))), "'nose'.*regions={"),
    (lambda h: h.go(ms.watch_attention(keys=("nose",))), "'nose' names no video tokens.*regions={"),
    (lambda h: h.go(ms.watch_attention(queries="nose")), "'nose' names no video tokens.*regions={"),
    (lambda h: ms.region_attention(h.lens, h.run, keys="frame 9"), "use 0 to 3"),
    (lambda h: h.go(knockout("agent", "nose")), "'nose' names no video tokens.*regions={"),
    (lambda h: h.go(dl.patch(source=h.other, tokens="nose")), "'nose' is unknown.*regions={"),
    (lambda h: ex.swap(h.lens, TASKS, 0, 0, tokens="nose", num_inference_steps=2), "'nose' is unknown.*regions={"),
    (lambda h: ex.energy(h.lens, TASKS, ("nose",), num_inference_steps=2), "name its own with foreground="),
    (lambda h: ex.attention_by_depth(h.lens, TASKS, ("nose",), num_inference_steps=2), "name its own with foreground="),
    (
        lambda h: ex.knockouts(h.lens, TASKS, [("all", "nose")], num_inference_steps=2),
        "'nose' is not a region.*cut one of",
    ),
    (lambda h: ex.knockouts(h.lens, TASKS, [("nose", "goal")], num_inference_steps=2), "'nose' names no video tokens"),
]
WRONG_GRID: list[tuple[Call, str]] = [
    (lambda h: h.go(regions={"x": np.ones((5, 5), bool)}), r"give bool \(13, 96, 96\)"),
    (lambda h: h.go(regions={"x": SMALL}), r"give bool \(13, 96, 96\)"),
    (lambda h: ms.given_mask(h.run, SMALL), r"give bool \(13, 96, 96\)"),
    (lambda h: ms.energy_ratio(h.run, SMALL), r"give bool \(144,\), as measures.given_mask"),
    (lambda h: ex.energy(h.lens, TASKS, lambda task: SMALL, num_inference_steps=2), r"give bool \(13, 96, 96\)"),
    (lambda h: ms.change_mask(h.run, h.small.video), r"give float \(13, 96, 96, 3\)"),
    (lambda h: h.go(dl.patch(source=h.other, tokens=SMALL)), "a mask of 100 tokens does not fit a grid of 144"),
    (lambda h: h.go(dl.patch(source=h.other, tokens=[999])), "use 0 to 143"),
    (lambda h: ex.swap(h.lens, TASKS, 0, 0, tokens=SMALL, num_inference_steps=2), "a mask of 100 tokens does not fit"),
    (lambda h: h.go(knockout(SMALL, "goal")), "a mask of 100 tokens does not fit a grid of 144"),
    (lambda h: h.go(knockout("goal", EMPTY)), r"generate\(regions={'name': mask}\) and give its name"),
    (lambda h: ms.region_attention(h.lens, h.run, keys={"x": SMALL}), "a mask of 100 tokens does not fit"),
    (lambda h: ms.region_attention(h.lens, h.run, keys={"x": EMPTY}), "give its name here"),
    (lambda h: ms.watch_attention(queries=SMALL), "{'name': mask or indices}"),
    (lambda h: ms.commitment(h.run, {"small": h.small}), "compare videos of one size"),
    (lambda h: ms.motion_energy(h.run.video, (17, 17)), "do not divide into patches"),
    (lambda h: ms.candidates(h.small), "in the task's own size and length"),
    (lambda h: ms.dissimilarity(h.run, h.small), "runs of the same size"),
    (lambda h: ex.local_effects(h.lens, h.run, h.small, h.other, [0]), "need the same size"),
    (lambda h: h.small.score, "generate with height=96, width=96"),
]
NO_TOKENS: list[tuple[Call, str]] = [
    (lambda h: ms.region_mask(h.run, ["none"]), "no token.*choose other regions"),
    (lambda h: ms.given_mask(h.run, np.zeros(144, bool)), "no token.*choose other regions"),
    (lambda h: ms.change_mask(h.run, np.zeros((13, 96, 96, 3))), "nothing changed.*use region_mask"),
    (lambda h: ms.region_energy(h.run, ["none"]), "no token.*choose other regions"),
    (lambda h: ms.energy_ratio(h.run, np.zeros(144, bool)), "no token.*choose other regions"),
    (lambda h: ex.energy(h.lens, TASKS, lambda task: EMPTY, num_inference_steps=2), "no token.*choose other regions"),
    (lambda h: h.go(record=dl.record("resid_post", reduce=ms.ChannelMoments(("none",)))), "no token.*leave them out"),
    (lambda h: ms.region_attention(h.lens, h.run, keys="none"), "no token.*choose another region"),
    (lambda h: ms.region_attention(h.lens, h.run, queries="none", keys="goal"), "no token.*choose another region"),
    (lambda h: h.go(knockout("none", "goal")), "no token.*choose another region"),
    (lambda h: h.go(knockout("goal", "none")), "no token.*choose another region"),
    (lambda h: h.go(dl.patch(source=h.other, tokens="none")), "no token.*choose another region"),
    (lambda h: h.go(dl.patch(source=h.other, tokens=[])), "at least one of 0 to 143"),
    (
        lambda h: ex.swap(h.lens, TASKS, 0, 0, tokens="none", num_inference_steps=2, regions={"none": EMPTY}),
        "holds no token.*leave the task out",
    ),
    (
        lambda h: ex.attention_by_depth(h.lens, MUTE, ("none",), num_inference_steps=2),
        "or only empty ones: name its own",
    ),
]
TOO_FEW: list[tuple[Call, str]] = [
    (lambda h: ex.ensembles(h.lens, TASKS, k=1, num_inference_steps=2), "k=1.*at least two members.*k=3"),
    (lambda h: h.go(dl.ensemble(step=0), seed=[0]), r"at least two members.*seed=\[0, 1, 2\]"),
    (lambda h: h.go(dl.ensemble(step=0), seed=0), r"at least two members.*seed=\[0, 1, 2\]"),
    (lambda h: h.go(ensemble_mode("lockstep"), seed=[0]), r"at least two members.*seed=\[0, 1, 2\]"),
    (lambda h: h.go(ensemble_mode("cached", sources=[h.run])), "at least two members.*several seeds"),
    (lambda h: h.go(noise_mean(), seed=[0]), r"at least two members.*seed=\[0, 1, 2\]"),
    (lambda h: h.go(dl.ensemble(step=0), seed=[0, 0]), "different seeds"),
    (lambda h: ex.branching(h.lens, TASKS, [1], n=1, **HOW), "at least two of them"),
]
NO_SCORER: list[tuple[Call, str]] = [
    (lambda h: h.mute.score, "generate from dit_lens.tasks.load"),
    (lambda h: ex.noise_at_step(h.lens, MUTE, [1], **HOW), "Mute.. has no score: pass scores={'name'"),
    (lambda h: ex.noise_at_frame(h.lens, MUTE, [1], **HOW), "Mute.. has no score: pass scorer=function"),
    (lambda h: ex.swap(h.lens, MUTE, 0, 0, num_inference_steps=2), r"give it answer\(video\)"),
    (lambda h: ex.ensembles(h.lens, MUTE, num_inference_steps=2), "scorers={'name'"),
    (lambda h: ex.few_steps(h.lens, MUTE, (2,)), "no score and no answer.*pass measures={'name'"),
    (lambda h: ex.solved_by_steps(h.lens, MUTE, (2,)), "no solutions.*pass length= and tasks that have the others"),
    (lambda h: ex.frames_curve(h.lens, MUTE, (5,), **HOW), "no score: pass score=function of a task and"),
    (lambda h: ex.watch_answers(h.lens, MUTE, curves=None, **HOW), r"it needs answer\(frames\) and solutions"),
    (lambda h: ex.plant_mistakes(h.lens, MUTE, [1], **HOW), "no answer and no solutions.*give your tasks both"),
    (lambda h: other_instruction(MUTE[0]), "has no twin: pass twin=function"),
    (lambda h: ex.decodable_while_hidden(h.lens, MUTE * 3, **HOW), "your own hiding="),
    (lambda h: ex.used_while_hidden(h.lens, MUTE, **HOW), "no answer and no solutions.*give your tasks both"),
    (lambda h: ex.knockouts(h.lens, MUTE, num_inference_steps=2), r"tasks with score\(\) and answer\(\)"),
    (lambda h: ex.layer_readout(h.lens, MUTE, TASKS, num_inference_steps=2), "has no answer: pass answers=False"),
    (lambda h: ex.branching(h.lens, MUTE, [1], **HOW), r"needs a task with answer\(video\)"),
    (lambda h: ms.candidates(h.mute), r"a task with solutions, render\(answer\)"),
    (lambda h: ms.verdicts(h.mute), r"it needs answer\(frames\) and solutions"),
    (lambda h: dl.map(h.lens, MUTE, steps=(0,)), "has no twin: a map reads regions, and swaps"),
]
NAN: list[tuple[Call, str]] = [
    (lambda h: ms.commitment(h.nan), "NaN.*generate it again"),
    (lambda h: ms.commitment(h.run, film=np.full((2, 13, 96, 96, 3), np.nan)), "x0_hat of step 0 holds NaN"),
    (lambda h: ms.motion_energy(h.nan.video), "NaN.*generate it again"),
    (lambda h: ms.candidates(h.nan), "x0_hat of step 0 holds NaN.*generate the run again"),
    (lambda h: ms.verdicts(h.nan), "NaN"),
    (lambda h: h.nan.score, "NaN"),
    (lambda h: ms.change_mask(h.nan), "NaN.*generate it again"),
    (lambda h: ms.dissimilarity(h.run, h.nan), "NaN"),
    (lambda h: ms.layer_lens(h.lens, h.nan), "NaN.*generate it again"),
    (lambda h: ms.layer_velocity(h.lens, h.nan, 0), "NaN.*generate it again"),
    (lambda h: ms.fit_translators(h.lens, [h.nan]), "NaN.*generate it again"),
    (lambda h: ms.region_attention(h.lens, h.nan, keys="goal"), "NaN.*generate it again"),
    (lambda h: ex.local_effects(h.lens, h.run, h.nan, h.other, [0]), "NaN.*generate it again"),
    (lambda h: h.lens.generate(resume=h.nan.until(1)), "NaN.*generate it again"),
    (lambda h: h.go(dl.patch(source=h.nan)), "NaN.*generate it again"),
    (lambda h: h.go(redraw(h.nan.final, 1)), "finite clean latents"),
    (lambda h: h.go(renoise(h.nan, 1)), "NaN.*generate it again"),
    (lambda h: h.go(ensemble_mode("cached", sources=[h.run, h.nan])), "NaN.*generate it again"),
    (lambda h: check_members([h.run, h.nan]), "NaN.*check the model's dtype"),
]
ALL = {
    "unknown region": UNKNOWN,
    "wrong grid": WRONG_GRID,
    "no tokens": NO_TOKENS,
    "K=1": TOO_FEW,
    "no scorer": NO_SCORER,
    "NaN": NAN,
}


@pytest.mark.filterwarnings("ignore:(lockstep|cached) mean over", "ignore:(sharing|patching) the whole stream")
@pytest.mark.parametrize(
    ("call", "cure"),
    [pytest.param(*case, id=f"{name}-{i}") for name, rows in ALL.items() for i, case in enumerate(rows)],
)
def test_it_is_refused_with_a_cure(here: Here, call: Call, cure: str) -> None:
    with pytest.raises(DitLensError, match=f"(?s){cure}"):
        call(here)


def test_what_needs_no_scorer_runs_without(here: Here) -> None:
    """The cures work: films, energy, attention and own scorers ask nothing of a task but a prompt and a picture."""
    found = ex.chain_of_steps(here.lens, MUTE, (0,), **HOW)
    assert np.isfinite(found["motion"]).all() and "solved" not in found
    assert np.isfinite(ex.energy(here.lens, MUTE, num_inference_steps=2)["norm"]).all()
    moved = {"moved": lambda run: float((run.final - run.latents[0]).std())}
    assert ex.noise_at_step(here.lens, MUTE, [1], ("unit",), scores=moved, **HOW)["moved"].notnull().all()
    assert ex.few_steps(here.lens, MUTE, (2,), "own", moved)["moved"].notnull().all()
    mean = ex.frames_curve(here.lens, MUTE, (5,), lambda task, video: float(video.mean()), **HOW)
    assert mean["score"].notnull().all()
    shared = ex.ensembles(here.lens, MUTE, 2, ["updates"], other_layers=(), scorers=moved, num_inference_steps=2)
    assert shared["score"].notnull().all()
