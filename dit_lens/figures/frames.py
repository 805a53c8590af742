"""Frames as pictures: sprite sheets that scrub exactly, film strips to print, H.264 clips to play.

A *film* is what a generation shows at every denoising step: (S, F, H, W, 3), S steps of F frames. A *clip* is one
video: (F, H, W, 3). Both are uint8 RGB, or floats in [0, 1]. A sprite sheet is lossless: cutting it gives back the very
frames. H.264 is lossy and for playing only; measure on frames, never on a clip.
"""

from __future__ import annotations

import base64
import io
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_lens.errors import FigureError

#: The longest side that every browser decodes and draws.
MAX_SIDE = 16_384
#: Phones refuse or blur images beyond this many pixels.
MAX_PIXELS = 16_000_000


def as_frames(frames: object, ndim: int, name: str) -> np.ndarray:
    """Check frames and return them as contiguous uint8: ndim 4 is (F, H, W, 3), ndim 5 is (S, F, H, W, 3).

    Floats must lie in [0, 1] (a rounding excess of 1e-3 is clipped). Raises FigureError otherwise.
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
            f"{name} as floats must lie in [0, 1], got {low:.3g} to {high:.3g}. Decode, then clip, first."
        )
    return np.ascontiguousarray((np.clip(array, 0, 1) * 255).round().astype(np.uint8))


def png(picture: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 picture as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, mime: str) -> str:
    """Bytes as a ``data:`` URI, for pages that load nothing."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class SpriteSheet:
    """All frames of a film in one PNG: row = step, column = frame, no borders."""

    png: bytes
    rows: int
    columns: int
    height: int
    width: int

    @property
    def uri(self) -> str:
        """The sheet as a PNG data URI."""
        return data_uri(self.png, "image/png")

    def box(self, step: int, frame: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels of one frame."""
        if not (0 <= step < self.rows and 0 <= frame < self.columns):
            raise FigureError(f"The sheet has {self.rows} x {self.columns} frames; there is no ({step}, {frame}).")
        left, top = frame * self.width, step * self.height
        return left, top, left + self.width, top + self.height

    def _repr_png_(self) -> bytes:
        return self.png


def sprite_sheet(film: np.ndarray) -> SpriteSheet:
    """Lay a film (S, F, H, W, 3), or a clip (F, H, W, 3) as one row, into one lossless PNG.

    Raises FigureError when the sheet would pass what browsers draw (16,384 pixels a side, 16 million in all).
    """
    film = as_frames(film, 4, "clip")[None] if np.ndim(film) == 4 else as_frames(film, 5, "film")
    s, f, h, w, _ = film.shape
    if max(s * h, f * w) > MAX_SIDE or s * h * f * w > MAX_PIXELS:
        raise FigureError(
            f"A sheet of {s} steps x {f} frames of {h} x {w} would be {s * h} x {f * w} pixels; "
            f"the limits are {MAX_SIDE} a side and {MAX_PIXELS:,} in all. Take fewer steps or frames (film[::2, ::4]), "
            f"or frames.shrink(film, 4)."
        )
    sheet = film.transpose(0, 2, 1, 3, 4).reshape(s * h, f * w, 3)
    return SpriteSheet(png(sheet), s, f, h, w)


def shrink(frames: np.ndarray, factor: int) -> np.ndarray:
    """uint8 frames (..., H, W, 3) reduced by an integer factor, each new pixel the mean of factor x factor old ones.

    Rows and columns beyond the last whole block are dropped. Raises FigureError for other dtypes, or a factor that
    leaves nothing.
    """
    if frames.dtype != np.uint8:
        raise FigureError(f"shrink takes uint8 frames, got {frames.dtype}.")
    h, w = frames.shape[-3] // max(factor, 1), frames.shape[-2] // max(factor, 1)
    if factor < 1 or not h or not w:
        raise FigureError(f"Cannot shrink frames of {frames.shape[-3]} x {frames.shape[-2]} by {factor}.")
    blocks = frames[..., : h * factor, : w * factor, :].reshape(*frames.shape[:-3], h, factor, w, factor, 3)
    return blocks.mean(axis=(-4, -2)).round().astype(np.uint8)


@dataclass(frozen=True)
class FilmStrip:
    """A labelled PNG of chosen steps (columns) and frames (rows), and where each picture lies in it."""

    png: bytes
    boxes: dict[tuple[int, int], tuple[int, int, int, int]]

    def save(self, path: str | Path) -> Path:
        """Write the PNG and return its path."""
        path = Path(path)
        path.write_bytes(self.png)
        return path

    def _repr_png_(self) -> bytes:
        return self.png


def film_strip(
    film: np.ndarray,
    *,
    sigmas: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    rows: Sequence[str] | None = None,
    scale: int = 1,
    gap: int = 6,
) -> FilmStrip:
    """Lay chosen frames of a film side by side, labelled with step, sigma and frame: a picture for docs and papers.

    film: (S, F, H, W, 3). sigmas: noise level of each of the S steps. steps: positions along S (default: at most ten,
    evenly spread, first and last included). frames: positions along F (default: middle and last), negative from the
    end. labels: the number of each of the S steps where the film does not hold all of them. rows: what each of the F
    pictures of a step is, where it is no frame (such as a layer). scale: integer enlargement.

    Raises FigureError for positions outside the film or sigmas of another length.
    """
    from PIL import Image, ImageDraw, ImageFont

    film = as_frames(film, 5, "film")
    s, f, h, w, _ = film.shape
    steps = spread(s, 10) if steps is None else list(steps)
    frames = sorted({f // 2, f - 1}) if frames is None else [frame + f if frame < 0 else frame for frame in frames]
    labels = list(range(s)) if labels is None else list(labels)
    for name, given in (("sigmas", sigmas), ("labels", labels)):
        if given is not None and len(given) != s:
            raise FigureError(f"The film has {s} steps, but {len(given)} {name} were given.")
    if rows is not None and len(rows) != f:
        raise FigureError(f"The film has {f} pictures a step, but {len(rows)} rows were named.")
    names = [f"frame {i}" for i in range(f)] if rows is None else [str(row) for row in rows]
    if any(not 0 <= i < s for i in steps) or any(not 0 <= j < f for j in frames):
        raise FigureError(f"Steps {steps} or frames {frames} lie outside a film of {s} steps x {f} frames.")
    if scale < 1:
        raise FigureError(f"scale must be a whole number of at least 1, got {scale}.")

    h, w = h * scale, w * scale
    font = ImageFont.load_default(size=12)
    widest = max(font.getlength(text) for text in ("frame 00", *names))
    left, top = int(widest) + 2 * gap, (34 if sigmas is not None else 20)
    cell = max(w, int(font.getlength("sigma 0.00")))
    page = Image.new("RGB", (left + len(steps) * (cell + gap), top + len(frames) * (h + gap)), "white")
    draw = ImageDraw.Draw(page)
    boxes = {}
    for column, step in enumerate(steps):
        x = left + column * (cell + gap)
        draw.text((x, 2), f"step {labels[step]}", fill="#1f2328", font=font)
        if sigmas is not None:
            draw.text((x, 17), f"sigma {float(sigmas[step]):.2f}", fill="#59636e", font=font)
        for row, frame in enumerate(frames):
            y = top + row * (h + gap)
            picture = film[step, frame].repeat(scale, axis=0).repeat(scale, axis=1)
            page.paste(Image.fromarray(picture), (x, y))
            boxes[step, frame] = (x, y, x + w, y + h)
    for row, frame in enumerate(frames):
        draw.text((gap, top + row * (h + gap) + h // 2 - 7), names[frame], fill="#59636e", font=font)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return FilmStrip(buffer.getvalue(), boxes)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` positions out of ``count``, evenly spread, first and last included."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})


def mp4(clip: np.ndarray, *, fps: float = 8, min_side: int = 288) -> bytes:
    """Encode a clip (F, H, W, 3) as H.264 that every browser plays; the same clip gives the same bytes.

    Small frames are enlarged by a whole factor without smoothing until the shorter side reaches ``min_side``, so that
    96 x 96 stays sharp. Lossy (crf 16, 4:2:0): for playing, not for measuring. Raises FigureError when ffmpeg fails.
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
