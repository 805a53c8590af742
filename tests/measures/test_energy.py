"""Energy by region and the masks behind it: planted norms whose ratio is known, nulls that are nothing, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from families import FAMILIES, GRID, LAYERS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dit_lens.address import Address
from dit_lens.errors import AddressError, MeasureError, RecordError
from dit_lens.measures import energy as e
from dit_lens.measures import token_masks
from dit_lens.wan.loading import load
from dit_lens.wan.recording import record
from dit_lens.wan.run import Run

N = GRID[0] * GRID[1] * GRID[2]
STEPS = 2
PLACE = np.arange(N).reshape(GRID)
#: One token in each frame, at another place each time: an object that moves.
OBJECT = np.isin(np.arange(N), [0, 8 + 3, 16 + 7])


@pytest.fixture(scope="module")
def real() -> Iterator[Run]:
    """A tiny generation with norms, raw streams and what enters the blocks."""
    family = FAMILIES["i2v22"]
    wanted = [
        record("resid_post", reduce="token_norm"),
        record("resid_post", name="raw"),
        record("patch_embed", reduce="token_norm"),
        record("text_embed", reduce="token_norm"),
    ]
    with load(family.build()) as lens:
        regions = {"object": OBJECT, "nothing": np.zeros(N, bool), "all": np.ones(N, bool)}
        yield lens.generate(
            **family.call, num_inference_steps=STEPS, guidance_scale=5.0, record=wanted, regions=regions
        )


def planted(run: Run, energy: np.ndarray) -> Run:
    """The run with given token norms: (n_tokens,), or (layers, n_tokens)."""
    rows = np.broadcast_to(energy, (LAYERS, N))
    places = [a for a in run.activations if a.hook == "resid_post"]
    values = {a: torch.tensor(rows[a.layer].copy(), dtype=torch.float32) for a in places}
    return replace(run, activations=values)


# -- the ratio


def test_a_planted_ratio_is_found_and_its_null_is_not(real: Run) -> None:
    run = planted(real, np.where(OBJECT, 4.0, 1.0))
    found = e.energy_ratio(run, OBJECT, draws=200)
    assert found.dims == ("step", "branch", "layer", "kind") and found.shape == (STEPS, 2, LAYERS, 2)
    np.testing.assert_array_equal(found.sel(kind="region"), 2.0)  # log2 of 4
    # The same size at random places: 1 of 8 tokens a frame is the object, so the mean is 1.375 on both sides.
    assert abs(float(found.sel(kind="null").mean())) < 0.2
    assert found.attrs["units"] == "log2 ratio" and list(found["sigma"].dims) == ["step"]


def test_no_difference_is_no_ratio(real: Run) -> None:
    run = planted(real, np.array([[1.0], [10.0], [100.0]]))  # grows with depth, the same everywhere
    np.testing.assert_array_equal(e.energy_ratio(run, OBJECT), 0.0)


def test_random_energy_has_no_ratio(real: Run) -> None:
    rng = np.random.default_rng(0)
    found = [e.energy_ratio(planted(real, rng.uniform(1, 2, N)), OBJECT, draws=1) for _ in range(200)]
    mean = float(xr.concat(found, "draw").isel(step=0, branch=0, layer=0).sel(kind="region").mean())
    assert abs(mean) < 0.03  # one draw is about 0.25 away


@given(arrays(float, N, elements=st.floats(0.1, 100)), arrays(bool, N), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_laws_of_the_ratio(norms: np.ndarray, mask: np.ndarray, scale: float) -> None:
    """Scaling a layer changes nothing, and swapping foreground and background changes the sign."""
    if mask.any() and not mask.all():
        ratio = e._ratio(norms[None], mask)
        np.testing.assert_allclose(e._ratio(scale * norms[None], mask), ratio, atol=1e-9)
        np.testing.assert_allclose(e._ratio(norms[None], ~mask), -ratio, atol=1e-9)
        assert abs(ratio[0]) <= np.log2(norms.max() / norms.min()) + 1e-9


def test_region_energy_is_the_same_ratio(real: Run) -> None:
    by_name = e.region_energy(real, ["object"])
    by_mask = e.energy_ratio(real, OBJECT)
    assert by_name.dims == ("step", "branch", "layer", "region", "kind")
    np.testing.assert_array_equal(by_name.sel(region="object", kind="region"), by_mask.sel(kind="region"))
    assert by_name.notnull().all()


@pytest.mark.parametrize(
    ("names", "cure"),
    [
        (["object", "unheard of"], r"\['unheard of'\]: this run has \['all', 'nothing', 'object'\]"),
        ([], "choose some of these"),
        (["nothing"], "'nothing' holds no token .* choose other regions"),
        (["all"], "'all' holds every token"),
    ],
)
def test_regions_without_a_ratio_are_refused(real: Run, names: list[str], cure: str) -> None:
    with pytest.raises(MeasureError, match=cure):
        e.region_energy(real, names)


def test_what_enters_the_blocks_has_a_ratio_too(real: Run) -> None:
    assert e.energy_ratio(real, OBJECT, hook="patch_embed").dims == ("step", "branch", "kind")


# -- energy by layer, step and frame


def test_energy_is_the_norm_at_its_place(real: Run) -> None:
    found = e.energy_map(real)
    assert found.dims == ("step", "branch", "layer", "frame", "row", "col") and found.shape[3:] == GRID
    for step, branch, layer in ((0, "cond", 0), (1, "uncond", 2)):
        raw = real[Address(step, branch, layer, "raw")].double().numpy()  # type: ignore[arg-type]
        direct = np.sqrt((raw**2).sum(-1))[PLACE]
        np.testing.assert_allclose(found.sel(step=step, branch=branch, layer=layer), direct, rtol=1e-5)
    by_frame = e.layer_energy(real)
    assert by_frame.dims == ("step", "branch", "layer", "frame")
    np.testing.assert_allclose(by_frame, found.mean(["row", "col"]))


def test_a_frame_is_a_frame(real: Run) -> None:
    found = e.layer_energy(planted(real, 1.0 + PLACE.reshape(-1) // 8))
    np.testing.assert_array_equal(found.isel(step=0, branch=0, layer=0), [1, 2, 3])
    shares = e.layer_energy(planted(real, np.array([[5.0], [7.0], [9.0]])), normalise=True)
    np.testing.assert_allclose(shares, 1.0)


# -- stability over steps


def profiles(rows: object, experts: list[str] | None = None) -> xr.DataArray:
    array = xr.DataArray(np.asarray(rows, dtype=float), dims=("step", "layer"))
    return array if experts is None else array.assign_coords(expert=("step", experts))


def test_stability_of_known_profiles() -> None:
    rise = np.arange(5.0)
    assert float(e.profile_stability(profiles([rise, 3 * rise + 2, rise / 9]))) == pytest.approx(1)
    assert float(e.profile_stability(profiles([rise, -rise]))) == pytest.approx(-1)
    rows, experts = [rise, rise, -rise, -rise], ["high", "high", "low", "low"]
    assert float(e.profile_stability(profiles(rows, experts), "within")) == pytest.approx(1)
    assert float(e.profile_stability(profiles(rows, experts), "across")) == pytest.approx(-1)
    assert float(e.profile_stability(profiles(rows, experts))) == pytest.approx((2 - 4) / 6)
    assert np.isnan(float(e.profile_stability(profiles([rise, 0 * rise]))))


def test_stability_of_noise_is_nothing() -> None:
    noise = xr.DataArray(np.random.default_rng(0).normal(size=(300, 4, 12)), dims=("task", "step", "layer"))
    found = e.profile_stability(noise)
    assert found.dims == ("task",) and abs(float(found.mean())) < 0.03


def test_stability_errors() -> None:
    with pytest.raises(MeasureError, match="record all layers"):
        e.profile_stability(profiles(np.zeros((4, 2))))
    with pytest.raises(MeasureError, match="needs the coordinate 'expert'"):
        e.profile_stability(profiles(np.zeros((4, 5))), "within")
    with pytest.raises(MeasureError, match="record more steps"):
        e.profile_stability(profiles(np.zeros((1, 5))))


# -- masks


def test_masks_from_regions(real: Run) -> None:
    np.testing.assert_array_equal(token_masks.region_mask(real, ["object", "absent"]), OBJECT)
    with pytest.raises(MeasureError, match=r"none of the regions \['absent'\].*change_mask"):
        token_masks.region_mask(real, ["absent"])
    with pytest.raises(MeasureError, match=r"holds no token.*choose other regions"):
        token_masks.region_mask(real, ["nothing"])
    with pytest.raises(MeasureError, match="holds every token"):
        token_masks.region_mask(real, ["all", "object"])


def test_a_given_mask_in_every_form(real: Run) -> None:
    pixels = real.grid.pixel_rows, real.grid.pixel_cols
    still = np.zeros(GRID, bool)
    still[:, 1, 2] = True
    flat = np.kron(still[0], np.ones(pixels, bool))
    film = np.broadcast_to(flat, (real.grid.n_pixel_frames, *flat.shape))
    for mask in (still, still.reshape(-1), flat, film):
        np.testing.assert_array_equal(token_masks.given_mask(real, mask), still.reshape(-1))
    with pytest.raises(MeasureError, match="the given mask holds every token"):
        token_masks.given_mask(real, np.ones(N, bool))
    with pytest.raises(AddressError, match="does not fit this video"):
        token_masks.given_mask(real, np.ones((3, 3), bool))


def moved(run: Run, changes: dict[tuple[int, int], float], noise: float = 0.0) -> np.ndarray:
    """A video whose last frame differs from the first by given amounts at given (row, col) tokens."""
    grid = run.grid
    video = np.full((grid.n_pixel_frames, *grid.size, 3), 0.25)
    video += noise * np.random.default_rng(0).random(video.shape)
    for (row, col), amount in changes.items():
        rows = slice(row * grid.pixel_rows, (row + 1) * grid.pixel_rows)
        video[-1, rows, col * grid.pixel_cols : (col + 1) * grid.pixel_cols] += amount
    return video


def test_what_changed_is_found(real: Run) -> None:
    video = moved(real, {(0, 1): 0.5, (1, 3): 0.4}, noise=0.05)
    expected = np.zeros(GRID, bool)
    expected[:, 0, 1] = expected[:, 1, 3] = True
    np.testing.assert_array_equal(token_masks.change_mask(real, video), expected.reshape(-1))
    top = token_masks.change_mask(real, video, share=1 / 8).reshape(GRID)
    assert top[:, 0, 1].all() and top.sum() == GRID[0]  # one place of eight, in all frames
    assert token_masks.change_mask(real).shape == (N,)  # of the run's own video


def test_a_small_change_is_no_foreground_however_few_change_more(real: Run) -> None:
    """``least`` holds beside the threshold: half of the places are asked for, and one of eight changed by so much."""
    changes = {(0, 0): 0.5, (0, 1): 0.019, (0, 2): 0.01, (1, 0): 0.005}
    found = token_masks.change_mask(real, moved(real, changes), share=0.5).reshape(GRID)
    assert found[:, 0, 0].all() and found.sum() == GRID[0]
    lower = token_masks.change_mask(real, moved(real, changes), share=0.5, least=0.01).reshape(GRID)
    assert lower[:, 0, :2].all() and lower.sum() in (2 * GRID[0], 3 * GRID[0])  # 0.01 itself is up to rounding
    moving = dict.fromkeys(((r, c) for r in range(GRID[1]) for c in range(GRID[2])), 0.03) | {(1, 3): 0.5}
    found = token_masks.change_mask(real, moved(real, moving)).reshape(GRID)
    assert found[:, 1, 3].all() and found.sum() == GRID[0]  # what lies at the threshold is below it
    almost = {(0, 0): 0.021, (0, 1): 0.019}  # Otsu's threshold lies below both
    found = token_masks.change_mask(real, moved(real, almost)).reshape(GRID)
    assert found[:, 0, 0].all() and found.sum() == GRID[0]


def test_what_changed_errors(real: Run) -> None:
    with pytest.raises(MeasureError, match=r"nothing changed.*use region_mask"):
        token_masks.change_mask(real, moved(real, {}, noise=0.01))
    for share in (2, 1, 0, -0.5):
        with pytest.raises(MeasureError, match=f"share={share} must lie between 0 and 1"):
            token_masks.change_mask(real, moved(real, {(0, 0): 0.5}), share=share)
    with pytest.raises(MeasureError, match="no first and final frame"):
        token_masks.change_mask(real, np.zeros((1, *real.grid.size, 3)))
    everywhere = {(r, c): 0.5 for r in range(GRID[1]) for c in range(GRID[2])}
    with pytest.raises(MeasureError, match=r"what changed holds no token|what changed holds every token"):
        token_masks.change_mask(real, moved(real, everywhere))


@given(arrays(float, st.integers(2, 30), elements=st.floats(0, 1, width=32)))
@settings(max_examples=60, deadline=None)
def test_otsu_is_the_best_split(values: np.ndarray) -> None:
    def between(edge: float) -> float:
        low, high = values[values <= edge], values[values > edge]
        return 0.0 if not len(low) or not len(high) else len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(between(v) for v in values)
    assert between(token_masks.otsu(values)) == pytest.approx(best, rel=1e-6, abs=1e-9)


@given(arrays(bool, N), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_shuffled_mask_keeps_its_size_in_every_frame(mask: np.ndarray, seed: int) -> None:
    grid = _grid()
    other = token_masks.shuffled_mask(mask, grid, np.random.default_rng(seed))
    np.testing.assert_array_equal(mask.reshape(GRID).sum((1, 2)), other.reshape(GRID).sum((1, 2)))


def _grid() -> object:
    from dit_lens.wan.token_grid import Grid

    return Grid(*GRID)


# -- errors of energy


def test_recordings_that_hold_no_energy_are_refused(real: Run) -> None:
    for hook in ("raw", "text_embed"):
        with pytest.raises(RecordError, match=f"{hook}' was not recorded with reduce='token_norm'"):
            e.energy_ratio(real, OBJECT, hook=hook)
    with pytest.raises(AddressError, match="nothing was recorded of hook 'z'"):
        e.layer_energy(real, "z")


@pytest.mark.parametrize("mask", [OBJECT[:5], OBJECT.astype(float), OBJECT.reshape(GRID)])
def test_masks_that_do_not_fit_are_refused(real: Run, mask: np.ndarray) -> None:
    with pytest.raises(MeasureError, match="does not fit: give bool"):
        e.energy_ratio(real, mask)
    assert e.energy_ratio(real, token_masks.given_mask(real, OBJECT)).notnull().all()  # the remedy it names


def test_empty_masks_and_no_draws_are_refused(real: Run) -> None:
    with pytest.raises(MeasureError, match="the mask holds no token"):
        e.energy_ratio(real, np.zeros(N, bool))
    with pytest.raises(MeasureError, match="draws of at least 1"):
        e.energy_ratio(real, OBJECT, draws=0)
