"""Sampling arguments: one vocabulary, flat or together, with errors that name the near word."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
import torch
from families import FAMILIES

import dit_lens as dl
from dit_lens.errors import SamplerError
from dit_lens.runner.options import Options
from dit_lens.wan.defaults import Defaults
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.sampling import NAMES, Sampling, SamplingArguments, merged

FAMILY = FAMILIES["i2v22"]
CALL = {k: v for k, v in FAMILY.call.items() if k in ("prompt", "image")}
SIZE = {k: v for k, v in FAMILY.call.items() if k not in CALL}
GIVEN: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0, "guidance_scale_2": 2.0, **SIZE}


@pytest.fixture(scope="module")
def lens() -> Any:
    with load(FAMILY.build()) as lens:
        yield lens


def test_the_typed_dict_has_the_fields_of_the_value() -> None:
    assert tuple(get_type_hints(SamplingArguments)) == NAMES
    assert dl.Sampling is Sampling


def test_defaults_use_the_same_names() -> None:
    assert set(Defaults.__dataclass_fields__) - set(NAMES) == {"fps"}


@pytest.mark.parametrize("form", ["flat", "value", "mapping", "both"])
def test_every_form_generates_the_same(lens: Any, form: str) -> None:
    flat = lens.generate(**CALL, seed=1, **GIVEN)
    asked: dict[str, Any] = {
        "flat": GIVEN,
        "value": {"sampling": Sampling(**GIVEN)},
        "mapping": {"sampling": GIVEN},
        "both": {"sampling": {"num_inference_steps": 3}}
        | {k: v for k, v in GIVEN.items() if k != "num_inference_steps"},
    }[form]
    run = lens.generate(**CALL, seed=1, **asked)
    assert torch.equal(run.latents, flat.latents) and run.plan == lens.plan(**asked) == flat.plan
    assert lens.grid_of(None, **asked) == run.grid and lens.plan_of(seed=1, regions={}, **asked) == run.plan


def test_a_run_keeps_what_it_was_sampled_with_and_gives_it_again(lens: Any) -> None:
    run = lens.generate(**CALL, seed=1, **GIVEN)
    kept = run.sampling
    assert {name: getattr(kept, name) for name in GIVEN} == GIVEN
    assert kept.negative_prompt == GIVEN["negative_prompt"] and kept.max_sequence_length == GIVEN["max_sequence_length"]
    again = lens.generate(**CALL, seed=1, sampling=kept)
    assert torch.equal(again.latents, run.latents) and again.sampling == kept
    assert kept.guidance_scale == run.plan.guidance_scale == 4.0 and run.plan.guidance_scale_2 == 2.0


def test_a_preset_goes_before_the_lens_and_behind_what_is_given(lens: Any) -> None:
    paper = lens.sampling(preset="paper", num_inference_steps=7)
    assert (paper.num_inference_steps, paper.guidance_scale, paper.boundary_ratio) == (7, 5.0, 0.875)
    assert paper.preset == "paper" and lens.plan(paper).n_steps == 7
    run = lens.generate(**CALL, preset="paper", num_inference_steps=2, **SIZE)
    again = lens.generate(**CALL, sampling=run.sampling)
    assert torch.equal(again.latents, run.latents)


def test_none_means_not_given() -> None:
    assert merged(None, {"num_inference_steps": None}) == Sampling()
    assert merged({"guidance_scale": None}, {"guidance_scale": 2.0}) == Sampling(guidance_scale=2.0)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("steps", "num_inference_steps"),
        ("num_steps", "num_inference_steps"),
        ("guidance", "guidance_scale or guidance_scale_2"),
        ("guidance_2", "guidance_scale_2"),
        ("frames", "num_frames"),
        ("hight", "height"),
        ("sheduler", "scheduler"),
    ],
)
def test_an_unknown_name_is_told_the_near_one(lens: Any, name: str, near: str) -> None:
    for call in (lens.generate, lens.plan, lens.grid_of, lens.sampling):
        with pytest.raises(
            SamplerError, match=rf"unknown argument '{name}'.*did you mean .*{near}.*{', '.join(NAMES)}"
        ):
            call(**{name: 1})
        with pytest.raises(SamplerError, match=f"unknown argument '{name}'.*{near}"):
            call(sampling={name: 1})


def test_own_arguments_of_a_function_are_suggested_too(lens: Any) -> None:
    with pytest.raises(SamplerError, match="unknown argument 'sed': did you mean seed"):
        lens.generate(**CALL, sed=1)
    with pytest.raises(SamplerError, match="did you mean branches"):
        dl.experiments.swap(lens, [dl.tasks.load("maze", seed=seed) for seed in (1, 2)], branch="cond")


def test_the_same_name_twice_is_an_error_with_the_cure(lens: Any) -> None:
    with pytest.raises(SamplerError, match=r"num_inference_steps given twice.*sampling.but\(num_inference_steps=2\)"):
        lens.generate(**CALL, num_inference_steps=2, sampling=Sampling(num_inference_steps=2))


@pytest.mark.parametrize("wrong", ["paper", [1, 2]])
def test_another_kind_of_value_is_refused(lens: Any, wrong: Any) -> None:
    with pytest.raises(SamplerError, match=r"give a dit_lens.Sampling, or a mapping"):
        lens.generate(**CALL, sampling=wrong)


def test_a_number_in_its_place_is_told_its_name(lens: Any) -> None:
    with pytest.raises(SamplerError, match="give num_inference_steps=20"):
        lens.plan(20)


def generating() -> list[Callable[..., Any]]:
    from dit_lens.probing.causal_check import causal

    made = [
        "attention_by_depth", "branching", "chain_of_steps", "decodable_while_hidden", "energy", "ensembles",
        "few_steps", "frames_curve", "knockouts", "layer_readout", "noise_at_frame", "noise_at_step", "plant_mistakes",
        "swap", "used_while_hidden", "watch_answers",
    ]  # fmt: skip
    lenses: list[Callable[..., Any]] = [Lens.generate, Lens.plan, Lens.grid_of, Lens.sampling]
    return [
        *lenses, dl.map, dl.sweep, dl.Sweep.__init__, dl.probing.collect, causal,
        *(getattr(dl.experiments, name) for name in made),
    ]  # fmt: skip


@pytest.mark.parametrize("function", generating(), ids=lambda f: f.__qualname__)
def test_what_generates_takes_both_forms_and_no_other_names(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    (rest,) = (p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD)
    if rest.name == "options":  # of all long work
        assert "sampling" not in parameters and {"sampling", *NAMES} <= get_type_hints(Options).keys()
    else:
        assert "sampling" in parameters and "SamplingArguments" in str(rest.annotation)
    assert not {"num_steps", "guidance", "guidance_2", "generate", "preset_name", "arguments"} & set(parameters)
