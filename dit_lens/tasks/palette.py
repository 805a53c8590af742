"""The board: R x C cells of 16 x 16 pixels, ten flat colours, and how both are drawn and read back.

Every cell has two parts, a centred disc and the rest of the square, each in one palette colour at a time. A whole
video is therefore a small array of *codes*, (frames, R, C, 2) uint8 with the last axis (disc, rest); pictures are
only a drawing of it. Rows and columns follow from an array's shape. The colours follow Okabe and Ito's
colour-blind-safe set where a task depends on them.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from dit_lens.errors import TaskError

CELL = 16
FPS = 8
GRID, FRAMES = 6, 13  # the four families as the lab model knows them: cells of a side, frames
SIZE = GRID * CELL  # pixels of a side

BACKGROUND, WALL, AGENT, TRAIL, GREEN, ORANGE, YELLOW, PURPLE, SCREEN, SLOT = range(10)
NAMES = ("background", "wall", "agent", "trail", "green", "orange", "yellow", "purple", "screen", "slot")
PALETTE = np.array(
    [
        (244, 244, 238),  # background, warm white
        (40, 40, 48),  # wall, near black
        (0, 100, 190),  # agent, blue
        (150, 200, 245),  # trail, pale blue
        (0, 158, 115),  # green
        (225, 105, 0),  # orange
        (240, 228, 66),  # yellow
        (195, 95, 165),  # purple
        (130, 130, 130),  # screen, grey
        (200, 190, 180),  # slot, the outline of a cell to be filled
    ],
    dtype=np.uint8,
)
BALLS = (GREEN, ORANGE, YELLOW, PURPLE)
UNKNOWN = 255
TOLERANCE = (
    45.0  # RGB distance; the two nearest palette colours are 83 apart, so a half-and-half blend reads as unknown
)

_offsets = np.arange(CELL) - (CELL - 1) / 2
DISC = (_offsets[:, None] ** 2 + _offsets[None, :] ** 2) <= 5.6**2  # (16, 16), symmetric under quarter turns
DISC.flags.writeable = False


@cache
def _discs(rows: int, cols: int) -> np.ndarray:
    board = np.tile(DISC, (rows, cols))  # (16 R, 16 C)
    board.flags.writeable = False
    return board


def to_pixels(cells: np.ndarray) -> np.ndarray:
    """Enlarge a (..., R, C) array of cells to (..., 16 R, 16 C) pixels."""
    return cells.repeat(CELL, axis=-2).repeat(CELL, axis=-1)


def render(codes: np.ndarray) -> np.ndarray:
    """Draw codes (F, R, C, 2) as uint8 RGB frames (F, 16 R, 16 C, 3)."""
    part = np.where(_discs(*codes.shape[1:3]), to_pixels(codes[..., 0]), to_pixels(codes[..., 1]))
    return PALETTE[part]


def part_means(frames: np.ndarray) -> np.ndarray:
    """Mean colour of every cell's disc and rest: frames (F, 16 R, 16 C, 3) -> (F, R, C, 2, 3) on the 0-255 scale."""
    frames = as_rgb255(frames)
    rows, cols = frames.shape[1] // CELL, frames.shape[2] // CELL
    cells = frames.reshape(len(frames), rows, CELL, cols, CELL, 3).transpose(0, 1, 3, 2, 4, 5)  # (F, R, C, 16, 16, 3)
    return np.stack([cells[..., DISC, :].mean(-2), cells[..., ~DISC, :].mean(-2)], axis=-2)


def read(frames: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Read generated frames back into codes.

    A part counts as a colour when its *mean* lies within ``tolerance`` of it, so pixel noise and soft edges do not
    matter and blends do.

    Args:
        frames: uint8 0-255 or float 0-1, (F, 16 R, 16 C, 3).
        tolerance: Distance in RGB on the 0-255 scale.

    Returns:
        uint8 (F, R, C, 2); ``UNKNOWN`` (255) where no palette colour is near.
    """
    means = part_means(frames)
    distance = np.linalg.norm(means[..., None, :] - PALETTE.astype(np.float64), axis=-1)  # (F, R, C, 2, 10)
    nearest = distance.argmin(-1).astype(np.uint8)
    return np.where(distance.min(-1) <= tolerance, nearest, np.uint8(UNKNOWN))


def as_rgb255(frames: np.ndarray) -> np.ndarray:
    """Check frames for shape and range, and put them on the 0-255 scale.

    Args:
        frames: uint8 0-255 or float 0-1, (F, 16 R, 16 C, 3); floats may leave 0-1 by a quarter, and are clipped.

    Returns:
        float64, the same shape.

    Raises:
        TaskError: For another shape, dtype or range, and for NaN or infinity.
    """
    frames = np.asarray(frames)
    whole = frames.ndim == 4 and frames.shape[3] == 3 and frames.shape[1] % CELL == frames.shape[2] % CELL == 0
    if not whole or frames.size == 0:
        raise TaskError(
            f"frames have shape {frames.shape}; a scorer reads (frames, height, width, 3) in whole cells of {CELL} "
            "pixels, uint8 0-255 or float 0-1. Ask the pipeline for output_type='np' and pass one video, not a batch."
        )
    if frames.dtype == np.uint8:
        return frames.astype(np.float64)
    if not np.issubdtype(frames.dtype, np.floating):
        raise TaskError(f"frames have dtype {frames.dtype}; pass uint8 (0-255) or float (0-1).")
    if not np.isfinite(frames).all():
        raise TaskError("frames hold NaN or infinity; the generation went wrong before scoring.")
    if frames.min() < -0.25 or frames.max() > 1.25:
        raise TaskError(
            f"float frames run from {frames.min():.2f} to {frames.max():.2f}; a scorer reads 0-1. "
            "Divide 0-255 frames by 255, or map -1..1 frames with x / 2 + 0.5."
        )
    return frames.clip(0, 1).astype(np.float64) * 255
