"""The training loop: one model, flow matching, resumable at any iteration.

x_sigma = (1 - sigma) x0 + sigma eps; the model predicts v = eps - x0 at timestep 1000 sigma. Every iteration draws
its puzzles, noise and levels from its own number, so a run that was killed goes on as if nothing had happened.

At small sigma an error in x0 counts 1 / sigma^2 in v, which would drown the rest of the batch; the sampler's last
step has sigma .21, so below `LabConfig.gentle` the loss is that of x0 instead, at the weight it has there.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from dit_lens.lab import fast, text
from dit_lens.lab.config import LabConfig
from dit_lens.lab.data import Puzzles
from dit_lens.lab.evaluate import quick
from dit_lens.lab.optim import Both
from dit_lens.store.atomic import new_file

BANDS = (0.0, 0.5, 0.9, 1.01)  # of sigma, for the log
REPORT, SAVE, TEST = 50, 100, 500  # iterations between lines of the log, checkpoints, and quick tests


class Log:
    """One line on screen and in a file."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, line: str) -> None:
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {line}"
        print(line, flush=True)
        with self.path.open("a") as f:
            f.write(line + "\n")


def write(path: Path, content: dict) -> None:
    """Save atomically: a reader sees the old file or the new one."""
    with new_file(path) as scratch:
        torch.save(content, scratch)


class Words:
    """Prompt embeddings by lookup: the encoder is frozen and the prompts are few."""

    def __init__(self, out: Path):
        known = [*text.prompts(), ""]
        self.table = text.embed(known, *text.load(out))
        self.index = {prompt: i for i, prompt in enumerate(known)}
        self.empty = self.table[-1]

    def __call__(self, prompts: list[str]) -> torch.Tensor:
        return self.table[[self.index[p] for p in prompts]]


@dataclass(frozen=True)
class Phase:
    """What one call of `fit` trains: the noise levels, how long, and where its stream of random numbers starts."""

    name: str
    low: float
    high: float
    iterations: int
    offset: int

    @property
    def expert(self) -> bool:
        return self.name != "trunk"

    def rate(self, it: int, config: LabConfig) -> float:
        """Share of the peak learning rate: warm-up then constant for the trunk, linear decay for an expert."""
        if self.expert:
            return 1 - (1 - config.final_lr) * it / self.iterations
        return min(1.0, (it + 1) / config.warmup)


def phase(name: str, config: LabConfig) -> Phase:
    """The phase of that name: trunk, high or low."""
    edge, over = config.boundary, config.overlap
    return {
        "trunk": Phase("trunk", 0.0, 1.0, config.trunk_iterations, 0),
        "high": Phase("high", edge - over, 1.0, config.expert_iterations, 10_000_000),
        "low": Phase("low", 0.0, edge + over, config.expert_iterations, 20_000_000),
    }[name]


def draw_sigma(n: int, shift: float, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    """Noise levels in [low, high]: half uniform and half logit-normal in u, shifted as the sampler's are,
    sigma = s u / (1 + (s - 1) u)."""
    u_low, u_high = (s / (shift - (shift - 1) * s) for s in (low, high))
    uniform = u_low + (u_high - u_low) * torch.rand(n, generator=rng)
    normal = torch.sigmoid(1.2 * torch.randn(8 * n, generator=rng))
    normal = normal[(normal >= u_low) & (normal <= u_high)]
    half = min(n // 2, len(normal))
    u = torch.cat([normal[:half], uniform[half:]])[torch.randperm(n, generator=rng)]
    return shift * u / (1 + (shift - 1) * u)


class Training:
    """Model, optimizer and moving average of one phase, as they stand on disk."""

    def __init__(self, config: LabConfig, what: Phase, out: Path):
        self.path = out / f"{what.name}.pt"
        torch.manual_seed(config.seed)
        self.model = WanTransformer3DModel(**config.transformer()).train()
        self.optimizer = Both(self.model, config.muon_lr, config.adam_lr)
        self.done = 0
        if not self.path.exists() and not what.expert:
            self.ema = {k: v.clone() for k, v in self.model.state_dict().items()}
            return
        state = torch.load(self.path if self.path.exists() else out / "trunk.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = state["ema"]
        self.done = state["done"] if self.path.exists() else 0

    @torch.no_grad()
    def average(self, decay: float) -> None:
        state = self.model.state_dict()
        torch._foreach_lerp_([self.ema[k] for k in state], list(state.values()), 1 - decay)

    def save(self) -> None:
        content = {"model": self.model.state_dict(), "ema": self.ema, "done": self.done}
        write(self.path, {**content, "optimizer": self.optimizer.state_dict()})


def fit(
    config: LabConfig,
    what: Phase,
    out: Path,
    log: Callable[[str], None],
    rank: int = 0,
    world: int = 1,
    minutes: float | None = None,
    compiled: bool = True,
) -> None:
    """Train one phase, from its checkpoint or (an expert) from the trunk's, and leave `<phase>.pt` in `out`.

    With `world` processes each takes its slice of every batch and gradients are averaged: the result depends on
    `world` only by rounding. minutes: stop after so long.
    """
    run = Training(config, what, out)
    puzzles = Puzzles(config.mixture, **json.loads((out / "statistics.json").read_text()), seed=config.seed)
    words = Words(out)
    parameters = list(run.model.parameters())
    block = torch.compile(fast.block, dynamic=False) if compiled else fast.block
    mine = slice(rank, None, world)
    meter: dict[str, list[float]] = defaultdict(list)
    begun = clock = time.time()
    while run.done < what.iterations:
        it = run.done
        rng = torch.Generator().manual_seed(config.seed * 100_000_000 + what.offset + it)
        batch = puzzles.batch(what.offset + it, config.batch)
        sigma = draw_sigma(config.batch, config.shift, what.low, what.high, rng)[mine]
        eps = torch.randn(batch.x0.shape, generator=rng)[mine]
        prompts = words(batch.prompts)
        prompts[torch.rand(config.batch, generator=rng) < config.drop_prompt] = words.empty
        x0, s = batch.x0[mine], sigma.view(-1, 1, 1, 1, 1)
        x = torch.cat([(1 - s) * x0 + s * eps, batch.condition[mine]], 1)

        v = fast.velocity(run.model, x, 1000 * sigma, prompts[mine], block)
        each = (v - (eps - x0)).pow(2).mean((1, 2, 3, 4))  # (B,)
        weight = (sigma / config.gentle).square().clamp(max=1)
        (weight * each).mean().backward()
        if world > 1:
            average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.optimizer.step(what.rate(it, config))
        run.average(config.ema if what.expert else min(config.ema, (1 + it) / (10 + it)))
        run.done += 1

        for name, loss, level in zip(batch.names[mine], each.tolist(), sigma.tolist(), strict=True):
            meter[name].append(loss)
            meter[f"sigma<{next(b for b in BANDS[1:] if level < b):g}"].append(loss)
        last = run.done == what.iterations
        if run.done % REPORT == 0 and minutes is not None:
            last |= agreed(time.time() - begun > 60 * minutes, world)
        if rank == 0:
            if run.done % REPORT == 0 or last:
                losses = " ".join(f"{k} {sum(v) / len(v):.4f}" for k, v in sorted(meter.items()))
                log(f"{what.name} {run.done} {(time.time() - clock) / REPORT:.2f} s/it {losses}")
                meter.clear()
                clock = time.time()
            if run.done % SAVE == 0 or last:
                run.save()
            if run.done % TEST == 0 and not what.expert:
                log(f"{what.name} {run.done} solved {quick(run.ema, config, puzzles, words)}")
                clock = time.time()
        if last:
            break


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
