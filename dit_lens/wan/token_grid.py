"""The token grid: how pixels, latents and tokens of one video correspond.

Tokens are frame-major, then row, then column. Wan's VAE is causal: latent frame 0 is pixel frame 0, latent frame f >= 1
holds pixel frames ``1 + s (f - 1)`` to ``s f`` with temporal factor s = 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange

from dit_lens.errors import AddressError


@dataclass(frozen=True)
class Grid:
    """Frames, rows and columns of the token grid, and the pixels below one token.

    Attributes:
        frames: Latent frames.
        rows: Tokens down.
        cols: Tokens across.
        pixel_rows: Pixels per token, down.
        pixel_cols: Pixels per token, across.
        stride: Pixel frames per latent frame after the first.
    """

    frames: int
    rows: int
    cols: int
    pixel_rows: int = 16  # pixels per token, down
    pixel_cols: int = 16  # and across
    stride: int = 4  # pixel frames per latent frame after the first

    @property
    def n_tokens(self) -> int:
        """Tokens of a video."""
        return self.frames * self.rows * self.cols

    @property
    def n_pixel_frames(self) -> int:
        """Frames of the decoded video."""
        return 1 + self.stride * (self.frames - 1)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rows * self.pixel_rows, self.cols * self.pixel_cols

    def index(self, frame: int, row: int, col: int) -> int:
        """The token at (frame, row, col).

        Raises:
            AddressError: For a place outside the grid.
        """
        for value, size, what in ((frame, self.frames, "frame"), (row, self.rows, "row"), (col, self.cols, "column")):
            if not 0 <= value < size:
                raise AddressError(f"{what} {value} is outside the token grid {self}: use 0 to {size - 1}")
        return (frame * self.rows + row) * self.cols + col

    def frame_of(self, tokens: np.ndarray) -> np.ndarray:
        """The latent frame of each token index."""
        return np.asarray(tokens) // (self.rows * self.cols)

    def tokens(self, mask: np.ndarray, at_least: float = 0.5) -> np.ndarray:
        """A boolean per token from a pixel mask.

        Args:
            mask: Bool (pixel frames, H, W), or (H, W) for all frames.
            at_least: A token belongs to the region if in any of its pixel frames at least this share of its pixels
                does.

        Returns:
            Bool (n_tokens,).

        Raises:
            AddressError: The mask does not fit the video.
        """
        mask = np.asarray(mask, dtype=bool)
        if mask.ndim == 2:
            mask = np.broadcast_to(mask, (self.n_pixel_frames, *mask.shape))
        wanted = (self.n_pixel_frames, *self.size)
        if mask.shape != wanted:
            raise AddressError(
                f"a region mask of shape {mask.shape} does not fit this video: give bool {wanted} (frames, height, "
                f"width), or {wanted[1:]} for all frames"
            )
        share = rearrange(mask, "f (r a) (c b) -> f r c (a b)", a=self.pixel_rows, b=self.pixel_cols).mean(
            -1
        )  # (pixel frames, rows, cols)
        hit = share >= at_least
        later = rearrange(hit[1:], "(f s) r c -> f s r c", s=self.stride).any(1)  # (latent frames - 1, rows, cols)
        return np.concatenate([hit[:1], later]).reshape(-1)

    def __str__(self) -> str:
        return f"{self.frames} frames x {self.rows} rows x {self.cols} columns = {self.n_tokens} tokens"


def grid_of_size(pipe: Any, num_frames: int, height: int, width: int) -> Grid:
    """The token grid of a video size under a pipeline's codec and patches."""
    patch = pipe.transformer.config.patch_size
    space, time = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    return Grid(
        frames=((num_frames - 1) // time + 1) // patch[0],
        rows=height // (space * patch[1]),
        cols=width // (space * patch[2]),
        pixel_rows=space * patch[1],
        pixel_cols=space * patch[2],
        stride=time,
    )


def token_regions(grid: Grid, regions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Named token masks from named masks.

    Args:
        grid: The token grid.
        regions: Name -> mask, per pixel or already per token (bool, (n_tokens,)).

    Returns:
        Name -> bool (n_tokens,).

    Raises:
        AddressError: A mask does not fit the video.
    """
    found = {}
    for name, mask in regions.items():
        mask = np.asarray(mask)
        found[name] = mask.astype(bool) if mask.shape == (grid.n_tokens,) else grid.tokens(mask)
    return found
