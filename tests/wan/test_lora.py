"""LoRA files: DiffSynth's names are renamed and nothing else, and what is loaded is all of the file.

The reference is the merge that DiffSynth does, W + B A, written out below with a table of module names of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, HEAD_DIM, HEADS, LAYERS
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from dit_lens.errors import LoadError
from dit_lens.wan import lora
from dit_lens.wan.loading import load

D, FFN, RANK = HEADS * HEAD_DIM, 40, 4
#: original name -> (module of diffusers' block, in, out): the six that the paper's adapters were trained on
TRAINED = {
    **{f"{a}_attn.{x}": (f"attn{n}.{m}", D, D) for a, n in (("self", 1), ("cross", 2))
       for x, m in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))},
    "ffn.0": ("ffn.net.0.proj", D, FFN),
    "ffn.2": ("ffn.net.2", FFN, D),
}  # fmt: skip
Q = "blocks.0.self_attn.q"
FORMS = (
    "{}.default.weight",
    "{}.high_noise.weight",
    "{}.weight",
)


def adapter(seed: int, scale: float = 0.3) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by original layer name, for every block."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(LAYERS):
        for name, (_, d_in, d_out) in TRAINED.items():
            pair = torch.randn(RANK, d_in, generator=g) * scale, torch.randn(d_out, RANK, generator=g) * scale
            found[f"blocks.{layer}.{name}"] = pair
    return found


def write(path: Path, pairs: dict[str, tuple[Tensor, Tensor]], form: str = FORMS[0], prefix: str = "") -> Path:
    state = {}
    for name, halves in pairs.items():
        for half, value in zip(("lora_A", "lora_B"), halves, strict=True):
            state[f"{prefix}{name}.{form.format(half)}"] = value
    save_file(state, str(path))
    return path


def merge(transformer: Any, pairs: dict[str, tuple[Tensor, Tensor]], alpha: float = 1.0) -> None:
    """W <- W + alpha B A, as DiffSynth adds an adapter to the weights."""
    for name, (a, b) in pairs.items():
        _, layer, rest = name.split(".", 2)
        weight = transformer.get_submodule(f"blocks.{layer}.{TRAINED[rest][0]}").weight
        weight.data += alpha * (b @ a)


def final(pipe: Any, **more: Any) -> Tensor:
    family = FAMILIES["i2v22"]
    with load(pipe, **more) as lens:
        return lens.generate(**family.call, num_inference_steps=4, guidance_scale=3.0, seed=1).final


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pair, named as in the hub repository."""
    folder = tmp_path_factory.mktemp("diffsynth")
    for i, name in enumerate(lora.PAIR):
        write(folder / name, adapter(i))
    return folder


def test_the_pair_does_what_the_merged_weights_do(pair: Path) -> None:
    family = FAMILIES["i2v22"]
    base = final(family.build())
    merged = family.build()
    merge(merged.transformer, adapter(0))
    merge(merged.transformer_2, adapter(1))
    expected = final(merged)
    for given in (pair, [pair / name for name in lora.PAIR]):
        got = final(family.build(), lora=given)
        effect = (expected - base).abs().max()
        assert effect > 0.01, "the adapter changes the video"
        assert (got - expected).abs().max() < 1e-4 * effect

    swapped = family.build()  # the reference is told apart from the pair the wrong way round
    merge(swapped.transformer, adapter(1))
    merge(swapped.transformer_2, adapter(0))
    assert (final(swapped) - expected).abs().max() > 0.1 * effect


def test_one_file_changes_the_high_noise_expert_only(pair: Path) -> None:
    pipe = FAMILIES["i2v22"].build()
    with load(pipe, lora=pair / lora.PAIR[0]):
        carried = [sum(hasattr(m, "lora_A") for m in e.modules()) for e in (pipe.transformer, pipe.transformer_2)]
    assert carried == [LAYERS * len(TRAINED), 0]


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "pipe.dit."])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_the_same_numbers(tmp_path: Path, form: str, prefix: str) -> None:
    pairs = adapter(3)
    pipe = FAMILIES["i2v22"].build()
    lora.add(pipe, write(tmp_path / "a.safetensors", pairs, form, prefix))
    for name, (a, b) in pairs.items():
        _, layer, rest = name.split(".", 2)
        module = pipe.transformer.get_submodule(f"blocks.{layer}.{TRAINED[rest][0]}")
        assert torch.equal(module.lora_A["lora_0"].weight, a) and torch.equal(module.lora_B["lora_0"].weight, b)
        assert module.scaling["lora_0"] == 1.0


def test_remap_keeps_the_tensors_themselves() -> None:
    a, b = adapter(0)["blocks.1.ffn.0"]
    given = {"blocks.1.ffn.0.lora_A.default.weight": a, "blocks.1.ffn.0.lora_B.default.weight": b}
    found = lora.remap(given)
    assert found["diffusion_model.blocks.1.ffn.0.lora_A.weight"] is a
    assert found["diffusion_model.blocks.1.ffn.0.lora_B.weight"] is b
    assert len(found) == 2


def test_a_stored_alpha_scales_by_alpha_over_rank(tmp_path: Path) -> None:
    family, pairs = FAMILIES["i2v22"], adapter(0)
    state = {}
    for name, (a, b) in pairs.items():
        state |= {f"{name}.lora_A.default.weight": a, f"{name}.lora_B.default.weight": b}
        state[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(state, str(tmp_path / "a.safetensors"))
    merged = family.build()
    merge(merged.transformer, pairs, alpha=2.0 / RANK)
    expected = final(merged)
    got = final(family.build(), lora=tmp_path / "a.safetensors")
    assert (got - expected).abs().max() < 1e-4 * (expected - final(family.build())).abs().max()


def test_a_file_that_diffusers_wrote_keeps_its_alpha(tmp_path: Path) -> None:
    """diffusers stores alpha in the file's metadata, which a dict of its tensors would lose."""
    a, b = adapter(0)[Q]
    layers = {"blocks.0.attn1.to_q.lora_A.weight": a, "blocks.0.attn1.to_q.lora_B.weight": b}
    family = FAMILIES["i2v22"]
    about = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["blocks.0.attn1.to_q"]}
    family.pipeline.save_lora_weights(tmp_path, layers, transformer_lora_adapter_metadata=about)
    pipe = family.build()
    lora.add(pipe, tmp_path / "pytorch_lora_weights.safetensors")
    assert pipe.transformer.blocks[0].attn1.to_q.scaling["lora_0"] == 2.0


def test_a_single_adapter_on_the_hub_is_renamed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: str) -> str:
        raise EntryNotFoundError("no such file")

    state = {f"{Q}.lora_A.default.weight": adapter(0)[Q][0], f"{Q}.lora_B.default.weight": adapter(0)[Q][1]}
    pipe = FAMILIES["i2v22"].build()
    real = type(pipe).lora_state_dict
    monkeypatch.setattr("huggingface_hub.hf_hub_download", none)
    monkeypatch.setattr(pipe, "lora_state_dict", lambda what, **k: real(state if isinstance(what, str) else what, **k))
    lora.add(pipe, "Video-Reason/VBVR-Wan2.1-diffsynth")
    assert torch.equal(pipe.transformer.blocks[0].attn1.to_q.lora_A["lora_0"].weight, adapter(0)[Q][0])


def test_files_that_diffusers_writes_pass_through() -> None:
    names = ["transformer.blocks.0.attn1.to_q.lora_A.weight", "transformer.blocks.0.attn1.to_q.lora_B.weight"]
    assert not lora.is_diffsynth(names)
    assert lora.is_diffsynth(["blocks.0.cross_attn.k_img.lora_A.default.weight"])
    assert not lora.is_diffsynth([])


Names = dict[str, Tensor]
A, B = torch.zeros(2, D), torch.zeros(D, 2)


@pytest.mark.parametrize(
    ("state", "cure"),
    [
        ({f"{Q}.lora_A.default.weight": A}, "get it again"),
        ({f"{Q}.lora_A.default.weight": A, f"{Q}.lora_B.default.weight": B[:, :1].clone()}, "get it again"),
        ({f"{Q}.lora_A.one.weight": A, f"{Q}.lora_A.two.weight": A.clone()}, "one adapter per file"),
    ],
    ids=["half", "ranks", "two adapters"],
)
def test_damaged_files_are_refused(tmp_path: Path, state: Names, cure: str) -> None:
    save_file(state, str(tmp_path / "a.safetensors"))
    with pytest.raises(LoadError, match=cure):
        lora.add(FAMILIES["i2v22"].build(), tmp_path / "a.safetensors")


def test_a_name_of_another_kind_is_refused() -> None:
    with pytest.raises(LoadError, match="known forms: DiffSynth"):
        lora.remap({f"{Q}.lora_A.default.weight": A, "text.lora_A.weight": A})


def test_bytes_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x04no tensors here")
    with pytest.raises(LoadError, match="not a safetensors file"):
        lora.add(FAMILIES["i2v22"].build(), tmp_path / "a.safetensors")


def test_a_layer_without_a_place_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """One layer of the file fits and one does not: diffusers would load the first and warn."""
    pairs = adapter(0)
    known = {Q: pairs[Q], f"blocks.{LAYERS}.self_attn.q": pairs["blocks.1.self_attn.q"]}
    pipe = FAMILIES["i2v22"].build()
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    with pytest.raises(LoadError, match=r"1 of 2 LoRA layers found a place .*number of blocks"):
        lora.add(pipe, write(tmp_path / "a.safetensors", known))
    after = {k.replace(".base_layer", ""): v for k, v in pipe.transformer.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_the_order_of_the_pair_is_checked(pair: Path) -> None:
    high, low = (pair / name for name in lora.PAIR)
    with pytest.raises(LoadError, match="swap the files"):
        lora.files_of([low, high], 2)
    with pytest.raises(LoadError, match="swap the files"):
        lora.files_of(low, 2)
    with pytest.raises(LoadError, match="one file per expert"):
        lora.files_of(pair, 1)


def test_a_folder_without_the_pair_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"lacks .*low_noise_lora"):
        lora.files_of(tmp_path, 2)


def test_a_hub_id_gives_its_pair(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(pair / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = lora.files_of("Video-Reason/VBVR-Wan2.2-diffsynth", 2)
    assert found == [str(pair / name) for name in lora.PAIR]
    assert asked == [("Video-Reason/VBVR-Wan2.2-diffsynth", name) for name in lora.PAIR]


def test_an_unreachable_hub_id_names_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(LoadError, match=r"Give the path of a .safetensors file"):
        lora.files_of("nobody/nothing", 2)
