"""The shipped probes: they open safely and with scikit-learn alone, and read the lab model as their cards say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.probing import collect, label
from dit_lens.probing.scores import per_scene

GALLERY = Path(__file__).resolve().parents[2] / "probes"
NAMES = sorted(folder.parent.name for folder in GALLERY.glob("*/probe.json"))


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with dl.load("lab") as lens:
        yield lens


def test_every_label_that_was_placed_is_there() -> None:
    assert sorted(json.loads((GALLERY / "places.json").read_text())) == NAMES and len(NAMES) >= 8
    index = (GALLERY / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name})" in index for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_and_belongs_to_this_model(name: str, lens: Any) -> None:
    probe = dl.load_probe(GALLERY / name)
    assert probe.patterns is None, "written before patterns were kept: opens all the same"
    assert probe.label == name and probe.about["fingerprint"] == lens.fingerprint
    assert probe.scores["p"] <= 0.05 and probe.scores["low"] > max(probe.scores["input"], probe.scores["position"])
    assert probe.predict(np.zeros((2, 128), np.float32)).shape == (2,)


def test_scikit_learn_alone_is_enough() -> None:
    """In an interpreter that cannot import this package, and does not import torch."""
    code = f"""
import pickle, sys
sys.modules["dit_lens"] = None
for name in {NAMES!r}:
    with open({str(GALLERY)!r} + "/" + name + "/probe.pkl", "rb") as file:
        pipeline = pickle.load(file)
    assert len(pipeline.predict([[0.0] * pipeline.n_features_in_])) == 1
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_it_reads_puzzles_it_was_not_fitted_on(lens: Any) -> None:
    """The path's probe on four new mazes: near the score of its card."""
    probe = dl.load_probe(GALLERY / "path")
    tasks = [dl.tasks.load("maze", seed=i) for i in range(300, 304)]
    features = collect(lens, tasks, steps=probe.address.step, layers=probe.address.layer)
    asked = label(features, "path")
    x = features.cell("resid_post", probe.address.step, probe.address.layer)  # (scenes, units, d)
    found = per_scene(asked, probe.decision(x)[:, :, None])
    assert np.nanmean(found) > probe.scores["score"] - 0.05
