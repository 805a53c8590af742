"""The machinery of the trap table: a situation in the making, and the two tables of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from families import HEAD_DIM, HEADS, Family
from safetensors.torch import save_file

from dit_lens.wan import editing
from dit_lens.wan.loading import load

WIDTH = HEADS * HEAD_DIM


@dataclass
class Case:
    """One situation in the making: a fresh pipeline of the row's family, and a place for files."""

    family: Family
    pipe: DiffusionPipeline
    folder: Path
    patch: pytest.MonkeyPatch

    def lens(self, **more: Any) -> Any:
        return load(self.pipe, **more)

    def generate(self, lens: Any = None, **more: Any) -> Any:
        lens = self.lens() if lens is None else lens
        return lens.generate(**{**self.family.call, "num_inference_steps": 3, "guidance_scale": 5.0, "seed": 1, **more})

    def bare(self) -> torch.Tensor:
        call = {"num_inference_steps": 3, "guidance_scale": 5.0, "output_type": "latent"}
        return self.pipe(**self.family.call, **call, generator=torch.Generator().manual_seed(1)).frames[0]

    def lora(self, key: str) -> Path:
        """A LoRA file of one layer; ``key`` names it, with ``{}`` where lora_A or lora_B goes."""
        path = self.folder / "lora.safetensors"
        noise = torch.Generator().manual_seed(0)
        parts = {"lora_A": (2, WIDTH), "lora_B": (WIDTH, 2)}
        save_file({key.format(part): torch.randn(*shape, generator=noise) for part, shape in parts.items()}, str(path))
        return path


@dataclass(frozen=True)
class Row:
    name: str
    family: str
    act: Callable[[Case], Any]
    error: type[Exception] | None = None
    cure: str = ""


REFUSED: list[Row] = []
HANDLED: list[Row] = []


def refused(error: type[Exception], cure: str, family: str = "t2v21") -> Callable[[Callable[[Case], Any]], Any]:
    def keep(act: Callable[[Case], Any]) -> Any:
        REFUSED.append(Row(act.__name__, family, act, error, cure))
        return act

    return keep


def handled(family: str) -> Callable[[Callable[[Case], Any]], Any]:
    def keep(act: Callable[[Case], Any]) -> Any:
        HANDLED.append(Row(act.__name__, family, act))
        return act

    return keep


class OtherProcessor(WanAttnProcessor):
    """Somebody's own attention."""


class Act:
    """An intervention made of a function (x, hook) -> x at one point."""

    def __init__(self, change: Callable[..., Any] | None) -> None:
        self.change = change

    def bind(self, context: editing.Context) -> editing.Edit:
        change = self.change

        class _Edit(editing.Edit):
            def hooks(self, call: Any, latents: Any) -> Any:
                if change is None:
                    return ()
                self.fired[editing.Address(call.step, call.branch, 0, "resid_post")] += 1
                return [("blocks.0.hook_resid_post", change)]

        return _Edit("a test")
