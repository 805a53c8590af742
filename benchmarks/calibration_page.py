"""docs/calibration.md, written from docs/calibration.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from calibration_summary import null_findings, summary
from calibration_tables import false, number, over, recall, small, table, unpacked

from dit_lens.planted import suite
from dit_lens.planted.methods import METHODS, Method
from dit_lens.planted.reading import CONTROLS
from dit_lens.stats import share_interval

HEAD = """# Calibration

How well each method does where the answer is known. Networks are small Wan transformers whose weights were written by
hand: a bit of the first picture (or of the prompt) is copied to the video by one layer, one head, at one step, in one
branch; everything else adds nothing, or noise of a chosen strength. What a network does is also computed by a causal
model that knows neither its weights nor torch, so that effects are known to rounding. Nulls are random and shuffled
networks asked for labels and regions that nothing in their input tells of.

Written by `python benchmarks/calibration.py`; the tables are in
[calibration.json](https://github.com/dit-lens/dit_lens/blob/main/docs/calibration.json) as labelled arrays.

```python
import dit_lens as dl

made = dl.planted.plant(dl.planted.LayerPlant(layer=2, component="mlp", n_layers=4, n_steps=1), seed=0)
tasks = made.tasks(6)
effects = dl.sweep(made.lens, tasks=tasks, source="other_answer")
print(effects["value"].round(3).values, made.truth.patch(tasks).round(3).values)

found = dl.planted.calibrate(["patch"], {"mine": made.spec}, tasks=6)
print(found.plants[["recall", "false", "error"]])
```
"""

READ = """## What is called

A method gives a number for each of its *cells* (a layer at a step, a head, a label). A cell is **called** if its
difference from the method's own null has p <= .05, corrected over the cells, and if it is at least as large as the
smallest effect of interest in the table below, which was fixed beforehand. p is by sign flips over tasks; of probes by
shuffled labels, over places and labels; of the layer lens by cosine by the network's rank among {controls} networks
with shuffled weights, since tasks cannot stand in for networks ([statistics](statistics.md#a-network-among-others)).
**Recall** is the share of the mechanism's cells that are called, **false** the share of the other cells. **AUC** asks
for the order alone. **Error** is the mean distance from the exact effect.

Methods make different claims. *use*: the answer depends on it. *screen*: an estimate of that, to be measured again.
*presence*: it is there; a decoy that is there is rightly found, and wrongly believed by whoever reads presence as use.
"""


def page(kept: Mapping[str, Any]) -> str:
    """The page of whatever parts there are."""
    tables = {name: {k: unpacked(v) for k, v in part["tables"].items()} for name, part in kept.items()}
    parts = [HEAD]
    written: Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]] = (
        ("plants", summary), ("plants", called), ("plants", exact), ("plants", decoys), ("plants", hard),
        ("nulls", nulls), ("graded", graded), ("faithfulness", faithful), ("maps", maps),
    )  # fmt: skip
    parts += [write(tables) for name, write in written if name in tables]
    parts.append(how(kept))
    return "\n".join(part.strip() + "\n" for part in parts)


def called(tables: Mapping[str, Any]) -> str:
    """What counts as a finding, and each method's cells, null and smallest effect of interest."""
    cells = {
        "patch": "step, layer: a block's update from the twin with the other answer; null: the same task, other noise",
        "patch components": "layer, component: held over all steps",
        "patch heads": "layer, head: z, held",
        "patch branches": "layer, branch: update, held",
        "patch windows": "runs of half of the layers: updates, held",
        "ablate": "step, layer: a block skipped; half of the way to the source is an answer that is gone",
        "attribute": "step, layer: integrated gradients, four points",
        "knockout": "region, layer: attention of later frames to it cut; null: to random tokens",
        "causal check, normal": "label: steering along a probe's normal; null: random directions",
        "causal check, pattern": "label: along the difference of class means",
        "region attention": "region, layer, head: log2 enrichment; null: random masks",
        "energy": "layer: log2 energy of the update in the region; null: random masks",
        "layer lens": "layer: how much of the answer it adds to the raw read-out",
        "layer lens, cosine": "layer: gain of the raw read-out's cosine with the output; null: networks with shuffled "
        "weights",
        "probes": "label, step, layer: balanced accuracy in the later frames' mean; null: shuffled labels",
    }
    rows = [(m.name, f"{m.smallest:g}", cells[m.name]) for m in METHODS]
    head = ("method", "smallest effect of interest", "cells")
    return f"{READ.format(controls=CONTROLS)}\n{table(head, rows, left=(0, 2))}\n"


def exact(tables: Mapping[str, Any]) -> str:
    """Recall, false findings, AUC and error on exact plants."""
    found = tables["plants"]["plants"]
    rows = []
    for method in METHODS:
        if method.name not in found["approach"].values:
            continue
        one = over(found, method.name, [*suite.EXACT, *suite.NOISY])
        n = int(one["cells"].notnull().sum())
        if n:
            rows.append(
                (method.name, str(n), number(recall(one)), number(false(one)), f"{int(one['any_false'].sum())} of {n}",
                 number(float(one["auc"].mean())), small(float(one["error"].mean())))
            )  # fmt: skip
    head = ("method", "networks", "recall", "false", "networks with any", "AUC", "error")
    return f"""## Plants with one truth

{len(suite.EXACT)} plants without any rest and {len(suite.NOISY)} in a little noise, {found.sizes["seed"]} networks
each. A method runs on the plants that concern it.

{table(head, rows)}
"""


def _tried(found: xr.Dataset, plants: Sequence[str]) -> Iterator[tuple[Method, xr.Dataset]]:
    """The methods that were tried on any of some plants, each with its numbers there."""
    for method in METHODS:
        if method.name in found["approach"].values:
            one = found.sel(approach=method.name, plant=list(plants))
            if bool(one["cells"].notnull().any()):
                yield method, one


def decoys(tables: Mapping[str, Any]) -> str:
    """What each method says of decoys."""
    found = tables["plants"]["plants"]
    there = [name for name in (*suite.DECOYS, "loud update, in noise") if name in found["plant"].values]
    rows = []
    for method, one in _tried(found, there):
        said = []
        for plant in there:
            number_of = one["decoys"].sel(plant=plant)
            here = one["recall"].sel(plant=plant).mean("seed").item()
            tried = bool(one["cells"].sel(plant=plant).notnull().any())
            word = f"{int(number_of.sum())} called" if float(number_of.sum()) else "none"
            said.append(f"{word}, recall {number(here)}" if tried and np.isfinite(here) else word if tried else "")
        rows.append((method.name, method.claims, *said))
    return f"""## Decoys

Cells called in the decoy's layer that are not what the method claims, over {found.sizes["seed"]} networks, and recall
of what it does claim. For a method that claims presence the decoy itself is a true cell.

{table(("method", "claims", *there), rows)}
"""


def hard(tables: Mapping[str, Any]) -> str:
    """Where methods must fail."""
    found = tables["plants"]["plants"]
    there = [name for name in suite.HARD if name in found["plant"].values]
    rows = []
    for method, one in _tried(found, there):
        if method.claims == "presence":
            continue
        said = []
        for plant in there:
            here = one.sel(plant=plant).mean("seed")
            said += [number(here["recall"].item()), number(here["false"].item()), number(here["auc"].item())]
        rows.append((method.name, *said))
    head = ["method"] + [f"{plant}: {what}" for plant in there for what in ("recall", "false", "AUC")]
    return f"""## Where methods must fail

The second of two *redundant* layers adds whatever of the answer the first did not write: each alone can be replaced or
removed without effect. Two layers that *cancel* write the same with opposite signs, beside a third that makes the
answer: each is causal, and together they do nothing, so that neither belongs to the mechanism. In the *and*, two layers
write what a third joins. All in a rest of .05.

{table(head, rows)}

So: that a layer alone has no effect does not say that it takes no part (redundant layers; an *and* whose other input
says no); windows of layers find both. That a layer has an effect does not say that the answer would be another without
both of a pair (layers that cancel): a window around the pair has none.
"""


def nulls(tables: Mapping[str, Any]) -> str:
    """False findings on nulls."""
    found = null_findings(tables)
    assert found is not None
    untrained = tables.get("untrained", {}).get("untrained")
    rows = []
    for method in METHODS:
        if method.name not in found["approach"].values:
            continue
        one = found.sel(approach=method.name).stack(network=("kind", "model")).reset_index("network", drop=True)
        if not bool(one.notnull().any()):
            continue
        rate = share_interval(one.dropna("network"), "network")
        seen = ""
        if untrained is not None and method.name in untrained["approach"].values:
            some = untrained["found"].sel(approach=method.name)
            seen = f"{int(some.sum())} of {int(some.notnull().sum())}"
        rows.append(
            (method.name, method.claims, f"{int(one.sum())} of {int(rate['n'])}", number(rate["value"].item()),
             f"{number(rate['low'].item())} to {number(rate['high'].item())}" if rate["low"].notnull() else "", seen)
        )  # fmt: skip
    head = ("method", "claims", "networks with any", "share", "95 % interval (Blaker)", "untrained, asked what it sees")
    return f"""## Networks without a mechanism

Random networks, and planted ones with the entries of every weight tensor shuffled, of three layers, on tasks whose
label, second bit and regions are drawn by themselves: whatever is called is false. The last column is no error rate:
there random networks get the real pictures and labels. They pass on what they see, as any network does, so a patch has
a real effect in them and a probe reads a real label. Such a finding is true, and says nothing of what training made.
The layer lens by cosine asks whether a network is a shuffle of its own weights: its nulls are shuffled networks, 80 of
them. A random network is no such null, since what enters it and what is read out of it is written by hand; what is
called there is true, and counts in the last column.

{table(head, rows)}

How often probes find something in random numbers, without any network, and what the correction over labels does:
[statistics](statistics.md#probes).
"""


def graded(tables: Mapping[str, Any]) -> str:
    """Recall and AUC against the strength of the rest."""
    found = tables["graded"]["graded"]
    names = {"recall": "Recall", "false": "Share of the other cells that are called", "auc": "AUC"}
    head = ["plant: method", *(f"rest {number(float(r))}" for r in found["rest"].values)]
    curves = []
    for name, title in names.items():
        rows = []
        for plant in found["plant"].values:
            for method in METHODS:
                if method.name in found["approach"].values:
                    one = found[name].sel(plant=plant, approach=method.name).mean("seed")
                    if bool(one.notnull().any()):
                        rows.append((f"{plant}: {method.name}", *(number(float(v)) for v in one.values)))
        curves.append(f"{title}:\n\n{table(head, rows)}\n")
    joined = "\n".join(curves)
    return f"""## In noise

The rest of the network at strengths from 0 to 1: at 1 every component outside the mechanism adds random vectors as long
as what the mechanism writes ({found.sizes["seed"]} networks each). What the rest does is real, so that from some
strength on a "false" cell is a true effect of a random layer.

{joined}
"""


def faithful(tables: Mapping[str, Any]) -> str:
    """CPR and CMD of circuits."""
    found = tables["faithfulness"]["faithfulness"]
    rankings = [str(r) for r in found["ranking"].values]
    rows = []
    for plant in found["plant"].values:
        for rest in found["rest"].values:
            one = found.sel(plant=plant, rest=rest)
            said = [f"{number(one['cpr'].sel(ranking=r).item())} / {number(one['cmd'].sel(ranking=r).item())}"
                    for r in rankings]  # fmt: skip
            rows.append((f"{plant}, rest {number(float(rest))}", *said))
    sizes = found["size"].values
    curves = []
    for plant in found["plant"].values:
        for ranking in rankings:
            one = found["faithfulness"].sel(plant=plant, ranking=ranking, order="signed", rest=found["rest"][0])
            curves.append((f"{plant}: {ranking}", *(number(float(v)) for v in one.values)))
    first = number(float(found["rest"][0]))
    return f"""## Sets of cells

The components of all layers, ranked by each method; the circuit of the first k is kept, the others take what they add
from the source (CPR / CMD of the Mechanistic Interpretability Benchmark, arXiv 2504.13151, on nodes: area under
faithfulness over circuit size, larger is better; area between it and 1, smaller is better). Scores are from eight
tasks, circuits are tried on two others.

{table(("plant", *rankings), rows)}

Faithfulness against the share of components kept, ranked by signed effects, in a rest of {first} (0: nothing of the
answer is kept, 1: all of it, above 1: more than the network's own):

{table(("plant: ranking", *(number(float(size)) for size in sizes)), curves)}
"""


def maps(tables: Mapping[str, Any]) -> str:
    """Whole maps."""
    found = tables["maps"]["maps"]
    rows = []
    for shape in found["shape"].values:
        for layers in found["layers"].values:
            one = found.sel(shape=shape, layers=layers).dropna("seed", how="all", subset=["cut"])
            if not one.sizes["seed"]:
                continue
            r = one["correlation"].mean("seed")
            rows.append(
                (f"{shape}, {layers} layers", f"{int(one['cut'].sum())} of {one.sizes['seed']}",
                 f"{int(one['place'].sum())} of {one.sizes['seed']}" if "place" in one else "",
                 number(float(one["off"].mean())) if bool(one["off"].notnull().any()) else "",
                 *(number(r.sel(evidence=e).item()) for e in found["evidence"].values))
            )  # fmt: skip
    head = ("planted", "stages announced", "one place announced", "boundary off by (depth)")
    head += tuple(f"r of {e}" for e in found["evidence"].values)
    return f"""## Whole maps

Every layer attends, writes the answer and writes texture as much as a profile over depth says: three stages (cut at
.225 and .75), two (at .5), a ramp, one place, or none (all alike), in a rest of .05. The evidence is that of `dl.map`
on six tasks, and so is the model of depth (docs/map.md), at level .05.

{table(head, rows)}
"""


def how(kept: Mapping[str, Any]) -> str:
    """Dates, machines, commands."""
    rows = [
        (name, part["date"], f"`python benchmarks/calibration.py {_word(name)} --folder calibration`", part["machine"],
         part["versions"]["torch"])
        for name, part in kept.items()
    ]
    for name, part in kept.items():
        for method, made in part.get("again", {}).items():
            said = f"{_word(name)} --method {_word(method)} --folder calibration"
            command = f"`python benchmarks/calibration.py {said}`"
            note = f" ({made['note']})" if "note" in made else ""
            rows.append((f"{name}: {method}{note}", made["date"], command, made["machine"], made["versions"]["torch"]))
    return f"""## How it was made

A part goes on where it was stopped, as long as its folder is kept. Methods that were mended were measured again.

{table(("part", "date", "command", "machine", "torch"), rows, left=(0, 2))}
"""


def _word(name: str) -> str:
    """An argument of a command line."""
    return f'"{name}"' if " " in name else name
