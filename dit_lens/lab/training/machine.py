"""How to compute on this processor: half or single precision, compiled or not, found out by timing.

Where a core has AVX512-BF16 instructions, products in bfloat16 take half the time of single precision; elsewhere
bfloat16 is emulated and takes three to ten times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from dit_lens.lab.training import fast
from dit_lens.lab.training.optim import orthogonalised
from dit_lens.lab.training.spec import Spec

BLOCKS = 3
REPEATS = 3


@dataclass(frozen=True)
class Way:
    """How the blocks compute: dtype of their products, and whether they are compiled."""

    half: torch.dtype = torch.bfloat16
    compiled: bool = True

    def block(self) -> Callable[..., torch.Tensor]:
        """``fast.block``, compiled or as it is; compiled, one version serves videos of every size."""
        return torch.compile(fast.block, dynamic=True) if self.compiled else fast.block

    def __str__(self) -> str:
        return f"{str(self.half).removeprefix('torch.')} {'compiled' if self.compiled else 'eager'}"


def choose(spec: Spec, log: Callable[[str], None], compiled: bool = True) -> Way:
    """Choose the quickest way on this processor, for the usual size of a recipe; the timings are logged.

    Args:
        spec: The recipe.
        log: Takes a line.
        compiled: Whether compiling may be tried; it needs a C++ compiler.

    Returns:
        The way.
    """
    ways = [Way(torch.bfloat16, False), Way(torch.float32, False)]
    times = {way: seconds(spec, way) for way in ways}
    if compiled:
        way = replace(min(times, key=lambda w: times[w]), compiled=True)
        try:
            times[way] = seconds(spec, way)
        except Exception as error:  # the compiler's own errors are of many kinds, and none of them matters here
            log(f"cannot compile, so it goes on without ({type(error).__name__}); install a C++ compiler such as g++")
    best = min(times, key=lambda w: times[w])
    told = ", ".join(f"{way} {value:.3f} s" for way, value in times.items())
    log(f"machine {best} chosen; {BLOCKS} blocks forward, backward and Muon: {told}")
    return best


def seconds(spec: Spec, way: Way) -> float:
    """Processor seconds of a few blocks forward and backward with their share of the optimizer: the least of some."""
    size = spec.usual
    n, t = spec.videos(size), (size.num_frames + 3) // 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WanTransformer3DModel(**spec.transformer() | {"num_layers": BLOCKS})
        x = torch.randn(n, 36, t, size.rows * spec.patch, size.cols * spec.patch)
        times, text = torch.rand(n) * 1000, torch.randn(n, 64, 64)
    block, best = way.block(), float("inf")
    for _ in range(1 + REPEATS):
        begun = time.process_time()
        fast.velocity(model, x, times, text, block, way.half).square().mean().backward()
        stack: dict[Any, list[torch.Tensor]] = {}
        for p in model.parameters():
            if p.ndim == 2 and p.grad is not None:
                stack.setdefault(p.shape, []).append(p.grad)
        for grads in stack.values():
            orthogonalised(torch.stack(grads), dtype=way.half)
        best = min(best, time.process_time() - begun)
    return best
