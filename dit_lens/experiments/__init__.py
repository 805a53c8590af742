"""Experiments: a lens, some tasks and a question in, a labelled dataset with its placebo out.

A measure reads runs; an experiment also makes them. Each file holds one experiment of the paper with its controls, and
what the paper said of it beside what is found: ``dl.experiments.energy(lens, tasks)``, and
``dl.experiments.claims(lens, "energy")``.
"""

from __future__ import annotations

import importlib
from typing import Any

from dit_lens.errors import MeasureError
from dit_lens.experiments.attention_by_depth import attention_by_depth, knockouts
from dit_lens.experiments.branching import branching, fork, several
from dit_lens.experiments.chain_of_steps import chain_of_steps, over_puzzles
from dit_lens.experiments.energy_by_depth import energy
from dit_lens.experiments.layer_swapping import swap
from dit_lens.experiments.noise_injection import noise_at_frame, noise_at_step, peak, score_lost, sensitivity
from dit_lens.experiments.readout_by_depth import layer_readout
from dit_lens.experiments.schedules import few_steps, frames_curve
from dit_lens.experiments.seed_ensembles import ensembles
from dit_lens.experiments.self_correction import perception_lag, plant_mistakes, watch_answers
from dit_lens.experiments.working_memory import Hiding, decodable_while_hidden, used_while_hidden
from dit_lens.progress import Progress, silent
from dit_lens.replication.claim import Claim
from dit_lens.wan.lens import Lens
from dit_lens.wan.shuffled_weights import shuffled_weights

#: The experiments that state claims, and the module that holds each.
CLAIMS = {
    "attention": "experiments.attention_by_depth", "behaviour": "experiments.self_correction",
    "branching": "experiments.branching", "chain": "experiments.chain_of_steps",
    "energy": "experiments.energy_by_depth", "ensembles": "experiments.seed_ensembles",
    "layer_lens": "experiments.readout_by_depth", "memory": "experiments.working_memory",
    "noise": "experiments.noise_injection", "roles": "layer_map.roles", "schedules": "experiments.schedules",
    "swap": "experiments.layer_swapping",
}  # fmt: skip
__all__ = [
    "CLAIMS", "Claim", "Hiding", "attention_by_depth", "branching", "chain_of_steps", "claims",
    "decodable_while_hidden", "energy", "ensembles", "few_steps", "fork", "frames_curve", "knockouts", "layer_readout",
    "noise_at_frame", "noise_at_step", "over_puzzles", "peak", "perception_lag", "plant_mistakes", "score_lost",
    "sensitivity", "several", "shuffled_weights", "swap", "used_while_hidden", "watch_answers",
]  # fmt: skip


def claims(lens: Lens, experiment: str, *, progress: Progress = silent, **arguments: Any) -> list[Claim]:
    """What the paper said of one experiment (a name of ``CLAIMS``) beside what is found here, on unseen puzzles.

    ``arguments``: ``n`` puzzles, the first ``seed``, and what else ``claims`` of the experiment's file takes.

    Errors: :class:`MeasureError` for another name.
    """
    if experiment not in CLAIMS:
        raise MeasureError(f"experiment={experiment!r} states no claims: choose from {list(CLAIMS)}")
    found: list[Claim] = importlib.import_module(f"dit_lens.{CLAIMS[experiment]}").claims(
        lens, progress=progress, **arguments
    )
    return found
