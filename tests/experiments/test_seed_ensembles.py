"""The ensemble of latents: what its modes are equal to, that all conditions cost the same, and planted scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dit_lens as dl
from dit_lens.errors import AddressError, InterventionError, MeasureError, SamplerError, TaskError
from dit_lens.experiments import ensembles
from dit_lens.experiments.seed_ensembles import (
    FRESH,
    FRESH_FROM,
    PLACEBO,
    CallMeter,
    _conditions,
    _table,
    check_members,
)
from dit_lens.interventions import ensemble
from dit_lens.interventions.ensemble_modes import _NoiseMeanEdit, different_members, ensemble_mode, noise_mean
from dit_lens.tasks import batch

HOW = {"num_inference_steps": 2, "guidance_scale": 1.0}  # without guidance each step is one call
SEEDS = [50, 51, 52]
CLOSE = {"atol": 2e-4, "rtol": 1e-4}  # a mean of equal rows, and a batch of another size, round differently


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def tasks() -> list[Any]:
    return batch("maze", 2, 50)


@pytest.fixture(scope="module")
def alone(lens: Any, tasks: list[Any]) -> Any:
    return lens.generate(tasks[0], seed=SEEDS, **HOW)


@pytest.fixture(scope="module")
def velocity(lens: Any, tasks: list[Any]) -> Any:
    """Velocities of all members at step 0 under an edit, (K, C, F, h, w)."""

    def first(*edits: Any, seeds: Any = SEEDS, **more: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = lens.generate(tasks[0], seed=seeds, interventions=list(edits), stop_after=0, **{**HOW, **more})
        return torch.stack([run.velocity[0] for run in runs])

    return first


SEED_ITSELF = {"seed": lambda run: float(run.seed)}  # a scorer that knows nothing of videos


# -- what a mode is equal to


def test_lockstep_is_the_mean_at_the_first_layer(velocity: Any) -> None:
    window = velocity(ensemble_mode("lockstep", layers=range(4, 8)))
    assert torch.allclose(window, velocity(ensemble(0, 4, hook="resid_post")), **CLOSE)
    assert torch.allclose(window, window[:1].expand_as(window), **CLOSE)  # the members are one
    assert not torch.allclose(window, velocity(ensemble(0, 7, hook="resid_post")), atol=1e-2)


def test_cached_is_the_mean_at_the_last_layer(lens: Any, tasks: list[Any], alone: Any, velocity: Any) -> None:
    """Against the words themselves: run the seeds alone, keep their streams, overwrite every layer by its mean."""
    streams: dict[int, list[Tensor]] = {layer: [] for layer in range(4, 8)}
    for run in alone:
        keep = [(f"blocks.{i}.hook_resid_post", lambda x, hook, i=i: streams[i].append(x.clone())) for i in streams]
        lens.replay(run, run.plan.at(0), keep)
    means = {layer: torch.cat(found).mean(0, keepdim=True) for layer, found in streams.items()}
    write = [(f"blocks.{i}.hook_resid_post", lambda x, hook, i=i: means[i].expand_as(x)) for i in streams]
    literal = lens.replay(alone[0], alone[0].plan.at(0), write)[0]
    window = velocity(ensemble_mode("cached", layers=range(4, 8)))
    assert torch.allclose(window, literal.expand_as(window), **CLOSE)
    assert not torch.allclose(window, velocity(ensemble_mode("lockstep", layers=range(4, 8))), atol=1e-2)
    # The same from finished runs, into a single run that is none of them.
    one = velocity(ensemble_mode("cached", layers=range(4, 8), sources=alone), seeds=[99])
    assert torch.allclose(one[0], literal, **CLOSE)
    assert torch.equal(one, velocity(ensemble_mode("cached", layers=7, sources=alone), seeds=[99]))


def test_updates_and_alpha_use_their_window(velocity: Any) -> None:
    plain = velocity(seeds=SEEDS)
    for mode in ("updates", "alpha"):
        found = [velocity(ensemble_mode(mode, layers=layers)) for layers in (range(4, 8), 4, 7)]
        assert all(not torch.allclose(a, b, atol=1e-2) for a, b in ((found[0], found[1]), (found[0], found[2])))
        assert not torch.allclose(found[0], plain, atol=1e-2)
        assert not torch.allclose(found[0][0], found[0][1], atol=1e-2)  # the members stay different
    # Sharing the updates of one block is what the plain intervention of that name does.
    assert torch.equal(velocity(ensemble_mode("updates", layers=4)), velocity(ensemble(0, 4, hook="update")))


def test_alpha_goes_from_nothing_to_lockstep(velocity: Any) -> None:
    small, large = (velocity(ensemble_mode("alpha", layers=6, alpha=a)) for a in (1e-6, 1 - 1e-6))
    assert torch.allclose(small, velocity(seeds=SEEDS), **CLOSE)
    assert torch.allclose(large, velocity(ensemble_mode("lockstep", layers=6)), **CLOSE)


def test_velocity_mean_is_the_mean_of_the_velocities(velocity: Any) -> None:
    for guidance in (1.0, 1.5):  # guidance is linear, so the mean of both branches is the mean of the guided ones
        plain = velocity(seeds=SEEDS, guidance_scale=guidance)
        shared = velocity(ensemble_mode("velocity"), guidance_scale=guidance)
        assert torch.allclose(shared, plain.mean(0).expand_as(plain), **CLOSE)


def test_rescaling_keeps_each_members_norms(lens: Any, tasks: list[Any]) -> None:
    norms = dl.record("resid_post", reduce="token_norm", layers=6, steps=0)
    arguments = {"seed": SEEDS[:2], "stop_after": 0, "record": norms, **HOW}

    def seen(*edits: Any) -> Tensor:
        return torch.stack([run["step=0 layer=6 hook=resid_post"] for run in
                            lens.generate(tasks[0], interventions=list(edits), **arguments)])  # fmt: skip

    plain = seen()
    assert torch.allclose(seen(ensemble_mode("lockstep", layers=6, rescale=True)), plain, rtol=1e-4)
    shrunk = seen(ensemble_mode("lockstep", layers=6))
    assert (shrunk < plain.mean(0)).all()  # a mean of unlike vectors is shorter than they are


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**16))
def test_averaged_noise_is_noise(k: int, seed: int) -> None:
    """Row 0 is the mean at unit variance, and mixing is orthogonal: norms and inner products stay."""
    eps = torch.randn(k, 4, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    edit = _NoiseMeanEdit("noise")
    mixed = edit.latents(0, eps)
    assert torch.allclose(mixed[0], eps.sum(0) / k**0.5)
    flat, before = mixed.flatten(1), eps.flatten(1)
    assert torch.allclose(flat.T @ flat, before.T @ before)
    assert edit.latents(1, eps) is eps  # only where the latents are noise


def test_averaged_noise_enters_the_run(lens: Any, tasks: list[Any], alone: Any) -> None:
    runs = lens.generate(tasks[0], seed=SEEDS, interventions=[noise_mean()], stop_after=0, **HOW)
    mean = torch.stack([run.latents[0] for run in alone]).sum(0) / 3**0.5
    assert torch.allclose(runs[0].latents[0], mean, atol=1e-6)
    assert abs(float(runs[0].latents[0].std()) - 1) < 0.05


def test_windows_that_do_less_than_they_say_are_explained(lens: Any, tasks: list[Any]) -> None:
    for mode, layer in (("lockstep", 4), ("cached", 7)):
        with pytest.warns(UserWarning, match=f"is the mean at layer {layer} alone"):
            runs = lens.generate(
                tasks[0], seed=SEEDS[:2], interventions=[ensemble_mode(mode, layers=range(4, 8))], stop_after=0, **HOW
            )
        (fired,) = runs[0].fired
        assert f"mean at layer {layer} alone" in str(fired) and mode in fired.label
    for mode in ("alpha", "updates"):
        assert ensemble_mode(mode, layers=range(4, 8)).remark(12) == ""
    assert ensemble_mode("lockstep", layers=4).remark(12) == ""
    assert ensemble_mode("lockstep").where.layers_of(40) == tuple(range(20, 30))  # the paper's window


# -- the experiment on planted scores


@pytest.fixture(scope="module")
def found(lens: Any, tasks: list[Any]) -> xr.Dataset:
    """Modes and controls, one step, scored by the seed alone: gains are known, whatever the videos are."""
    return ensembles(
        lens, tasks, k=3, modes=("lockstep", "alpha", ensemble_mode("updates", layers=range(3))), layers=range(4, 8),
        other_layers=(), repeats=2, seed=100, num_inference_steps=1,
        scorers={"seed": lambda run: float(run.seed), "minus": lambda run: -float(run.seed)}, guidance_scale=1.0,
    )  # fmt: skip


def test_planted_scores_come_out(found: xr.Dataset) -> None:
    first = np.array([[100, 103], [106, 109]]).T  # (repeat, task): every member of every set has a seed of its own
    score = found["raw"].sel(metric="seed")
    for condition in ("alone", PLACEBO, "velocity mean", "lockstep 4-7", "alpha 4-7", "updates 0-2"):
        assert np.array_equal(score.sel(kind=condition, reading="one"), first)
        assert np.array_equal(score.sel(kind=condition, reading="all"), first + 1)
    for continued in ("one", "all"):
        assert np.array_equal(score.sel(kind="best of 3", reading=continued), first + 2)
        picked = score.sel(kind="random of 3", reading=continued) - first
        assert set(np.unique(picked)) <= {0, 1, 2}
        fresh = score.sel(kind=FRESH, reading=continued)
        assert np.array_equal(fresh, first + 1 + FRESH_FROM), "the mean of three seeds that nothing else has seen"
    # The first scorer picks, the others only look.
    assert np.array_equal(found["raw"].sel(metric="minus", kind="best of 3", reading="one"), -(first + 2))


def test_gains_are_paired_and_controls_stand_beside(found: xr.Dataset) -> None:
    best = found.sel(kind="best of 3", metric="seed")
    assert best["gain"].sel(reading="one") == 2 and best["gain"].sel(reading="all") == 1
    assert best["gain_low"].isnull().all(), "two tasks have no interval"
    assert (found["gain"].sel(kind=[PLACEBO, "updates 0-2"]) == 0).all()
    assert found["null"].sel(metric="seed").values.tolist() == [FRESH_FROM + 1, FRESH_FROM]
    assert (found["null"] == found["gain"].sel(kind=FRESH)).all() and found.attrs["null_name"] == FRESH
    assert found["score"].sel(kind="alone", reading="one", metric="seed") == 104.5
    assert (found["n"] == 2).all() and found.attrs["placebo"] == PLACEBO


def planted(gain: float, fresh: bool, n: int = 30, seed: int = 0) -> xr.Dataset:
    """Scores of seeds around a level of each task; a mode adds ``gain`` to the same seed, or to another (``fresh``)."""
    rng = np.random.default_rng(seed)
    names = ["alone", "random of 3", "best of 3", PLACEBO, "velocity mean", "updates 6-8", "alpha 6-8", FRESH]
    coords = {"kind": names, "reading": ["one", "all"], "metric": ["value"], "draw": [0]}
    level, seeds = rng.uniform(0.3, 0.7, n), rng.normal(0, 0.15, (len(names), n))
    values = np.broadcast_to(level + seeds[0], (len(names), n)).copy() + 0.01 * rng.standard_normal((len(names), n))
    values[[3, 7]] = level + seeds[[3, 7]]
    values[5] = level + seeds[5] if fresh else values[5]
    values[5] += gain
    shape = (len(names), 2, 1, 1, n)
    raw = np.broadcast_to(values[:, None, None, None], shape)
    return _table(xr.DataArray(raw, dims=(*coords, "task"), coords=coords).clip(0, 1), (0, 1))


def test_a_gain_is_seen_and_a_fresh_seed_gains_nothing() -> None:
    found = planted(0.05, fresh=False).sel(reading="one", metric="value")
    one = found.sel(kind="updates 6-8")
    assert float(one["gain"]) == pytest.approx(0.05, abs=0.01) and float(one["gain_p_corrected"]) <= 0.001
    assert float(one["gain_low"]) > 0.03, "paired: the spread of seeds, .15, is not in it"
    assert float(found["gain_p_corrected"].sel(kind="alpha 6-8")) > 0.05
    assert found["gain_p_corrected"].sel(kind=["alone", PLACEBO, FRESH, "best of 3"]).isnull().all()
    nulls = [planted(0.0, fresh=True, seed=seed).sel(reading="one", metric="value") for seed in range(60)]
    assert np.mean([null["null"].item() for null in nulls]) == pytest.approx(0, abs=0.02)
    assert np.mean([(null["null_low"] <= 0 <= null["null_high"]).item() for null in nulls]) >= 0.88
    # A mode that only draws another seed: called in one study of twenty, over all modes.
    called = [bool((null["gain_p_corrected"] <= 0.05).any()) for null in nulls]
    assert np.mean(called) <= 0.1


def test_repeats_have_a_t_interval(found: xr.Dataset) -> None:
    alone = found.sel(kind="alone", reading="one", metric="seed")
    assert alone["repeat_mean"].values.tolist() == [103, 106]
    # Two repeats: standard error 1.5, and t with one degree of freedom is 12.706.
    assert np.allclose([alone["repeat_low"], alone["repeat_high"]], [104.5 - 12.7062 * 1.5, 104.5 + 12.7062 * 1.5])


def test_every_condition_costs_the_same(found: xr.Dataset, lens: Any, tasks: list[Any]) -> None:
    assert set(found["calls"].values.tolist()) == {3}  # three members, one step, one branch
    more = ensembles(lens, tasks, k=2, modes=[], num_inference_steps=2, scorers=SEED_ITSELF)
    assert set(more["calls"].values.tolist()) == {2 * 2 * 2}  # members, steps, branches
    meter = CallMeter()
    run = lens.generate(tasks[0], seed=SEEDS[:2], interventions=[meter], num_inference_steps=2)
    assert meter.rows == 2 * len(run[0].plan) and run[0].fired[0].label == "call_meter()"


def test_the_meter_changes_nothing(lens: Any, tasks: list[Any], alone: Any) -> None:
    runs = lens.generate(tasks[0], seed=SEEDS, interventions=[CallMeter()], **HOW)
    assert all(torch.equal(a.final, b.final) for a, b in zip(runs, alone, strict=True))


def test_equal_means_are_run_once_and_said(found: xr.Dataset, lens: Any) -> None:
    remarks = found.attrs["remarks"]
    assert any("lockstep mean over layers 4-7 is the mean at layer 4 alone" in remark for remark in remarks)
    modes = [ensemble_mode("lockstep", layers=layers) for layers in (range(3), "all", range(3, 5))]
    modes.append(ensemble_mode("cached", layers=range(1, 4)))
    edits, twins, said = _conditions(lens, modes, ensemble_mode("velocity"))
    assert list(edits) == ["alone", PLACEBO, "velocity mean", "lockstep 0-2", "lockstep 3-4"]
    assert twins == {"lockstep 0-11": "lockstep 0-2", "cached 1-3": "lockstep 3-4"}
    assert any("the same mean at layer 3: run once" in remark for remark in said)
    # With rescaling each member keeps its own norms, so the whole window of a lock-step mean counts.
    scaled = [replace(mode, rescale=True) for mode in modes[:2]]
    assert _conditions(lens, scaled, ensemble_mode("velocity"))[1] == {}


def test_scores_of_the_task_by_default(lens: Any, tasks: list[Any]) -> None:
    found = ensembles(
        lens, tasks, k=2, modes=["updates"], other_layers=(), num_inference_steps=2, seed=50, guidance_scale=1.0
    )
    assert found["metric"].values.tolist() == ["value", "solved"]
    runs = lens.generate(tasks[0], seed=[50, 51], num_inference_steps=2, guidance_scale=1.0)
    mine = found["raw"].sel(kind="alone", draw=0).isel(task=0)
    assert mine.sel(metric="value", reading="all") == pytest.approx(np.mean([run.score.value for run in runs]))
    assert mine.sel(metric="solved", reading="one") == runs[0].score.solved
    assert np.isnan(found["repeat_low"]).all()  # one repeat has no spread
    assert (found["raw"].sel(kind="best of 2") >= found["raw"].sel(kind="random of 2")).all()


# -- mistakes


def test_mistakes_name_their_cure(lens: Any, tasks: list[Any], alone: Any) -> None:
    def refused(error: type[Exception], match: str, given: Any = tasks, **more: Any) -> None:
        with pytest.raises(error, match=match):
            ensembles(lens, given, **{"num_inference_steps": 1, "guidance_scale": 1.0, **more})

    refused(MeasureError, "at least two members; the paper takes k=3", k=1)
    refused(MeasureError, "at least two tasks and one repeat", tasks[:1])
    refused(MeasureError, "at least two tasks and one repeat", repeats=0)
    mute = SimpleNamespace(prompt=tasks[0].prompt, image=tasks[0].image)
    refused(TaskError, r"score\(video\), or pass", [mute, tasks[0]])
    refused(TaskError, "pass scorers", scorers={})
    refused(InterventionError, "choose from", modes=["mean"])
    refused(InterventionError, "mode='lockstep'", modes=["alpha"], alpha=1.0)
    refused(AddressError, "use 0 to 11", layers=range(20, 30))
    refused(MeasureError, "without sources", modes=[ensemble_mode("cached", sources=alone)])
    refused(SamplerError, "unknown argument 'batch'", batch=1)  # members are one batch, always


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 1.5])
def test_alpha_lies_between(alpha: float) -> None:
    with pytest.raises(InterventionError, match="give one in between"):
        ensemble_mode("alpha", alpha=alpha)


def test_modes_refuse_what_has_no_meaning_for_them(alone: Any, velocity: Any) -> None:
    with pytest.raises(InterventionError, match="use mode='alpha'"):
        ensemble_mode("lockstep", alpha=0.5)
    with pytest.raises(InterventionError, match="is for mode='cached'"):
        ensemble_mode("updates", sources=alone)
    for edit in (ensemble_mode("updates"), ensemble_mode("cached"), noise_mean()):
        with pytest.raises(InterventionError, match=r"at least two members"):
            velocity(edit, seeds=[1])
        with pytest.raises(InterventionError, match="different seeds"):
            velocity(edit, seeds=[1, 1])


def test_equal_and_broken_members_are_refused(alone: Any, velocity: Any) -> None:
    with pytest.raises(InterventionError, match="give runs of different seeds"):
        velocity(ensemble_mode("cached", sources=[alone[0], replace(alone[0], seed=7)]), seeds=[1])
    with pytest.raises(InterventionError, match="at least two members, found 1"):
        different_members(alone[:1])
    with pytest.raises(MeasureError, match="came out equal"):
        check_members([alone[0], alone[1], replace(alone[0], seed=7)])
    with pytest.raises(MeasureError, match="holds NaN or infinity"):
        check_members([alone[0], replace(alone[1], latents=alone[1].latents * torch.nan)])
    check_members(alone)


def test_a_model_that_breaks_is_refused(lens: Any, tasks: list[Any]) -> None:
    """NaN that arises inside a run stops the experiment; it is not averaged into a score."""
    weight = lens.experts["high"].transformer.proj_out.bias
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        with pytest.raises(SamplerError, match="NaN"):
            ensembles(lens, tasks, k=2, num_inference_steps=1, guidance_scale=1.0)
    finally:
        with torch.no_grad():
            weight.copy_(before)
