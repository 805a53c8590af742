"""What the tests of sweeps share: tiny tasks and lenses, naive cells, a counter of blocks that really run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from families import FAMILIES

from dit_lens.runner import Sweep
from dit_lens.runner.cell_engine import Engine, Item
from dit_lens.runner.cells import Cell
from dit_lens.wan import blocks
from dit_lens.wan.lens import Lens
from dit_lens.wan.loading import load
from dit_lens.wan.run import Run

STEPS = 3  # families with two experts do two with the first
LEFT = np.arange(24) % 4 < 2  # per token; the grid is 3 x 2 x 4


@dataclass(frozen=True)
class Puzzle:
    """The least that a task can be."""

    prompt: str = "a red agent goes to the green goal"
    image: Any = field(default=None, repr=False)
    regions: Mapping[str, Any] = field(default_factory=lambda: {"left": LEFT, "none": np.zeros(24, bool)}, repr=False)

    def twin(self, kind: str) -> Puzzle:
        return Puzzle("a blue agent goes to the goal", self.image, self.regions)


def lens_and_puzzle(family: str = "t2v21", scheduler: str = "unipc") -> tuple[Lens, Puzzle, dict[str, Any]]:
    """A tiny lens, a task for it, and the sampling to sweep with."""
    kind = FAMILIES[family]
    call = dict(kind.call)
    sampling = {"num_inference_steps": STEPS, "guidance_scale": 5.0} | {
        k: v for k, v in call.items() if k not in ("prompt", "image")
    }
    return load(kind.build(scheduler)), Puzzle(image=call.get("image")), sampling


def quiet(done: int, total: int, what: str) -> None:
    """Progress for nobody."""


def naive(sweep: Sweep, cell: Cell, item: Item) -> Run:
    """A cell from scratch: a whole generation with the intervention."""
    end = sweep.engine.last_step(cell)
    return sweep.lens.generate(
        sweep.tasks[0], seed=sweep.seeds[0], interventions=[sweep.engine.intervention(cell, item)],
        sampling=sweep.sampling,
        stop_after=None if end == sweep.model_plan.n_steps - 1 else end,
    )  # fmt: skip


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[Cell, tuple[Item, Run]]:
    """The runs of all cells that are measured during a test, with the item that they belong to."""
    found: dict[Cell, tuple[Item, Run]] = {}
    real = Engine.run

    def keep(self: Engine, item: Item, cell: Cell, *rest: Any) -> Run:
        found[cell] = item, real(self, item, cell, *rest)
        return found[cell][1]

    monkeypatch.setattr(Engine, "run", keep)
    return found


@contextmanager
def counted() -> Iterator[list[int]]:
    """Counts block evaluations: forwards of blocks that were not passed over."""
    count, real = [0], blocks.HookedBlock.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        count[0] += blocks.PASSED not in self.__dict__
        return real(self, *args, **kwargs)

    blocks.HookedBlock.forward = forward  # type: ignore[method-assign]
    try:
        yield count
    finally:
        blocks.HookedBlock.forward = real  # type: ignore[method-assign]
