"""Channel variance and PCA maps: reducers against direct arithmetic, planted covariances and planes, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from families import FAMILIES, GRID, HEAD_DIM, HEADS, LAYERS

from dit_lens.address import Address
from dit_lens.errors import MeasureError, RecordError
from dit_lens.measures import token_maps
from dit_lens.measures.token_masks import shuffled_mask
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run
from dit_lens.wan.token_grid import Grid

N, D = GRID[0] * GRID[1] * GRID[2], HEADS * HEAD_DIM
HALF = np.arange(N) % 2 == 0
REGIONS = {"half": HALF, "one": np.arange(N) == 5, "nothing": np.zeros(N, bool)}
FAMILY = FAMILIES["i2v22"]


@pytest.fixture(scope="module")
def lens() -> Iterator[Lens]:
    with load(FAMILY.build()) as made:
        yield made


def generate(lens: Lens, *records: object) -> Run:
    return lens.generate(
        **FAMILY.call, num_inference_steps=2, guidance_scale=5.0, seed=3, regions=REGIONS, record=list(records)
    )


@pytest.fixture(scope="module")
def run(lens: Lens) -> Run:
    moments = token_maps.ChannelMoments()
    return generate(
        lens,
        record("resid_post"),
        record("resid_post", reduce=moments, name="moments"),
        record("z", name="z_raw"),
        record("z", reduce=token_maps.ChannelMoments(("half",)), name="z_moments"),
    )


# -- channel variance


def test_moments_are_those_of_the_tokens(run: Run) -> None:
    found = token_maps.channel_variance(run)
    assert found.dims == ("step", "branch", "layer", "region", "part", "channel")
    assert found.shape == (2, 2, LAYERS, 3, 2, D)
    for step, branch, layer in ((0, "cond", 0), (1, "uncond", 2)):
        raw = run[Address(step, branch, layer, "resid_post")].double().numpy()  # type: ignore[arg-type]
        here = found.sel(step=step, branch=branch, layer=layer)
        for name, mask in REGIONS.items():
            rest = here.sel(region=name, part="rest")
            np.testing.assert_allclose(rest, raw[~mask].var(0), rtol=1e-3, atol=1e-5)
            if mask.any():
                np.testing.assert_allclose(here.sel(region=name, part="in"), raw[mask].var(0), rtol=1e-3, atol=1e-5)
                label = f"{name}: in mean"
                mean = run.array("moments", "cond").sel(step=0, layer=0, moment=label)
                direct = run["step=0 layer=0 hook=resid_post"].numpy()[mask].mean(0)
                np.testing.assert_allclose(mean, direct, rtol=1e-4, atol=1e-5)
    assert found.sel(region="nothing", part="in").isnull().all()
    assert (found.sel(region="one", part="in") <= 1e-4).all()


def test_heads_stay_apart(run: Run) -> None:
    raw = run["step=1 layer=1 hook=z_raw"].double().numpy()
    found = token_maps.channel_variance(run, "z_moments")
    assert found.dims == ("step", "branch", "layer", "region", "part", "head", "channel")
    here = found.sel(step=1, branch="cond", layer=1, region="half", part="in")
    np.testing.assert_allclose(here, raw[HALF].var(0), rtol=1e-3, atol=1e-6)
    assert token_maps.variance_ratio(run, "z_moments").dims == ("step", "branch", "layer", "region", "head")


def test_a_large_offset_does_not_drown_the_variance() -> None:
    """Massive channels: E[x^2] - E[x]^2 in single precision would give nonsense here."""
    x = torch.randn(1, N, D, generator=torch.Generator().manual_seed(0)) + 3e4
    mask = torch.from_numpy(HALF)[None]
    found = token_maps.ChannelMoments()(x, Grid(*GRID), {"half": mask})
    torch.testing.assert_close(found[0, 1], x[0, HALF].double().var(0, correction=0).float(), rtol=2e-2, atol=2e-2)


def test_a_batch_has_a_mask_each() -> None:
    x = torch.randn(2, N, D, generator=torch.Generator().manual_seed(0))
    both = torch.stack([torch.from_numpy(HALF), torch.from_numpy(~HALF)])
    found = token_maps.ChannelMoments()(x, Grid(*GRID), {"half": both})
    torch.testing.assert_close(found[1, 1], x[1, ~HALF].var(0, correction=0))
    torch.testing.assert_close(found[1, 3], x[1, HALF].var(0, correction=0))


def planted(run: Run, tokens: np.ndarray, hook: str = "resid_post") -> Run:
    """The run with given raw tokens (N, d) at every place of a hook."""
    values = {a: torch.tensor(tokens, dtype=torch.float32) for a in run.activations if a.hook == hook}
    return replace(run, activations=values)


def recorded(run: Run, tokens: np.ndarray, masks: dict[str, np.ndarray]) -> Run:
    """The run as if ``ChannelMoments`` had seen these tokens everywhere."""
    reducer, grid = token_maps.ChannelMoments(tuple(masks)), run.grid
    wanted = {name: torch.from_numpy(mask)[None] for name, mask in masks.items()}
    kept = reducer(torch.tensor(tokens, dtype=torch.float32)[None], grid, wanted)[0]
    places = {a: kept for a in run.activations if a.hook == "moments"}
    return replace(run, activations=places, dims={"moments": reducer.dims(grid, wanted)})


def test_a_planted_variance_is_found_and_its_null_is_not(run: Run) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(N, 4000)) * np.where(HALF, 2.0, 1.0)[:, None]
    found = token_maps.variance_ratio(recorded(run, tokens, {"half": HALF, "null": shuffled_mask(HALF, run.grid, rng)}))
    assert found.dims == ("step", "branch", "layer", "region")
    np.testing.assert_allclose(found.sel(region="half"), 2.0, atol=0.1)  # log2 of 4
    alike = token_maps.variance_ratio(recorded(run, rng.normal(size=(N, 4000)), {"half": HALF}))
    np.testing.assert_allclose(alike, 0.0, atol=0.1)
    assert (abs(found.sel(region="null")) < 1).all()


def test_a_region_without_variance_has_no_ratio(run: Run) -> None:
    found = token_maps.variance_ratio(run)
    assert found.sel(region="nothing").isnull().all() and found.sel(region="half").notnull().all()


def test_top_channels_are_the_planted_ones(run: Run) -> None:
    tokens = np.random.default_rng(0).normal(size=(N, D)) * np.where(np.arange(D) == 7, 9, np.where(np.arange(D), 1, 5))
    variance = token_maps.channel_variance(recorded(run, tokens, {"half": HALF}))
    found = token_maps.top_channels(variance, k=2)
    assert found.dims[-1] == "rank" and (found.values.reshape(-1, 2) == [7, 0]).all()
    with pytest.raises(MeasureError, match="k=99"):
        token_maps.top_channels(variance, k=99)
    with pytest.raises(MeasureError, match="give an array with a channel axis"):
        token_maps.top_channels(found)


def test_moments_errors(lens: Lens, run: Run) -> None:
    with pytest.raises(RecordError, match=r"regions \['absent'\]; this video has"):
        generate(lens, record("resid_post", reduce=token_maps.ChannelMoments(("absent",))))
    with pytest.raises(RecordError, match="holds no channel moments"):
        token_maps.channel_variance(run, "resid_post")
    with pytest.raises(RecordError, match="reduces video tokens"):
        generate(lens, record("text_embed", reduce=token_maps.ChannelMoments()))


def test_moments_say_what_they_will_take(lens: Lens) -> None:
    """The limit counts the reducer's own rows: exactly what is kept passes, one byte less does not."""
    wanted = record("resid_post", reduce=token_maps.ChannelMoments())
    exact = 2 * 2 * LAYERS * 4 * len(REGIONS) * D * 4
    call = {**FAMILY.call, "num_inference_steps": 2, "guidance_scale": 5.0, "regions": REGIONS, "record": wanted}
    kept = lens.generate(**call, limit=exact)
    assert sum(v.numel() * 4 for v in kept.activations.values()) == exact
    with pytest.raises(RecordError, match="needs"):
        lens.generate(**call, limit=exact - 1)


# -- PCA


def plane() -> tuple[np.ndarray, np.ndarray]:
    """Tokens that lie on a plane: rows differ along one direction, columns (less) along another."""
    _frame, row, col = np.indices(GRID).reshape(3, -1)
    u, w = np.linalg.qr(np.random.default_rng(0).normal(size=(D, 2)))[0].T
    places = np.stack([10.0 * (row - row.mean()), col - col.mean()], -1)  # (N, 2)
    return places @ np.stack([u, w]) + 3.0, places


def test_a_planted_plane_is_found(run: Run) -> None:
    tokens, places = plane()
    flat = planted(run, tokens)
    pca = token_maps.fit_components([flat], layer=1, k=2)
    found = token_maps.pca_map(flat, components=pca)
    assert found.dims == ("step", "branch", "layer", "frame", "row", "col", "component")
    assert found["layer"].values.tolist() == [1] and found.shape[3:] == (*GRID, 2)
    one = found.isel(step=0, branch=0, layer=0).values.reshape(N, 2)
    np.testing.assert_allclose(np.abs(one), np.abs(places), atol=1e-4)  # a sign is free
    spread = places.var(0)
    np.testing.assert_allclose(pca.explained, spread / spread.sum(), atol=1e-5)


def test_a_stored_projection_is_the_projection(lens: Lens, run: Run) -> None:
    pca = token_maps.fit_components([run], layer=2)
    small = generate(lens, record("resid_post", layers=2, reduce=pca.reducer, name="pca"))
    stored, direct = token_maps.pca_map(small, "pca"), token_maps.pca_map(run, components=pca)
    assert stored.dims == direct.dims
    np.testing.assert_allclose(stored, direct, atol=1e-4)


def test_a_point_outside_the_blocks_has_maps(lens: Lens) -> None:
    embedded = generate(lens, record("patch_embed"))
    pca = token_maps.fit_components([embedded], layer=-1, hook="patch_embed")
    mapped = token_maps.pca_map(embedded, "patch_embed", pca)
    assert mapped.dims == ("step", "branch", "frame", "row", "col", "component")


def test_colours_run_from_nothing_to_full(run: Run) -> None:
    pca = token_maps.fit_components([run], layer=0)
    colours = token_maps.rgb(token_maps.pca_map(run, components=pca))
    space = ["frame", "row", "col"]
    np.testing.assert_allclose(colours.min(space), 0, atol=1e-6)
    np.testing.assert_allclose(colours.max(space), 1, atol=1e-6)
    flat = token_maps.pca_map(run, components=pca) * xr.DataArray([1.0, 1.0, 0.0], dims="component")
    assert (token_maps.rgb(flat).isel(component=2) == 0).all()
    with pytest.raises(MeasureError, match=r"exactly three components.*k=3"):
        token_maps.rgb(flat.isel(component=[0, 1]))


def test_pca_errors(run: Run) -> None:
    pca = token_maps.fit_components([run], layer=0)
    with pytest.raises(MeasureError, match="not recorded raw"):
        token_maps.fit_components([run], layer=0, hook="moments")
    with pytest.raises(MeasureError, match="k=999"):
        token_maps.fit_components([run], layer=0, k=999)
    with pytest.raises(MeasureError, match=r"layer 9 .* only \[0, 1, 2\]"):
        token_maps.fit_components([run], layer=9)
    with pytest.raises(MeasureError, match="layer 9"):
        token_maps.pca_map(run, components=replace(pca, layer=9))
    with pytest.raises(MeasureError, match="give components=fit_components"):
        token_maps.pca_map(run)
    with pytest.raises(MeasureError, match="leave components out"):
        token_maps.pca_map(run, "moments", pca)
    with pytest.raises(MeasureError, match="give more tokens"):
        token_maps.fit_components([], layer=0)
