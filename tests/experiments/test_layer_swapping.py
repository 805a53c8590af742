"""Layer swapping, on swaps whose outcome is known beforehand and on swaps that carry nothing."""

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

import dit_lens as dl
from dit_lens.errors import AddressError, InterventionError, MeasureError, SamplerError, TaskError
from dit_lens.experiments import by_depth, strongest, swap
from dit_lens.experiments.layer_swapping import HORIZONS, METRICS, _judged, _shares_text, _table
from dit_lens.tasks import batch

HOW = {"num_inference_steps": 2, "seed": 40, "guidance_scale": 1.0}  # without guidance each step is one call
LOCAL = {**HOW, "horizons": ("local",)}
SAME = {"atol": 1e-5, "rtol": 0}  # projections of tensors that agree bit for bit, summed in another order


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def choose() -> list[Any]:
    """Same picture, other prompt: base and source do not share text."""
    return batch("choose", 2, 40)


@pytest.fixture(scope="module")
def maze() -> list[Any]:
    """Same prompt, other picture: base and source share text."""
    return batch("maze", 2, 40)


@pytest.fixture(scope="module")
def local(lens: Any, choose: list[Any]) -> Any:
    """The local effect of one swap in one puzzle: ``local(hook, layers, heads=..., tokens=..., branches=...)``."""
    how: dict[str, Any] = {"seed": 40, "num_inference_steps": 2, "stop_after": 0, "guidance_scale": 1.5}
    task = choose[0]
    base, source = lens.generate(task, **how), lens.generate(task.twin("other_answer"), **how)

    def effect(hook: str = "update", layers: Any = range(12), **where: Any) -> float:
        edit = dl.patch(step=0, layers=list(layers), hook=hook, source=source, **where)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="patching the whole stream")
            return _judged(lens.generate(task, **how, interventions=[edit]), base, source, 0)[METRICS.index("effect")]

    return effect


@pytest.fixture
def made(lens: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every generation and every fork, in order."""
    calls: list[str] = []
    for name in ("generate", "fork"):
        real = getattr(lens, name)

        def counted(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(lens, name, counted)
    return calls


def cell(found: xr.Dataset, metric: str, kind: str = "effect", **where: Any) -> np.ndarray:
    return found["raw"].sel(metric=metric, kind=kind, **where).values


# -- swaps of the whole stream


def test_with_shared_text_the_layer_says_nothing(lens: Any, maze: list[Any]) -> None:
    """A whole-stream swap hands over the source's velocity, bit for bit, at any layer and any point of the stream."""
    base, source = (
        lens.generate(task, seed=40, num_inference_steps=2) for task in (maze[0], maze[0].twin("other_answer"))
    )
    assert _shares_text(lens, maze[0], maze[0].twin("other_answer"))
    for layer, hook in ((0, "resid_post"), (5, "resid_mid"), (11, "resid_pre")):
        with pytest.warns(UserWarning, match="whole stream"):
            run = lens.generate(
                maze[0], seed=40, num_inference_steps=2, stop_after=0,
                interventions=[dl.patch(step=0, layers=layer, hook=hook, source=source)],
            )  # fmt: skip
        assert torch.equal(run.velocity[0], source.velocity[0])
        assert not torch.equal(run.velocity[0], base.velocity[0])


def test_the_degenerate_swap_is_run_once_and_explained(lens: Any, maze: list[Any], made: list[str]) -> None:
    layers = [0, range(8, 12)]
    found = swap(lens, maze, layers, [0], hooks="resid_post", **LOCAL)
    # three runs of a task, then one swap and one placebo for all layers
    assert (made.count("generate"), made.count("fork")) == (2 * 3, 2 * 2)
    effect = cell(found, "effect")
    assert np.array_equal(effect, np.broadcast_to(effect[:, :1], effect.shape))
    assert np.allclose(effect, 1, **SAME)  # same noise and the source's velocity: x0_hat is the source's
    remarks = " ".join(found.attrs["remarks"])
    assert "whatever the layer" in remarks and "swap of the whole stream" in remarks
    # The same swap, done at each layer for itself: a list of all tokens is not recognised as the whole stream.
    each = swap(lens, maze, layers, [0], hooks="resid_post", tokens=range(144), **LOCAL)
    assert np.array_equal(each["raw"].values, found["raw"].values, equal_nan=True)
    assert (made.count("generate"), made.count("fork")) == (4 * 3, 2 * 2 + 2 * 2 * 2)
    assert each.attrs["remarks"] == []


def test_with_another_prompt_the_layer_matters(lens: Any, choose: list[Any], local: Any) -> None:
    found = swap(lens, choose, [0, 5, range(0, 6)], [0], hooks="resid_post", **LOCAL)
    effect = found["raw"].sel(metric="effect", kind="effect").squeeze(("hook", "step", "horizon"))
    assert (abs(effect.sel(layer="0")) < 0.5).all()  # eleven blocks still read the base's prompt
    assert not np.isclose(effect.sel(layer="0"), effect.sel(layer="5")).any()
    assert np.array_equal(effect.sel(layer="0-5"), effect.sel(layer="5"))  # only the last of a range counts
    assert any("only the last layer counts" in remark for remark in found.attrs["remarks"])
    assert not any(remark.startswith("swap of") for remark in found.attrs["remarks"])  # the text is not shared
    assert local("resid_post", [11]) == pytest.approx(1, abs=1e-5)  # nothing reads the prompt after the last block


def test_a_swap_of_everything_at_every_step_is_the_source(lens: Any, choose: list[Any]) -> None:
    """Known answer at both horizons: the last stream at all steps, from the same noise, makes the source's video."""
    source = lens.generate(choose[0].twin("other_answer"), seed=40, num_inference_steps=2)
    edit = dl.patch(steps="all", layers=11, hook="resid_post", source=source)
    with pytest.warns(UserWarning, match="whole stream"):
        run = lens.generate(choose[0], seed=40, num_inference_steps=2, interventions=[edit])
    assert torch.equal(run.final, source.final)
    found = swap(lens, choose, [11], [range(2)], hooks="resid_post", **HOW)
    for horizon in HORIZONS:
        where = {"horizon": horizon, "layer": "11", "step": "0-1", "hook": "resid_post"}
        assert np.allclose(cell(found, "effect", **where), 1, **SAME)
        assert (cell(found, "nearer", **where) == 1).all()
        assert not (cell(found, "flipped", **where) == 0).any()
    assert found["flipped_n"].sel(horizon="final").item() == 1  # of the second puzzle, both videos can be read
    assert found["flipped"].sel(horizon="final").item() == 1 and found["flipped_null"].sel(horizon="final").item() < 1


# -- swaps that carry nothing


def test_a_swap_with_itself_changes_nothing(lens: Any, choose: list[Any]) -> None:
    """placebo_seed=0 makes the placebo the base itself."""
    found = swap(lens, choose, [range(3, 8)], [0, range(2)], placebo_seed=0, **HOW)
    assert (cell(found, "changed", "placebo") == 0).all()
    assert (cell(found, "nearer", "placebo") == 0).all()
    assert (cell(found, "effect", "placebo") == 0).all()
    assert np.nansum(cell(found, "flipped", "placebo")) == 0
    assert (cell(found, "effect") != 0).all()  # and the swap beside it did something


# -- what may be swapped


def test_steps_before_the_window_are_the_bases(lens: Any, choose: list[Any]) -> None:
    """Taking them from the base is exact: a swap at step 1 equals one that is generated from the start."""
    found = swap(lens, choose[:2], [range(12)], [1], **HOW)
    task = choose[0]
    how = {"seed": 40, "num_inference_steps": 2, "guidance_scale": 1.0}
    base, source = (lens.generate(t, **how) for t in (task, task.twin("other_answer")))
    run = lens.generate(task, **how, interventions=[dl.patch(step=1, source=source)])
    moved, toward = run.final - base.final, source.final - base.final
    wanted = float((moved * toward).sum()) / float((toward * toward).sum())
    assert cell(found, "effect", horizon="final").ravel()[0] == wanted


def test_a_window_is_read_at_its_last_step(lens: Any, choose: list[Any]) -> None:
    found = swap(lens, choose[:2], [4], [range(2)], **{**HOW, "num_inference_steps": 3})
    task, how = choose[0], {"seed": 40, "num_inference_steps": 3, "guidance_scale": 1.0}
    base, source = (lens.generate(t, **how) for t in (task, task.twin("other_answer")))
    run = lens.generate(task, **how, interventions=[dl.patch(steps=range(2), layers=4, source=source)])
    states = [[r.x0_hat(1) for r in (run, base, source)], [r.final for r in (run, base, source)]]
    for horizon, (x, b, s) in zip(HORIZONS, states, strict=True):
        wanted = float(((x - b) * (s - b)).sum()) / float(((s - b) ** 2).sum())
        assert cell(found, "effect", horizon=horizon).ravel()[0] == pytest.approx(wanted, rel=1e-6)


def test_the_first_horizon_alone_is_the_same_and_cheaper(lens: Any, choose: list[Any], monkeypatch: Any) -> None:
    stops: list[Any] = []
    fork = lens.fork
    monkeypatch.setattr(lens, "fork", lambda *a, **k: stops.append(k["stop_after"]) or fork(*a, **k))
    both = swap(lens, choose, [4], [0], **HOW)
    full = len(stops)
    local = swap(lens, choose, [4], [0], **LOCAL)
    assert np.array_equal(local["raw"].sel(horizon="local"), both["raw"].sel(horizon="local"), equal_nan=True)
    assert set(stops[:full]) == {None} and set(stops[full:]) == {0}


def test_both_branches_or_one(lens: Any, choose: list[Any], local: Any) -> None:
    # The negative prompt and the picture are shared, so the uncond branch of base and source is one and the same.
    assert local(branches="uncond") == 0 != local(branches="cond")
    assert local(branches="all") == local(branches="cond")
    found = swap(lens, choose, [range(12)], [0], branches="cond", **{**LOCAL, "guidance_scale": 1.5})
    assert cell(found, "effect").ravel()[0] == local(branches="cond") and found.attrs["branches"] == "cond"


def test_with_another_picture_each_branch_carries_its_share(lens: Any, maze: list[Any]) -> None:
    """v = v_u + g (v_c - v_u) is linear: at the last layer the two branches' effects add up to that of both."""
    how: dict[str, Any] = {"seed": 40, "num_inference_steps": 2, "stop_after": 0}
    base, source = lens.generate(maze[0], **how), lens.generate(maze[0].twin("other_answer"), **how)
    parts = {}
    for branch in ("cond", "uncond"):
        edit = dl.patch(step=0, layers=11, hook="resid_post", source=source, branches=branch)
        with pytest.warns(UserWarning, match="whole stream"):
            run = lens.generate(maze[0], **how, interventions=[edit])
        parts[branch] = _judged(run, base, source, 0)[-1]
    assert sum(parts.values()) == pytest.approx(1, abs=1e-4)
    assert parts["cond"] == pytest.approx(1.5, abs=0.2)  # the guidance scale, were both branches to see the same


def test_components_heads_and_regions(lens: Any, choose: list[Any], local: Any) -> None:
    parts = ["attn_gated", "cross_attn_out"]
    found = swap(lens, choose, [range(12)], [0], hooks=parts, **{**LOCAL, "guidance_scale": 1.5})
    assert found["hook"].values.tolist() == parts and (cell(found, "effect") != 0).all()
    # Of all components only cross-attention reads the other prompt: with all of it from the source, x0_hat is its own.
    assert local("cross_attn_out") == cell(found, "effect", hook="cross_attn_out").ravel()[0]
    assert local("cross_attn_out") == pytest.approx(1, abs=1e-5)
    assert local("cross_z") == local("cross_z", heads=range(4)) == pytest.approx(1, abs=1e-5)
    assert 0 != local("cross_z", heads=[1]) < 1
    assert local(tokens="goal") < local() and local(tokens=range(144)) == local()


def test_twins_of_both_kinds_and_own_partners(lens: Any, choose: list[Any]) -> None:
    same = swap(lens, choose, [4], [0], twin="same_answer", **LOCAL)
    assert np.isfinite(cell(same, "effect")).all()
    own = swap(lens, choose, [4], [0], twin=lambda task: task.twin("same_answer"), **LOCAL)
    assert np.array_equal(own["raw"].values, same["raw"].values, equal_nan=True)
    assert own.attrs["twin"] == "own function" and same.attrs["twin"] == "same_answer"


# -- reading


def planted(answer: str | None, latents: torch.Tensor) -> Any:
    task = SimpleNamespace(answer=lambda video: video)
    return SimpleNamespace(
        final=latents, video=answer, x0_hat=lambda step: latents, decode=lambda x: answer, task=task, _cache={}
    )


A, B = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("base", "source", "now", "share_of_way", "wanted"),
    [
        ("left", "right", "right", 1.0, (1, 1, 1, 1)),
        ("left", "right", "left", 0.0, (0, 0, 0, 0)),
        ("left", "right", "up", 0.75, (0, 1, 1, 0.75)),  # changed into a third answer: not a flip
        ("left", "right", None, 0.25, (0, 1, 0, 0.25)),  # wrecked: not a flip
        ("left", "left", "left", 1.0, (np.nan, 0, 1, 1)),  # no other answer to flip to
        (None, "right", "right", 1.0, (np.nan, 1, 1, 1)),
        ("left", None, "left", 0.5, (np.nan, 0, 0, 0.5)),
    ],
)
def test_a_planted_run_is_judged_right(base: Any, source: Any, now: Any, share_of_way: float, wanted: Any) -> None:
    for step in (None, 0):
        found = _judged(planted(now, A + share_of_way * B), planted(base, A), planted(source, B), step)
        assert np.array_equal(found, wanted, equal_nan=True)


def test_no_difference_has_no_direction() -> None:
    found = _judged(planted("right", B), planted("left", A), planted("right", A), None)
    assert np.array_equal(found, (1, 1, np.nan, np.nan), equal_nan=True)


def test_the_result_is_labelled(lens: Any, maze: list[Any]) -> None:
    found = swap(lens, maze, [range(12), 1], [0], **LOCAL)
    assert found["raw"].dims == ("metric", "kind", "hook", "layer", "step", "horizon", "task")
    for metric in METRICS:
        for part in ("", "_low", "_high", "_n", "_null", "_null_low", "_null_high", "_p", "_p_corrected"):
            assert found[metric + part].dims == ("hook", "layer", "step", "horizon")
        assert found[metric].attrs["units"]
    mean = found["raw"].sel(metric="effect", kind="effect").mean("task")
    assert np.allclose(found["effect"], mean)
    assert found["effect_low"].isnull().all(), "two tasks have no interval"
    assert found["read_in"].values.tolist() == ["x0_hat of the last swapped step"]
    assert found.attrs["placebo"] == "same scene, seed + 10000" and found.attrs["num_inference_steps"] == 2


# -- curves over depth


def swapped(heights: list[float], n: int = 12, spread: float = 0.1, seed: int = 0) -> xr.Dataset:
    """A result of twelve layers with known effects; the tasks of swap and placebo move together."""
    rng = np.random.default_rng(seed)
    coords: dict[str, Any] = {"metric": list(METRICS), "kind": ["effect", "placebo"], "hook": ["update"]}
    coords |= {"layer": list(map(str, range(12))), "step": ["0"], "horizon": list(HORIZONS)}
    raw = xr.DataArray(np.zeros((4, 2, 1, 12, 1, 2, n)), dims=(*coords, "task"), coords=coords)
    own = rng.normal(0, spread, n)
    for kind, level in (("effect", np.array(heights)), ("placebo", np.zeros(12))):
        values = level[:, None] + own + rng.normal(0, spread, (12, n))
        raw.loc[{"kind": kind, "metric": "effect", "horizon": "local"}] = values[None, :, None]
        raw.loc[{"kind": kind, "metric": "nearer", "horizon": "local"}] = (values > 0.5)[None, :, None].astype(float)
    return _table(raw).assign_attrs(n_layers=12)


def test_the_curve_finds_the_layers_that_work_and_no_others() -> None:
    heights = [0.0] * 12
    heights[3], heights[7] = 0.6, 0.3
    found = swapped(heights)
    curve = by_depth(found)
    assert np.flatnonzero(curve["p_corrected"] <= 0.05).tolist() == [3, 7]
    assert np.allclose(curve["value"], heights, atol=0.15) and curve["n"].values.tolist() == [12] * 12
    assert ((curve["low"] <= curve["value"]) & (curve["value"] <= curve["high"])).all()
    assert curve["depth"].values.tolist() == [layer / 12 for layer in range(12)]
    assert curve["read_in"].item() == "x0_hat of the last swapped step"
    assert (curve["p_corrected"] >= curve["p"] - 1e-12).all()
    assert (strongest(found).sel(kind="effect") == 3 / 12).all()
    share = by_depth(found, "nearer")
    assert np.flatnonzero(share["p_corrected"] <= 0.05).tolist() == [3]


def test_of_swaps_that_do_nothing_no_layer_is_called_in_one_of_twenty() -> None:
    like = swapped([0.0] * 12, 8)
    rng = np.random.default_rng(0)
    curves, places = [], []
    for _ in range(80):
        study = like.assign(raw=like["raw"].copy(data=rng.standard_normal(like["raw"].shape)))
        curves.append(by_depth(study))
        places.append(12 * strongest(study).sel(kind="effect").values)
    plain, corrected = (np.mean([(one[name] <= 0.05).any() for one in curves]) for name in ("p", "p_corrected"))
    assert corrected <= 0.1 < 0.3 < plain  # .05 and two standard errors of 80 draws
    counts = np.bincount(np.concatenate(places).round().astype(int), minlength=12)
    assert (counts > 0).all() and counts.max() < 0.16 * counts.sum(), "of nothing, the strongest layer is any"


def test_a_curve_needs_single_layers(lens: Any, choose: list[Any]) -> None:
    found = swap(lens, choose, [range(3), 5], [0], **LOCAL)
    with pytest.raises(MeasureError, match=r"swap\(layers='all'\)"):
        by_depth(found)
    with pytest.raises(MeasureError, match=r"at \['local'\]"):
        by_depth(found, horizon="final")
    two = by_depth(swap(lens, choose, [3, 5], [0], **LOCAL))
    assert two["depth"].values.tolist() == [3 / 12, 5 / 12] and two["low"].isnull().all()


# -- mistakes


def test_mistakes_name_their_cure(lens: Any, choose: list[Any]) -> None:
    def refused(error: type[Exception], match: str, tasks: Any = choose, **more: Any) -> None:
        with pytest.raises(error, match=match):
            swap(lens, tasks, **{"layers": [0], **LOCAL, **more})

    refused(TaskError, r"at least two, dit_lens.tasks.batch", choose[:1])
    refused(MeasureError, "choose from", horizons=("end",))
    refused(MeasureError, "use dit_lens.patch", hooks="velocity")
    refused(AddressError, "give at least one of", layers=[])
    refused(AddressError, "use 0 to 11", layers=[40])
    refused(AddressError, "use 0 to 1", steps=[20])
    refused(AddressError, "choose from", hooks="attention")
    refused(AddressError, "pass regions", tokens="elephant")
    refused(InterventionError, "per-head hook", heads=[0])
    refused(MeasureError, "choose another twin", twin=lambda task: task)
    refused(TaskError, "other_answer", twin="opposite")
    mute = SimpleNamespace(prompt=choose[0].prompt, image=choose[0].image)
    refused(TaskError, r"give it answer\(video\)", [mute, mute])
    alone = SimpleNamespace(prompt=choose[0].prompt, image=choose[0].image, answer=choose[0].answer)
    refused(TaskError, "pass twin=function", [alone, alone])


def test_latents_that_broke_are_refused(lens: Any, choose: list[Any]) -> None:
    source = lens.generate(choose[0].twin("other_answer"), seed=40, num_inference_steps=2, stop_after=0)
    broken = replace(source, latents=source.latents * torch.nan)
    with pytest.raises((InterventionError, SamplerError), match="NaN"):
        lens.generate(choose[0], seed=40, num_inference_steps=2, interventions=[dl.patch(step=0, source=broken)])
