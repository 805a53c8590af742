"""The runner: long work over tasks and places, planned before it runs, exact where it shares, and never lost."""

from dit_lens.runner.attribution import attribute, recheck
from dit_lens.runner.options import Options, Running
from dit_lens.runner.ray_actors import Ray
from dit_lens.runner.sweep import Sweep, sweep
from dit_lens.runner.task_rows import Item, over_tasks

__all__ = ["Item", "Options", "Ray", "Running", "Sweep", "attribute", "over_tasks", "recheck", "sweep"]
