"""Interventions: frozen values that change a generation. Each file holds one kind.

To write your own, subclass ``ActivationEdit`` (changes activations at a ``select``-ion) or its base ``Edit``.

``lens.generate(task, interventions=[...])`` binds them, asks them for hooks at each call, and afterwards reports what
each one changed (``run.fired``). One that never fired is an error.
"""

from __future__ import annotations

from dit_lens.interventions.ablate import Ablate, ablate
from dit_lens.interventions.base import ActivationEdit, described, select
from dit_lens.interventions.ensemble import Ensemble, ensemble
from dit_lens.interventions.ensemble_modes import EnsembleMode, NoiseMean, ensemble_mode, noise_mean
from dit_lens.interventions.erase import Erase, erase
from dit_lens.interventions.knockout import Knockout, knockout
from dit_lens.interventions.noise import Noise, noise
from dit_lens.interventions.patch import Patch, patch
from dit_lens.interventions.redraw import Redraw, Restart, redraw, restart
from dit_lens.interventions.renoise import Renoise, renoise
from dit_lens.interventions.steer import Steer, steer
from dit_lens.wan.editing import Edit

__all__ = [
    "Ablate", "ActivationEdit", "Edit", "Ensemble", "EnsembleMode", "Erase", "Knockout", "Noise", "NoiseMean", "Patch",
    "Redraw", "Renoise", "Restart", "Steer", "ablate", "described", "ensemble", "ensemble_mode", "erase", "knockout",
    "noise", "noise_mean", "patch", "redraw", "renoise", "restart", "select", "steer",
]  # fmt: skip
