"""Measures: functions from runs to labelled arrays, each with n, an interval and, for effects, a placebo.

Each file holds one idea and explains it in its module docstring; the public functions are exported here.
"""

from __future__ import annotations

from dit_lens.measures.answers_over_steps import after_errors, corrections, read_answers, verdicts
from dit_lens.measures.candidates import candidates
from dit_lens.measures.cka import debiased_cka, dissimilarity, linear_cka
from dit_lens.measures.commitment import commit_step, commitment, motion_energy
from dit_lens.measures.energy import energy_map, energy_ratio, layer_energy, region_energy
from dit_lens.measures.excess import excess
from dit_lens.measures.ideal_denoiser import IdealDenoiser, ideal_denoiser
from dit_lens.measures.ideal_sampling import ideal_run
from dit_lens.measures.layer_lens import layer_film, layer_lens, layer_velocity, settles
from dit_lens.measures.region_attention import region_attention, watch_attention, watched_attention
from dit_lens.measures.right_and_wrong import Choices, choices, right_and_wrong
from dit_lens.measures.step_gains import by_length, gain, pairs_by_length, passes, redrawn
from dit_lens.measures.token_maps import (
    ChannelMoments,
    channel_variance,
    fit_components,
    pca_map,
    rgb,
    top_channels,
    variance_ratio,
)
from dit_lens.measures.token_masks import change_mask, given_mask, region_mask, shuffled_mask
from dit_lens.measures.tuned_lens import Translators, fit_translators
from dit_lens.wan.attention_sets import prompt_words

__all__ = [
    "ChannelMoments", "Choices", "IdealDenoiser", "Translators", "after_errors", "by_length", "candidates",
    "change_mask", "channel_variance", "choices", "commit_step", "commitment", "corrections", "debiased_cka",
    "dissimilarity", "energy_map", "energy_ratio", "excess", "fit_components", "fit_translators", "gain",
    "given_mask", "ideal_denoiser", "ideal_run", "layer_energy", "layer_film", "layer_lens", "layer_velocity",
    "linear_cka", "motion_energy", "pairs_by_length", "passes", "pca_map", "prompt_words", "read_answers",
    "redrawn", "region_attention", "region_energy", "region_mask", "rgb", "right_and_wrong", "settles",
    "shuffled_mask", "top_channels", "variance_ratio", "verdicts", "watch_attention", "watched_attention",
]  # fmt: skip
