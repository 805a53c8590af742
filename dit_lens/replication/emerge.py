"""Claims of working memory (paper, section 5), asked where the first frame cannot stand in for it: ``emerge``.

Decoding is averaged over the middle half of the layers and all steps read, so that no best cell is picked.
"""

from __future__ import annotations

from functools import partial

from dit_lens import tasks as puzzles
from dit_lens.experiments.emerging_colour import ARMS, KINDS, hidden_colour, hidden_colour_used
from dit_lens.progress import Progress, prefixed, silent
from dit_lens.replication.row import SHARE, SMALLEST, Measured, Reading, Row, Untestable, text
from dit_lens.stats.intervals import FEWEST
from dit_lens.wan.lens import Lens

NAME = "emerge-hard"
NULLS = {"shuffled": "shuffled labels", "random": "as many tokens of the same frames elsewhere, drawn at random"}


def measured(lens: Lens, n: int = 48, seed: int = 0, progress: Progress = silent, *, name: str = NAME) -> Measured:
    """Measure what the rows of this family read.

    Args:
        lens: The model.
        n: Unseen scenes.
        seed: Of the first scene and of the noise.
        progress: Called as ``progress(done, total, what)``.
        name: Level and size of the scenes.

    Returns:
        ``read``, the colours and how well they are read while hidden; ``use``, patches of the hidden tokens.
    """
    tasks = puzzles.batch(name, n, seed)
    read = hidden_colour(lens, tasks, folds=FEWEST, seed=seed, progress=prefixed(progress, "read"))
    use = hidden_colour_used(lens, tasks, seed=seed, progress=prefixed(progress, "use"))
    return {"read": read, "use": use}


def _kept(m: Measured) -> Reading | Untestable:
    read = m["read"]
    same, chance = (read[name].mean("ball") for name in ("same", "by_chance"))
    n = int(same.notnull().sum())
    if n < FEWEST:
        return Untestable(f"In {n} of {read.sizes['task']} videos both sides of the screen can be read: too few.")
    return Reading(same, chance, f"Both sides can be read in {n} of {read.sizes['task']} videos.")


def _held(m: Measured, null: str) -> Reading | Untestable:
    read = m["read"]
    if "accuracy" not in read:
        n = int((read["before"] != "").all("ball").sum())
        return Untestable(f"Colours can be read in {n} of {read.sizes['task']} videos: too few to fit classifiers.")
    accuracy = read["accuracy"]
    n_layers = accuracy.sizes["layer"]
    middle = accuracy.isel(layer=slice(-(-n_layers // 4), -(-3 * n_layers // 4)))
    here = middle.mean(("step", "layer")).dropna("task", how="all")
    first = text(middle.isel(step=0).mean("layer").sel(kind="hidden").dropna("task"), SHARE)
    rest = "; ".join(f"{kind} {text(here.sel(kind=kind), SHARE)}" for kind in KINDS[1:] if kind != null)
    layers = middle["layer"].values
    return Reading.along(
        here, "kind", ("hidden", null),
        f"{rest}; at the first step {first}; chance {float(read['chance']):.2f}.",
        {"first": int(layers[0]), "last": int(layers[-1])},
    )  # fmt: skip


def _used(m: Measured) -> Reading | Untestable:
    follows, stays = m["use"]["follows"], m["use"]["stays"]
    n = int(follows.sel(kind="hidden").notnull().sum())
    if n < FEWEST:
        return Untestable(
            f"In {n} of {follows.sizes['task']} scenes two seeds keep two colours of a ball: too few to patch between."
        )
    others = [kind for kind in ARMS if kind not in ("hidden", "random")]
    parts = "; ".join(f"{kind} {text(follows.sel(kind=kind).dropna('task'), SHARE)}" for kind in others)
    own = text(stays.sel(kind="hidden").dropna("task"), SHARE)
    return Reading.along(follows, "kind", ("hidden", "random"), f"{parts}; keeps its own colour {own}.")


ROWS = (
    Row(
        "emerge/kept",
        "What goes out of sight comes back as it was (section 5), where the first frame does not show it.",
        "balls that come out in the colour in which they went in, of those read on both sides",
        "share", "the colours in which other scenes' balls came out", _kept,
        smallest=SMALLEST["share"], bounds=SHARE,
    ),
    *(
        Row(
            f"emerge/held-against-{null}",
            f"{says} (section 5), where the first frame does not show it.",
            "colour read from the tokens that hide the ball, layers {first}-{last}",
            "accuracy", NULLS[null], partial(_held, null=null),
            smallest=SMALLEST["accuracy"], bounds=SHARE,
        )
        for null, says in (
            ("shuffled", "While an object is out of sight, what it is is held"),
            ("random", "What a hidden object is is held where it is hidden, not everywhere"),
        )
    ),
    Row(
        "emerge/used",
        "What is held of a hidden object where it is hidden decides how it comes back (section 5).",
        "balls that come out in the source's colour when the updates of the tokens that hide them are its, all layers "
        "and steps held",
        "share", NULLS["random"], _used,
        smallest=SMALLEST["share"], nothing=0.0, bounds=SHARE,
    ),
)  # fmt: skip
