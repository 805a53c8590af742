"""The training loop: one model, flow matching, resumable at any iteration.

x_sigma = (1 - sigma) x0 + sigma eps; the model predicts v = eps - x0 at timestep 1000 sigma. Every iteration draws its
tasks, noise and levels from its own number, so a run that was killed goes on as if nothing had happened.

At small sigma an error in x0 counts 1 / sigma^2 in v, which would drown the rest of the batch; the sampler's last step
has sigma .21, so below ``Spec.gentle`` the loss is that of x0 instead, at the weight it has there.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dit_lens import tasks
from dit_lens.lab.training import fast
from dit_lens.lab.training.data import Puzzles
from dit_lens.lab.training.machine import Way
from dit_lens.lab.training.solved import solved
from dit_lens.lab.training.spec import Spec
from dit_lens.lab.training.state import Training, due
from dit_lens.lab.training.text import Words

BANDS = (0.0, 0.5, 0.9, 1.01)  # of sigma, for the log
REPORT = 50  # iterations between lines of the log; checkpoints and tests fall on these as well
SAVE = 10.0  # minutes between checkpoints
TEST = 30.0  # minutes of processor time between tests on unseen puzzles, which take half a minute of it


class Log:
    """Lines on screen and in ``log.txt``, numbers in ``progress.jsonl``."""

    def __init__(self, out: Path):
        self.out = out

    def __call__(self, line: str) -> None:
        """Write a line, with the time."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {line}"
        print(line, flush=True)
        with (self.out / "log.txt").open("a") as f:
            f.write(line + "\n")

    def numbers(self, **content: Any) -> None:
        """One record for later plots."""
        with (self.out / "progress.jsonl").open("a") as f:
            f.write(json.dumps(content) + "\n")


@dataclass(frozen=True)
class Phase:
    """What one call of :func:`fit` trains.

    Attributes:
        name: "shallow", "trunk", "high" or "low".
        low: Lowest noise level.
        high: Highest noise level.
        iterations: How long.
        offset: Where its stream of random numbers starts.
        parent: The phase whose weights it begins with; None for fresh ones.
        peak: Its peak learning rate as a share of the recipe's.
        layers: Blocks, where they are not the recipe's.
        falls: Whether the rate falls linearly; else it warms up and stays, and what is learned is tested and kept on
            the way.
    """

    name: str
    low: float
    high: float
    iterations: int
    offset: int
    parent: str | None = "trunk"
    peak: float = 1.0
    layers: int | None = None
    falls: bool = True

    def rate(self, it: int, spec: Spec) -> float:
        """Share of the peak learning rate."""
        if self.falls:
            return self.peak * (1 - (1 - spec.final_lr) * it / self.iterations)
        return min(1.0, (it + 1) / spec.warmup)


def phase(name: str, spec: Spec) -> Phase:
    """The phase of that name: shallow, trunk, high or low."""
    edge, over, before = spec.boundary, spec.overlap, spec.shallow_iterations
    first = "shallow" if spec.shallow_layers else None
    return {
        "shallow": Phase("shallow", 0.0, 1.0, before, 0, None, layers=spec.shallow_layers, falls=False),
        "trunk": Phase("trunk", 0.0, 1.0, spec.trunk_iterations, before, first, falls=False),
        "high": Phase("high", edge - over, 1.0, spec.expert_iterations, 10_000_000),
        "low": Phase("low", 0.0, edge + over, spec.expert_iterations, 20_000_000),
    }[name]


def draw_sigma(n: int, shift: float, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    """Draw noise levels in [low, high], half uniform and half logit-normal in u.

    They are shifted as the sampler's are, sigma = s u / (1 + (s - 1) u).

    Args:
        n: How many.
        shift: The s above.
        low: Lowest noise level.
        high: Highest noise level.
        rng: Source of the draw.

    Returns:
        (n,).
    """
    u_low, u_high = (s / (shift - (shift - 1) * s) for s in (low, high))
    uniform = u_low + (u_high - u_low) * torch.rand(n, generator=rng)
    normal = torch.sigmoid(1.2 * torch.randn(8 * n, generator=rng))
    normal = normal[(normal >= u_low) & (normal <= u_high)]
    half = min(n // 2, len(normal))
    u = torch.cat([normal[:half], uniform[half:]])[torch.randperm(n, generator=rng)]
    return shift * u / (1 + (shift - 1) * u)


@dataclass
class Step:
    """One iteration's inputs and targets, (B, ...); see :func:`draw`."""

    x: torch.Tensor
    sigma: torch.Tensor
    prompts: torch.Tensor
    velocity: torch.Tensor
    names: list[str]


def draw(spec: Spec, what: Phase, it: int, puzzles: Puzzles, words: Words, mine: slice = slice(None)) -> Step:
    """Draw everything random of an iteration.

    Args:
        spec: The recipe.
        what: The phase.
        it: Number of the iteration.
        puzzles: Of the recipe.
        words: Prompt embeddings.
        mine: A process's share of the batch.

    Returns:
        Inputs and targets.
    """
    rng = torch.Generator().manual_seed(spec.seed * 100_000_000 + what.offset + it)
    batch = puzzles.batch(what.offset + it)
    n = len(batch.names)
    sigma = draw_sigma(n, spec.shift, what.low, what.high, rng)[mine]
    eps = torch.randn(batch.x0.shape, generator=rng)[mine]
    prompts = words(batch.prompts)
    prompts[torch.rand(n, generator=rng) < spec.drop_prompt] = words.empty
    x0, s = batch.x0[mine], sigma.view(-1, 1, 1, 1, 1)
    x = torch.cat([(1 - s) * x0 + s * eps, batch.condition[mine]], 1)
    return Step(x, sigma, prompts[mine], eps - x0, batch.names[mine])


class Meter:
    """Mean losses by task name and by band of noise levels since the last reading."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = defaultdict(list)

    def add(self, step: Step, losses: list[float]) -> None:
        """Take the losses of one iteration, one for each video."""
        for name, loss, level in zip(step.names, losses, step.sigma.tolist(), strict=True):
            for key in (name, f"sigma<{next(b for b in BANDS[1:] if level < b):g}", "all"):
                self.seen[key].append(loss)

    def read(self) -> dict[str, float]:
        """The means by name or band, and start afresh."""
        means = {k: round(sum(v) / len(v), 4) for k, v in sorted(self.seen.items())}
        self.seen.clear()
        return means


def fit(
    spec: Spec,
    what: Phase,
    out: Path,
    log: Log,
    rank: int = 0,
    world: int = 1,
    minutes: float | None = None,
    way: Way | None = None,
    inputs: Callable[..., Step] | None = None,
) -> None:
    """Train one phase, from its checkpoint or its parent's, and leave ``<phase>.pt`` in ``out``.

    With ``world`` processes each takes its slice of every batch and gradients are averaged: the result depends on
    ``world`` only by rounding.

    Args:
        spec: The recipe.
        what: The phase.
        out: Folder of the run, which holds text encoder and statistics.
        log: Of the run.
        rank: Number of this process.
        world: Processes.
        minutes: Stop after so long.
        way: How to compute; half precision, not compiled, by default.
        inputs: Draws an iteration, as :func:`draw` does, which is the default.
    """
    way, inputs = way or Way(compiled=False), inputs or draw
    run = Training(spec, what.name, out, way.half, what.parent, what.layers)
    puzzles = Puzzles(spec, **json.loads((out / "statistics.json").read_text()))
    words = Words(list(tasks.prompts(spec.mixture)), out)
    parameters, block = list(run.model.parameters()), way.block()
    meter, mine = Meter(), slice(rank, None, world)
    begun = saved = clock = time.time()
    tested = cpu = time.process_time()
    while run.done < what.iterations:
        it = run.done
        step = inputs(spec, what, it, puzzles, words, mine)
        v = fast.velocity(run.model, step.x, 1000 * step.sigma, step.prompts, block, way.half)
        each = (v - step.velocity).pow(2).mean((1, 2, 3, 4))  # (B,)
        weight = (step.sigma / spec.gentle).square().clamp(max=1)
        (weight * each).mean().backward()
        if world > 1:
            average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.optimizer.step(what.rate(it, spec))
        run.average(spec.ema if what.falls else min(spec.ema, (1 + it) / (10 + it)))
        run.done += 1
        meter.add(step, each.tolist())

        last = run.done == what.iterations
        if run.done % REPORT == 0 and minutes is not None:
            last |= agreed(time.time() - begun > 60 * minutes, world)
        if rank == 0:
            if not what.falls and due(run.done):
                run.snapshot()
            if run.done % REPORT == 0 or last:
                losses, now = meter.read(), time.time()
                wall, spent = (now - clock) / REPORT, (time.process_time() - cpu) / REPORT
                told = " ".join(f"{k} {v:.4f}" for k, v in losses.items())
                log(f"{what.name} {run.done} {wall:.2f} s/it ({spent:.2f} cpu) {told}")
                log.numbers(phase=what.name, iteration=run.done, wall=wall, cpu=spent, loss=losses)
                if now - saved > 60 * SAVE or last:
                    run.save()
                    saved = now
                if time.process_time() - tested > 60 * TEST and not what.falls:
                    report(run, puzzles, words, way, log)
                    tested = time.process_time()
                clock, cpu = time.time(), time.process_time()
        if last:
            break


def report(run: Training, puzzles: Puzzles, words: Words, way: Way, log: Log) -> None:
    """Test the moving average on unseen tasks, and log it."""
    results = solved(run.ema, puzzles, words, way=way)
    log(f"{run.name} {run.done} solved {', '.join(f'{k} {v}' for k, v in results.items())}")
    counts = {k: {"solved": v.solved, "n": v.n, "value": v.value} for k, v in results.items()}
    log.numbers(phase=run.name, iteration=run.done, solved=counts)


def agreed(late: bool, world: int) -> bool:
    """Whether any process says so."""
    flag = torch.tensor(float(late))
    if world > 1:
        torch.distributed.all_reduce(flag)
    return bool(flag > 0)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Mean of the gradients over all processes, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))
