"""First frames in every form that users have: the same picture gives the same generation, or is refused with a cure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, image
from PIL import Image

import dit_lens as dl
from dit_lens.errors import LoadError, SamplerError
from dit_lens.pictures import picture, warn_of_stretching
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

FAMILY = FAMILIES["i2v22"]
HOW: dict[str, Any] = {**FAMILY.call, "num_inference_steps": 1, "guidance_scale": 1.0}
PLAIN = image(32, 64)
PIXELS = np.asarray(PLAIN)


@pytest.fixture(scope="module")
def lens() -> Iterator[Any]:
    with load(FAMILY.build()) as lens:
        yield lens


@pytest.fixture(scope="module")
def base(lens: Any) -> Run:
    return lens.generate(**HOW)


def saved(folder: Path) -> Path:
    PLAIN.save(folder / "first.png")
    return folder / "first.png"


def turned(folder: Path) -> Path:
    """As a camera stores it that was held upright: turned, with a note of it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    PLAIN.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    return folder / "turned.png"


SAME: dict[str, Callable[[Path], Any]] = {
    "uint8": lambda folder: PIXELS,
    "uint8, not contiguous": lambda folder: np.asfortranarray(PIXELS),
    "RGBA": lambda folder: PLAIN.convert("RGBA"),
    "uint8 with alpha": lambda folder: np.asarray(PLAIN.convert("RGBA")),
    "a path": saved,
    "a path as text": lambda folder: str(saved(folder)),
    "turned by the camera": turned,
    "opened, and turned by the camera": lambda folder: Image.open(turned(folder)),
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_picture_is_the_same_generation(lens: Any, base: Run, form: str, tmp_path: Path) -> None:
    run = lens.generate(**{**HOW, "image": SAME[form](tmp_path)})
    assert torch.equal(run.conditions.image_latents, base.conditions.image_latents)
    assert torch.equal(run.latents, base.latents)


def test_floats_and_tensors_agree_with_it(lens: Any, base: Run) -> None:
    """They go to diffusers as they are, and agree within the resampling of 8 bits."""
    floats = PIXELS.astype(np.float32) / 255
    forms = (floats, torch.from_numpy(floats).permute(2, 0, 1), np.round(floats * 65535).astype(np.uint16))
    for form in forms:
        run = lens.generate(**{**HOW, "image": form})
        assert (run.conditions.image_latents - base.conditions.image_latents).abs().max() < 0.02


def test_what_diffusers_reads_correctly_is_handed_on() -> None:
    floats, tensor = PIXELS.astype(np.float32) / 255, torch.zeros(3, 32, 64)
    for one in (PLAIN, floats, tensor, None):
        assert picture(one) is one


GREY = np.arange(0, 256, 8, dtype=np.uint8).reshape(4, 8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (GREY, GREY),
        (GREY[..., None], GREY),
        (Image.fromarray(GREY).convert("LA"), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),  # 16 bits: PIL would keep the lowest 8
        (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
        (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)),
        (Image.fromarray(GREY).convert("P"), GREY),
    ],
    ids=["L", "grey array", "one channel", "LA", "I;16", "I", "1", "P"],
)
def test_grey_is_grey_in_all_channels(given: Any, expected: np.ndarray) -> None:
    found = picture(given)
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.repeat(expected[..., None], 3, -1))


def test_grey_floats_and_sixteen_bits_are_floats() -> None:
    floats = GREY.astype(np.float32) / 255
    for one in (floats, floats[..., None], GREY.astype(np.uint16) * 257):
        assert np.allclose(picture(one), np.repeat(floats[..., None], 3, -1), atol=1e-6)


def test_transparent_places_are_white() -> None:
    """And not what lies below them, which is often black."""
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    palette = Image.fromarray(pixels[..., 0]).convert("P")
    palette.info["transparency"] = palette.getpixel((1, 1))
    for found in (picture(pixels), picture(Image.fromarray(pixels))):
        assert found.getpixel((0, 0)) == (10, 20, 30) and found.getpixel((1, 1)) == (255, 255, 255)
    assert picture(palette).getpixel((1, 1)) == (255, 255, 255)
    floats = picture(pixels.astype(np.float64) / 255)
    assert np.allclose(floats[0, 0], np.array([10, 20, 30]) / 255) and np.array_equal(floats[1, 1], [1, 1, 1])


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (PIXELS.astype(np.int64), "int64 has no known range: give uint8, or floats"),
        (PIXELS > 3, "bool has no known range"),
        (PIXELS.astype(np.float32), r"from 0 to 255: give floats in \[0, 1\]"),
        (PIXELS / 255 - 1, r"give floats in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), "without NaN"),
        (np.zeros((2, 32, 64, 3)), r"shape \(2, 32, 64, 3\) is no picture: give \(height, width, 3\)"),
        (np.zeros((3, 32, 64)), "is no picture"),
        (np.zeros((0, 4, 3)), "is no picture"),
        (Image.fromarray(np.ones((2, 2), np.float32)), r"mode F .* scaled to \[0, 1\]"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "is no picture of 16 bits: give 8 bits"),
        (Image.fromarray(np.full((2, 2), -1, np.int32)), "is no picture of 16 bits"),
        ("nowhere.png", "nowhere.png cannot be read as a picture: give a PNG or JPEG"),
        (Path(__file__), "cannot be read as a picture"),
        (Path(__file__).parent, "cannot be read as a picture"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_picture_is_refused(lens: Any, given: Any, cure: str) -> None:
    with pytest.raises(SamplerError, match=cure):
        lens.generate(**{**HOW, "image": given})
    with pytest.raises(LoadError, match=cure):
        picture(given, LoadError)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(SamplerError, match="cannot be read as a picture"):
        picture(file)


def test_clip_is_not_given_numbers_that_it_scales_again() -> None:
    """transformers' processor divides floats in [0, 1] by 255: the context was that of a black picture."""
    family = FAMILIES["i2v21"]
    how = {**family.call, "num_inference_steps": 1, "guidance_scale": 1.0}
    floats = PIXELS.astype(np.float32) / 255
    with load(family.build()) as lens:
        for form in (floats, torch.from_numpy(floats).permute(2, 0, 1)):
            with pytest.raises(SamplerError, match=r"through CLIP.*give a PIL picture, a file or uint8"):
                lens.generate(**{**how, "image": form})
        one, other = (lens.generate(**{**how, "image": form}) for form in (PLAIN, PIXELS))
        assert torch.equal(one.conditions.image_context, other.conditions.image_context)


# -- sizes


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((32, 32), "32 x 32 pixels .* is stretched to 32 x 64: crop"),
        ((64, 32), "64 x 32 pixels .* is stretched"),
        ((1, 2), "1 x 2 pixels .* is enlarged to 32 x 64: give a larger"),
        ((7, 14), "is enlarged"),
    ],
)
def test_stretching_is_said(lens: Any, size: tuple[int, int], said: str) -> None:
    for form in (image(*size), np.asarray(image(*size)) / 255, torch.zeros(1, 3, *size)):
        with pytest.warns(UserWarning, match=said):
            lens.generate(**{**HOW, "image": form})


def test_the_right_ratio_is_quiet(lens: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in ((32, 64), (16, 32), (8, 16), (100, 200), (100, 203)):
            warn_of_stretching(image(*size), 32, 64)
        warn_of_stretching(torch.zeros(5), 32, 64)  # an embedding
        lens.generate(**HOW)


# -- texts


def test_a_text_that_is_cut_is_said(lens: Any, base: Run) -> None:
    text = HOW["prompt"]
    n = len(lens.pipe.tokenizer(text).input_ids)
    how = {**HOW, "max_sequence_length": n}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lens.generate(**how)
        lens.generate(**{**how, "negative_prompt": text + " goal"})  # which nobody reads without guidance
    with pytest.warns(UserWarning, match=rf"prompt has {n + 1} text tokens and the model reads the first {n}: shorten"):
        lens.generate(**{**how, "prompt": text + " goal"})
    with pytest.warns(UserWarning, match=r"negative_prompt has .* or raise max_sequence_length= \(up to 512\)"):
        lens.generate(**{**how, "guidance_scale": 2.0, "negative_prompt": text + " goal"})


def test_at_the_longest_there_is_nothing_to_raise(lens: Any) -> None:
    with pytest.warns(UserWarning, match="reads the first 512: shorten it$"):
        lens.generate(**{**HOW, "prompt": "goal " * 600, "max_sequence_length": 512})


# -- identity


def test_a_file_is_known_by_what_it_shows(tmp_path: Path) -> None:
    """Work in a folder goes on under the same picture, wherever it lies, and not under another one of that name."""
    from dit_lens.runner.resumable_generation import identity
    from dit_lens.store.identity import task_identity

    class Task:
        prompt, image = "a red agent", saved(tmp_path)

    file, before = saved(tmp_path), task_identity(Task())
    with dl.load("lab") as lab:
        asked = identity(lab, {"prompt": "x", "image": file})
        assert asked == identity(lab, {"prompt": "x", "image": PLAIN})
        Image.new("RGB", (64, 32)).save(file)
        assert task_identity(Task()) != before and identity(lab, {"prompt": "x", "image": file}) != asked
