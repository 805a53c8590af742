"""What cannot be swept is refused before the long work, and the message says what to do instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sweeping import Puzzle, counted, lens_and_puzzle, quiet

import dit_lens as dl
from dit_lens.interventions.base import select
from dit_lens.interventions.ensemble_modes import EnsembleMode
from dit_lens.runner import Sweep


@pytest.fixture(scope="module")
def model() -> Any:
    found = lens_and_puzzle()
    yield found
    found[0].close()


@pytest.fixture(scope="module")
def base(model: Any) -> Any:
    lens, puzzle, sampling = model
    return lens.generate(puzzle, seed=3, **sampling)


def make(model: Any, source: Any = "other_answer", **arguments: Any) -> Sweep:
    lens, puzzle, sampling = model
    given = {} if "base" in arguments or "tasks" in arguments else {"base": puzzle}
    return Sweep(lens, source=source, **{**given, "sampling": sampling, **arguments})


def fixed_step(**_: Any) -> Any:
    return dl.noise(step=1)


#: Arguments, the error, and what its message says.
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "steps outside the plan": ({"steps": [0, 3]}, dl.AddressError, "outside a model or plan of 3 steps: use 0 to 2"),
    "layers outside the model": ({"layers": [7]}, dl.AddressError, "of 3 layers: use 0 to 2"),
    "no steps": ({"steps": []}, dl.AddressError, "no steps selected"),
    "a step that is none": ({"steps": 1.5}, dl.AddressError, "give 'all', or a list"),
    "the same twice": ({"steps": [0, 0]}, dl.AddressError, "steps holds an entry twice"),
    "unknown hook": ({"hooks": "attention"}, dl.AddressError, "choose from"),
    "no hook": ({"hooks": []}, dl.AddressError, "at least one hook"),
    "unknown branch": ({"branches": "both"}, dl.AddressError, "choose from"),
    "heads of a hook without heads": ({"heads": [0]}, dl.AddressError, "needs hooks with heads"),
    "heads outside the model": ({"hooks": "z", "heads": [2]}, dl.AddressError, "use 0 to 1"),
    "image hooks of a text model": ({"hooks": "image_embed"}, dl.AddressError, "only in Wan2.1 I2V"),
    "regions of text": ({"hooks": "text_embed", "regions": "left"}, dl.AddressError, "selects video tokens"),
    "unknown region": ({"regions": "walls"}, dl.AddressError, r"has \['left'\]: choose among them"),
    "empty region": ({"regions": "none"}, dl.AddressError, "holds no token"),
    "layers of latents": ({"hooks": None, "layers": [1]}, dl.AddressError, "edits of the latents"),
    "horizon": ({"horizon": "end"}, dl.MeasureError, "'local', 'final', or a number"),
    "negative horizon": ({"horizon": -1}, dl.MeasureError, "number of further steps"),
    "a mask without a name": ({"regions": [np.ones(24, bool)]}, dl.AddressError, "give the mask a name"),
    "metric": ({"metric": "beauty"}, dl.MeasureError, r"choose from \['answer', 'change', 'projection', 'score'\]"),
    "metric that is nothing": ({"metric": 3}, dl.MeasureError, "or a function"),
    "score without a scorer": ({"metric": "score"}, dl.MeasureError, r"has no score\(video\): use dit_lens.tasks.load"),
    "answer without a task": ({"metric": "answer"}, dl.MeasureError, "has no answer"),
    "projection without a source": (
        {"source": None, "edit": dl.ablate, "placebo": "none", "metric": "projection"}, dl.MeasureError, "use 'change'"
    ),
    "no placebo": ({"source": None, "edit": dl.ablate}, dl.MeasureError, "give placebo= an edit .* or placebo='none'"),
    "no source": ({"source": None}, dl.MeasureError, "takes from a source: give source="),
    "placebo": ({"placebo": "noise"}, dl.MeasureError, "'seed' .*, a run, an edit, or 'none'"),
    "no base": ({"base": None}, dl.MeasureError, "give base= .* or tasks="),
    "no tasks": ({"tasks": []}, dl.MeasureError, "tasks= is empty"),
    "seeds": ({"seeds": [1, 1]}, dl.MeasureError, "give different seeds"),
    "sources for other tasks": ({"source": [Puzzle(), Puzzle()]}, dl.MeasureError, "a list of 2 for 1 tasks"),
    "twins of nothing": ({"base": object()}, dl.MeasureError, "needs tasks with twins"),
    "what a sweep sets": ({"sampling": {"stop_after": 1}}, dl.SamplerError, "unknown argument .stop_after."),
    "an edit without places": ({"edit": dl.noise}, dl.InterventionError, "edit=lambda steps, .*hooks=None"),
    "an edit that is none": (
        {"edit": lambda **_: 3}, dl.InterventionError, "returned a int: return an intervention, such as dit_lens.patch"
    ),
    "an edit elsewhere": ({"edit": fixed_step}, dl.InterventionError, "pass the steps that it is called with"),
    "a wrong placebo edit": ({"placebo": fixed_step}, dl.InterventionError, "pass the steps"),
    "an ensemble": ({"edit": dl.ensemble}, dl.InterventionError, r"mixes the members .* lens.generate\(task, seed="),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused_before_anything_runs(what: str, model: Any) -> None:
    arguments, error, said = WRONG[what]
    with counted() as blocks, pytest.raises(error, match=said):
        make(model, **arguments)
    assert blocks[0] == 0


def test_ensemble_modes_are_refused_too(model: Any) -> None:
    def edit(steps: Any, layers: Any, **_: Any) -> Any:
        return EnsembleMode("alpha", select(steps=steps, layers=layers), 0.5)

    with pytest.raises(dl.InterventionError, match="mixes the members"):
        make(model, edit=edit)


def test_runs_that_do_not_fit(model: Any, base: Any) -> None:
    lens, puzzle, sampling = model
    more = {k: sampling[k] for k in ("negative_prompt", "max_sequence_length")}
    fewer = lens.generate(puzzle, seed=3, **{**sampling, "num_inference_steps": 2})
    small = lens.generate(Puzzle(regions={}), seed=3, **{**sampling, "num_frames": 5})
    short = lens.generate(puzzle, seed=3, **sampling, stop_after=1)
    edited = lens.generate(puzzle, seed=3, **sampling, interventions=[dl.ablate(step=1, layers=1)])
    free = lens.generate(prompt="a red agent", seed=3, **sampling)
    with counted() as blocks:
        for source in (fewer, small):
            with pytest.raises(dl.MeasureError, match=r"same (size|sampling)"):
                Sweep(lens, base, source, sampling=more)
            with pytest.raises(dl.MeasureError, match=r"same (size|sampling)"):
                make(model, source)  # the base is not there yet
        sizes = ("height", "width", "num_frames")
        with pytest.raises(dl.MeasureError, match="same size and frame count"):
            make(model, tasks=[Sized(), Longer()], sampling={k: v for k, v in sampling.items() if k not in sizes})
        with pytest.raises(dl.MeasureError, match="finish it first"):
            Sweep(lens, base, short, sampling=more)
        with pytest.raises(
            dl.MeasureError, match="stopped after 2 steps, and this sweep reads step 2: finish it first"
        ):
            Sweep(lens, short, base, sampling=more)
        Sweep(lens, short, short, sampling=more, steps=[1], placebo="none")
        with pytest.raises(dl.MeasureError, match="or horizon='local'"):
            Sweep(lens, short, short, sampling=more, steps=[1], horizon=1)
        with pytest.raises(dl.MeasureError, match="generated with interventions"):
            Sweep(lens, edited, base, sampling=more)
        with pytest.raises(dl.MeasureError, match="goes to base="):
            make(model, tasks=[base])
        with pytest.raises(dl.MeasureError, match="leave seeds= out"):
            Sweep(lens, base, base, seeds=5, sampling=more)
        with pytest.raises(dl.MeasureError, match="give placebo= a run"):
            Sweep(lens, free, base, sampling=more)
        Sweep(lens, free, base, sampling=more, placebo=base)
    assert blocks[0] == 0
    other = lens_and_puzzle()[0]
    with other, torch.no_grad():
        other.pipe.transformer.blocks[0].ffn.net[2].weight.add_(1)
        with pytest.raises(dl.MeasureError, match="other weights"):
            Sweep(other, base, base, sampling=more, placebo="none")


class Sized(Puzzle):
    num_frames, height, width = 5, 32, 64

    def twin(self, kind: str) -> Puzzle:
        return type(self)()


class Longer(Sized):
    num_frames = 9


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "returned nan .*finite on every cell"),
        (np.zeros(3), r"one number, found shape \(3,\)"),
        (torch.zeros(2, 2), r"found shape \(2, 2\)"),
        ("much", "one number"),
        (None, "one number"),
    ],
)
def test_metrics_are_tried_before_the_cells(value: Any, said: str, model: Any) -> None:
    """On base and source, which are there before any cell is."""
    sweep = make(model, metric=lambda run, base, source: value, horizon="final")
    with counted() as blocks, pytest.raises(dl.MeasureError, match=said):
        sweep.run(progress=quiet)
    assert blocks[0] == sweep.generated(0) * len(sweep.model_plan.calls) * sweep.lens.n_layers


def test_a_metric_that_fails_later_names_its_cell(model: Any, base: Any) -> None:
    calls = []

    def metric(run: Any, base: Any, source: Any) -> float:
        calls.append(run)
        return float(len(calls)) if len(calls) < 4 else float("inf")

    with pytest.raises(dl.MeasureError, match=r"item 0 steps=0 layers=1 update branch=all \(effect\): .*inf"):
        make(model, metric=metric, placebo="none", steps=[0]).run(progress=quiet)


def test_a_metric_that_tells_nothing_apart(model: Any) -> None:
    with pytest.raises(dl.MeasureError, match=r"1 for both base and source.*metric='projection'"):
        make(model, metric=lambda run, base, source: 1).run(progress=quiet)


def test_edits_that_do_something_else_than_the_cell(model: Any) -> None:
    class Elsewhere:
        """An intervention of a user's own, with a plan of its own."""

        def __init__(self, steps: Any) -> None:
            self.steps = steps

        def bind(self, context: Any) -> Any:
            return dl.noise(steps=self.steps).bind(context)

    own = {"source": None, "placebo": "none", "horizon": "final"}
    with pytest.raises(dl.InterventionError, match="changed other steps, too"):
        make(model, edit=lambda **_: Elsewhere([0, 2]), steps=[0], layers=[0], **own).run(progress=quiet)
    with pytest.raises(dl.InterventionError, match="never fired"):
        make(model, edit=lambda **_: Elsewhere([0]), steps=[1], layers=[0], **own).run(progress=quiet)
    with pytest.raises(dl.InterventionError, match=r"has no layer.*hooks=None"):
        make(model, edit=lambda steps, **_: dl.noise(steps=steps), layers=[1], **own).run(progress=quiet)


def test_a_budget(model: Any) -> None:
    sweep = make(model, horizon="final")
    with counted() as blocks, pytest.raises(dl.MeasureError) as error:
        sweep.run(progress=quiet, budget=0.0)
    assert blocks[0] <= 4 * 2 * sweep.lens.n_layers  # the calibration
    said = str(error.value)
    assert "more than the budget of 0 s" in said and "Raise budget=, or go coarse to fine" in said
    assert "every second step and layer: 8 cells" in said and "horizon='local' on the whole grid" in said
    assert str(sweep.plan(calibrate=False)).split("\n")[0] in said
    make(model, steps=[0], layers=[0], placebo="none").run(progress=quiet, budget=1e6)
