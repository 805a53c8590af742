"""First frames as users have them, in the forms that diffusers reads correctly.

diffusers takes RGB pictures of PIL, float arrays in [0, 1] and tensors. It reads an integer array as if it were scaled
already, fails inside on other modes of PIL, and ignores the orientation that a camera stores.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dit_lens.errors import DitLensError, SamplerError

#: A picture is stretched when its aspect ratio differs by more than this share, which rounding to a token grid reaches.
STRETCH = 0.03
#: A picture is too small when one of its pixels fills more than this many, in height or width.
ENLARGED = 4


def picture(image: Any, error: type[DitLensError] = SamplerError) -> Any:
    """A first frame that diffusers reads as what it shows.

    Args:
        image: A path; a PIL picture of any mode; a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8,
            uint16, or float in [0, 1]; or what diffusers takes itself (tensors, embedded images), which is returned as
            it is.
        error: What to raise.

    Returns:
        RGB: a PIL picture for files, PIL pictures and uint8; floats for other arrays. Transparent places become
        white, the orientation that a camera stored is applied, and 16 bits become 8.

    Raises:
        DitLensError: ``error``, for a file that is no picture, and for numbers that cannot be a picture.
    """
    from PIL import Image

    if isinstance(image, str | Path):
        return _rgb(_opened(Path(image), error), error)
    if isinstance(image, Image.Image):
        return _rgb(image, error)
    return _of_array(image, error) if isinstance(image, np.ndarray) else image


def warn_of_stretching(image: Any, height: int, width: int) -> None:
    """Warn where a first frame has another aspect ratio than the video, or far fewer pixels.

    Args:
        image: What :func:`picture` returned, or a tensor (..., H, W).
        height: Of the video, in pixels.
        width: Likewise.
    """
    had = _size(image)
    if had is None:
        return
    ratio = (had[1] / had[0]) / (width / height)
    if max(ratio, 1 / ratio) > 1 + STRETCH:
        warnings.warn(
            f"the first frame of {had[0]} x {had[1]} pixels (height x width) is stretched to {height} x {width}: crop "
            "it to this ratio first, or give height= and width= of its own",
            stacklevel=2,
        )
    elif max(height / had[0], width / had[1]) > ENLARGED:
        warnings.warn(
            f"the first frame of {had[0]} x {had[1]} pixels (height x width) is enlarged to {height} x {width}: give a "
            "larger picture",
            stacklevel=2,
        )


def _opened(path: Path, error: type[DitLensError]) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.load()
            return opened.copy() if opened.getexif() == {} else _upright(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as why:  # PIL's own errors are among these
        raise error(f"{path} cannot be read as a picture: give a PNG or JPEG") from why


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _rgb(image: Any, error: type[DitLensError]) -> Any:
    from PIL import Image

    if image.mode == "RGB" and not image.getexif() and "transparency" not in image.info:
        return image
    image = _upright(image)
    if image.mode.startswith("I"):  # 16 bits, which PIL would cut to the lowest 8
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise error(
                f"a picture of mode {image.mode} with values from {values.min():g} to {values.max():g} is no picture "
                "of 16 bits: give 8 bits, or a float array in [0, 1]"
            )
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise error("a picture of mode F has no range of its own: give np.asarray(picture) scaled to [0, 1]")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")


def _of_array(image: np.ndarray, error: type[DitLensError]) -> Any:
    from PIL import Image

    shape = image.shape
    if image.ndim == 3 and shape[-1] == 1:
        image = image[..., 0]
    if 0 in shape or not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (3, 4))):
        raise error(f"an image array of shape {shape} is no picture: give (height, width, 3)")
    if image.dtype == np.uint8:
        return _rgb(Image.fromarray(np.ascontiguousarray(image)), error)
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / 65535
    if image.dtype.kind != "f":
        raise error(f"an image array of {image.dtype} has no known range: give uint8, or floats in [0, 1]")
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise error(
            f"an image array of {image.dtype} with values from {image.min():g} to {image.max():g}: give floats in "
            "[0, 1], without NaN, or uint8"
        )
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=-1)
    if image.shape[-1] == 4:
        opaque = image[..., 3:]
        return image[..., :3] * opaque + (1 - opaque)
    return image


def _size(image: Any) -> tuple[int, int] | None:
    """Height and width; None where there is no telling."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = tuple(getattr(image, "shape", ()))
    if isinstance(image, np.ndarray):
        return shape[0], shape[1]
    return (shape[-2], shape[-1]) if len(shape) >= 3 else None
