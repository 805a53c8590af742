"""Attention by depth and knockouts: planted numbers give their claims, and the lab model fills the labelled axes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_results import enrichment

from dit_lens import tasks
from dit_lens.errors import AddressError, InterventionError, MeasureError, TaskError
from dit_lens.experiments.attention_by_depth import (
    attention_by_depth,
    elsewhere,
    knockouts,
    shift,
)
from dit_lens.interventions import knockout
from dit_lens.wan.loading import load
from dit_lens.wan.token_grid import Grid


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load("lab") as lens:
        yield lens


# -- planted


def test_shift_of_planted_enrichment() -> None:
    part = shift(enrichment(0.5, 2.0), "foreground")
    assert part.dims == ("part", "task", "kind")
    np.testing.assert_allclose(part.sel(kind="region", part="early"), -1)
    np.testing.assert_allclose(part.sel(kind="region", part="later"), 1)
    np.testing.assert_allclose(part.sel(kind="null"), 0)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(0, 7))
def test_elsewhere_is_as_large_in_every_frame_and_apart(seed: int, frames: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((frames, 15), bool)
    for frame in mask:
        frame[rng.choice(15, size, replace=False)] = True
    other = elsewhere(mask.ravel(), Grid(frames, 3, 5), rng).reshape(frames, 15)
    assert not (other & mask).any() and (other.sum(1) == size).all()


def test_elsewhere_needs_room() -> None:
    with pytest.raises(MeasureError, match="half a frame"):
        elsewhere(np.arange(15) < 9, Grid(1, 3, 5), np.random.default_rng(0))


# -- on the lab model


def test_by_depth_on_the_lab_model(lens: Any) -> None:
    some = tasks.batch(("choose", "occlude"), 4)
    said: list[str] = []
    found = attention_by_depth(
        lens, some, steps=[0, 2], num_inference_steps=3, progress=lambda done, total, what: said.append(what)
    )
    assert set(found.enrichment.dims) == {"task", "step", "layer", "head", "query", "key", "kind"}
    assert found.sizes["layer"] == lens.n_layers and list(found.step.values) == [0, 2] and len(said) == 5
    assert list(found.family.values) == ["choose", "occlude"] * 2
    one = found.enrichment.sel(key=["foreground", "rest"], kind="region", query="all")
    assert bool(np.isfinite(one).all()) and bool((one > 0).all())
    # Foreground and rest are a partition: their mean enrichment, weighed by size, is one.
    for i in (0, 2):
        own = lens.generate(some[i], num_inference_steps=3, stop_after=0).regions
        size = np.any([own[k] for k in ("agent", "goal", "other_goal")], 0).mean()
        pair = one.isel(task=i)
        np.testing.assert_allclose(pair.sel(key="foreground") * size + pair.sel(key="rest") * (1 - size), 1, atol=1e-4)
    named = found.enrichment.sel(key="named", kind="region", query="all")
    assert bool(np.isfinite(named.isel(task=0)).all()) and bool(np.isnan(named.isel(task=1)).all())
    assert shift(found, "named").sizes["task"] == 2, "puzzles without a pair are left out"
    assert list(found.region.values) == ["text", "pad"] and bool(np.isfinite(found.text).all())


def test_knockouts_on_the_lab_model(lens: Any) -> None:
    some = tasks.batch("choose", 2)
    found = knockouts(lens, some, [("all", "goal")], {"first": range(3)}, num_inference_steps=2)
    assert found.changed.dims == ("task", "edge", "layer", "kind") and found.changed.shape == (2, 1, 1, 2)
    assert list(found.edge.values) == ["all -> goal"] and bool((found.moved > 0).all())
    assert set(np.unique(found.changed)) <= {0, 1} and set(np.unique(found.base_solved)) <= {0, 1}
    # By hand: the cut itself, and the same queries cut from as many tokens elsewhere.
    base = lens.generate(some[1], seed=1, num_inference_steps=2)
    apart = elsewhere(base.regions["goal"], base.grid, np.random.default_rng(1))
    for kind, to in (("cut", "goal"), ("random", apart)):
        run = lens.generate(
            some[1], seed=1, num_inference_steps=2, interventions=[knockout("all", to, layers=range(3))]
        )
        here = found.isel(task=1, edge=0, layer=0).sel(kind=kind)
        assert float(here.moved) == pytest.approx(float((run.final - base.final).std() / base.final.std()), rel=1e-6)
        assert float(here.changed) == (some[1].answer(run.video) != some[1].answer(base.video))
        assert float(here.solved) == bool(run.score)
    assert found.moved.sel(kind="cut").values.tolist() != found.moved.sel(kind="random").values.tolist()
    text = knockouts(lens, some, [("all", "pad")], kind="cross", num_inference_steps=2)
    assert bool(np.isnan(text.changed.sel(kind="random")).all()) and bool((text.moved.sel(kind="cut") > 0).all())


def test_mistakes(lens: Any) -> None:
    one = tasks.batch("choose", 1)
    bare = [SimpleNamespace(prompt="x", regions={}, image=one[0].image)] * 2
    with pytest.raises(TaskError, match="two or more"):
        attention_by_depth(lens, one)
    with pytest.raises(MeasureError, match="foreground="):
        attention_by_depth(lens, bare)
    with pytest.raises(MeasureError, match="'goal'"):
        attention_by_depth(lens, one * 2, foreground=("cat",))
    with pytest.raises(TaskError, match="score"):
        knockouts(lens, bare)
    with pytest.raises(AddressError, match="'goal'"):
        knockouts(lens, one * 2, [("cat", "goal")], num_inference_steps=1)
    with pytest.raises(MeasureError, match="is not a region of this task"):
        knockouts(lens, one * 2, [("all", "cat")], num_inference_steps=1)
    with pytest.raises(InterventionError, match="every key"):
        knockouts(lens, one * 2, [("all", "all")], kind="cross", num_inference_steps=1)
