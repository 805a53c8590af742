"""Measures: functions from runs to labelled arrays, each with n, an interval and, for effects, a placebo."""

from __future__ import annotations

from dit_lens.measures.energy import region_energy
from dit_lens.measures.local import local_effects
from dit_lens.measures.stats import summarise

__all__ = ["local_effects", "region_energy", "summarise"]
