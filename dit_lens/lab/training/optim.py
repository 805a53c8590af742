"""Muon for the matrices inside the blocks, AdamW for everything else.

Muon (K. Jordan et al., 2024): the momentum of a weight matrix is replaced by the nearest (semi-)orthogonal matrix,
found with five Newton-Schulz steps of the quintic 3.4445 X - 4.7750 X X^T X + 2.0315 (X X^T)^2 X. Matrices of one
shape are treated in one stack: ``torch.optim.Muon`` treats them one by one, which takes 2.6 times as long for the 400
matrices of lab40 on one CPU core (.113 s against .043 s a step).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def orthogonalised(g: torch.Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly.

    Args:
        g: Stack of matrices, (n, rows, cols).
        steps: Of the iteration.
        dtype: To compute in; the iteration forgives rounding.

    Returns:
        Matrices of the same shape in ``dtype``, singular values between about .7 and 1.2.
    """
    tall = g.shape[1] > g.shape[2]
    x = (g.mT if tall else g).to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; the step is scaled by sqrt(max(1, rows / cols))."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        half: torch.dtype = torch.bfloat16,
    ):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.half = half

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                for p in params:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads = [p.grad for p in params if p.grad is not None]
                momenta = [self.state[p]["momentum"] for p in params]
                torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(grads, momenta, group["momentum"]))
                updates = orthogonalised(updates, dtype=self.half).float()
                lr = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(updates.unbind()), alpha=-lr)


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for Muon (weights of linear layers inside blocks) and for AdamW (the rest)."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (matrices if name.startswith("blocks.") and name.endswith("weight") and p.ndim == 2 else rest).append(p)
    return matrices, rest


class Both:
    """The two optimizers as one, with one learning-rate factor."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, half: torch.dtype = torch.bfloat16):
        matrices, rest = split(model)
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=muon_lr, half=half),
            torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.01, foreach=True),
        ]
        self.peaks = [muon_lr, adam_lr]

    def step(self, factor: float) -> None:
        """Step both at ``factor`` times their peak learning rates, and clear the gradients."""
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict]:
        """The state of each."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        """Take the states that :meth:`state_dict` gave."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
