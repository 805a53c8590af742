"""The lab's models by name: checkpoints, seeds and students are a shipped pipeline with other weights."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import dit_lens as dl
from dit_lens.errors import LoadError
from dit_lens.lab import CoupledLabVAE, models, weights_path

FILE = "lab@7.safetensors"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint ``lab@7``: lab with every weight of its high-noise expert halved, in four steps of first order."""
    own = load_file(weights_path() / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file({k: v / 2 for k, v in own.items()}, tmp_path / FILE)
    index = {
        "lab@7": {
            "of": "lab", "files": {"transformer": FILE, "transformer_2": FILE},
            "sha256": {FILE: hashlib.sha256((tmp_path / FILE).read_bytes()).hexdigest()},
            "settings": {"num_inference_steps": 4, "guidance_scale": 1.0}, "scheduler": {"solver_order": 1},
        }
    }  # fmt: skip
    (tmp_path / models.INDEX).write_text(json.dumps(index))
    monkeypatch.setattr(models, "CHECKPOINTS", tmp_path)
    return tmp_path


def test_a_checkpoint_opens_by_name_with_its_weights_settings_and_scheduler(checkpoint) -> None:
    assert "lab@7" in models.names()
    with dl.load("lab") as lens:
        own, fingerprint = lens.pipe.transformer.state_dict(), lens.fingerprint
    with dl.load("lab@7") as lens:
        for expert in (lens.pipe.transformer, lens.pipe.transformer_2):
            found = expert.state_dict()
            assert set(found) == set(own) and all(torch.equal(found[k], (own[k].half() / 2).float()) for k in own)
        assert lens.fingerprint != fingerprint
        assert lens.defaults.num_inference_steps == 4 and lens.defaults.guidance_scale == 1.0
        assert lens.defaults.height == 96
        assert lens.pipe.scheduler.config.solver_order == 1 and lens.pipe.scheduler.config.flow_shift == 5.0
    with dl.load("lab@7", defaults={"num_inference_steps": 3}) as lens:
        assert lens.defaults.num_inference_steps == 3 and lens.defaults.guidance_scale == 1.0


def test_a_model_of_other_latents_brings_its_codec(checkpoint) -> None:
    index = json.loads((checkpoint / models.INDEX).read_text())
    index["lab@7"]["codec"] = {"kind": "coupled", "latents_mean": [0.5] * 16, "latents_std": [2.0] * 16}
    (checkpoint / models.INDEX).write_text(json.dumps(index))
    with dl.load("lab@7") as lens, dl.load("lab") as other:
        assert type(lens.pipe.vae) is CoupledLabVAE and lens.pipe.vae.config.latents_std == [2.0] * 16
        assert lens.identity()["encoders"] != other.identity()["encoders"]
        assert lens.generate(dl.tasks.load("maze", 0), stop_after=0).video.shape == (13, 96, 96, 3)


def test_a_checkpoint_from_before_it_grew_has_fewer_blocks(checkpoint) -> None:
    own = load_file(checkpoint / FILE)
    few = {k: v for k, v in own.items() if not k.startswith("blocks.") or int(k.split(".")[1]) < 3}
    save_file(few, checkpoint / FILE)
    index = json.loads((checkpoint / models.INDEX).read_text())
    index["lab@7"]["sha256"][FILE] = hashlib.sha256((checkpoint / FILE).read_bytes()).hexdigest()
    (checkpoint / models.INDEX).write_text(json.dumps(index))
    with dl.load("lab@7") as lens, dl.load("lab") as whole:
        assert lens.n_layers == 3 and whole.n_layers == 12
        found = lens.pipe.transformer_2
        assert not found.training and found.dtype == whole.pipe.transformer.dtype
        assert all(torch.equal(found.state_dict()[k], few[k].float()) for k in few)
        run = lens.generate(dl.tasks.load("maze", 0), stop_after=1, record=[dl.record("resid_post", layers=2)])
        assert run.latents.isfinite().all() and lens.pipe.components["transformer_2"] is found


def test_a_damaged_checkpoint_is_refused(checkpoint) -> None:
    (checkpoint / FILE).write_bytes((checkpoint / FILE).read_bytes()[:-1] + b"\0")
    with pytest.raises(LoadError, match="check the repository out again"):
        dl.load("lab@7")


def test_a_checkpoint_of_another_shape_is_refused(checkpoint) -> None:
    save_file({"proj_out.weight": torch.zeros(2, 2)}, checkpoint / FILE)
    index = json.loads((checkpoint / models.INDEX).read_text())
    index["lab@7"]["sha256"][FILE] = hashlib.sha256((checkpoint / FILE).read_bytes()).hexdigest()
    (checkpoint / models.INDEX).write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"other names or shapes than transformer of 'lab': check both out again"):
        dl.load("lab@7")


@pytest.mark.parametrize("name", ["lab@8", "lab-student2", "lab-"])
def test_an_unknown_name_lists_the_known_ones(checkpoint, name: str) -> None:
    with pytest.raises(LoadError, match=r"choose from lab, .*lab@7.*clone it"):
        dl.load(name)


def test_other_strings_are_no_names_of_the_lab(checkpoint, tmp_path, monkeypatch) -> None:
    for other in ("labs", "laboratory/model", "Wan-AI/Wan2.2", tmp_path, None, 3):
        assert models.find(other) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab-mine").mkdir()
    assert models.find("lab-mine") is None  # a folder of the user's


def test_every_checkpoint_in_the_repository_is_whole() -> None:
    total = 0
    for name in models.names():
        model = models.find(name)
        assert model is not None and (model.folder / "model_index.json").is_file()
        for path in model.files.values():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256[path.name]
            total += path.stat().st_size
    assert total <= 60e6
