"""The text of docs/findings.md, from the rows that ``findings.py`` keeps.

    {"lab": {"noise": {"rows": [...], "date": "2026-11-29", "made": {...}, "minutes": 3.1, "weights": "8dcd..."}, ...},
     "lab40": {...}, "lab40-seed1": {...}}

A model ``<name>-seed<k>`` is another training of ``<name>``: its rows stand beside those of ``<name>``, with an
interval over trainings.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, get_args

import xarray as xr

from dit_lens.replication.claim import UNTESTABLE
from dit_lens.replication.row import REASONS
from dit_lens.stats import Verdict, corrected, mean_interval
from dit_lens.stats.verdict import Outcome

Stored = Mapping[str, Mapping[str, Any]]  # model -> experiment -> entry
HEAD = """# Findings

What "Demystif(y)ing Video Reasoning" (arXiv 2603.16870) and the work around it claim, our measure of it, and what the
lab models show. Written by `python benchmarks/findings.py`: every row is made by `claims(lens)` of the experiment named
above it, whose page says how it is measured.

- **Intervals** are 95 %, over tasks, one noise seed each unless the page says otherwise ([Statistics](statistics.md));
  below five tasks there is none. "Exact" is what is zero by construction of the comparison and not by measurement.
- **Difference** is the paired one, effect minus null on the same tasks, in the claim's direction.
- **Verdicts** follow from it: *supported*; *contradicted*, where every difference as large as the smallest effect of
  interest is excluded, or the effect lies outside the range that the claim names; *shown, and the placebo shows it
  too*; *undecided* otherwise. p is corrected over all rows of this page (false discovery rate 5 %), and is that of the
  verdict: of "contradicted" in rows that are so called, else of "supported".
- **Seen** is the smallest difference that this n and spread would have shown in 80 % of studies: what "undecided"
  leaves open.
- Claims that read the same number of every task are one row.

{counts}
"""
#: The models of the page, and what to know of each.
MODELS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "lab": (
            "The lab model, 12 blocks",
            "It solves toy puzzles on a 6 x 6 board in 20 steps, and its first frame enters at every step: a row says "
            "what holds in *it*, and is a hypothesis about large models, not a finding about them.",
        ),
        "lab40": (
            "The forty-layer specimen, lab40",
            "Harder puzzles, a part of which it does not solve, and one whose answer the first frame does not hold. "
            "What was asked of the lab model and needs none of this is not asked again.",
        ),
    }
)
TAIL = """
## Smallest effects of interest

Chosen before any verdict was made with them, by kind of number (`dit_lens/replication/row.py`).

| number | smallest | why |
|---|---|---|
{smallest}

## What this does not say

- Rows that disagree with the paper disagree *in this model*: it is small, solves short puzzles, and its picture
  re-enters at each step. VBVR-Wan2.2 may differ in every row; the same calls run there.
- "Undecided" is no evidence of absence. "Supported" says above the null, and the interval how far.
- Intervals are for one row at a time: of {rows}, about {missed} are expected to miss. Verdicts are corrected, intervals
  are not.
- n counts tasks; where several families are pooled they weigh equally. A difference holds for one training; where
  others were measured they stand beside it, with Student's interval over trainings (means over tasks are near normal).
"""
#: The page that says how an experiment is measured, and its title.
PAGES = {
    "chain": ("chain-of-steps", "Chain of steps"), "branching": ("branching", "Branching"),
    "noise": ("noise", "Noise at a step, noise at a frame"), "energy": ("layer-energy", "Layer energy"),
    "attention": ("attention", "Attention"), "swap": ("layer-swapping", "Layer swapping"),
    "layer_lens": ("layer-lens", "Layer lens"), "roles": ("../map", "Early, middle and late layers"),
    "ensembles": ("ensembles", "Ensembles of latents"), "schedules": ("schedules", "Frames and few steps"),
    "serial": ("serial-depth", "Serial depth"),
    "memory": ("behaviours", "Working memory"),
    "emerge": ("behaviours", "Working memory without a first frame"),
    "behaviour": ("behaviours", "Self-correction, perception before action"),
}  # fmt: skip


def verdict_of(row: dict[str, Any]) -> Verdict | None:
    """The verdict of a stored row, as it was on its own page."""
    stored = row["judged"]
    nan = float("nan")
    return stored and Verdict(**{k: nan if v is None and k != "smallest" else v for k, v in stored.items()})


def table(stored: Stored) -> str:
    """The page: for each model a table an experiment, with what decides and remarks below; corrected over all rows."""
    at = [
        (model, name, i)
        for model in MODELS
        for name in _order(stored.get(model, {}))
        for i in range(len(stored[model][name]["rows"]))
    ]
    alone = {key: verdict_of(stored[key[0]][key[1]]["rows"][key[2]]) for key in at}
    tested = {key: one for key, one in alone.items() if one is not None}
    verdicts = dict(zip(tested, corrected(list(tested.values())), strict=True))
    parts = [HEAD.format(counts=_counts(verdicts.values(), len(alone) - len(tested)))]
    for model, (title, about) in MODELS.items():
        if model not in stored:
            continue
        parts.append(f"\n## {title}\n\n{about}")
        for name in _order(stored[model]):
            parts += _experiment(stored, model, name, verdicts)
    why = "\n".join(f"| {kind} | {least:g} | {reason} |" for kind, (least, reason) in REASONS.items())
    parts.append(TAIL.format(rows=len(tested), missed=f"{len(tested) / 20:.0f}", smallest=why))
    parts += ["## When and how long", "", "| model | experiment | date | minutes | versions |", "|---|---|---|---|---|"]
    for model, entries in stored.items():
        for name in _order(entries):
            made = ", ".join(f"{k} {v}" for k, v in entries[name]["made"].items())
            parts.append(f"| {model} | {name} | {entries[name]['date']} | {entries[name]['minutes']} | {made} |")
    return "\n".join(parts) + "\n"


def _order(entries: Mapping[str, Any]) -> list[str]:
    return [name for name in PAGES if name in entries] + sorted(set(entries) - set(PAGES))


def _experiment(
    stored: Stored, model: str, name: str, verdicts: Mapping[tuple[str, str, int], Verdict]
) -> list[str]:
    """Heading, table and notes of one experiment."""
    page, title = PAGES.get(name, (name, name))
    others = trainings(stored, model, name)
    columns = ["#", "claim", "measure", "found", "null", "difference", *(["over trainings"] if others else []), "n",
               "of interest / seen", "p", "verdict"]  # fmt: skip
    parts = [f"\n### [{title}](experiments/{page}.md)\n".replace("experiments/../", "")]
    parts += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    notes = []
    for i, row in enumerate(stored[model][name]["rows"]):
        cells = [str(i + 1), *_cells(row, verdicts.get((model, name, i)))]
        if others:
            cells.insert(6, others.get(row["id"], "–"))
        parts.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
        said = " ".join(_sentence(row[part]) for part in ("rule", "remark") if row[part])
        if said:
            notes.append(f"{i + 1}. {said}")
    return [*parts, "", *notes]


def training_of(model: str) -> str:
    """The model that this one is a training of: "lab40" for "lab40-seed1", and for itself."""
    return re.sub(r"-seed\d+$", "", model)


def trainings(stored: Stored, model: str, name: str) -> dict[str, str]:
    """Of every row of an experiment that other trainings of a model have, too: all differences, and their interval.

    Args:
        stored: Rows by model and experiment.
        model: The model of the page.
        name: The experiment.

    Returns:
        Id of the row -> "0.61, 0.55, 0.70: 0.62 [0.43, 0.81]"; empty where no other training was measured.
    """
    entries = [stored[one][name] for one in stored if training_of(one) == model and name in stored[one]]
    found: dict[str, list[float]] = {}
    for entry in entries:
        for row in entry["rows"]:
            if row["judged"] and row["judged"]["difference"] is not None:
                found.setdefault(row["id"], []).append(row["judged"]["difference"])
    out = {}
    for id, values in found.items():
        if len(values) > 1:
            s = mean_interval(xr.DataArray(values, dims="training"), "training", normal=True)
            each = ", ".join(f"{v:.3g}" for v in values)
            out[id] = f"{each}: {_number(float(s['value']), float(s['low']), float(s['high']))}"
    return out


def _cells(row: dict[str, Any], verdict: Verdict | None) -> tuple[str, ...]:
    """Claim, measure, found, null, difference, n, of interest / seen, p, verdict."""
    paper = ". Also: ".join(text.rstrip(".") for text in (row["paper"], *row["also"]))
    if verdict is None:
        return (paper, row["measure"], "–", "–", "–", "–", "–", "–", f"**{UNTESTABLE}**")
    found = f"**{_number(row['value'], row['low'], row['high'])}** {row['unit']}"
    null = f"{_number(row['null'], row['null_low'], row['null_high'])} ({row['null_name']})"
    p = verdict.p_against_corrected if verdict.outcome == "contradicted" else verdict.p_corrected
    sizes = f"{_number(verdict.smallest)} / {_number(verdict.detectable)}"
    difference = _number(verdict.difference, verdict.low, verdict.high)
    return (
        paper, row["measure"], found, null, difference, str(verdict.n), sizes, _number(p), f"**{verdict.outcome}**",
    )  # fmt: skip


def _counts(verdicts: Iterable[Verdict], untestable: int) -> str:
    """How many rows have which verdict."""
    found = Counter(verdict.outcome for verdict in verdicts)
    said = [f"{found[word]} {word}" for word in get_args(Outcome)]
    return f"Of {found.total() + untestable} rows: {'; '.join(said)}; {untestable} that {UNTESTABLE}."


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


def _number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{value:.3g}"
    return f"{value:.3g} (exact)" if low == high else f"{value:.3g} [{low:.3g}, {high:.3g}]"
