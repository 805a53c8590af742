"""Training batches: fresh tasks, encoded by lookup (which is what ``LabVAE`` computes; a test compares the two)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import torch

from dit_lens import tasks
from dit_lens.lab.codec import GROUP
from dit_lens.lab.coupled_codec import codec
from dit_lens.lab.training.spec import Spec
from dit_lens.tasks.grid import Size
from dit_lens.tasks.palette import PALETTE
from dit_lens.tasks.task import Scene


@dataclass
class Batch:
    """Videos of one size, normalised; T groups of frames, h x w latents.

    Attributes:
        x0: (B, 16, T, h, w).
        condition: Mask and first frame, (B, 20, T, h, w).
        prompts: B of them.
        names: Of the tasks, without size, B of them.
    """

    x0: torch.Tensor
    condition: torch.Tensor
    prompts: list[str]
    names: list[str]


@cache
def _colours() -> torch.Tensor:
    """Palette on the scale of the pipeline, [-1, 1], plus the mid grey of frames yet unknown as the last entry."""
    return torch.cat([torch.from_numpy(PALETTE).float() / 127.5 - 1, torch.zeros(1, 3)])


def encode(codes: torch.Tensor, repeat: int = 2) -> torch.Tensor:
    """What ``LabVAE.encode`` gives for the drawn frames.

    Args:
        codes: (B, F, R, C, 2), F = 1 + 4k.
        repeat: Latents of a cell's side.

    Returns:
        Latents before normalisation, (B, 16, 1 + k, repeat R, repeat C).
    """
    rgb = _colours()[codes.long()]  # (B, F, R, C, 2, 3)
    rgb = torch.cat([rgb[:, :1].expand(-1, GROUP - 1, *(-1,) * 4), rgb], dim=1).unflatten(1, (-1, GROUP))
    disc, rest = rgb.unbind(-2)  # (B, T, 4, R, C, 3)
    disc = disc.permute(0, 2, 5, 1, 3, 4).flatten(1, 2)  # (B, 12, T, R, C)
    rest = rest.mean(2).permute(0, 4, 1, 2, 3)  # (B, 3, T, R, C); constant in time in every task, so no slope
    z = torch.cat([disc, rest, torch.zeros_like(rest[:, :1])], dim=1)
    return z.repeat_interleave(repeat, -1).repeat_interleave(repeat, -2)


def condition_codes(codes: torch.Tensor) -> torch.Tensor:
    """The image condition as codes: the first frame, then mid grey."""
    out = torch.full_like(codes, len(PALETTE))
    out[:, 0] = codes[:, 0]
    return out


def statistics(
    names: Iterable[str], seed: int = 0, n: int = 4000, kind: str = "linear"
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over the named tasks alike, in their usual sizes.

    The deviation is at least 0.3 of the typical one.

    Args:
        names: Of the tasks.
        seed: Of the first of each name.
        n: Tasks in all.
        kind: Of codec.

    Returns:
        16 means and 16 deviations.
    """
    parts, names = [], list(names)
    for name in names:
        codes = [tasks.scene(name, seed + i, "train").codes() for i in range(n // len(names))]
        parts.append(encode(torch.from_numpy(np.stack(codes)), 1).transpose(0, 1).flatten(1))
    z = codec(kind).couple(torch.cat(parts, 1)[None])[0]  # (16, tokens)
    std = z.std(1)
    std = std.clamp(min=0.3 * std.median())
    return [round(v, 4) for v in z.mean(1).tolist()], [round(v, 4) for v in std.tolist()]


class Puzzles:
    """Draws batches. Batch number i is the same whenever it is drawn, so training resumes exactly."""

    def __init__(self, spec: Spec, mean: Sequence[float], std: Sequence[float]):
        self.spec = spec
        self.vae = codec(
            spec.codec, latents_mean=list(mean), latents_std=list(std), scale_factor_spatial=spec.pixels
        )
        self.mean = torch.tensor(mean).view(1, -1, 1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1, 1)
        self.most = max(spec.videos(size) for size in spec.boards)

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Put latents (B, 16, T, h, w) on the scale of mean 0 and deviation 1."""
        return (z - self.mean) / self.std

    def size(self, index: int) -> Size:
        """Of all videos in batch number ``index``."""
        rng = Random(f"size/{self.spec.seed}/{index}")
        return rng.choices(self.spec.boards, list(self.spec.sizes.values()))[0]

    def batch(self, index: int) -> Batch:
        """Batch number ``index``."""
        size, seed = self.size(index), self.spec.seed
        families, weights = fitting(self.spec, size)
        names = Random(f"mixture/{seed}/{index}").choices(families, weights, k=self.spec.videos(size))
        first = (seed * 1_000_003 + index) * self.most
        return self.encode([tasks.scene(sized(n, size), first + i, "train") for i, n in enumerate(names)], names)

    def encode(self, scenes: Sequence[Scene], names: list[str]) -> Batch:
        """A batch of scenes of one size."""
        codes = torch.from_numpy(np.stack([s.codes() for s in scenes]))
        repeat = self.spec.patch
        condition = self.normalise(self.vae.couple(encode(condition_codes(codes), repeat)))
        mask = torch.zeros(len(scenes), 4, *condition.shape[2:])
        mask[:, :, 0] = 1
        x0 = self.normalise(self.vae.couple(encode(codes, repeat)))
        return Batch(x0, torch.cat([mask, condition], 1), [s.prompt for s in scenes], names)


def fitting(spec: Spec, size: Size) -> tuple[list[str], list[float]]:
    """Names and weights of the mixture that have tasks of a size."""
    pairs = [(n, w) for n, w in spec.mixture.items() if tasks.fits(n, size.rows, size.cols, size.num_frames)]
    return [n for n, _ in pairs], [w for _, w in pairs]


def sized(name: str, size: Size) -> str:
    """The canonical name of a task at a size."""
    return tasks.canonical(name, rows=size.rows, cols=size.cols, num_frames=size.num_frames)
