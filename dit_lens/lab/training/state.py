"""What a phase of training has on disk: a checkpoint to go on from, and snapshots to study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from dit_lens.errors import StoreError
from dit_lens.lab.models import n_blocks
from dit_lens.lab.training.growth import grown
from dit_lens.lab.training.optim import Both
from dit_lens.lab.training.spec import Spec
from dit_lens.store.atomic import new_file

FIRST_SNAPSHOT = 100


class Training:
    """Model, optimizer and moving average of one phase, as they stand on disk.

    A phase with a parent begins with the parent's weights, and with its optimizer's state; if it has more blocks it
    grows from them (:mod:`dit_lens.lab.training.growth`), with a fresh optimizer. A phase of which only snapshots are
    left goes on from the newest one, with a fresh optimizer as well.

    Args:
        spec: The recipe.
        name: Of the phase.
        out: Folder of the run.
        half: What the optimizer computes in.
        parent: The phase whose weights it begins with; None for fresh ones.
        layers: Blocks, where they are not the recipe's.

    Raises:
        StoreError: The parent was not trained.
    """

    def __init__(
        self,
        spec: Spec,
        name: str,
        out: Path,
        half: torch.dtype = torch.bfloat16,
        parent: str | None = None,
        layers: int | None = None,
    ):
        self.out, self.name = out, name
        self.path = out / f"{name}.pt"
        torch.manual_seed(spec.seed)
        self.model = WanTransformer3DModel(**spec.transformer(layers)).train()
        self.optimizer = Both(self.model, spec.muon_lr, spec.adam_lr, half)
        self.done = 0
        kept = _kept(out, name)
        state = _kept(out, parent) if kept is None and parent else kept
        if state is None:
            if parent:
                raise StoreError(f"{out} has no weights of phase {parent!r}, with which {name!r} begins: train it")
            self.ema = {k: v.clone() for k, v in self.model.state_dict().items()}
            return
        if kept is None and n_blocks(state["model"]) != (layers or spec.layers):
            state = {key: grown(state[key], layers or spec.layers) for key in ("model", "ema")}
        self.model.load_state_dict(state["model"])
        self.ema = {k: v.float() for k, v in state["ema"].items()}
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"] if kept is not None else 0

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the average towards the model."""
        state = self.model.state_dict()
        torch._foreach_lerp_([self.ema[k] for k in state], list(state.values()), 1 - decay)

    def save(self) -> None:
        """The checkpoint, in one move: a reader sees the old file or the new one."""
        content = {"model": self.model.state_dict(), "ema": self.ema, "done": self.done}
        with new_file(self.path) as fresh:
            torch.save({**content, "optimizer": self.optimizer.state_dict()}, fresh)

    def snapshot(self) -> Path:
        """The moving average in half precision, ``snapshots/<phase>-<iterations>.safetensors``."""
        path = self.out / "snapshots" / f"{self.name}-{self.done:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        with new_file(path) as fresh:
            save_file(halved(self.ema), fresh, {"iterations": str(self.done)})
        return path


def _kept(out: Path, name: str) -> dict[str, Any] | None:
    """A phase's checkpoint, or what its newest snapshot has of one."""
    path = out / f"{name}.pt"
    if path.exists():
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        return checkpoint
    found = sorted((out / "snapshots").glob(f"{name}-*.safetensors"))
    if not found:
        return None
    average = load_file(found[-1])
    return {"model": average, "ema": average, "done": int(found[-1].stem.rpartition("-")[2])}


def halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy in half precision."""
    return {k: v.half().contiguous() for k, v in state.items()}


def due(done: int) -> bool:
    """Whether a snapshot is taken after so many iterations: 100, 150, 200, 300, 400, 600, 800, 1200 and so on."""
    if done < FIRST_SNAPSHOT:
        return False
    unit = FIRST_SNAPSHOT // 2
    while done > 4 * unit - 1:
        unit *= 2
    return done in (2 * unit, 3 * unit)
