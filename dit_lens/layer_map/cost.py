"""What a map costs, before it runs: denoiser blocks, as :mod:`dit_lens.runner.cost` counts them.

With G blocks a generation, L layers, B branches and S steps patched, for each puzzle

    runs        3 G
    held        2 kinds x 4 groups of layers, whole generations from the group's first layer on
    local       S B (L (L + 1) + 3 L)          every layer, effect and placebo; and what is run once for them
    evidence    2 L for each step of the table (attention and layer lens, one branch)

each control once more without *held* and as far as the last step of the table, and each probed scene up to 2 G. Reading
attention costs up to its own share of a block more. Where layers share a batch (``exact=False``, small models), *local*
takes about half of the time that is said.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.runner.cost import Cost

if TYPE_CHECKING:
    from dit_lens.layer_map.measurement import Survey


def map_cost(work: Survey, groups: int, rate: float = math.nan) -> Cost:
    """The cost of a survey.

    Args:
        work: What is measured.
        groups: Runs of layers whose update is held over all steps.
        rate: Seconds of one block.

    Returns:
        Cells are patched runs, each for effect and placebo; ``baselines`` everything else.
    """
    lens, plan = work.lens, work.plan
    n_layers, branches = lens.n_layers, len(plan.of_step(0))
    whole = len(plan.calls) * n_layers

    def local(steps: int) -> int:
        return steps * branches * n_layers * (n_layers + 1)

    def beside(run: int, steps: int) -> int:
        return 3 * run + steps * branches * 3 * n_layers

    few = len(work.few)
    firsts = [int(g[0]) for g in np.array_split(np.arange(n_layers), groups)]
    held = 2 * sum(whole - branches * first for first in firsts)
    n, controls = len(work.tasks), work.controls
    blocks = n * (local(len(work.steps)) + held + controls * local(few))
    read = 2 * n_layers * few
    until = sum(len(plan.of_step(step)) for step in range(max(work.few) + 1)) * n_layers
    baselines = n * (beside(whole, len(work.steps)) + read + controls * (beside(until, few) + read))
    baselines += len(work.probed) * (whole + until)
    cells = 2 * n * (len(work.steps) * n_layers + groups + controls * few * n_layers)
    seconds = rate * (blocks + baselines)
    return Cost(cells, blocks, baselines, cells * whole, seconds, _experts(lens), _disk(work))


def seconds_a_block(work: Survey) -> float:
    """One step of the first puzzle, timed."""
    began = time.perf_counter()
    work.lens.generate(work.tasks[0], seed=work.seed, sampling=work.how, stop_after=0)
    return (time.perf_counter() - began) / (len(work.plan.of_step(0)) * work.lens.n_layers)


def _experts(lens: Any) -> int:
    """Bytes of the experts, which a control holds once more."""
    models = [expert.transformer for expert in lens.experts.values()]
    return sum(p.numel() * p.element_size() for model in models for p in model.parameters())


def _disk(work: Survey) -> int:
    """Bytes of the runs that are kept: latents and velocity of every step, fp32; of the first puzzle three runs."""
    tokens = work.lens.grid_of(work.tasks[0], work.how).n_tokens
    latents = 4 * tokens * 4 * work.lens.experts["high"].transformer.config.out_channels
    return (len(work.tasks) + 2) * (2 * work.plan.n_steps + 1) * latents
