"""Every error the toolkit raises on purpose.

One root, one child per kind of mistake, so that ``except DitLensError`` catches what a user can mend and nothing
else. A message states what was found, what was expected, and what to do next. Children that refine a builtin also
inherit it (``AddressError`` is a ``LookupError``), so that ordinary Python code keeps working.
"""


class DitLensError(Exception):
    """Root of all errors raised by dit_lens on purpose."""


class LoadError(DitLensError, ValueError):
    """A model, folder or file cannot be used as it is."""


class AddressError(DitLensError, LookupError):
    """An address names something that the model or the call plan does not have."""


class RecordError(DitLensError, ValueError):
    """A recording request is inconsistent, or larger than what is allowed to be held."""


class InterventionError(DitLensError, RuntimeError):
    """An intervention is malformed, cannot apply here, or never fired."""


class MeasureError(DitLensError, ValueError):
    """Runs, masks or arrays that a measure or an experiment cannot compare, or whose answer would be empty."""


class BypassError(DitLensError, RuntimeError):
    """Something in the pipeline would run the model around the hook points."""


class DriftError(DitLensError, RuntimeError):
    """The installed diffusers computes something else than the hooked blocks: never silently wrong."""


class SamplerError(DitLensError, ValueError):
    """A generation request does not fit the pipeline, its scheduler or the run to be resumed."""


class TaskError(DitLensError, ValueError):
    """A task, split or twin that does not exist, or a video that a scorer cannot read."""


class ProbeError(DitLensError, ValueError):
    """Features, labels or a stored probe that cannot be fitted, used or trusted as they are."""


class StoreError(DitLensError, OSError):
    """A run or result on disk is missing, damaged, or was made under other parameters."""


class FigureError(DitLensError, ValueError):
    """An array, clip or label cannot be drawn as asked: wrong dims, nothing finite, or too large for one page."""
