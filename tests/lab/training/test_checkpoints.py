"""Snapshots, seeds and students get names, files and hashes, and open as what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dit_lens as dl
from dit_lens.errors import LoadError
from dit_lens.lab import models, weights_path
from dit_lens.lab.training.checkpoints import keep_pipeline, keep_snapshots, main, snapshots

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two shallow snapshots and one of the trunk, and where checkpoints are kept."""
    folder = tmp_path / "run"
    (folder / "snapshots").mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"shallow_layers": 2, "shallow_iterations": 300}))
    own = load_file(weights_path() / "transformer" / WEIGHTS)
    few = {k: v for k, v in own.items() if not k.startswith("blocks.") or int(k.split(".")[1]) < 2}
    for name, state in (("shallow-000100", few), ("shallow-000300", few), ("trunk-000050", own)):
        save_file({k: v * 0.5 for k, v in state.items()}, folder / "snapshots" / f"{name}.safetensors")
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(models, "CHECKPOINTS", tmp_path / "kept")
    return folder


def test_snapshots_count_all_iterations_and_open_by_name(run: Path) -> None:
    assert list(snapshots(run)) == [100, 300, 350]
    assert keep_snapshots(run, "lab", [100], models.CHECKPOINTS) == ["lab@100"]
    assert keep_snapshots(run, "lab", [350], models.CHECKPOINTS) == ["lab@350"]
    assert models.names() == (*models.pipelines(), "lab@100", "lab@350")
    with dl.load("lab@100") as early, dl.load("lab@350") as late:
        assert (early.n_layers, late.n_layers) == (2, 12)
        kept = load_file(run / "snapshots" / "trunk-000050.safetensors")
        assert all(torch.equal(late.pipe.transformer_2.state_dict()[k], kept[k].float()) for k in kept)
    found = models.find("lab@350")
    assert found is not None and "350 iterations" in found.about and "trunk" in found.about


def test_a_pipeline_brings_what_differs(run: Path) -> None:
    made = run / "student"
    shutil.copytree(weights_path(), made)
    settings = json.loads((made / "lab.json").read_text()) | {"num_inference_steps": 4, "note": "other"}
    (made / "lab.json").write_text(json.dumps(settings))
    assert keep_pipeline(made, "lab", "lab-student", "four steps", models.CHECKPOINTS) == "lab-student"
    entry = json.loads((models.CHECKPOINTS / models.INDEX).read_text())["lab-student"]
    assert entry["settings"] == {"num_inference_steps": 4} and "scheduler" not in entry
    assert set(entry["sha256"]) == {"lab-student-high.safetensors", "lab-student-low.safetensors"}
    with dl.load("lab-student") as lens:
        assert lens.defaults.num_inference_steps == 4


def test_what_is_not_there_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoadError, match=r"no snapshots at \[7\]: choose from \[100, 300, 350\]"):
        keep_snapshots(run, "lab", [7], models.CHECKPOINTS)
    with pytest.raises(LoadError, match="'lab9' is no pipeline of the package"):
        keep_snapshots(run, "lab9", [100], models.CHECKPOINTS)
    for wrong in ([], ["--at", "100", "--name", "x"]):
        with pytest.raises(SystemExit):
            main([str(run), "--of", "lab", *wrong])
    assert "give --at for snapshots, or --name" in capsys.readouterr().err
