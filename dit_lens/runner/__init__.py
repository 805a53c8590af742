"""Sweeps: the same intervention at many places, exact, planned before it runs, and never lost."""

from dit_lens.runner.attribution import attribute, recheck
from dit_lens.runner.executors import Ray
from dit_lens.runner.sweep import Sweep, sweep

__all__ = ["Ray", "Sweep", "attribute", "recheck", "sweep"]
