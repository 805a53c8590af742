"""Claims about where layers attend, and whether it matters (paper, Fig. 6a): early is depth below 9/40."""

from __future__ import annotations

from functools import partial
from typing import Any

import xarray as xr

from dit_lens.address import ALL
from dit_lens.experiments.attention_by_depth import attention_by_depth, knockouts, shift
from dit_lens.experiments.energy_by_depth import SHIFT
from dit_lens.progress import Progress, silent
from dit_lens.replication.row import SHARE, SMALLEST, Measured, Reading, Row, Untestable, text
from dit_lens.tasks import batch, names
from dit_lens.wan.lens import Lens

WINDOW = 3  # layers of one causal window, a quarter of the lab model
MASKS, ELSEWHERE = "random masks of the same size in every frame", "the same cut to as many random tokens elsewhere"


def measured(lens: Lens, n: int = 12, seed: int = 0, progress: Progress = silent, **arguments: Any) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen tasks of each family.
        seed: Of the first task and of the noise.
        progress: Called as ``progress(done, total, what)``.
        **arguments: For the experiments.

    Returns:
        ``attention`` on tasks of all families; ``cuts`` of attention to the named goal of ``choose`` tasks, everywhere
        and in windows of three layers.
    """
    families = names()
    found = attention_by_depth(
        lens, batch(families, n * len(families), seed), seed=seed, progress=progress, **arguments
    )
    chosen = batch("choose", n, seed)
    windows = {f"{a}-{a + WINDOW - 1}": range(a, a + WINDOW) for a in range(0, lens.n_layers - WINDOW + 1, WINDOW)}
    cuts = knockouts(
        lens, chosen, [("all", "goal")], {"all": ALL, **windows}, seed=seed, progress=progress, **arguments
    )
    return {"attention": found, "cuts": cuts.assign_attrs(n_layers=lens.n_layers)}


def _background(m: Measured) -> Reading | None:
    if "attention" not in m:
        return None
    things, outside = (shift(m["attention"], "foreground", query) for query in ("all", "rest"))
    return _reading(
        -things.sel(part="early"),
        f"From tokens outside the foreground: {text(-outside.sel(part='early', kind='region'), None)}.",
    )


def _foreground(m: Measured, query: str) -> Reading | None:
    if "attention" not in m:
        return None
    found = shift(m["attention"], "foreground", query)
    remark = f"The level from depth .225 on: {text(found.sel(part='later', kind='region'), None)}."
    if query == "all":
        remark += " The foreground's own attention to itself counts here; the next row leaves it out."
    return _reading(_grown(found), remark)


def _named(m: Measured, keys: tuple[str, str], untestable: bool) -> Reading | Untestable | None:
    if "attention" not in m:
        return None
    if "named" not in m["attention"]["key"].values:
        why = "no task with a named and an unnamed thing of one kind was measured"
        return Untestable(why) if untestable else None
    pair = shift(m["attention"], keys[0]) - shift(m["attention"], keys[1])
    also = "" if "first" in keys[0] else "The agent comes to one of the two: that draws attention, too."
    return _reading(
        _grown(pair), f"The level from depth .225 on: {text(pair.sel(part='later', kind='region'), None)}. {also}"
    )


def _grown(values: xr.DataArray) -> xr.DataArray:
    return values.sel(part="later", drop=True) - values.sel(part="early", drop=True)


def _reading(values: xr.DataArray, remark: str) -> Reading:
    """From values (task, kind)."""
    above = (values.sel(kind="region", drop=True) - values.sel(kind="null", drop=True)).groupby("family").mean()
    by_task = ", ".join(f"{name} {float(above.sel(family=name)):.2f}" for name in above["family"].values)
    return Reading.along(values, "kind", ("region", "null"), f"{remark.strip()} Above the null by task: {by_task}.")


def _cut(m: Measured) -> Reading | None:
    if "cuts" not in m:
        return None
    cuts = m["cuts"].isel(edge=0)
    solved = cuts["solved"].sel(layer="all")
    return Reading.along(
        cuts["changed"].sel(layer="all", drop=True),
        "kind",
        ("cut", "random"),
        f"Solved: without a cut {text(cuts['base_solved'], SHARE)}; cut {text(solved.sel(kind='cut'), SHARE)}; "
        f"random {text(solved.sel(kind='random'), SHARE)}.",
        {"edge": cuts["edge"].item()},
    )


def _cut_later(m: Measured) -> Reading | None:
    if "cuts" not in m:
        return None
    cuts = m["cuts"].isel(edge=0)
    changed = cuts["changed"]
    windows = [str(w) for w in changed["layer"].values if w != "all"]
    early = [w for w in windows if int(w.split("-")[0]) / cuts.attrs["n_layers"] < SHIFT]
    later = [w for w in windows if w not in early]
    if not (early and later):
        return None
    grown = changed.sel(layer=later).mean("layer") - changed.sel(layer=early).mean("layer")
    each = "; ".join(
        f"{w}: {text(changed.sel(layer=w, kind='cut'), SHARE)}, random "
        f"{text(changed.sel(layer=w, kind='random'), SHARE)}"
        for w in windows
    )
    return Reading.along(
        grown,
        "kind",
        ("cut", "random"),
        f"By window: {each}.",
        {"edge": cuts["edge"].item(), "window": WINDOW},
    )


_LATER = "From about layer 9 of 40 on, attention shifts to the foreground"
_PAIRS = (
    ("in all frames", ("named", "other"), True),
    ("in the first frame", ("named first", "other first"), False),
)  # one row, not two, says that there was no such pair
ROWS = (
    Row(
        "attention/background",
        "Layers 0 to 9 of 40 attend to background and global structure.",
        "minus log2 enrichment of the foreground in self-attention, layers below depth .225",
        "log2 ratio", MASKS, _background,
        smallest=SMALLEST["log2"], nothing=0.0,
    ),
    Row(
        "attention/foreground",
        f"{_LATER}.",
        "log2 enrichment of the foreground in self-attention, layers from depth .225 on minus layers below",
        "log2 ratio", MASKS, partial(_foreground, query="all"),
        smallest=SMALLEST["log2"], nothing=0.0,
    ),
    Row(
        "attention/foreground-from-rest",
        f"{_LATER}, seen from the rest of the video.",
        "the same from tokens outside the foreground only",
        "log2 ratio", MASKS, partial(_foreground, query="rest"),
        smallest=SMALLEST["log2"], nothing=0.0,
    ),
    *(
        Row(
            f"attention/named-{where.replace(' ', '-')}",
            "From about layer 9 of 40 on, attention shifts to the things that the prompt names.",
            f"log2 enrichment of the goal that the prompt names over the other goal, {where}, layers from depth .225 "
            "on minus layers below",
            "log2 ratio", MASKS, partial(_named, keys=keys, untestable=first),
            smallest=SMALLEST["log2"], nothing=0.0,
        )
        for where, keys, first in _PAIRS
    ),
    Row(
        "attention/cut",
        "Attention to the things that the prompt names carries the answer (our causal reading of Fig. 6a).",
        "answers changed by cutting {edge} at every layer and step",
        "share of tasks", ELSEWHERE, _cut,
        smallest=SMALLEST["share"], nothing=0.0, bounds=SHARE,
    ),
    Row(
        "attention/cut-later",
        "That attention matters from about layer 9 of 40 on, more than before (our causal reading of Fig. 6a).",
        "answers changed by cutting {edge} in one window of {window} layers, later windows minus the first",
        "share of tasks", ELSEWHERE, _cut_later,
        smallest=SMALLEST["share"], bounds=(-1.0, 1.0),
    ),
)  # fmt: skip
