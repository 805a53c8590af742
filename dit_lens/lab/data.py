"""Training batches: fresh puzzles, encoded by lookup (which is what `LabVAE` computes; a test compares the two)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import torch

from dit_lens import tasks
from dit_lens.lab.codec import GROUP
from dit_lens.tasks.palette import PALETTE

T, H, W = 4, 12, 12


@dataclass
class Batch:
    """x0 (B, 16, 4, 12, 12) and condition (B, 20, 4, 12, 12), normalised; prompts and task names, B each."""

    x0: torch.Tensor
    condition: torch.Tensor
    prompts: list[str]
    names: list[str]


@cache
def _colours() -> torch.Tensor:
    """Palette on the scale of the pipeline, [-1, 1], plus the mid grey of frames yet unknown as the last entry."""
    return torch.cat([torch.from_numpy(PALETTE).float() / 127.5 - 1, torch.zeros(1, 3)])


def encode(codes: torch.Tensor) -> torch.Tensor:
    """Codes (B, 13, 6, 6, 2) -> latents (B, 16, 4, 12, 12) before normalisation, like `LabVAE.encode` on the drawn
    frames."""
    rgb = _colours()[codes.long()]  # (B, 13, 6, 6, 2, 3)
    rgb = torch.cat([rgb[:, :1].expand(-1, GROUP - 1, *(-1,) * 4), rgb], dim=1).unflatten(1, (T, GROUP))
    disc, rest = rgb.unbind(-2)  # (B, 4, 4, 6, 6, 3)
    disc = disc.permute(0, 2, 5, 1, 3, 4).flatten(1, 2)  # (B, 12, 4, 6, 6)
    rest = rest.mean(2).permute(0, 4, 1, 2, 3)  # (B, 3, 4, 6, 6); constant in time in every task, so no slope
    z = torch.cat([disc, rest, torch.zeros_like(rest[:, :1])], dim=1)
    return z.repeat_interleave(2, -1).repeat_interleave(2, -2)


def condition_codes(codes: torch.Tensor) -> torch.Tensor:
    """The image condition as codes: the first frame, then mid grey."""
    out = torch.full_like(codes, len(PALETTE))
    out[:, 0] = codes[:, 0]
    return out


def statistics(seed: int = 0, n: int = 4000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all tasks alike, the deviation at least 0.3 of the typical one."""
    codes = [tasks.scene(name, seed + i, "train").codes() for name in tasks.names() for i in range(n // 4)]
    z = encode(torch.from_numpy(np.stack(codes))).transpose(0, 1).flatten(1)
    std = z.std(1)
    std = std.clamp(min=0.3 * std.median())
    return [round(v, 4) for v in z.mean(1).tolist()], [round(v, 4) for v in std.tolist()]


class Puzzles:
    """Draws batches. Batch number i is the same whenever it is drawn, so training resumes exactly."""

    def __init__(self, mixture: dict[str, float], mean: list[float], std: list[float], seed: int = 0):
        self.families, self.weights = list(mixture), list(mixture.values())
        self.mean = torch.tensor(mean).view(1, -1, 1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1, 1)
        self.seed = seed

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.mean) / self.std

    def batch(self, index: int, size: int) -> Batch:
        names = Random(f"mixture/{self.seed}/{index}").choices(self.families, self.weights, k=size)
        first = (self.seed * 1_000_003 + index) * size
        return self.encode([tasks.scene(n, first + i, "train") for i, n in enumerate(names)], names)

    def encode(self, scenes: list, names: list[str]) -> Batch:
        codes = torch.from_numpy(np.stack([s.codes() for s in scenes]))
        condition = self.normalise(encode(condition_codes(codes)))
        mask = torch.zeros(len(scenes), 4, *condition.shape[2:])
        mask[:, :, 0] = 1
        return Batch(
            self.normalise(encode(codes)), torch.cat([mask, condition], 1), [s.prompt for s in scenes], names
        )  # fmt: skip
