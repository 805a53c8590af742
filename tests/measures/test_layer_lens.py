"""The layer lens: exact at the last layer, equal to a network that stops early, and translators with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import DiffusionPipeline
from families import FAMILIES, LAYERS, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dit_lens import tasks
from dit_lens.address import Depth
from dit_lens.errors import AddressError, FigureError, MeasureError, StoreError
from dit_lens.figures import film_strip
from dit_lens.measures.layer_lens import _drawn, _nearest, layer_film, layer_lens, layer_velocity, settles
from dit_lens.measures.tuned_lens import Translator, Translators, _Sums, fit_translators, task_key
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run
from dit_lens.wan.sampler import guided

STEPS = 3


def generate(lens: Lens, family: Family, **more: Any) -> Run:
    return lens.generate(**{**family.call, "num_inference_steps": STEPS, "guidance_scale": 5.0, "seed": 3, **more})


# -- exactness, over all five families and both schedulers


def test_the_last_layer_is_the_model(pipe: DiffusionPipeline, family: Family) -> None:
    with load(pipe) as lens:
        run = generate(lens, family)
        identity = fit_translators(lens, [run])
        for step in range(STEPS):
            for translators in (None, identity):
                read = layer_velocity(lens, run, step, translators=translators)
                assert read.shape == (LAYERS, *run.velocity.shape[1:])
                assert torch.equal(read[-1], run.velocity[step])
            assert not torch.equal(read[0], run.velocity[step])


def test_the_last_layer_is_the_model_without_guidance(family: Family) -> None:
    with load(family.build()) as lens:
        run = generate(lens, family, guidance_scale=1.0)
        assert torch.equal(layer_velocity(lens, run, 1, layers=-1)[0], run.velocity[1])


def test_the_last_layer_is_the_model_in_half_precision(family: Family) -> None:
    pipe = family.build()
    for part in (pipe.transformer, getattr(pipe, "transformer_2", None)):
        if part is not None:
            part.to(torch.bfloat16)
    with load(pipe) as lens:
        run = generate(lens, family)
        assert torch.equal(layer_velocity(lens, run, 2, layers=-1)[0], run.velocity[2])


def stopped(lens: Lens, run: Run, step: int, layer: int) -> torch.Tensor:
    """The model's own velocity when what leaves the last block is what left ``layer``: the network stops there."""
    velocities = {}
    for call in run.plan.of_step(step):
        kept: list[torch.Tensor] = []
        path = f"blocks.{layer}.hook_resid_post" if layer >= 0 else "blocks.0.hook_resid_pre"
        hooks = [
            (path, lambda x, hook, kept=kept: kept.append(x)),
            (f"blocks.{LAYERS - 1}.hook_resid_post", lambda x, hook, kept=kept: kept[0]),
        ]
        velocities[call.branch] = lens.replay(run, call, hooks)
    return guided(run.plan, run.plan.at(step), velocities["cond"], velocities.get("uncond"))[0]


def test_a_read_out_is_the_network_that_stops_there(family: Family) -> None:
    with load(family.build()) as lens:
        run = generate(lens, family)
        for step in (0, STEPS - 1):
            read = layer_velocity(lens, run, step, layers=[0, 1], entry=True)
            for v, layer in zip(read, (-1, 0, 1), strict=True):
                assert torch.equal(v, stopped(lens, run, step, layer))


def silence(block: Any) -> None:
    """Make a block add nothing."""
    for linear in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
        linear.weight.data.zero_()
        linear.bias.data.zero_()


def test_layers_that_do_nothing_are_read_as_the_final_one() -> None:
    family = FAMILIES["ti2v22"]
    with load(family.build()) as lens:
        blocks = lens.pipe.transformer.blocks
        silence(blocks[LAYERS - 1])
        run = generate(lens, family)
        found = layer_lens(lens, run)
        assert found["cosine"].dims == ("step", "layer", "reading") and found["layer"].values.tolist() == [-1, 0, 1, 2]
        np.testing.assert_allclose(found["cosine"].sel(layer=[1, 2]), 1, rtol=1e-6)
        np.testing.assert_array_equal(found["error"].sel(layer=[1, 2]), 0)
        assert (found["error"].sel(layer=[-1, 0]) > 1e-3).all()
        for block in blocks:
            silence(block)
        found = layer_lens(lens, generate(lens, family))
        assert (found["error"] == 0).all()
        np.testing.assert_allclose(settles(found["cosine"]), -1 / LAYERS)


def test_the_measures_are_what_they_say() -> None:
    family = FAMILIES["i2v22"]
    with load(family.build()) as lens:
        run = generate(lens, family)
        found = layer_lens(lens, run, steps=1, layers=0, entry=False).isel(step=0, layer=0, reading=0)
        mine, real = layer_velocity(lens, run, 1, layers=0)[0].double(), run.velocity[1].double()
        cosine = torch.nn.functional.cosine_similarity(mine.flatten(), real.flatten(), dim=0)
        assert float(found["cosine"]) == pytest.approx(float(cosine), abs=1e-6)
        assert float(found["error"]) == pytest.approx(float((mine - real).norm() / real.norm()), rel=1e-5)
        x, sigma = run.latents[1].double(), run.sigmas[1]
        # The same error in terms of x0_hat.
        moved = (x - sigma * mine - run.x0_hat(1).double()).norm() / (run.x0_hat(1).double() - x).norm()
        assert float(found["error"]) == pytest.approx(float(moved), rel=1e-4)
        assert float(found["sigma"]) == sigma and str(found["expert"].values) == run.plan.at(1).expert


def test_layers_are_chosen_as_everywhere() -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        run = generate(lens, family)
        every = layer_velocity(lens, run, 0)
        assert torch.equal(layer_velocity(lens, run, 0, layers=[-1, 0]), every[[0, 2]])
        assert torch.equal(layer_velocity(lens, run, 0, layers=Depth(0.3, 0.7)), every[[1, 2]])
        with pytest.raises(AddressError, match="use 0 to 2"):
            layer_velocity(lens, run, 0, layers=7)


def test_a_film_strip_names_its_layers() -> None:
    film = np.zeros((2, 3, 8, 8, 3), np.uint8)  # (step, layer, H, W, 3)
    plain, named = film_strip(film, frames=range(3)), film_strip(film, frames=range(3), rows=["a", "b", "a long name"])
    assert plain.boxes.keys() == named.boxes.keys() and named.boxes[0, 0][0] > plain.boxes[0, 0][0]
    with pytest.raises(FigureError, match="3 pictures a step, but 1 rows"):
        film_strip(film, rows=["a"])


def test_the_film_ends_with_the_models_own() -> None:
    family = FAMILIES["t2v22"]
    with load(family.build()) as lens:
        run = generate(lens, family)
        film = layer_film(lens, run, steps=[0, 2], layers=[0, 2])
        assert film.shape == (2, 2, *run.video.shape)
        np.testing.assert_array_equal(film[1], run.film([0, 2]))
        assert not np.array_equal(film[0], film[1])


# -- where it settles


def curve(values: object) -> xr.DataArray:
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    layers = np.arange(rows.shape[1])
    depth = ("layer", layers / rows.shape[1])
    return xr.DataArray(rows, dims=("step", "layer"), coords={"layer": layers, "depth": depth})


def test_settling_of_known_curves() -> None:
    rows = [[0.1, 0.2, 0.95, 1.0], [0.95, 0.2, 0.3, 0.95], [1, 1, 1, 1], [0.95, 0.95, 0.95, 0.2]]
    np.testing.assert_array_equal(settles(curve(rows)), [0.5, 0.75, 0.0, np.nan])
    np.testing.assert_array_equal(settles(curve(rows), 0.15), [0.25, 0.0, 0.0, 0.0])


@given(arrays(float, 6, elements=st.floats(0, 1)), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_settling_is_what_it_says(values: np.ndarray, threshold: float) -> None:
    good = [layer for layer in range(6) if (values[layer:] > threshold).all()]
    np.testing.assert_array_equal(settles(curve(values), threshold), [min(good) / 6 if good else np.nan])


def test_settling_needs_layers_in_order() -> None:
    with pytest.raises(MeasureError, match="axis layer in rising order"):
        settles(curve([0, 1, 1]).isel(layer=[2, 1, 0]))
    with pytest.raises(MeasureError, match="coordinate depth"):
        settles(curve([0, 1, 1]).drop_vars("depth"))


# -- translators


def sums(x: torch.Tensor, y: torch.Tensor) -> _Sums:
    found = _Sums.zero(x)
    for a, b in zip(x.split(50), y.split(50), strict=True):
        found.add(a, b)
    return found


def test_a_planted_affine_map_is_found() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g) + 5
    weight, bias = torch.randn(6, 6, generator=g), torch.randn(6, generator=g)
    y = x + x @ weight + bias
    found = sums(x, y).solve(1e-9)
    torch.testing.assert_close(found.weight, weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found(x), y, atol=1e-4, rtol=1e-4)
    assert found.n == 400
    # Much ridge: the identity and the mean difference, and nothing else.
    found = sums(x, y).solve(1e9)
    torch.testing.assert_close(found.weight, torch.zeros(6, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.bias, (y - x).mean(0), atol=1e-4, rtol=1e-4)
    assert found(x.to(torch.bfloat16)).dtype == torch.bfloat16


def test_nothing_to_translate_is_left_exactly_alone() -> None:
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))  # fewer tokens than channels
    found = sums(x[:20], x[:20]).solve(0.0)
    assert torch.equal(found(x), x)


def test_noise_cannot_be_translated() -> None:
    """Streams that have nothing to do with each other: on fresh tokens the translator is no better than the mean."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4000, 8, generator=g)
    found = sums(x[:3000], y[:3000]).solve(1e-3)
    left = (found(x[3000:]) - y[3000:]).var() / y[3000:].var()
    assert 0.97 < float(left) < 1.05


@pytest.fixture(scope="module")
def lab() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def fitted(lab: Lens) -> tuple[list[Run], Translators]:
    made = [(tasks.load(n, seed=s, split="train"), s) for n in ("maze", "choose") for s in range(2)]
    runs = [lab.generate(task, seed=s, num_inference_steps=STEPS) for task, s in made]
    return runs, fit_translators(lab, runs, layers=[1, 6, 11])


def test_translation_helps_on_a_held_out_puzzle(lab: Lens, fitted: tuple[list[Run], Translators]) -> None:
    run = lab.generate(tasks.load("maze", seed=1), seed=9, num_inference_steps=STEPS)
    found = layer_lens(lab, run, layers=[1, 6, 11], translators=fitted[1], answers=True)
    middle = found.sel(layer=[1, 6])
    assert (middle["error"].sel(reading="translated") < middle["error"].sel(reading="raw")).all()
    assert (middle["cosine"].sel(reading="translated") > middle["cosine"].sel(reading="raw")).all()
    last = found.sel(layer=11)
    assert (last["error"] == 0).all()
    said = [run.task.answer(v) is not None for v in run.film()]
    assert any(said)
    np.testing.assert_array_equal(last["answer"], np.where(said, 1.0, np.nan)[:, None].repeat(2, 1))
    assert (found["answer"].sel(layer=-1).fillna(0) == 0).all()  # what enters the first block shows no answer
    assert (last["choice"] == 1).all() and found["choice"].isin([0, 1]).all()


def test_choice_is_among_drawn_answers(lab: Lens) -> None:
    """A task whose final answer is drawn in full chooses it; a task that cannot draw answers has no choice."""
    task = tasks.load("choose", seed=2)
    drawn = _drawn(task)
    answers = [*task.solutions[:5], *task.decoys(5)]
    assert len(drawn) == len(answers) > 1
    for i, answer in enumerate(answers):
        half = 0.6 * task.render(answer) / 255 + 0.4 * task.frames / 255  # a mixture is nearest to its larger part
        assert _nearest(half, drawn) == i

    class Mute:
        def answer(self, video: np.ndarray) -> None:
            return None

    run = replace(lab.generate(task, seed=2, num_inference_steps=1), task=Mute())
    found = layer_lens(lab, run, layers=[0, 11], answers=True)
    assert found["choice"].isnull().all() and found["answer"].isnull().all()


def test_puzzles_that_were_fitted_are_refused(lab: Lens, fitted: tuple[list[Run], Translators]) -> None:
    runs, translators = fitted
    with pytest.raises(MeasureError, match=r"fitted on this task.*measure on runs of other tasks"):
        layer_lens(lab, runs[0], layers=1, translators=translators)
    again = lab.generate(
        runs[0].task, seed=77, num_inference_steps=1
    )  # the same puzzle under other noise is the same puzzle
    assert task_key(again) == task_key(runs[0]) != task_key(runs[1])
    layer_velocity(lab, runs[0], 0, layers=1, translators=translators)  # pictures are no numbers


def test_translators_errors(lab: Lens, fitted: tuple[list[Run], Translators]) -> None:
    runs, translators = fitted
    with pytest.raises(MeasureError, match=r"no translator for expert 'high', layers \[4\].*fit them with"):
        layer_velocity(lab, runs[0], 0, layers=[1, 4], translators=translators)
    other = replace(translators, fingerprint="another")
    with pytest.raises(MeasureError, match=r"fingerprint another.*on this model"):
        layer_velocity(lab, runs[0], 0, layers=1, translators=other)
    for bad in ({"runs": []}, {"ridge": -1.0}, {"tokens": 0}):
        with pytest.raises(MeasureError, match="give at least one run, ridge >= 0"):
            fit_translators(lab, **{"runs": runs, **bad})
    with pytest.raises(MeasureError, match="answers=True needs a run"):
        layer_lens(lab, replace(runs[0], task=None), answers=True)


def test_translators_on_disk(tmp_path: Path, fitted: tuple[list[Run], Translators]) -> None:
    translators = fitted[1]
    path = translators.save(tmp_path / "lens.safetensors")
    again = Translators.load(path)
    assert set(again) == set(translators) == {(e, layer) for e in ("high", "low") for layer in (-1, 1, 6, 11)}
    assert (again.fingerprint, again.tasks, again.ridge) == (
        translators.fingerprint, translators.tasks, translators.ridge,
    )  # fmt: skip
    for key, part in translators.items():
        assert torch.equal(again[key].weight, part.weight) and torch.equal(again[key].bias, part.bias)
        assert again[key].n == part.n > 0
    assert [f.name for f in tmp_path.iterdir()] == ["lens.safetensors"]
    (tmp_path / "broken").write_bytes(path.read_bytes()[:100])
    for bad in ("broken", "missing"):
        with pytest.raises(StoreError, match="give a file written by save"):
            Translators.load(tmp_path / bad)
    with pytest.raises(StoreError, match="choose a folder that exists"):
        translators.save(tmp_path / "nowhere" / "lens.safetensors")


def test_a_translator_is_affine() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    part = Translator(torch.eye(3), torch.ones(3))
    assert torch.equal(part(x), 2 * x + 1)
