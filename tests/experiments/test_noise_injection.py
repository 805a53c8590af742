"""Noise experiments: identities that must hold exactly, planted scorers and curves, nulls, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from planted_results import noise_map

import dit_lens as dl
from dit_lens.errors import AddressError, MeasureError
from dit_lens.experiments import noise_injection
from dit_lens.experiments.noise_kinds import KINDS, injection, latent_frames, pixel_frames
from dit_lens.interventions.noise import draw
from dit_lens.measures.cka import linear_cka
from dit_lens.wan.call_plan import ExplicitGridEuler
from dit_lens.wan.token_grid import Grid

STEPS = 3
EULER = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "scheduler": ExplicitGridEuler(shift=5.0)}
UNIPC = {"num_inference_steps": STEPS, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def tasks() -> list[Any]:
    return dl.tasks.batch(["maze", "choose"], 2)


@pytest.fixture(scope="module")
def euler(lens: Any, tasks: Any) -> xr.Dataset:
    return noise_injection.noise_at_step(lens, tasks, hook="resid_post", tokens=40, sampling=EULER)


# -- at a step


def test_shape_and_labels(euler: xr.Dataset, lens: Any) -> None:
    assert dict(euler.sizes) == {"task": 2, "kind": 5, "step": 3, "other_step": 4, "hook": 3, "metric": 2}
    assert list(euler["kind"].values) == list(KINDS) and list(euler["task"].values) == ["maze 0", "choose 0"]
    assert list(euler["expert"].values) == [lens.plan(**EULER).at(s).expert for s in range(3)]
    assert np.isnan(euler["dissimilarity"].sel(hook="resid_post", other_step=3)).all()
    assert np.isfinite(euler["dissimilarity"].sel(other_step=[0, 1, 2])).all()
    assert np.isfinite(euler["dissimilarity"].sel(hook=["latents", "x0_hat"])).all()


def test_before_the_injection_nothing_differs(euler: xr.Dataset) -> None:
    before = euler["dissimilarity"].where(euler["other_step"] < euler["step"])
    assert float(before.max()) == float(before.min()) == 0


def test_restart_is_an_exact_placebo_without_memory(euler: xr.Dataset) -> None:
    placebo = euler.sel(kind="restart")
    assert float(abs(placebo["dissimilarity"]).max()) == 0
    for name in ("score", "solved"):
        assert (placebo[name] == placebo[f"clean_{name}"]).all()
        assert (noise_injection.score_lost(euler, name).sel(kind="restart") == 0).all()
    assert (noise_injection.sensitivity(euler).sel(kind="restart", hook="latents") == 0).all()


def test_at_sigma_1_all_noise_is_another_seed(euler: xr.Dataset) -> None:
    assert float(euler["sigma"][0]) == 1
    first = euler.isel(step=0)
    for name in ("score", "solved", "dissimilarity"):
        one = first[name].sel(kind="unit").values
        for kind in ("foreign", "renewed"):
            assert np.array_equal(first[name].sel(kind=kind).values, one, equal_nan=True)


def test_the_map_is_the_cka_of_the_states(euler: xr.Dataset, lens: Any, tasks: Any) -> None:
    """Against states made by hand: a whole run under the intervention, not a fork."""
    base = lens.generate(tasks[0], seed=0, **EULER)
    run = lens.generate(tasks[0], seed=0, interventions=dl.noise(1, seed=1), **EULER)
    assert torch.equal(run.latents[1], draw(run.latents.shape[1:], 1, 0, 1))
    for later in (1, 2, 3):
        x, y = (r.latents[later].flatten(1).T.numpy() for r in (base, run))
        found = euler["dissimilarity"].sel(kind="unit", step=1, other_step=later, hook="latents", metric="biased")[0]
        assert float(found) == pytest.approx(1 - linear_cka(x, y), abs=1e-12)
    assert float(euler["score"].sel(kind="unit", step=1)[0]) == run.score.value
    other = lens.generate(tasks[1], seed=1, **EULER)
    x, y = (r.final.flatten(1).T.numpy() for r in (base, other))
    found = euler["unrelated"].sel(other_step=3, hook="latents", metric="biased")[0]
    assert float(found) == pytest.approx(1 - linear_cka(x, y), abs=1e-12)


def test_a_fork_is_the_whole_run_with_memory_too(lens: Any, tasks: Any) -> None:
    """UniPC: for every kind, the forked run equals the one made in full under the same intervention."""
    base, foreign = (lens.generate(t, seed=i, **UNIPC) for i, t in enumerate(tasks))
    for kind in KINDS:
        edit = injection(kind, 2, base, foreign, frames=[1, 2])
        fork = lens.generate(resume=base.until(2), interventions=edit)
        assert torch.equal(fork.latents, lens.generate(tasks[0], seed=0, interventions=edit, **UNIPC).latents)


def test_one_frame_of_one_step(lens: Any, tasks: Any) -> None:
    """At the injection itself only that frame differs: CKA of latents where one of four frames is noise."""
    planted = {
        "own": lambda run: float(run.latents[2, :, 1].std()),
        "else": lambda run: float(run.latents[2, :, 2].std()),
    }
    found = noise_injection.noise_at_step(lens, tasks, [2], ["unit"], frames=[1], scores=planted, sampling=EULER)
    assert (noise_injection.score_lost(found, "else") == 0).all()
    assert (noise_injection.score_lost(found, "own") != 0).all()
    assert set(found.data_vars) == {"own", "else", "clean_own", "clean_else", "dissimilarity", "unrelated"}


# -- at a frame


def test_noise_at_a_frame_noise_map(lens: Any, tasks: Any) -> None:
    """A scorer of one frame only: lost where that frame is noised, untouched in ``elsewhere``."""
    assert 6 in range(13)[pixel_frames(Grid(4, 6, 6), 2)]
    found = noise_injection.noise_at_frame(
        lens, tasks, kinds=("unit", "restart"), sampling=EULER, scorer=lambda task, video: float(video[6, 40, 40, 0])
    )
    assert dict(found.sizes) == {"task": 2, "kind": 2, "frame": 4, "pixel_frame": 13}
    assert (found["elsewhere"].sel(kind="unit", frame=2) == found["clean_score"]).all()
    assert (found["score"].sel(kind="unit", frame=2) != found["clean_score"]).all()
    for frame in (0, 1, 3):  # repairing another frame does not touch the scored one
        here = found.sel(kind="unit", frame=frame)
        assert np.array_equal(here["score"], here["elsewhere"])
    placebo = found.sel(kind="restart")
    assert float(placebo["damage"].max()) == 0 and (placebo["score"] == placebo["clean_score"]).all()
    damage = found["damage"].sel(kind="unit").mean("task")
    for frame in range(4):
        own = pixel_frames(Grid(4, 6, 6), frame)
        row = damage.sel(frame=frame).values
        assert row[own].mean() > 1.5 * np.delete(row, np.r_[own]).mean()
    assert list(found["first_pixel"].values) == [0, 1, 5, 9] and list(found["last_pixel"].values) == [0, 4, 8, 12]


def test_noise_held_for_a_while(lens: Any, tasks: Any) -> None:
    """Held up to a step, and given steps to repair, a frame is less damaged than when held to the end."""
    to_the_end = noise_injection.noise_at_frame(lens, tasks, [1], ["unit"], sampling=EULER)
    a_while = noise_injection.noise_at_frame(lens, tasks, [3], ["unit"], unit="pixel", steps=range(2), sampling=EULER)
    assert list(a_while["frame"].values) == [1]
    own = pixel_frames(Grid(4, 6, 6), 1)
    short, long = (found["damage"][..., own].mean("pixel_frame") for found in (a_while, to_the_end))
    assert (short < 0.7 * long).all()


@given(st.integers(1, 8), st.integers(1, 5))
def test_frames_in_pixels(frames: int, stride: int) -> None:
    """Every pixel frame lies in the latent frame that it names, and together they are all, once."""
    grid = Grid(frames, 2, 2, stride=stride)
    listed = [p for f in range(frames) for p in range(grid.n_pixel_frames)[pixel_frames(grid, f)]]
    assert listed == list(range(grid.n_pixel_frames))
    for p in listed:
        (f,) = latent_frames(grid, p, "pixel")
        assert p in range(grid.n_pixel_frames)[pixel_frames(grid, f)]
    assert latent_frames(grid, "all", "pixel") == latent_frames(grid) == tuple(range(frames))


# -- reading the data


def test_sensitivity_is_read_at_one_lag_after_every_injection() -> None:
    found = noise_map(0.5, noise_level=0)
    curve = noise_injection.sensitivity(found)
    assert curve.attrs["lag"] == 2 and curve.dims == ("task", "kind", "step", "hook", "metric")  # a tenth of 20 steps
    one = curve.sel(kind="unit", hook="latents", metric="biased")[0]
    assert np.allclose(one[:3], 0.8) and np.allclose(one[3:], np.exp(-(((found["step"][3:] / 20 - 0.5) / 0.15) ** 2)))
    # Numbers that name their place: injection and state.
    named = found["step"] + 100 * found["other_step"]
    found["dissimilarity"][:] = named.broadcast_like(found["dissimilarity"])
    for lag in (1, 2, 5):
        curve = noise_injection.sensitivity(found, lag).isel(task=0, kind=0, hook=0, metric=0)
        there = curve["step"] + lag <= 20
        assert (curve.where(there, drop=True) == (101 * curve["step"] + 100 * lag).where(there, drop=True)).all()
        assert curve.where(~there).isnull().all() and int(curve.isnull().sum()) == int((~there).sum())
    for lag in (0, -1, 21):
        with pytest.raises(MeasureError, match="give a lag from 1 to 20"):
            noise_injection.sensitivity(found, lag)


def test_injections_that_recover_alike_have_a_flat_curve_and_a_peak_anywhere() -> None:
    """Recovery depends on the time since the injection alone: no step is more sensitive than another.

    The mean over all later states rises with the step all the same, and is highest at the last injection.
    """
    found = noise_map(0.5, n=30, noise_level=0.05)
    gone = np.exp(-(found["other_step"] - found["step"]).clip(0) / 5)
    found["dissimilarity"] = found["dissimilarity"].sel(kind="renewed") + gone  # what is left is noise
    curve = noise_injection.sensitivity(found.assign_attrs(n_steps=20)).sel(hook="latents", metric="biased")
    assert np.allclose(curve.mean("task"), np.exp(-2 / 5), atol=0.03)
    _, low, high = noise_injection.peak(curve, 20)
    assert high - low > 0.4
    mean = found["dissimilarity"].where(found["other_step"] > found["step"]).mean("other_step")
    assert noise_injection.peak(mean.sel(hook="latents", metric="biased"), 20) == (0.9, 0.9, 0.9)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_peak_is_found_where_it_was_noise_map(where: float) -> None:
    value, low, high = noise_injection.peak(noise_injection.score_lost(noise_map(where)).sel(kind="unit"), 20)
    assert (value, low, high) == (where, where, where)


def test_peak_of_nothing_is_anywhere() -> None:
    flat = noise_injection.score_lost(noise_map(0.5)).sel(kind="renewed")
    _, low, high = noise_injection.peak(flat, 20)
    assert high - low > 0.5


def test_peak_refusals() -> None:
    curve = noise_injection.score_lost(noise_map(0.5)).sel(kind="unit")
    with pytest.raises(MeasureError, match="at least two tasks"):
        noise_injection.peak(curve.isel(task=[0]), 20)
    with pytest.raises(MeasureError, match="finite"):
        noise_injection.peak(curve.where(curve.step > 3), 20)


# -- refusals


def test_refusals(lens: Any, tasks: Any) -> None:
    for experiment in (noise_injection.noise_at_step, noise_injection.noise_at_frame):
        with pytest.raises(MeasureError, match="at least two"):
            experiment(lens, tasks[:1])
        with pytest.raises(MeasureError, match="choose from unit"):
            experiment(lens, tasks, kinds=["pink"])
    with pytest.raises(AddressError, match="0 to 2"):
        noise_injection.noise_at_step(lens, tasks, [3], sampling=EULER)
    with pytest.raises(AddressError, match="0 to 3"):
        noise_injection.noise_at_frame(lens, tasks, [4], sampling=EULER)
    with pytest.raises(MeasureError, match="give 'latent' or 'pixel'"):
        noise_injection.noise_at_frame(lens, tasks, unit="second", sampling=EULER)
    with pytest.raises(MeasureError, match="choose from unit"):
        injection("pink", 0, None, None)  # type: ignore[arg-type]
