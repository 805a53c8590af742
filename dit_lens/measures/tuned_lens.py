"""Affine translators from any layer's stream to the last layer's, one per (expert, layer): the tuned layer lens.

Over tokens of several tasks and steps, with x = h_l, y = h_last and r = y - x, ridge regression in closed form from
sufficient statistics (n, sum x, sum r, X'X, X'R in float64)::

    A = (X'X - n mx mx' + ridge n s2 I)^-1 (X'R - n mx mr'),   b = mr - mx A,   s2 = mean variance of a channel of x
    translated  h = x + x A + b

Fitting the *difference* means that ridge shrinks towards the identity, which is the raw lens, and that the translator
of the last layer is exactly the identity. Both branches and all steps of an expert are pooled. The loss is in the
stream, not in the velocity, so channels that the projection ignores count as well.

When not to use: with fewer tokens than a few times d (128 in the lab model, 5,120 in Wan-14B), or on the tasks that
it was fitted on. Memory while fitting is 16 d^2 bytes per (expert, layer): 0.4 GB each on Wan-14B: choose few layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dit_lens.address import Depth, Indices, Select
from dit_lens.checks import number
from dit_lens.errors import MeasureError, StoreError
from dit_lens.progress import Progress, silent
from dit_lens.store.atomic import new_file
from dit_lens.wan.expert import Hook
from dit_lens.wan.lens import Lens
from dit_lens.wan.run import Run

Key = tuple[str, int]  # (expert, layer); layer -1 is the stream that enters block 0


@dataclass(frozen=True, eq=False)
class Translator:
    """x -> x + x A + b, computed in fp32 and returned in the stream's dtype; fitted on ``n`` tokens."""

    weight: Tensor = field(repr=False)  # A (d, d)
    bias: Tensor = field(repr=False)  # b (d,)
    n: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Translate a stream (..., d)."""
        plain = x.float()
        return (plain + plain @ self.weight.to(x.device) + self.bias.to(x.device)).type_as(x)


@dataclass(frozen=True, eq=False)
class Translators(Mapping[Key, Translator]):
    """Translators by (expert, layer), with the model they belong to and the tasks they have seen."""

    parts: Mapping[Key, Translator] = field(repr=False)
    fingerprint: str
    tasks: frozenset[str] = field(repr=False)
    ridge: float

    def __getitem__(self, key: Key) -> Translator:
        return self.parts[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def check(self, lens: Lens, expert: str, layers: Sequence[int]) -> None:
        """Check that the translators fit a model and cover the layers that are needed.

        Raises:
            MeasureError: They belong to another model, or one that is needed is missing.
        """
        if lens.fingerprint != self.fingerprint:
            raise MeasureError(
                f"these translators were fitted on a model with fingerprint {self.fingerprint}, and this lens has "
                f"{lens.fingerprint}: fit_translators(lens, runs) on this model"
            )
        missing = [layer for layer in layers if (expert, layer) not in self.parts]
        if missing:
            raise MeasureError(
                f"no translator for expert {expert!r}, layers {missing} (-1: what enters block 0): fit them with "
                "fit_translators(lens, runs, layers=...), on runs whose steps reach that expert"
            )

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file, atomically."""
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        for (expert, layer), part in self.parts.items():
            tensors |= {f"{expert}.{layer}.weight": part.weight, f"{expert}.{layer}.bias": part.bias}
        about = {
            "fingerprint": self.fingerprint,
            "tasks": sorted(self.tasks),
            "ridge": self.ridge,
            "n": {f"{expert}.{layer}": part.n for (expert, layer), part in self.parts.items()},
        }
        try:
            with new_file(path) as scratch:
                said = {"about": json.dumps(about)}
                save_file({k: v.contiguous() for k, v in tensors.items()}, scratch, metadata=said)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"cannot write {path}: {error}; choose a folder that exists and can be written") from None
        return path

    @classmethod
    def load(cls, path: str | Path) -> Translators:
        """Read what :meth:`save` wrote, without running code from the file.

        Raises:
            StoreError: The file holds something else.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                parts = {}
                for name, n in about["n"].items():
                    expert, layer = name.split(".")
                    parts[expert, int(layer)] = Translator(
                        file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.bias"), n
                    )
            return cls(parts, about["fingerprint"], frozenset(about["tasks"]), about["ridge"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{path} does not hold translators ({error}): give a file written by save()") from None


def task_key(run: Run) -> str:
    """A short hash of a run's inputs (prompt and image, not noise), which keeps fitted tasks out of tests."""
    digest = hashlib.sha256()
    for name, value in run.conditions.items().items():
        if value is not None and name not in ("negative", "frame_mask"):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def fit_translators(
    lens: Lens,
    runs: Sequence[Run],
    layers: Indices | Depth = "all",
    steps: Indices = "all",
    ridge: float = 1e-3,
    entry: bool = True,
    tokens: int = 1024,
    seed: int = 0,
    progress: Progress = silent,
) -> Translators:
    """Fit one affine translator per (expert, layer) on recorded runs, replaying their calls.

    Cost: one replay of each run's chosen steps.

    Args:
        lens: The model.
        runs: Runs to fit on; use other tasks for the lens itself.
        layers: All by default.
        steps: All by default.
        ridge: Relative to the mean variance of a channel.
        entry: Also fit a translator for the stream that enters block 0.
        tokens: At most so many tokens of each call, the same for all layers.
        seed: Seed of the choice of tokens.
        progress: Called before each run.

    Returns:
        The translators, by (expert, layer).

    Raises:
        MeasureError: No runs, no tokens, or a negative ridge.
    """
    ridge = number(ridge, "ridge", error=MeasureError)
    if not runs or ridge < 0 or tokens < 1:
        raise MeasureError(
            f"{len(runs)} runs, ridge={ridge}, tokens={tokens}: give at least one run, ridge >= 0 and tokens >= 1"
        )
    chosen = (*((-1,) if entry else ()), *Select(layers=layers).layers_of(lens.n_layers))
    generator = torch.Generator().manual_seed(seed)
    sums: dict[Key, _Sums] = {}
    with torch.no_grad():
        for done, run in enumerate(runs):
            progress(done, len(runs), "fitting translators")
            for step in Select(steps=steps).steps_of(run.n_steps):
                for call in run.plan.of_step(step):
                    pick = torch.randperm(run.grid.n_tokens, generator=generator)[:tokens]
                    streams = _streams(lens, run, call, chosen, pick)
                    for layer in chosen:
                        key = (call.expert, layer)
                        if key not in sums:
                            sums[key] = _Sums.zero(streams[layer])
                        sums[key].add(streams[layer], streams[lens.n_layers - 1])
    parts = {key: s.solve(ridge) for key, s in sums.items()}
    return Translators(parts, lens.fingerprint, frozenset(task_key(run) for run in runs), ridge)


def _streams(lens: Lens, run: Run, call: Any, layers: Sequence[int], pick: Tensor) -> dict[int, Tensor]:
    """Some tokens of the stream after each layer and after the last one, (n, d)."""
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor, hook: Any, layer: int) -> None:
        kept[layer] = x[0, pick.to(x.device)]

    hooks: list[Hook] = []
    for layer in {*layers, lens.n_layers - 1}:
        path = "blocks.0.hook_resid_pre" if layer < 0 else f"blocks.{layer}.hook_resid_post"
        hooks.append((path, lambda x, hook, at=layer: keep(x, hook, at)))
    lens.replay(run, call, hooks)
    return kept


@dataclass
class _Sums:
    """Sufficient statistics of the regression of r = y - x on x."""

    n: int
    x: Tensor
    r: Tensor
    xx: Tensor
    xr: Tensor

    @classmethod
    def zero(cls, like: Tensor) -> _Sums:
        d = like.shape[-1]
        one, two = (torch.zeros(*size, dtype=torch.float64, device=like.device) for size in ((d,), (d, d)))
        return cls(0, one, one.clone(), two, two.clone())

    def add(self, x: Tensor, y: Tensor) -> None:
        x = x.double()
        r = y.to(x.device).double() - x  # layers may lie on several devices
        self.n += len(x)
        self.x += x.sum(0)
        self.r += r.sum(0)
        self.xx += x.T @ x
        self.xr += x.T @ r

    def solve(self, ridge: float) -> Translator:
        mx, mr = self.x / self.n, self.r / self.n
        xx = self.xx - self.n * torch.outer(mx, mx)
        xr = self.xr - self.n * torch.outer(mx, mr)
        # The least number that keeps ridge=0 solvable when tokens are fewer than channels.
        strength = max(ridge, 1e-12) * xx.diagonal().mean()
        weight = torch.linalg.solve(xx + strength * torch.eye(len(xx), dtype=xx.dtype, device=xx.device), xr)
        return Translator(weight.float().cpu(), (mr - mx @ weight).float().cpu(), self.n)
