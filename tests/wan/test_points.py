"""Every point of the table fires, with the shape that the table states, in the real configurations of all families."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from families import FAMILIES, Family, real_configs
from torch import Tensor

from dit_lens.errors import AddressError
from dit_lens.wan.expert import Expert
from dit_lens.wan.loading import load
from dit_lens.wan.points import BY_NAME, IMAGE_CONTEXT, POINTS, UPDATE, point, split_path, table
from dit_lens.wan.recording import record

CLIP_TOKENS = 257  # of the real image encoder: 16 x 16 patches and a class token


def expected(config: dict[str, Any], name: str, tokens: int, text: int) -> dict[str, tuple[int, ...]]:
    """Full path -> shape, read off the table's letters."""
    heads, width = config["num_attention_heads"], config["attention_head_dim"]
    sizes = {
        "B": 1, "N": tokens, "M": text, "I": CLIP_TOKENS, "d": heads * width, "6d": 6 * heads * width, "H": heads,
        "D": width, "f": config["ffn_dim"], "p": 4 * config["out_channels"],
    }  # fmt: skip
    found = {}
    for p in POINTS:
        if p.name in IMAGE_CONTEXT and name != "i2v21":
            continue
        axes = p.shape.split()
        if name == "ti2v22" and p.name in ("time_embed", "modulation"):
            axes.insert(1, "N")  # a timestep for each token
        for layer in range(config["num_layers"]) if p.in_block else (-1,):
            found[p.at(layer)] = tuple(sizes[a] for a in axes)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_of_the_real_models(name: str) -> None:
    config = real_configs()[name]
    text = 512 if name == "i2v21" else 9
    with torch.device("meta"):
        model = WanTransformer3DModel(**config).eval().requires_grad_(False)
        keys = list(model.state_dict())
        expert = Expert("high", model)
        latents = torch.empty(1, config["in_channels"], 2, 4, 6)  # 2 x 2 x 3 tokens
        timestep = torch.empty(1, 12) if name == "ti2v22" else torch.empty(1)
        image = {"encoder_hidden_states_image": torch.empty(1, CLIP_TOKENS, 1280)} if name == "i2v21" else {}
        shapes: dict[str, tuple[int, ...]] = {}

        def keep(x: Tensor, hook: Any) -> None:
            assert hook.name not in shapes, "a point fires once a call"
            shapes[hook.name] = tuple(x.shape)

        with expert.listening([(path, keep) for path in expert.hook_dict]):
            out = model(latents, timestep, torch.empty(1, text, 4096), return_dict=False, **image)[0]
    assert out.shape == (1, config["out_channels"], 2, 4, 6) and out.device.type == "meta"
    assert shapes == expected(config, name, 12, text)
    assert list(expert.hook_dict) == list(expected(config, name, 12, text))
    assert list(model.state_dict()) == keys, "state-dict keys stay"
    expert.close()
    assert not any("hook_" in n for n, _ in model.named_modules())


def test_changing_any_point_changes_the_output(family: Family) -> None:
    """No point is decoration."""
    with load(family.build()) as lens:
        run = lens.generate(**family.call, num_inference_steps=2, stop_after=0)
        call = run.plan.at(0)
        with torch.no_grad():
            plain = lens.replay(run, call)
            for path in lens.experts[call.expert].hook_dict:
                noise = torch.Generator().manual_seed(0)
                push = (path, lambda x, hook, g=noise: x + torch.randn(x.shape, generator=g).to(x))
                moved = lens.replay(run, call, [push])
                assert not torch.equal(moved, plain), path
                same = (path, lambda x, hook: x.clone())
                assert torch.equal(lens.replay(run, call, [same]), plain), path


def test_recorded_shapes_follow_the_table(family: Family) -> None:
    with load(family.build()) as lens:
        names = sorted({split_path(path)[0].name for path in lens.experts["high"].hook_dict})
        run = lens.generate(**family.call, num_inference_steps=1, record=record(*names, "update"))
        extent = lens._extent(run.conditions, run.grid)
        for address, value in run.activations.items():
            assert tuple(value.shape) == extent.shape(BY_NAME[address.hook])[1:], address


def test_the_table_is_the_documentation() -> None:
    assert len({p.name for p in POINTS}) == len({p.path for p in POINTS}) == len(POINTS)
    text = table(True, 12)
    assert all(p.name in text and p.path in text and p.meaning in text for p in (*POINTS, UPDATE))
    assert "cross_z_img" not in table(False)
    with load(FAMILIES["i2v22"].build()) as lens:
        assert lens.points() in str(lens) and "i = 0 to 2" in lens.points()
        assert "image_embed" not in lens.points()


@pytest.mark.parametrize("p", POINTS, ids=lambda p: p.name)
def test_every_spelling_finds_its_point(p: Any) -> None:
    assert point(p.name) is p and point(p.path) is p
    assert point(p.path.removeprefix("blocks.{i}.")) is p
    assert split_path(p.at(7)) == (p, 7 if p.in_block else -1)


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(AddressError, match="resid_post"):
        point("resid_pst")
    with load(FAMILIES["t2v21"].build()) as lens, pytest.raises(AddressError):
        lens.experts["high"].hook("blocks.9.hook_resid_post")
