"""The runner: long work over tasks and places, with its cost known beforehand, exact reuse, and resumable folders."""

from dit_lens.runner.attribution import attribute, recheck
from dit_lens.runner.options import Options, Running
from dit_lens.runner.ray_actors import Ray
from dit_lens.runner.sweep import Sweep, sweep
from dit_lens.runner.task_rows import Item, noise_seed, over_tasks

__all__ = ["Item", "Options", "Ray", "Running", "Sweep", "attribute", "noise_seed", "over_tasks", "recheck", "sweep"]
