"""Loading: a dtype by its name, defaults, silence, one line for what cannot be had, and the shape of a model alone."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, Family
from safetensors.torch import load_file, save_file

from dit_lens import lab
from dit_lens.errors import LoadError, SamplerError
from dit_lens.wan.call_plan import Plan
from dit_lens.wan.lens import Defaults
from dit_lens.wan.loading import load, outline


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16], ids=str)
def test_a_dtype_by_name(dtype: object, tmp_path: Path) -> None:
    FAMILIES["i2v22"].build().save_pretrained(tmp_path)
    with load(tmp_path, dtype=dtype) as lens:
        for expert in lens.experts.values():
            block = expert.transformer.blocks[0]
            assert block.ffn.net[2].weight.dtype == torch.bfloat16
            assert block.scale_shift_table.dtype == torch.float32  # kept wide, as diffusers does
    with load(FAMILIES["t2v21"].build(), dtype=dtype) as lens:
        assert lens.experts["high"].transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bf16", "int8", "nn", ""])
def test_an_unknown_dtype_names_known_ones(dtype: str) -> None:
    with pytest.raises(LoadError, match="'bfloat16', 'float16', 'float32'"):
        load("lab", dtype=dtype)


# -- what is said while loading

LOADED = """
import logging, sys
import diffusers.utils.logging as of_diffusers, transformers.utils.logging as of_transformers
from huggingface_hub.utils import are_progress_bars_disabled
import dit_lens as dl

def settings():
    filters = [f for name in list(logging.root.manager.loggerDict) for f in logging.getLogger(name).filters]
    ours = [f for f in filters if getattr(f, "__module__", "").startswith("dit_lens")]
    return [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries], hub(), ours

libraries, hub = (of_diffusers, of_transformers), are_progress_bars_disabled
before = settings()
dl.load("lab")
print(settings() == before, all(on for on, _ in before[0]) and not before[1])
print("another", file=sys.stderr)
dl.load(sys.argv[1])
"""


def test_lab_loads_in_silence_and_leaves_the_settings(tmp_path: Path) -> None:
    FAMILIES["i2v22"].build().save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", LOADED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]
    quiet, loud = done.stderr.split("another\n")
    assert quiet == "" and "Loading pipeline components" in loud and "Loading weights" in loud


# -- defaults


def test_a_pipeline_of_the_labs_folder_has_the_labs_defaults() -> None:
    with load(DiffusionPipeline.from_pretrained(lab.weights_path())) as lens:
        assert lens.defaults == Defaults(
            height=96, width=96, num_frames=13, num_inference_steps=20, guidance_scale=lab.settings["guidance_scale"],
            max_sequence_length=lab.settings["max_sequence_length"], fps=lab.settings["fps"],
        )  # fmt: skip


def test_given_defaults_are_what_generate_takes() -> None:
    family = FAMILIES["i2v22"]
    sizes = {k: family.call[k] for k in ("height", "width", "num_frames", "max_sequence_length", "negative_prompt")}
    given = {k: family.call[k] for k in ("prompt", "image")}
    with load(family.build(), defaults={**sizes, "num_inference_steps": 2}) as lens:
        run = lens.generate(**given)
        assert run.n_steps == 2 and lens.defaults.guidance_scale == Defaults().guidance_scale
        assert torch.equal(run.latents, lens.generate(**given, **sizes, num_inference_steps=2).latents)
    with load(family.build(), defaults=lens.defaults) as other:
        assert other.defaults == lens.defaults
    with load(family.build()) as lens, pytest.raises(SamplerError, match=r"\[21, 30, 52\].*for 32.*defaults="):
        lens.generate(**given)  # Wan's own size, which this model has no positions for


@pytest.mark.parametrize("defaults", [{"hight": 96}, [96, 96], {"height": 96, "frames": 13}], ids=str)
def test_unknown_defaults_name_known_ones(defaults: object) -> None:
    with pytest.raises(LoadError, match=r"num_frames, num_inference_steps.* or a lens's defaults"):
        load(FAMILIES["t2v21"].build(), defaults=defaults)


# -- what cannot be had


def test_an_unreachable_model_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        try:
            raise ConnectionError("no route to the hub.\nand much more")
        except ConnectionError as error:
            raise OSError("Cannot load model, at length") from error

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", unreachable)
    with pytest.raises(LoadError) as refused:
        load("some/model")
    assert str(refused.value) == (
        "'some/model' cannot be loaded as a pipeline in diffusers layout: no route to the hub. Give 'lab', a folder "
        "with model_index.json, a hub id that can be reached, or a pipeline object"
    )


@pytest.mark.parametrize(
    ("index", "said"),
    [("{", "not a valid JSON"), ("{}", "_class_name"), ("[]", "Give 'lab'"), ('{"_class_name": "Other"}', "Other")],
)
@pytest.mark.parametrize("how", [load, outline])
def test_an_index_that_says_nothing(how: Callable[[Path], object], index: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(LoadError, match=said):
        how(tmp_path)


# -- the shape of a model, without its weights


@pytest.mark.parametrize("verbosity", [logging.WARNING, logging.ERROR])
def test_files_that_lack_weights_are_refused(tmp_path: Path, verbosity: int) -> None:
    """diffusers fills them in at random, and with a quieter log it says nothing at all."""
    FAMILIES["t2v21"].build().save_pretrained(tmp_path)
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if k != "blocks.1.ffn.net.2.weight"}, file)
    logger, before = logging.getLogger("diffusers.models.modeling_utils"), logging.getLogger("diffusers").level
    filters = list(logger.filters)
    logging.getLogger("diffusers").setLevel(verbosity)
    try:
        with pytest.raises(LoadError, match=r"random numbers: .*blocks.1.ffn.net.2.weight.*save it again"):
            load(tmp_path)
        assert logger.level == logging.NOTSET and logger.filters == filters
    finally:
        logging.getLogger("diffusers").setLevel(before)


@pytest.fixture
def saved(family: Family, scheduler: str, tmp_path: Path) -> tuple[Path, str, Plan]:
    """A folder of which only the configuration is left, and what the whole model said."""
    family.build(scheduler).save_pretrained(tmp_path)
    with load(tmp_path) as lens:
        told = str(lens), lens.plan(num_inference_steps=3)
    for file in tmp_path.rglob("*"):
        if file.is_file() and (file.suffix != ".json" or file.parent.name in ("vae", "text_encoder", "tokenizer")):
            file.unlink()
    return tmp_path, *told


def test_an_outline_says_what_the_model_says(saved: tuple[Path, str, Plan]) -> None:
    folder, points, plan = saved
    with outline(folder) as lens:
        assert str(lens) == points and lens.plan(num_inference_steps=3) == plan
        assert all(w.is_meta for expert in lens.experts.values() for w in expert.transformer.parameters())


def test_an_outline_fetches_configurations_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAMILIES["i2v22"].build().save_pretrained(tmp_path)
    fetched = []

    def fetch(source: str, filename: str, subfolder: str | None = None, **_: object) -> str:
        assert source == "some/model"
        fetched.append("/".join(filter(None, (subfolder, filename))))
        return str(tmp_path / fetched[-1])

    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", fetch)
    with outline("some/model") as lens:
        assert lens.name == "some/model" and set(lens.experts) == {"high", "low"}
    configs = {"transformer/config.json", "transformer_2/config.json", "scheduler/scheduler_config.json"}
    assert set(fetched) == {"model_index.json", *configs}
