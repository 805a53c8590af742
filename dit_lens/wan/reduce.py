"""Reducers: what of an activation is kept, computed inside the hook.

One bf16 residual of Wan-14B at 480p is 320 MiB and a generation has thousands, so recordings are reduced where they
arise. A reducer is a frozen value; it is called with an activation ``x`` (B, N, ...) and the token regions of the
video, and its result keeps the batch axis. Sums and norms are taken in fp32, whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dit_lens.errors import RecordError
from dit_lens.wan.token_grid import Grid

Masks = Mapping[str, Tensor]  # name -> bool (B, N)


class Reducer(Protocol):
    """Anything frozen with these methods reduces."""

    @property
    def tokens(self) -> bool:
        """Whether it needs the video-token axis."""
        ...

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """Reduce an activation.

        Args:
            x: The activation (B, N, ...).
            grid: The token grid.
            masks: Region name -> bool (B, N).
        """
        ...

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """Names of the axes that replace the token axis (and the last axis, ``None`` = kept), with coordinates."""
        ...


@dataclass(frozen=True)
class Raw:
    """Everything, in the model's dtype."""

    tokens: bool = field(default=False, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`."""
        return x.clone()

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`."""
        return {"token": None, "channel": None}


@dataclass(frozen=True)
class TokenNorm:
    """Energy of each token: the L2 norm over channels (paper, section on layer-wise activation), (B, N)."""

    tokens: bool = field(default=False, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`."""
        return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`."""
        return {"token": None}


@dataclass(frozen=True)
class RegionMean:
    """Mean over the tokens of each region, (B, regions, d); a region without tokens gives NaN.

    Attributes:
        names: The regions; all by default.
    """

    names: tuple[str, ...] | None = None
    tokens: bool = field(default=True, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`."""
        chosen = torch.stack([masks[name] for name in self._names(masks)], dim=1)  # (B, R, N)
        weights = chosen.float() / chosen.sum(-1, keepdim=True)  # 0/0 = NaN says: nothing there
        flat = x.float().flatten(2)  # (B, N, .)
        return torch.bmm(weights.to(flat.device), flat).unflatten(2, x.shape[2:])

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`."""
        return {"region": self._names(masks), "channel": None}

    def _names(self, masks: Masks) -> tuple[str, ...]:
        return chosen_regions("region_mean", self.names, masks)


@dataclass(frozen=True)
class FrameMean:
    """Mean over the tokens of each latent frame, (B, frames, d)."""

    tokens: bool = field(default=True, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`."""
        return x.float().unflatten(1, (grid.frames, -1)).mean(2)

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`."""
        return {"frame": grid.frames, "channel": None}


@dataclass(frozen=True)
class VideoMean:
    """Mean over all video tokens, (B, 1, d)."""

    tokens: bool = field(default=True, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`."""
        return x.float().mean(1, keepdim=True)

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`."""
        return {"video": 1, "channel": None}


@dataclass(frozen=True)
class Tokens:
    """Some tokens, (B, n, d), in the model's dtype.

    Attributes:
        index: Token indices, frame-major.
    """

    index: tuple[int, ...]
    tokens: bool = field(default=True, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`."""
        return x[:, list(self.index)].clone()

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`.

        Raises:
            RecordError: Tokens outside the grid, or none.
        """
        outside = [i for i in self.index if not 0 <= i < grid.n_tokens]
        if outside or not self.index:
            raise RecordError(f"tokens {outside or 'are missing'}: give some of 0 to {grid.n_tokens - 1} ({grid})")
        return {"token": len(self.index), "channel": None}


@dataclass(frozen=True, eq=False)
class Project:
    """Coordinates on a basis: (x - mean) @ basis, (B, N, k); for PCA maps and probe directions.

    Attributes:
        basis: (d, k), numpy array or tensor.
        mean: (d,), likewise; None for zero.
    """

    basis: np.ndarray | Tensor = field(repr=False)
    mean: np.ndarray | Tensor | None = field(default=None, repr=False)
    tokens: bool = field(default=False, init=False)

    def __call__(self, x: Tensor, grid: Grid, masks: Masks) -> Tensor:
        """See :class:`Reducer`.

        Raises:
            RecordError: The basis does not fit the channels.
        """
        basis = torch.as_tensor(self.basis, dtype=torch.float32, device=x.device)
        if basis.ndim != 2 or basis.shape[0] != x.shape[-1]:
            raise RecordError(f"a basis of shape {tuple(basis.shape)} does not fit {x.shape[-1]} channels: give (d, k)")
        centred = x.float()
        if self.mean is not None:
            centred = centred - torch.as_tensor(self.mean, dtype=torch.float32, device=x.device)
        return centred @ basis

    def dims(self, grid: Grid, masks: Masks) -> dict[str, tuple[str, ...] | int | None]:
        """See :class:`Reducer`."""
        return {"token": None, "component": int(self.basis.shape[1])}


def chosen_regions(what: str, names: tuple[str, ...] | None, masks: Masks) -> tuple[str, ...]:
    """The regions that a reducer was asked for, of those that the video has.

    Args:
        what: The reducer, for the message.
        names: The regions; None for all.
        masks: Region name -> bool (B, N).

    Raises:
        RecordError: For a region that the video does not have, or when there is none at all.
    """
    chosen = tuple(masks) if names is None else names
    missing = [name for name in chosen if name not in masks]
    if missing or not chosen:
        raise RecordError(
            f"{what}: regions {missing or 'are missing'}; this video has {sorted(masks)}. Generate from a task, or "
            "pass regions={'name': mask}"
        )
    return chosen


NAMED: dict[str, Reducer] = {
    "raw": Raw(),
    "token_norm": TokenNorm(),
    "region_mean": RegionMean(),
    "frame_mean": FrameMean(),
    "video_mean": VideoMean(),
}


def reducer(wanted: str | Reducer) -> Reducer:
    """A reducer from its name, or the reducer itself.

    Raises:
        RecordError: No reducer has this name.
    """
    if not isinstance(wanted, str):
        return wanted
    if wanted not in NAMED:
        raise RecordError(
            f"unknown reducer {wanted!r}: choose from {sorted(NAMED)}, or pass a value such as "
            "dit_lens.reduce.Project(basis) or dit_lens.reduce.Tokens((0, 1, 2))"
        )
    return NAMED[wanted]
