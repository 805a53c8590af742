"""Frames as pictures: lossless sprite sheets, film strips for print, H.264 clips to play.

A *film* is what a generation shows at every denoising step: (S, F, H, W, 3), S steps of F frames. A *clip* is one
video: (F, H, W, 3). Both are uint8 RGB, or floats in [0, 1]. A sprite sheet is lossless: cutting it gives back the
frames exactly. H.264 is lossy and for playing only; measure on frames, never on a clip.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_lens.display.video import as_frames, data_uri, mp4, shrink
from dit_lens.errors import FigureError

__all__ = [
    "FilmStrip",
    "SpriteSheet",
    "as_frames",
    "data_uri",
    "factor_for",
    "film_strip",
    "mp4",
    "png",
    "shrink",
    "spread",
    "sprite_sheet",
]

#: The longest side that every browser decodes and draws.
MAX_SIDE = 16_384
#: Phones refuse or blur images beyond this many pixels.
MAX_PIXELS = 16_000_000


def png(picture: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 picture as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class SpriteSheet:
    """All frames of a film in one PNG: row = step, column = frame, no borders."""

    png: bytes
    rows: int
    columns: int
    height: int
    width: int

    def __repr__(self) -> str:  # not the bytes: notebooks store this text beside the picture
        return f"SpriteSheet({self.rows} steps x {self.columns} frames of {self.height} x {self.width})"

    @property
    def uri(self) -> str:
        """The sheet as a PNG data URI."""
        return data_uri(self.png, "image/png")

    def box(self, step: int, frame: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of one frame, in pixels.

        Raises:
            FigureError: There is no such step or frame.
        """
        if not (0 <= step < self.rows and 0 <= frame < self.columns):
            raise FigureError(f"The sheet has {self.rows} x {self.columns} frames; there is no ({step}, {frame}).")
        left, top = frame * self.width, step * self.height
        return left, top, left + self.width, top + self.height

    def _repr_png_(self) -> bytes:
        return self.png


def sprite_sheet(film: np.ndarray) -> SpriteSheet:
    """Lay a film (S, F, H, W, 3), or a clip (F, H, W, 3) as one row, into one lossless PNG.

    Args:
        film: The film or clip.

    Returns:
        The sheet.

    Raises:
        FigureError: The sheet would be larger than browsers draw (16,384 pixels a side, 16 million in all).
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


@dataclass(frozen=True)
class FilmStrip:
    """A labelled PNG of chosen steps (columns) and frames (rows), and the position of each picture in it."""

    png: bytes
    boxes: dict[tuple[int, int], tuple[int, int, int, int]]

    def __repr__(self) -> str:
        steps, rows = (len({place[i] for place in self.boxes}) for i in range(2))
        return f"FilmStrip({steps} steps x {rows} rows)"

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
    labels: Sequence[int | str] | None = None,
    rows: Sequence[str] | None = None,
    scale: int = 1,
    gap: int = 6,
) -> FilmStrip:
    """Lay chosen frames of a film side by side, labelled with step, sigma and frame: a picture for docs and papers.

    Args:
        film: (S, F, H, W, 3).
        sigmas: Noise level of each of the S steps.
        steps: Positions along S (at most ten by default, evenly spread, first and last included).
        frames: Positions along F (middle and last by default), negative from the end.
        labels: The number of each of the S steps where the film does not hold all of them, or its heading in words
            where it is no step (such as "base").
        rows: The name of each of the F pictures of a step, where it is no frame (such as a layer).
        scale: Integer enlargement.
        gap: Pixels between pictures.

    Returns:
        The strip.

    Raises:
        FigureError: Positions outside the film, or sigmas of another length.
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
    heads = [label if isinstance(label, str) else f"step {label}" for label in labels]
    if any(not 0 <= i < s for i in steps) or any(not 0 <= j < f for j in frames):
        raise FigureError(f"Steps {steps} or frames {frames} lie outside a film of {s} steps x {f} frames.")
    if scale < 1:
        raise FigureError(f"scale must be a whole number of at least 1, got {scale}.")

    h, w = h * scale, w * scale
    font = ImageFont.load_default(size=12)
    widest = max(font.getlength(text) for text in ("frame 00", *names))
    left, top = int(widest) + 2 * gap, (34 if sigmas is not None else 20)
    cell = max(w, *(int(font.getlength(text)) for text in ("sigma 0.00", *(heads[step] for step in steps))))
    page = Image.new("RGB", (left + len(steps) * (cell + gap), top + len(frames) * (h + gap)), "white")
    draw = ImageDraw.Draw(page)
    boxes = {}
    for column, step in enumerate(steps):
        x = left + column * (cell + gap)
        draw.text((x, 2), heads[step], fill="#1f2328", font=font)
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


def factor_for(frames: np.ndarray, side: int) -> int:
    """The smallest whole factor that brings the longer side of frames (..., H, W, 3) down to ``side``, for `shrink`."""
    return max(1, -(-max(frames.shape[-3:-1]) // side))


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` positions out of ``count``, evenly spread, first and last included."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})
