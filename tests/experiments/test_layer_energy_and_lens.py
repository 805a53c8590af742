"""Layer energy and layer lens over tasks: what the datasets hold, and controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from families import Family

from dit_lens import experiments, tasks
from dit_lens.errors import MeasureError, TaskError
from dit_lens.experiments.readout_by_depth import layer_readout
from dit_lens.measures.energy import energy_ratio
from dit_lens.measures.layer_lens import layer_lens
from dit_lens.measures.token_masks import region_mask
from dit_lens.measures.tuned_lens import fit_translators
from dit_lens.replication import read as read_claims
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record
from dit_lens.wan.shuffled_weights import shuffled_weights

LAYERS = 12


@pytest.fixture(scope="module")
def lab() -> Iterator[Lens]:
    with load("lab") as lens:
        yield lens


# -- layer energy


@pytest.fixture(scope="module")
def measured(lab: Lens) -> xr.Dataset:
    return experiments.energy(lab, tasks.batch(tasks.names(), 4), num_inference_steps=2, draws=3, seed=5)


def test_energy_is_that_of_a_run(lab: Lens, measured: xr.Dataset) -> None:
    sizes = {"task": 4, "hook": 2, "region": 2, "step": 2, "layer": LAYERS + 1, "kind": 3, "frame": 4}
    assert dict(measured.sizes) == sizes
    assert measured["layer"].values.tolist() == list(range(-1, LAYERS)) and measured["family"].values[1] == "choose"
    wanted = record("resid_post", "update", reduce="token_norm", branches="cond")
    run = lab.generate(tasks.load("choose", 0), seed=6, num_inference_steps=2, record=wanted)
    mask = region_mask(run, ["agent", "goal", "other_goal"])
    for hook in ("resid_post", "update"):
        direct = energy_ratio(run, mask, hook).sel(branch="cond", kind="region")
        mine = measured["energy"].sel(hook=hook, region="regions", kind="region").isel(task=1).sel(layer=slice(0, None))
        np.testing.assert_allclose(mine, direct, rtol=1e-6)
    entry = measured["energy"].sel(layer=-1)
    np.testing.assert_array_equal(entry.sel(hook="update"), entry.sel(hook="resid_post"))  # before any block
    assert measured[["energy", "variance", "norm"]].notnull().all().to_array().all()
    assert len(read_claims("energy", {"energy": measured})) == 10


def test_a_users_mask_and_a_still_video(lab: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    def top(task: Any) -> np.ndarray:
        return np.arange(task.height)[:, None].repeat(task.width, 1) < task.height // 2

    def nothing(run: Any) -> np.ndarray:
        raise MeasureError("nothing changed")

    monkeypatch.setitem(experiments.energy.__globals__, "change_mask", nothing)
    found = experiments.energy(lab, tasks.batch("maze", 2), foreground=top, num_inference_steps=1, draws=2)
    assert found["energy"].sel(region="difference").isnull().all()
    assert found["energy"].sel(region="regions").notnull().all()
    assert found.attrs["foreground"] == "own function"


def test_energy_errors(lab: Lens) -> None:
    with pytest.raises(TaskError, match="measure two or more"):
        experiments.energy(lab, tasks.batch("maze", 1))
    with pytest.raises(MeasureError, match=r"none of the regions \['absent'\].*foreground=function"):
        experiments.energy(lab, tasks.batch("maze", 2), foreground=("absent",))
    with pytest.raises(MeasureError, match="the given mask holds every token"):
        two = tasks.batch("maze", 2)
        experiments.energy(lab, two, foreground=lambda task: np.ones((task.height, task.width), bool))


# -- layer lens


@pytest.fixture(scope="module")
def read(lab: Lens) -> xr.Dataset:
    fit = tasks.batch(["maze", "choose"], 2, split="train")
    return layer_readout(lab, tasks.batch(["maze", "choose"], 2), fit, num_inference_steps=2, layers=[0, 5, 8, 11])


def test_read_outs_are_those_of_the_measure(lab: Lens, read: xr.Dataset) -> None:
    assert dict(read.sizes) == {"kind": 2, "task": 2, "step": 2, "layer": 5, "reading": 2}
    np.testing.assert_array_equal(read["error"].sel(layer=11), 0)  # of shuffled weights as well
    runs = [lab.generate(t, seed=10_000 + i, num_inference_steps=2) for i, t in
            enumerate(tasks.batch(["maze", "choose"], 2, split="train"))]  # fmt: skip
    translators = fit_translators(lab, runs, layers=[0, 5, 8, 11])
    run = lab.generate(tasks.load("choose", 0), seed=1, num_inference_steps=2)
    direct = layer_lens(lab, run, layers=[0, 5, 8, 11], translators=translators)
    for name in ("cosine", "error", "x0_cosine"):
        np.testing.assert_allclose(read[name].sel(kind="trained").isel(task=1), direct[name], atol=1e-6)
    assert read[["answer", "choice"]].sel(kind="shuffled").to_array().isnull().all()
    assert (read["choice"].sel(kind="trained", layer=11) == 1).all()
    assert len(read_claims("layer_lens", {"readout": read})) == 3


def test_a_shuffled_model_has_the_same_weights_elsewhere(family: Family) -> None:
    with load(family.build()) as lens:
        before = lens.fingerprint
        call = {**family.call, "num_inference_steps": 1, "guidance_scale": 5.0, "seed": 3}
        run = lens.generate(**call)
        with shuffled_weights(lens) as twin:
            assert twin.experts.keys() == lens.experts.keys() and twin.fingerprint != before
            for name, expert in lens.experts.items():
                for key, value in expert.transformer.state_dict().items():
                    other = twin.experts[name].transformer.state_dict()[key]
                    assert torch.equal(other.flatten().sort()[0], value.flatten().sort()[0])
            assert not torch.equal(twin.generate(**call).final, run.final)
        # The model that it was made from is as it was, points included.
        assert lens.fingerprint == before and torch.equal(lens.generate(**call).final, run.final)


def test_readout_errors(lab: Lens) -> None:
    two = tasks.batch("maze", 2)
    for measure, fit in ((two[:1], two), (two, [])):
        with pytest.raises(TaskError, match="split='train'"):
            layer_readout(lab, measure, fit)
    with pytest.raises(MeasureError, match="fitted on this task"):
        layer_readout(lab, two, two[:1], num_inference_steps=1, layers=[0, 11], null=False, answers=False)
