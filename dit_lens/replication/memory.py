"""Claims of working memory (paper, section 5), asked of scenes in which one thing hides another.

Decoding is averaged over the middle half of the layers and all steps read, so that no best cell is picked.
"""

from __future__ import annotations

from functools import partial

import xarray as xr

from dit_lens import tasks as puzzles
from dit_lens.experiments.working_memory import ARMS, KINDS, decodable_while_hidden, used_while_hidden
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import SHARE, SMALLEST, Measured, Reading, Row, Untestable, text
from dit_lens.stats.intervals import FEWEST
from dit_lens.wan.lens import Lens

NULLS = {"shuffled": "shuffled labels", "random": "as many tokens of the same frames elsewhere, drawn at random"}


def measured(lens: Lens, n: int = 30, seed: int = 0, progress: Progress = silent) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen scenes of ``occlude``.
        seed: Of the noise.
        progress: Called as ``progress(done, total, what)``.

    Returns:
        ``read`` and ``use`` of what is hidden; ``use`` alone of fewer than five scenes, which cannot be read from.
    """
    tasks = [puzzles.load("occlude", i) for i in range(n)]
    found = {}
    if n >= FEWEST:  # as many as there are folds
        found["read"] = decodable_while_hidden(lens, tasks, folds=FEWEST, seed=seed, progress=progress)
    return {**found, "use": used_while_hidden(lens, tasks, seed=seed, progress=progress)}


def _middle(accuracy: xr.DataArray) -> xr.DataArray:
    """Whether a layer is in the middle half."""
    n_layers = int(accuracy["layer"][-1]) + 1
    return (accuracy["layer"] >= n_layers / 4) & (accuracy["layer"] < 3 * n_layers / 4)


def _read(m: Measured, what: str, null: str) -> Reading | Untestable:
    if "read" not in m:
        n = m["use"].sizes["task"]
        return Untestable(
            f"{n} scenes cannot be read from: classifiers hold out one scene in {FEWEST}, so take {FEWEST} or more"
        )
    accuracy = m["read"]["accuracy"]
    middle = _middle(accuracy)
    here = accuracy.where(middle, drop=True).mean(("step", "layer")).sel(label=what)
    given = accuracy.sel(layer=-1, kind="hidden").mean("step").sel(label=what)
    layers = accuracy["layer"].where(middle, drop=True)
    rest = "; ".join(f"{kind} {text(here.sel(kind=kind), SHARE)}" for kind in KINDS[1:] if kind != null)
    chance = float(m["read"]["chance"].sel(label=what))
    return Reading.along(
        here,
        "kind",
        ("hidden", null),
        f"{rest}; the input {text(given, SHARE)}; chance {chance:.2f}.",
        {"first": int(layers[0]), "last": int(layers[-1])},
    )


def _used(m: Measured, what: str) -> Reading:
    use = m["use"]
    here = use["effect"].sel(label=what)
    flips = ", ".join(f"{arm} {int(use['flipped'].sel(label=what, kind=arm).sum())}" for arm in ARMS)
    return Reading.along(
        here,
        "kind",
        ("hidden", "random"),
        f"The same tokens from the same scene at another seed {text(here.sel(kind='placebo'), None)}; where it is in "
        f"sight again (positive control) {text(here.sel(kind='after'), None)}. Answers that became the twin's, of "
        f"{use.sizes['task']}: {flips}.",
    )


_HELD = (
    ("identity", "shuffled", "While an object is out of sight, what it is is held (working memory)."),
    ("place", "shuffled", "While an object is out of sight, where it is is held (working memory)."),
    ("identity", "random", "What the hidden object is is held where it is hidden, not everywhere."),
    ("place", "random", "Where the hidden object is is held where it is hidden, not everywhere."),
)
ROWS = (
    *(
        Row(
            f"memory/{what}-against-{null}",
            f"{says} Shown by x0_hat, without a number (section 5).",
            f"{what} read from the hidden tokens, layers {{first}}-{{last}}",
            "accuracy", NULLS[null], partial(_read, what=what, null=null),
            smallest=SMALLEST["accuracy"], bounds=SHARE,
        )
        for what, null, says in _HELD
    ),
    *(
        Row(
            f"memory/{what}-used",
            f"The hidden object's {what} is used from where it is hidden: it decides what comes out.",
            "effect of the hidden tokens' updates from the twin, all layers and steps held",
            "0 base, 1 source", NULLS["random"], partial(_used, what=what),
            smallest=SMALLEST["effect"], nothing=0.0,
        )
        for what in ("identity", "place")
    ),
)  # fmt: skip
