"""Frames as bytes: checked, reduced, and as H.264 that every browser plays.

A clip is (F, H, W, 3), a film (S, F, H, W, 3): uint8 RGB, or floats in [0, 1].

When not to use: for measuring. H.264 is lossy; measure on frames.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from dit_lens.errors import FigureError


def as_frames(frames: object, ndim: int, name: str) -> np.ndarray:
    """Check frames and return them as contiguous uint8.

    Args:
        frames: uint8, or floats in [0, 1] (a rounding excess of 1e-3 is clipped).
        ndim: 4 for (F, H, W, 3), 5 for (S, F, H, W, 3).
        name: What messages call them.

    Returns:
        uint8 of the same shape.

    Raises:
        FigureError: Other shapes, dtypes or values.
    """
    array = np.asarray(frames)
    shape = "(F, H, W, 3)" if ndim == 4 else "(S, F, H, W, 3)"
    if array.ndim != ndim or array.shape[-1] != 3:
        raise FigureError(f"{name} must be {shape} RGB, got shape {array.shape}.")
    if 0 in array.shape:
        raise FigureError(f"{name} is empty: shape {array.shape}.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise FigureError(f"{name} must be uint8, or floats in [0, 1]; got {array.dtype}.")
    low, high = float(np.min(array)), float(np.max(array))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise FigureError(
            f"{name} as floats must lie in [0, 1], got {low:.3g} to {high:.3g}. Decode and clip them first."
        )
    return np.ascontiguousarray((np.clip(array, 0, 1) * 255).round().astype(np.uint8))


def data_uri(content: bytes, mime: str) -> str:
    """Bytes as a ``data:`` URI, for pages that load nothing."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def shrink(frames: np.ndarray, factor: int) -> np.ndarray:
    """Reduce frames by an integer factor, each new pixel the mean of factor x factor old ones.

    Rows and columns beyond the last whole block are dropped.

    Args:
        frames: uint8 (..., H, W, 3).
        factor: The factor.

    Returns:
        uint8 (..., H // factor, W // factor, 3).

    Raises:
        FigureError: Other dtypes, or a factor larger than the frames.
    """
    if frames.dtype != np.uint8:
        raise FigureError(f"shrink takes uint8 frames, got {frames.dtype}.")
    h, w = frames.shape[-3] // max(factor, 1), frames.shape[-2] // max(factor, 1)
    if factor < 1 or not h or not w:
        raise FigureError(f"Cannot shrink frames of {frames.shape[-3]} x {frames.shape[-2]} by {factor}.")
    blocks = frames[..., : h * factor, : w * factor, :].reshape(*frames.shape[:-3], h, factor, w, factor, 3)
    return blocks.mean(axis=(-4, -2)).round().astype(np.uint8)


def mp4(clip: np.ndarray, *, fps: float = 8, min_side: int = 288) -> bytes:
    """Encode a clip as H.264 that every browser plays; the same clip gives the same bytes.

    Small frames are enlarged by a whole factor without smoothing, so that 96 x 96 stays sharp. Lossy (crf 16, 4:2:0):
    for playing, not for measuring.

    Args:
        clip: (F, H, W, 3).
        fps: Frames per second.
        min_side: Pixels that the shorter side has at least.

    Returns:
        The bytes of an MP4 file.

    Raises:
        FigureError: ffmpeg fails.
    """
    import imageio_ffmpeg

    clip = as_frames(clip, 4, "clip")
    factor = max(1, -(-min_side // min(clip.shape[1:3])))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    odd_h, odd_w = clip.shape[1] % 2, clip.shape[2] % 2  # 4:2:0 needs even sides: repeat the last row or column
    clip = np.pad(clip, ((0, 0), (0, odd_h), (0, odd_w), (0, 0)), mode="edge")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        # fmt: off
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{clip.shape[2]}x{clip.shape[1]}", "-r", f"{fps:g}",
            "-i", "-",
            "-an", "-c:v", "libx264", "-preset", "slow", "-crf", "16", "-pix_fmt", "yuv420p", "-threads", "1",
            "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart",
            str(path),
        ]
        # fmt: on
        done = subprocess.run(command, input=clip.tobytes(), capture_output=True, check=False)
        if done.returncode or not path.exists():
            raise FigureError(f"ffmpeg could not encode a clip of shape {clip.shape}: {done.stderr.decode()[-300:]}")
        return path.read_bytes()
