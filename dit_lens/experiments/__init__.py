"""Experiments: a lens, some tasks and a question in, a labelled dataset with its placebo out.

A measure reads runs; an experiment also makes them: ``dl.experiments.energy(lens, tasks)``. Each file holds one
experiment of the paper with its controls. What the paper says of it, and the verdict, stand in
:mod:`dit_lens.replication`: ``dl.replication.claims(lens, "energy")``.
"""

from __future__ import annotations

from dit_lens.experiments.attention_by_depth import attention_by_depth, knockouts
from dit_lens.experiments.branching import branching, fork, several
from dit_lens.experiments.chain_of_steps import chain_of_steps
from dit_lens.experiments.development import development
from dit_lens.experiments.emerging_colour import hidden_colour, hidden_colour_used
from dit_lens.experiments.energy_by_depth import energy
from dit_lens.experiments.layer_swapping import by_depth, strongest, swap
from dit_lens.experiments.local_effects import local_effects
from dit_lens.experiments.noise_injection import noise_at_frame, noise_at_step, peak, score_lost, sensitivity
from dit_lens.experiments.readout_by_depth import layer_readout
from dit_lens.experiments.schedules import few_steps, frames_curve
from dit_lens.experiments.seed_ensembles import ensembles
from dit_lens.experiments.self_correction import perception_lag, plant_mistakes, watch_answers
from dit_lens.experiments.serial_depth import (
    drawn_cells,
    matched_lengths,
    side_by_side_models,
    solved_by_depth,
    solved_by_steps,
    support_by_step,
)
from dit_lens.experiments.where_decided import other_noise, other_prompt, where_decided
from dit_lens.experiments.working_memory import Hiding, decodable_while_hidden, used_while_hidden
from dit_lens.wan.shuffled_weights import shuffled_weights

__all__ = [
    "attention_by_depth", "branching", "by_depth", "chain_of_steps", "decodable_while_hidden", "development",
    "drawn_cells", "energy", "ensembles", "few_steps", "fork", "frames_curve", "hidden_colour",
    "hidden_colour_used", "knockouts", "layer_readout",
    "local_effects", "matched_lengths", "noise_at_frame", "noise_at_step", "other_noise", "other_prompt", "peak",
    "perception_lag", "plant_mistakes", "score_lost", "sensitivity", "several", "shuffled_weights",
    "side_by_side_models", "solved_by_depth", "solved_by_steps", "strongest", "support_by_step", "swap",
    "used_while_hidden", "watch_answers", "where_decided", "Hiding",
]  # fmt: skip
