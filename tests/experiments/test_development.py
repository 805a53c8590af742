"""Development: every number is the measure's own, models share noise, and a study grows model by model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import WanTransformer3DModel

import dit_lens as dl
from dit_lens import stats
from dit_lens.errors import MeasureError, StoreError
from dit_lens.experiments.development import development
from dit_lens.lab.training import text
from dit_lens.lab.training.pipeline import build
from dit_lens.lab.training.spec import LAB
from dit_lens.layer_map.evidence import puzzle_evidence
from dit_lens.measures.candidates import candidates
from dit_lens.measures.ideal_denoiser import ideal_denoiser
from dit_lens.progress import silent
from dit_lens.wan.lens import Lens

SPEC = replace(LAB, layers=2, heads=1, ffn=64)
HOW: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 1.0, "num_frames": 13, "height": 96, "width": 96}
TASKS = [dl.tasks.load("maze", 1), dl.tasks.load("pattern", 3)]


def miniature(seed: int, layers: int = 2) -> Any:
    """A pipeline of two layers with random weights."""
    torch.manual_seed(seed)
    spec = replace(SPEC, layers=layers)
    fresh = WanTransformer3DModel(**spec.transformer()).state_dict()
    state = {k: v + 0.05 * torch.randn_like(v) for k, v in fresh.items()}
    torch.manual_seed(0)
    words = text.tokenizer(), text.encoder().eval().requires_grad_(False)
    pipe = build(spec, state, state, words, {"mean": [0.3] * 16, "std": [0.6] * 16})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {"mini@100": miniature(0), "mini@400": miniature(1)}


@pytest.fixture(scope="module")
def found(pipes: dict[str, Any]) -> xr.Dataset:
    models = pipes | {"end": pipes["mini@400"]}
    return development(models, TASKS, at=(0, 1), iterations={"end": 9e3}, progress=silent, **HOW)


def test_it_is_one_table_over_models_tasks_steps_and_layers(found: xr.Dataset) -> None:
    assert found.sizes == {"model": 3, "task": 2, "step": 2, "layer": 2}
    assert found["model"].values.tolist() == ["mini@100", "mini@400", "end"]
    assert found["iteration"].values.tolist() == [100, 400, 9000]
    assert found["family"].values.tolist() == ["maze", "pattern"]
    assert found["writing"].dims == found["readout"].dims == ("model", "task", "step", "layer")
    assert len(set(found["weights"].values)) == 2
    assert set(found["expert"].dims) == {"step"}
    assert stats.share_interval(found["solved"])["value"].dims == ("model",)


def test_the_same_weights_under_two_names_give_the_same_numbers(found: xr.Dataset) -> None:
    a, b = (found.sel(model=name, drop=True) for name in ("mini@400", "end"))
    assert a.drop_vars(["iteration"], errors="ignore").equals(b.drop_vars(["iteration"], errors="ignore"))
    other = found.sel(model="mini@100")
    assert not np.allclose(other["readout"], a["readout"]) and not np.allclose(other["writing"], a["writing"])


def test_candidates_and_their_nulls_are_the_measures_own(found: xr.Dataset, pipes: dict[str, Any]) -> None:
    task = TASKS[0]
    with dl.load(pipes["mini@100"]) as lens:
        run = lens.generate(task, seed=0, **HOW)
        own = candidates(run, steps=[0, 1])
        blind = ideal_denoiser(task, lens, answers=(*task.solutions, *task.decoys(len(task.solutions))))
        null = candidates(run, film=blind.film(run, [0, 1]), steps=[0, 1])
        best = candidates(run, film=ideal_denoiser(task, lens).film(run, [0, 1]), steps=[0, 1])
        score = run.score
    at = found.sel(model="mini@100").isel(task=0)
    np.testing.assert_allclose(at["support"], own["support"])
    np.testing.assert_allclose(at["blind_support"], null["support"])
    np.testing.assert_array_equal(at["ideal_fewest"], best["fewest"])
    assert (at["solved"], at["value"]) == (score.solved, score.value)
    assert at["ideal_fewest"][0] == 2 and 0 < at["blind_support"][0] < 0.95


def test_profiles_are_the_maps_evidence(found: xr.Dataset, pipes: dict[str, Any]) -> None:
    with dl.load(pipes["mini@100"]) as lens:
        evidence = puzzle_evidence(lens, TASKS[0], 0, [0, 1], 0, dl.Sampling(**HOW))
    at = found.sel(model="mini@100").isel(task=0)
    np.testing.assert_allclose(at["readout"], evidence["readout"], atol=1e-6)
    # Other random masks: the region's own part is the same, the null's differs a little.
    np.testing.assert_allclose(at["writing"], evidence["writing"], atol=0.3)


def test_a_study_goes_on_and_takes_further_models(pipes: dict[str, Any], tmp_path: Any, monkeypatch: Any) -> None:
    first, both = {"mini@100": pipes["mini@100"]}, pipes
    asked: dict[str, Any] = {"at": (0,), "folder": tmp_path, "progress": silent, **HOW}
    development(first, TASKS, **asked)
    real, made = Lens.generate, []

    def counted(self: Lens, *args: Any, **how: Any) -> Any:
        made.append(self.fingerprint)
        return real(self, *args, **how)

    monkeypatch.setattr(Lens, "generate", counted)
    whole = development(both, TASKS, **asked)
    assert len(made) == 2 and len(set(made)) == 1 and whole.sizes["model"] == 2
    again = development(both, TASKS, **asked)
    assert len(made) == 2 and again.identical(whole)
    with pytest.raises(StoreError, match="other parameters"):
        development({"mini@100": pipes["mini@400"]}, TASKS, **asked)  # other weights under a known name


def test_a_task_without_drawn_answers_has_scores_and_profiles_alone(pipes: dict[str, Any]) -> None:
    class Bare:
        """A task that has no answers to draw."""

        def __init__(self, task: Any) -> None:
            for name in ("prompt", "image", "regions", "name", "seed", "score"):
                setattr(self, name, getattr(task, name))

    found = development({"a": pipes["mini@100"]}, [Bare(TASKS[0])], at=(0,), progress=silent, **HOW)
    assert np.isnan(found["support"]).all() and np.isfinite(found["readout"]).all()


def test_lenses_are_left_open_and_pipelines_as_they_were(pipes: dict[str, Any]) -> None:
    pipe = pipes["mini@100"]
    with dl.load(pipe) as lens:
        development([lens], TASKS[:1], at=(0,), progress=silent, **HOW)
        assert lens.generate(TASKS[0], stop_after=0, **HOW).n_steps == 1
    dl.load(pipe).close()


def test_mistakes_are_told_with_a_cure(pipes: dict[str, Any]) -> None:
    with pytest.raises(MeasureError, match="no model to look at"):
        development([], TASKS)
    with pytest.raises(MeasureError, match=r"give a mapping, models="):
        development(list(pipes.values()), TASKS)
    with pytest.raises(MeasureError, match=r"iterations of \['b'\]"):
        development({"a": pipes["mini@100"]}, TASKS, iterations={"b": 3})
    shifted = miniature(1)
    shifted.scheduler = type(shifted.scheduler).from_config({**shifted.scheduler.config, "flow_shift": 2.0})
    with pytest.raises(MeasureError, match="compare those of one recipe"):
        development({"a": pipes["mini@100"], "b": shifted}, TASKS[:1], at=(1,), progress=silent, **HOW)


def test_a_model_that_grew_stands_beside_the_shallow_one(pipes: dict[str, Any], found: xr.Dataset) -> None:
    models = {"a": pipes["mini@100"], "b": miniature(0, layers=3)}
    both = development(models, TASKS[:1], at=(0, 1), progress=silent, **HOW)
    assert both["n_layers"].values.tolist() == [2, 3] and both["readout"].sizes["layer"] == 3
    assert both["readout"].sel(model="a", layer=2).isnull().all() and both["readout"].sel(model="b").notnull().all()
    np.testing.assert_allclose(both["depth"], [[0, 0.5, np.nan], [0, 1 / 3, 2 / 3]])
    own = found["readout"].sel(model="mini@100").isel(task=[0])
    np.testing.assert_array_equal(both["readout"].sel(model="a", layer=[0, 1]), own)
