"""Layers that share a batch have the effects of one patch at a time, to rounding, whatever the batch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.errors import MeasureError
from dit_lens.experiments.local_effects import local_effects
from dit_lens.layer_map.evidence import puzzle_runs
from dit_lens.planted import LayerPlant, plant
from dit_lens.runner import patched_together

STEPS = [0, 3]
ROUNDING = 1e-6  # measured on lab and on a forty-layer model: at most 1.4e-7 of effects up to 1


@pytest.fixture(scope="module")
def lab() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def runs(lab: Any) -> Any:
    how = dl.Sampling(num_inference_steps=5)
    return puzzle_runs(lab, dl.tasks.load("choose", 1), 1, STEPS, how, stop_after=3)


@pytest.fixture(scope="module")
def exact(lab: Any, runs: Any) -> Any:
    return local_effects(lab, *runs, STEPS)


@pytest.mark.parametrize("tokens", [1, 144 * 2 * 5, 144 * 2 * 12, 10**6], ids=["alone", "five", "all", "more"])
def test_any_batch_has_the_effects_of_single_patches(
    lab: Any, runs: Any, exact: Any, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With guidance, over both experts, groups that do not divide the layers."""
    assert exact.max() > 0.3 and [runs[0].plan.at(s).expert for s in STEPS] == ["high", "low"]
    monkeypatch.setattr(patched_together, "TOKENS", tokens)
    base, source, placebo = runs
    found = patched_together.local_effects_together(lab, base, {"effect": source, "placebo": placebo}, source, STEPS)
    assert found.dims == exact.dims and list(found["kind"].values) == list(exact["kind"].values)
    assert np.abs(found.values - exact.values).max() < ROUNDING


def test_it_is_taken_where_a_run_is_small_and_refuses_what_a_sweep_refuses(
    lab: Any, runs: Any, exact: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = patched_together.local_effects_together

    def watched(*given: Any) -> Any:
        asked.append(given)
        return real(*given)

    home = importlib.import_module("dit_lens.experiments.local_effects")  # the package has a function of that name
    monkeypatch.setattr(home, "local_effects_together", watched)
    found = local_effects(lab, *runs, STEPS, exact=False)
    assert len(asked) == 1 and found.attrs == exact.attrs and found.dtype == exact.dtype
    assert np.abs(found - exact).max() < ROUNDING
    local_effects(lab, *runs, STEPS)
    assert len(asked) == 1
    changed = lab.generate(runs[0].task, seed=1, interventions=[dl.noise(steps=[1])], num_inference_steps=5)
    with pytest.raises(MeasureError, match="interventions"):
        local_effects(lab, changed, *runs[1:], STEPS, exact=False)
    monkeypatch.setattr(patched_together, "TOKENS", 144 * 3)
    assert not patched_together.fits(runs[0])
    assert local_effects(lab, *runs, STEPS, exact=False).equals(exact)


def test_a_planted_layer_is_found_and_equal_steps_have_no_number() -> None:
    with plant(LayerPlant(layer=2, n_layers=5, n_steps=2)) as made:
        task = made.tasks(1)[0]
        base, source, placebo = puzzle_runs(made.lens, task, 0, [0, 1])
        found = local_effects(made.lens, base, source, placebo, [0, 1], exact=False).sel(kind="effect")
        exact = local_effects(made.lens, base, source, placebo, [0, 1]).sel(kind="effect")
    assert np.array_equal(found.isnull(), exact.isnull()) and float(np.abs(found - exact).max()) < ROUNDING
    assert int(found.max("step").values.argmax()) == 2
