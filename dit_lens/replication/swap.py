"""Claims about layer swapping (paper, Fig. 6b)."""

from __future__ import annotations

from functools import partial
from typing import Any

from dit_lens import tasks as puzzles
from dit_lens.address import Depth
from dit_lens.experiments.layer_swapping import KINDS, by_depth, strongest, swap
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import HALF_UP, SHARE, SMALLEST, Measured, Reading, Row, Untestable, stored
from dit_lens.stats.verdict import LEVEL
from dit_lens.wan.lens import Lens

FAMILIES = ("choose", "maze")  # same picture and other prompt; the reverse
MIDDLE = Depth(0.5, 0.75)  # layers 20 to 29 of 40


def measured(lens: Lens, n: int = 24, seed: int = 0, progress: Progress = silent, **arguments: Any) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.
        **arguments: For the sweeps.

    Returns:
        By family: ``<name> whole``, the stream at one layer; ``<name> each``, every update.
    """
    found = {}
    for name in FAMILIES:
        group = puzzles.batch(name, n, seed)
        first = MIDDLE.layers(lens.n_layers)[0]  # layer 20 of 40
        found[f"{name} whole"] = swap(
            lens, group, [first], [0], hooks="resid_post", seed=seed, progress=progress, **arguments
        )
        found[f"{name} each"] = swap(
            lens, group, "all", [0], horizons=("local",), seed=seed, progress=progress, **arguments
        )
    return found


def _flips(m: Measured, name: str) -> Reading | Untestable | None:
    if f"{name} whole" not in m:
        return None
    found = m[f"{name} whole"].isel(hook=0, layer=0, step=0)
    cell, local = found.sel(horizon="final"), found.sel(horizon="local")
    if not int(cell["flipped_n"]):
        return Untestable(f"no video of {name} could be read both in base and in source, so none could flip")
    same = any(remark.startswith("swap of") for remark in m[f"{name} whole"].attrs["remarks"])
    told = " Base and source share their text here, so this swap is the same at every layer." if same else ""
    flipped, null = (stored(cell, arm, f"{arm}_low", f"{arm}_high", "flipped_n") for arm in ("flipped", "flipped_null"))
    each = cell["raw"].sel(metric="flipped")
    return Reading(
        each.sel(kind="effect", drop=True),
        each.sel(kind="placebo", drop=True),
        f"The {local['read_in'].item()} moves {float(local['effect']):.2f} of the way to the source's, "
        f"the finished video {float(cell['effect']):.2f}.{told}",
        {"layer": cell["layer"].item(), "read_in": cell["read_in"].item()},
        estimates=(flipped, null),
    )


def _middle(m: Measured, name: str) -> Reading | None:
    if f"{name} each" not in m:
        return None
    found = m[f"{name} each"]
    at = strongest(found)  # (kind, task)
    n_layers = found.sizes["layer"]
    middle = MIDDLE.layers(n_layers)
    inside = ((at >= middle[0] / n_layers) & (at <= middle[-1] / n_layers)).where(at.notnull())
    curve = by_depth(found)
    numbers = zip(*(curve[name].values for name in ("layer", "value", "p_corrected")), strict=True)
    layers = "; ".join(f"{layer}: {value:.2f}{'*' if p <= LEVEL else ''}" for layer, value, p in numbers)
    return Reading.along(
        inside,
        "kind",
        KINDS,
        f"By layer, effect above the placebo (* where p corrected over layers is at most {LEVEL:g}): {layers}.",
        {"first": middle[0], "last": middle[-1], "read_in": curve["read_in"].item()},
    )


def _rows(name: str) -> tuple[Row, Row]:
    return (
        Row(
            f"swap/flips-{name}",
            "Replacing the hidden state of one layer (20 or 21 of 40) by another scene's, in the first step only, "
            "flips the answer completely (Fig. 6b).",
            f"whole-stream swap at layer {{layer}}, step 0, both branches, {name}: answers read in the {{read_in}} "
            "that are the source's",
            "share of puzzles", "same scene, other seed", partial(_flips, name=name),
            smallest=SMALLEST["share"], within=HALF_UP, nothing=0.0, bounds=SHARE,
        ),
        Row(
            f"swap/middle-{name}",
            "The middle-to-late layers are the ones that decide the answer (Fig. 6b).",
            f"one layer's update swapped at step 0, every layer in turn, {name}: puzzles in which the layer that moves "
            "the {read_in} furthest to the source's is one of {first}-{last}",
            "share of puzzles", "same scene, other seed", partial(_middle, name=name),
            smallest=SMALLEST["share"], within=HALF_UP, bounds=SHARE,
        ),
    )  # fmt: skip


ROWS = tuple(row for name in FAMILIES for row in _rows(name))
