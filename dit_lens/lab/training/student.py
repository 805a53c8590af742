"""A student of four steps, taught by the trained model's own paths from noise to video.

The teacher follows its sampler of 20 steps with guidance. A sampler of four steps visits the noise levels
s_0 > s_1 > s_2 > s_3 > s_4 = 0, and these are among the teacher's. On the teacher's path x_0 ... x_4 the student learns
the velocity that goes from one to the next at once, without guidance::

    v_k = (x_{k+1} - x_k) / (s_{k+1} - s_k)

The path is a function of its noise, so nothing is averaged over videos, as it would be if the student learned from the
noise to any right answer. Each expert learns its own noise levels and begins as the teacher's expert.

Source: distillation of a sampler into a network, arXiv 2101.02388, in segments as in progressive distillation,
arXiv 2202.00512.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

from dit_lens import tasks
from dit_lens.lab.training import fast
from dit_lens.lab.training.data import Puzzles
from dit_lens.lab.training.fit import Log, Phase, Step
from dit_lens.lab.training.machine import Way
from dit_lens.lab.training.pipeline import STEPS, scheduler, states
from dit_lens.lab.training.spec import Spec
from dit_lens.lab.training.text import Words
from dit_lens.store.atomic import new_file

SEGMENTS = 4
OFFSET = 30_000_000  # of the stream of random numbers, after the experts'


def sampler(spec: Spec) -> UniPCMultistepScheduler:
    """The student's scheduler: of first order and without a corrector, which for a flow is Euler's method."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=spec.shift,
        solver_order=1, disable_corrector=list(range(SEGMENTS)),
    )  # fmt: skip


def levels(spec: Spec) -> torch.Tensor:
    """Noise levels s_0 to s_4 that the student visits, (5,)."""
    made = scheduler(spec)
    made.set_timesteps(STEPS)
    return made.sigmas[:: STEPS // SEGMENTS]


def phases(spec: Spec) -> tuple[Phase, Phase]:
    """One for each of the student's experts, at a quarter of the peak rates: the weights are nearly right already."""
    edge, n = spec.boundary, spec.student_iterations
    return (
        Phase("student-high", edge, 1.0, n, OFFSET, parent="high", peak=0.25),
        Phase("student-low", 0.0, edge, n, OFFSET + n, parent="low", peak=0.25),
    )


def teacher(spec: Spec, out: Path, way: Way) -> Callable[..., torch.Tensor]:
    """The two trained experts as one function of (x, timestep, text)."""
    models = []
    for name in ("high", "low"):
        model = WanTransformer3DModel(**spec.transformer()).eval()
        model.load_state_dict(torch.load(out / f"{name}.pt", weights_only=True)["ema"])
        models.append(model)
    high, low = models

    def velocity(x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return fast.velocity(high if t[0] >= 1000 * spec.boundary else low, x, t, text, half=way.half)

    return velocity


def walk(spec: Spec, out: Path, log: Log, guidance: float, way: Way) -> None:
    """Write ``spec.student_walks`` batches of paths as ``walks/NNNNN.pt``, each (5, B, 16, T, h, w); it resumes."""
    folder = out / "walks"
    folder.mkdir(exist_ok=True)
    puzzles = Puzzles(spec, **json.loads((out / "statistics.json").read_text()))
    words = Words(list(tasks.prompts(spec.mixture)), out)
    velocity = teacher(spec, out, way)
    for i in range(spec.student_walks):
        path = folder / f"{i:05d}.pt"
        if path.exists():
            continue
        batch = puzzles.batch(OFFSET + i)
        found = list(states(velocity, batch, words(batch.prompts), words.empty, spec, OFFSET + i, STEPS, guidance))
        with new_file(path) as fresh:
            torch.save(torch.stack(found[:: STEPS // SEGMENTS]).half(), fresh)
        if (i + 1) % 50 == 0:
            log(f"walks {i + 1} of {spec.student_walks}")


def draw(
    walks: Path, spec: Spec, what: Phase, it: int, puzzles: Puzzles, words: Words, mine: slice = slice(None)
) -> Step:
    """Draw an iteration's inputs and targets from the teacher's paths; see :func:`dit_lens.lab.training.fit.draw`."""
    rng = torch.Generator().manual_seed(spec.seed * 100_000_000 + what.offset + it)
    number = int(torch.randint(spec.student_walks, (), generator=rng))
    path = torch.load(walks / f"{number:05d}.pt", weights_only=True).float()
    batch, sigmas = puzzles.batch(OFFSET + number), levels(spec)
    own = [k for k in range(SEGMENTS) if (sigmas[k] >= spec.boundary) == (what.low >= spec.boundary)]
    k = torch.tensor(own)[torch.randint(len(own), (len(batch.names),), generator=rng)]  # (B,)
    here, there = (path[j, torch.arange(len(k))] for j in (k, k + 1))
    v = (there - here) / (sigmas[k + 1] - sigmas[k]).view(-1, 1, 1, 1, 1)
    x = torch.cat([here, batch.condition], 1)[mine]
    return Step(x, sigmas[k][mine], words(batch.prompts)[mine], v[mine], batch.names[mine])
