"""Recording: each reducer against the same arithmetic on the raw activation, labels, regions, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, FRAMES, GRID, HEAD_DIM, HEADS, LAYERS, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dit_lens.address import Address, Depth
from dit_lens.errors import AddressError, RecordError
from dit_lens.wan.loading import load
from dit_lens.wan.points import point, split_path
from dit_lens.wan.recording import Recorder, needed_bytes, record
from dit_lens.wan.reduce import FrameMean, Project, RegionMean, TokenNorm, Tokens
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid, token_regions

N, D = GRID[0] * GRID[1] * GRID[2], HEADS * HEAD_DIM
REGIONS = {
    "half": np.arange(N) % 2 == 0,
    "last frame": np.arange(N) >= 16,
    "nothing": np.zeros(N, bool),
}


def generate(family: Family, records: Any, **more: Any) -> Run:
    with load(family.build()) as lens:
        call = {"num_inference_steps": 2, "guidance_scale": 5.0, "seed": 3, "regions": REGIONS, **more}
        return lens.generate(**family.call, **call, record=records)


BASIS = torch.randn(D, 5, generator=torch.Generator().manual_seed(0))
CENTRE = torch.randn(D, generator=torch.Generator().manual_seed(1))

#: name -> (reducer, the same on a raw activation (N, ...), shape of the token axis)
REDUCERS: dict[str, tuple[Any, Any]] = {
    "raw": ("raw", lambda x: x),
    "token_norm": ("token_norm", lambda x: x.double().square().sum(-1).sqrt()),
    "frame_mean": ("frame_mean", lambda x: torch.stack([x[8 * f : 8 * f + 8].double().mean(0) for f in range(3)])),
    "region_mean": (
        "region_mean",
        lambda x: torch.stack([x[torch.from_numpy(m)].double().mean(0) for m in REGIONS.values()]),
    ),
    "one region": (RegionMean(("last frame",)), lambda x: x[16:].double().mean(0)[None]),
    "tokens": (Tokens((5, 0, 23)), lambda x: x[[5, 0, 23]]),
}


@pytest.mark.parametrize("hook", ["resid_post", "z", "update", "attn_gated", "mlp_post", "patch_embed", "velocity"])
@pytest.mark.parametrize("name", REDUCERS)
def test_reducers(hook: str, name: str) -> None:
    reduce, direct = REDUCERS[name]
    run = generate(FAMILIES["i2v22"], [record(hook), record(hook, reduce=reduce, name="small")])
    raw = {a: v for a, v in run.activations.items() if a.hook == hook}
    assert len(raw) == 4 * (LAYERS if point(hook).in_block else 1)
    for a, value in raw.items():
        small = run.activations[Address(a.step, a.branch, a.layer, "small")]
        torch.testing.assert_close(small.double(), direct(value).double(), atol=1e-5, rtol=1e-5, equal_nan=True)
        assert not small.requires_grad and small.device.type == "cpu"


def test_project() -> None:
    project = Project(BASIS, CENTRE)
    run = generate(FAMILIES["t2v21"], [record("resid_post"), record("resid_post", reduce=project, name="map")])
    for layer in range(LAYERS):
        x = run[f"step=1 layer={layer} hook=resid_post"]
        torch.testing.assert_close(run[f"step=1 layer={layer} hook=map"], (x - CENTRE) @ BASIS, atol=1e-5, rtol=1e-5)
    array = run.array("map")
    assert array.dims == ("step", "branch", "layer", "token", "component") and array.sizes["component"] == 5
    plain = generate(FAMILIES["t2v21"], record("resid_post", reduce=Project(BASIS.numpy()), layers=0))
    torch.testing.assert_close(plain["step=1 layer=0 hook=resid_post"], run["step=1 layer=0 hook=resid_post"] @ BASIS)


def test_regions_of_a_batch_are_each_items_own() -> None:
    """Two tasks with other regions: each mean is taken over its own tokens."""

    class Task:
        prompt = "a red agent"

        def __init__(self, first: int) -> None:
            self.regions = {"part": np.arange(N) >= first}

    family = FAMILIES["t2v21"]
    call = {k: v for k, v in family.call.items() if k != "prompt"}
    with load(family.build()) as lens:
        wanted = [record("z"), record("z", reduce="region_mean", name="mean")]
        runs = lens.generate([Task(4), Task(20)], **call, num_inference_steps=1, seed=[1, 2], record=wanted)
    for run, first in zip(runs, (4, 20), strict=True):
        direct = run["step=0 layer=1 hook=z"][first:].mean(0, keepdim=True)
        torch.testing.assert_close(run["step=0 layer=1 hook=mean"], direct)


# -- labels

HEADED = {"q": "token", "cross_k": "token"}


@pytest.mark.parametrize(
    ("hook", "reduce", "dims", "shape"),
    [
        ("resid_post", "raw", ("token", "channel"), (N, D)),
        ("resid_post", "token_norm", ("token",), (N,)),
        ("resid_post", "frame_mean", ("frame", "channel"), (3, D)),
        ("resid_post", "region_mean", ("region", "channel"), (3, D)),
        ("resid_post", Tokens((1, 2)), ("token", "channel"), (2, D)),
        ("q", "raw", ("token", "head", "channel"), (N, HEADS, HEAD_DIM)),
        ("q", "token_norm", ("token", "head"), (N, HEADS)),
        ("q", "frame_mean", ("frame", "head", "channel"), (3, HEADS, HEAD_DIM)),
        ("q", "region_mean", ("region", "head", "channel"), (3, HEADS, HEAD_DIM)),
        ("q", Tokens((7,)), ("token", "head", "channel"), (1, HEADS, HEAD_DIM)),
        ("cross_k", "raw", ("token", "head", "channel"), (16, HEADS, HEAD_DIM)),
        ("cross_k", "token_norm", ("token", "head"), (16, HEADS)),
        ("mlp_post", "frame_mean", ("frame", "channel"), (3, 40)),
        ("update", "token_norm", ("token",), (N,)),
    ],
)
def test_array_of_blocks(hook: str, reduce: Any, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
    run = generate(FAMILIES["t2v21"], record(hook, reduce=reduce))
    array = run.array(hook)
    assert array.dims == ("step", "branch", "layer", *dims)
    assert array.shape == (2, 2, LAYERS, *shape) and array.name == hook
    assert list(array.step) == [0, 1] and list(array.branch) == ["cond", "uncond"] and list(array.layer) == [0, 1, 2]
    np.testing.assert_allclose(array.sigma, run.sigmas[:2])
    if "region" in dims:
        assert list(array.region) == list(REGIONS)
        assert array.sel(region="nothing").isnull().all() and not array.sel(region="half").isnull().any()
    for a, value in run.activations.items():
        found = array.sel(step=a.step, branch=a.branch, layer=a.layer).values
        np.testing.assert_array_equal(found, value.float().numpy())
    assert run.array(hook, "uncond").dims == ("step", "layer", *dims)


def test_an_array_says_which_expert_ran_each_step() -> None:
    run = generate(FAMILIES["i2v22"], record("z", reduce="token_norm"))
    array = run.array("z", "cond")
    assert array.expert.dims == ("step",) and list(array.expert.values) == ["high", "low"]
    assert list(array.expert.values) == [run.plan.at(s).expert for s in array.step.values]


@pytest.mark.parametrize(
    ("family", "hook", "reduce", "dims"),
    [
        ("t2v21", "velocity", "raw", ("token", "channel")), ("t2v21", "modulation", "raw", ("channel",)),
        ("t2v21", "time_embed", "token_norm", ()), ("ti2v22", "modulation", "raw", ("token", "channel")),
        ("t2v21", "time_embed", Project(BASIS), ("component",)), ("i2v21", "image_embed", "raw", ("token", "channel")),
    ],
)  # fmt: skip
def test_array_outside_blocks(family: str, hook: str, reduce: Any, dims: tuple[str, ...]) -> None:
    array = generate(FAMILIES[family], record(hook, reduce=reduce)).array(hook)
    assert array.dims == ("step", "branch", *dims) and not array.isnull().any()


def test_array_is_nan_where_nothing_was_recorded() -> None:
    records = [record("z", steps=0, layers=0), record("z", steps=1, layers=-1, branches="uncond")]
    array = generate(FAMILIES["t2v21"], records).array("z")
    assert array.sizes["layer"] == 2 and list(array.layer) == [0, 2]
    filled = ~array.isnull().all(("token", "head", "channel"))
    assert int(filled.sum()) == 3 and bool(filled.sel(step=1, branch="uncond", layer=2))
    assert not bool(filled.sel(step=1, branch="cond", layer=2))


def test_layers_by_depth_and_from_the_end() -> None:
    run = generate(FAMILIES["t2v21"], [record("z", layers=Depth(0.5, 1)), record("q", layers=slice(0, 2), steps=-1)])
    assert {a.layer for a in run.activations if a.hook == "z"} == {2}
    assert {(a.step, a.layer) for a in run.activations if a.hook == "q"} == {(1, 0), (1, 1)}


def test_address_text_reads_back() -> None:
    run = generate(FAMILIES["t2v21"], record("z", "velocity"))
    for a, value in run.activations.items():
        assert Address.parse(str(a)) == a and run[str(a)] is value
    with pytest.raises(AddressError):
        Address.parse("layer=1 hook=z")


# -- cost


@pytest.mark.parametrize("name", FAMILIES)
def test_the_announced_size_is_the_size_held(name: str) -> None:
    """Bytes from the formula == bytes of the tensors, for every point and reducer that fits it, in fp32."""
    family = FAMILIES[name]
    with load(family.build()) as lens:
        hooks = sorted({split_path(path)[0].name for path in lens.experts["high"].hook_dict}) + ["update"]
        plan = lens.plan(num_inference_steps=2, guidance_scale=5.0)
        run = lens.generate(**family.call, num_inference_steps=2, guidance_scale=5.0, seed=3, regions=REGIONS)
        extent, masks = (
            lens._extent(run.conditions, run.grid),
            {k: torch.from_numpy(v)[None] for k, v in REGIONS.items()},
        )
        widths: dict[str, list[str]] = {}
        for hook in hooks:
            widths.setdefault("wide" if extent.shape(point(hook))[-1] == D else "other", []).append(hook)
        video = [h for h in hooks if point(h).axis == "N"]
        requests = [
            record(*hooks), record(*hooks, reduce=TokenNorm()), record(*video, reduce="region_mean", steps=1),
            record(*video, reduce=FrameMean(), layers=[0, 2]), record(*video, reduce=Tokens((1, 5)), branches="uncond"),
            record(*widths["wide"], reduce=Project(BASIS)),
        ]  # fmt: skip
        for request in requests:
            needed = needed_bytes([request], plan, lens._depths, extent, run.grid, masks)
            kept = lens.generate(
                **family.call, num_inference_steps=2, guidance_scale=5.0, regions=REGIONS, record=request, limit=needed
            ).activations
            held = sum(v.untyped_storage().nbytes() for v in kept.values())
            assert held == needed == sum(v.numel() * v.element_size() for v in kept.values()), request.reduce
            with pytest.raises(RecordError, match="limit"):
                lens.generate(**family.call, num_inference_steps=2, regions=REGIONS, record=request, limit=needed - 1)


def test_in_bf16_the_size_is_an_upper_bound() -> None:
    family = FAMILIES["t2v21"]
    pipe = family.build()
    pipe.transformer.to(torch.bfloat16)
    with load(pipe) as lens:
        run = lens.generate(**family.call, num_inference_steps=1, record=record("resid_post"))
        needed = needed_bytes(
            [record("resid_post")], run.plan, lens._depths, lens._extent(run.conditions, run.grid), run.grid, {}
        )
        assert sum(v.nbytes for v in run.activations.values()) == needed // 2


def test_refused_before_anything_ran() -> None:
    family = FAMILIES["t2v21"]
    with load(family.build()) as lens:
        calls: list[int] = []
        lens.pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
        with pytest.raises(RecordError, match="GiB"):
            lens.generate(**family.call, record=record("resid_post"), limit=1)
        assert not calls


def test_a_reducer_of_ones_own() -> None:
    """Anything with the two methods reduces: here the largest unit of each token."""

    class Largest:
        tokens = False

        def __call__(self, x: Tensor, grid: Grid, masks: Any) -> Tensor:
            return x.abs().amax(-1)

        def dims(self, grid: Grid, masks: Any) -> dict[str, Any]:
            return {"token": None}

    run = generate(FAMILIES["t2v21"], [record("z"), record("z", reduce=Largest(), name="peak")])
    assert torch.equal(run["step=1 layer=2 hook=peak"], run["step=1 layer=2 hook=z"].abs().amax(-1))
    assert run.array("peak").dims == ("step", "branch", "layer", "token", "head")


# -- the grid

grids = st.builds(
    Grid, st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.sampled_from([4, 16]), st.sampled_from([4, 16])
)


@settings(deadline=None, max_examples=60)
@given(grids, st.data())
def test_tokens_and_places_correspond(grid: Grid, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, grid.n_tokens - 1))
    frame, row, col = np.unravel_index(token, (grid.frames, grid.rows, grid.cols))
    assert grid.index(int(frame), int(row), int(col)) == token
    assert grid.frame_of(np.array([token]))[0] == frame
    mask = np.zeros((grid.n_pixel_frames, *grid.size), bool)
    moment = data.draw(st.integers(*((0, 0) if frame == 0 else (4 * frame - 3, 4 * frame))))
    a, b = grid.pixel_rows, grid.pixel_cols
    mask[moment, row * a : row * a + a, col * b : col * b + b] = True
    assert np.flatnonzero(grid.tokens(mask)).tolist() == [token]


@settings(deadline=None, max_examples=40)
@given(grids, st.data())
def test_places_outside_the_grid_are_refused(grid: Grid, data: st.DataObject) -> None:
    sizes = (grid.frames, grid.rows, grid.cols)
    axis = data.draw(st.integers(0, 2))
    place = [0, 0, 0]
    place[axis] = data.draw(st.sampled_from([-1, sizes[axis], sizes[axis] + 7]))
    with pytest.raises(AddressError, match="outside the token grid"):
        grid.index(*place)


def test_known_masks() -> None:
    grid = Grid(3, 2, 4)
    assert (grid.n_tokens, grid.n_pixel_frames, grid.size) == (24, 9, (32, 64))
    left = np.zeros((32, 64), bool)
    left[:, :32] = True
    assert grid.tokens(left).reshape(3, 2, 4).tolist() == [[[True, True, False, False]] * 2] * 3
    corner = np.zeros((9, 32, 64), bool)
    corner[5:9, :16, :8] = True  # half of the first token, in the pixel frames of latent frame 2
    assert np.flatnonzero(grid.tokens(corner)).tolist() == [16]
    assert not grid.tokens(corner, at_least=0.51).any()
    first = np.zeros((9, 32, 64), bool)
    first[0] = True
    assert grid.tokens(first).reshape(3, -1).all(1).tolist() == [True, False, False]
    given_tokens = np.arange(24) == 3
    found = token_regions(grid, {"a": given_tokens, "b": left})
    assert found["a"].tolist() == given_tokens.tolist() and found["b"].sum() == 12


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_the_lens_knows_its_grid(family: Family) -> None:
    run = generate(
        family,
        (),
        num_inference_steps=1,
        regions={"all": np.ones((FRAMES, family.call["height"], family.call["width"]), bool)},
    )
    assert (run.grid.frames, run.grid.rows, run.grid.cols) == GRID
    assert run.regions["all"].all() and run.video.shape == (run.grid.n_pixel_frames, *run.grid.size, 3)


def test_recorder_files_nothing_of_other_calls() -> None:
    family = FAMILIES["i2v22"]
    with load(family.build()) as lens:
        run = lens.generate(**family.call, num_inference_steps=2)
        extent = lens._extent(run.conditions, run.grid)
        recorder = Recorder([record("z", steps=1, layers=2)], run.plan, lens._depths, extent, run.grid, {})
        assert [len(recorder.hooks(call)) for call in run.plan] == [0, 0, 1, 1]
        assert recorder.hooks(run.plan.at(1))[0][0] == "blocks.2.attn.hook_z"
