"""NaN, infinity, texts and bools are refused wherever a number is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from families import FAMILIES

import dit_lens as dl
from dit_lens import checks
from dit_lens.errors import DitLensError, SamplerError
from dit_lens.interventions import ensemble_mode
from dit_lens.measures.answers_over_steps import onset
from dit_lens.measures.commitment import commit_step
from dit_lens.measures.layer_lens import settles
from dit_lens.measures.region_attention import watch_attention
from dit_lens.wan.loading import load

FAMILY = FAMILIES["i2v22"]
HOW: dict[str, Any] = {**FAMILY.call, "num_inference_steps": 2, "guidance_scale": 2.0}
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


def curve(dim: str) -> xr.DataArray:
    return xr.DataArray(np.linspace(0, 1, 4), dims=(dim,), coords={dim: range(4)})


ASKED: dict[str, Callable[[Any, Any], Any]] = {
    "guidance_scale": lambda lens, x: lens.generate(**{**HOW, "guidance_scale": x}),
    "guidance_scale_2": lambda lens, x: lens.plan(guidance_scale_2=x),
    "boundary_ratio": lambda lens, x: dl.Sampling(boundary_ratio=x),
    "num_inference_steps": lambda lens, x: lens.plan(num_inference_steps=x),
    "height": lambda lens, x: lens.grid_of(height=x),
    "num_frames": lambda lens, x: lens.grid_of(sampling={"num_frames": x}),
    "max_sequence_length": lambda lens, x: dl.Sampling(max_sequence_length=x),
    "limit": lambda lens, x: lens.generate(**HOW, record=dl.record("z"), limit=x),
    "stop_after": lambda lens, x: lens.generate(**HOW, stop_after=x),
    "scale": lambda lens, x: dl.steer([1.0], x),
    "alpha": lambda lens, x: dl.ensemble(alpha=x),
    "alpha of a mode": lambda lens, x: ensemble_mode("alpha", alpha=x),
    "draws of a path": lambda lens, x: dl.attribute(lens, *[lens.generate(**HOW)] * 2, path_points=x),
    "limit of a watch": lambda lens, x: watch_attention(limit=x),
    "at_least": lambda lens, x: commit_step(curve("step"), x),
    "level": lambda lens, x: onset(curve("step"), x),
    "threshold": lambda lens, x: settles(curve("layer").expand_dims(readout=["raw"]), x),
    "depth": lambda lens, x: dl.Depth(0, x),
    "memory": lambda lens, x: dl.Sweep(lens, tasks=[dl.tasks.load("maze")], source="other_answer", memory=x),
}


@pytest.mark.parametrize("wrong", [NAN, INF, -INF, "2"], ids=repr)
@pytest.mark.parametrize("name", ASKED)
def test_no_number_is_nan(lens: Any, name: str, wrong: Any) -> None:
    with pytest.raises((DitLensError, TypeError)) as raised:
        ASKED[name](lens, wrong)
    if name != "depth":
        assert isinstance(raised.value, DitLensError) and "give" in str(raised.value), raised.value


def test_an_unguided_run_is_not_made_by_nan(lens: Any) -> None:
    with pytest.raises(SamplerError, match="guidance_scale=nan: give a finite number"):
        lens.generate(**{**HOW, "guidance_scale": NAN})
    with pytest.raises(dl.errors.RecordError, match="limit=nan: give a finite number"):
        lens.generate(**HOW, record=dl.record("z"), limit=NAN)


def test_defaults_of_a_lens_are_numbers_too() -> None:
    with (
        load(FAMILY.build(), defaults={"guidance_scale": NAN}) as lens,
        pytest.raises(SamplerError, match="=nan: give"),
    ):
        lens.plan()


@pytest.mark.parametrize("n", [10**6, 1001])
def test_more_steps_than_noise_levels_are_refused_with_the_reason(lens: Any, n: int) -> None:
    with pytest.raises(
        SamplerError, match=rf"num_inference_steps={n}: the sampler knows 1000 noise levels.*1000 or fewer"
    ):
        lens.plan(num_inference_steps=n)


def test_as_many_as_there_are_is_fine(lens: Any) -> None:
    assert lens.plan(num_inference_steps=1000, guidance_scale=1.0).n_steps == 1000


def test_numpy_numbers_are_numbers_and_become_pythons(lens: Any, tmp_path: Any) -> None:
    how = {**HOW, "num_inference_steps": np.int64(2), "guidance_scale": np.float64(2.0), "limit": np.float64(1e9)}
    run, plain = lens.generate(**how, seed=np.int64(1)), lens.generate(**HOW, seed=1)
    assert torch.equal(run.latents, plain.latents)
    assert type(run.sampling.num_inference_steps) is int and type(run.sampling.guidance_scale) is float
    run.save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").sampling.but(scheduler=None) == run.sampling


@pytest.mark.parametrize("value", [1, 1.5, np.float32(1.5), np.int8(1)], ids=repr)
def test_a_number_is_handed_on_as_it_is(value: Any) -> None:
    assert checks.number(value, "x") is value


@pytest.mark.parametrize("value", [True, np.True_, "1", None, [1], 1 + 0j, NAN, np.float32("inf")], ids=repr)
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(SamplerError, match=r"x=.*give a finite number"):
        checks.number(value, "x")


def test_bounds_are_told() -> None:
    with pytest.raises(SamplerError, match="x=3: give a finite number from 0 to 1"):
        checks.number(3, "x", 0, 1)
    with pytest.raises(SamplerError, match="x=-1: give an integer of 0 or more"):
        checks.count(-1, "x")
    with pytest.raises(SamplerError, match="x=9: give a finite number of 5 or less"):
        checks.number(9, "x", most=5)
