"""Every claim of the paper that the experiments cover, measured on the lab model: docs/findings.md.

    python benchmarks/findings.py                      # all of them; an hour on one core
    python benchmarks/findings.py noise swap           # some, the others keep their rows
    python benchmarks/findings.py --table              # only write the page again from docs/findings.json
    python benchmarks/findings.py --folder findings    # where finished experiments are kept: the same command goes on
    python benchmarks/findings.py --n 5 --out trial    # few tasks, another page: does everything run?

``dl.replication.claims`` runs each experiment with its own n and seed 0 on unseen tasks. Rows are kept in
docs/findings.json with the date and the versions they were made with, so that one experiment can be run again without
the rest. The page corrects over all of them, also those that were measured before.

Each experiment is kept as soon as it is finished; stopped or killed, the same command goes on, and several processes on
one folder share the work. The folder belongs to the model, the versions and the code of the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, get_args

import dit_lens as dl
from dit_lens import replication
from dit_lens.replication.claim import UNTESTABLE
from dit_lens.replication.row import REASONS
from dit_lens.stats import Verdict, corrected
from dit_lens.stats.verdict import Outcome
from dit_lens.store.atomic import new_file
from dit_lens.store.folder import open_store

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEAD = """# Findings

What "Demystif(y)ing Video Reasoning" (arXiv 2603.16870) and the work around it claim, our measure of it, and what the
lab model shows. Written by `python benchmarks/findings.py`: every row is made by `claims(lens)` of the experiment named
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

The lab model solves toy puzzles on a 6 x 6 board with 12 blocks and 20 steps, and its first frame enters at every step:
a row says what holds in *it*, and is a hypothesis about large models, not a finding about them.
"""
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
- n counts tasks; where several families are pooled they weigh equally. One trained model: nothing here is about others.
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
    "behaviour": ("behaviours", "Self-correction, perception before action"),
}  # fmt: skip


def measure(name: str, lens: Any, n: int | None = None) -> dict[str, Any]:
    """Run one experiment's claims, with its own n or another."""
    began = time.time()
    rows = [plain(row) for row in replication.claims(lens, name, **({} if n is None else {"n": n}))]
    made = {k: v for k, v in lens.about.items() if k in ("dit-lens", "torch", "diffusers")}
    return {"rows": rows, "date": str(date.today()), "made": made, "weights": lens.fingerprint,
            "minutes": round((time.time() - began) / 60, 1)}  # fmt: skip


def plain(claim: replication.Claim) -> dict[str, Any]:
    """A claim as JSON values: what is no number is null."""

    def value(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: value(v) for k, v in x.items()}
        if isinstance(x, (str, bool, int)) or x is None:
            return x
        return list(x) if isinstance(x, tuple) else float(x) if math.isfinite(x) else None

    return dict(value(asdict(claim)))


def verdict_of(row: dict[str, Any]) -> Verdict | None:
    """The verdict of a stored row, as it was on its own page."""
    stored = row["judged"]
    nan = float("nan")
    return stored and Verdict(**{k: nan if v is None and k != "smallest" else v for k, v in stored.items()})


def measure_all(
    lens: Any, names: Iterable[str], folder: Path | None, n: int | None = None
) -> dict[str, dict[str, Any]]:
    """The entries of these experiments; those that are finished are read from the folder."""
    names = list(names)
    store = open_store(folder, "findings", lambda: {**lens.identity(), "code": code(), "n": n})
    with store.todo({name: [name] for name in names}) as todo:
        for name, _ in todo:
            entry = measure(name, lens, n)
            store.put(name, entry)
            print(f"{name}: {len(entry['rows'])} rows, {entry['minutes']} min", flush=True)
    return {name: store.get(name) for name in names}


def code() -> str:
    """A short hash of the package's sources: under one version number they still change."""
    digest = hashlib.sha256()
    for file in sorted(Path(dl.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def table(stored: dict[str, Any]) -> str:
    """The page: a table for each experiment, with what decides and remarks below; corrected over all of them."""
    order = [name for name in PAGES if name in stored] + sorted(set(stored) - set(PAGES))
    alone = {(name, i): verdict_of(row) for name in order for i, row in enumerate(stored[name]["rows"])}
    tested = {at: one for at, one in alone.items() if one is not None}
    verdicts = dict(zip(tested, corrected(list(tested.values())), strict=True))
    parts = [HEAD.format(counts=_counts(verdicts.values(), len(alone) - len(tested)))]
    for name in order:
        page, title = PAGES.get(name, (name, name))
        parts.append(f"\n## [{title}](experiments/{page}.md)\n".replace("experiments/../", ""))
        parts.append("| # | claim | measure | found | null | difference | n | of interest / seen | p | verdict |")
        parts.append("|---|---|---|---|---|---|---|---|---|---|")
        notes = []
        for i, row in enumerate(stored[name]["rows"]):
            cells = (str(i + 1), *_cells(row, verdicts.get((name, i))))
            parts.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
            said = " ".join(_sentence(row[part]) for part in ("rule", "remark") if row[part])
            if said:
                notes.append(f"{i + 1}. {said}")
        parts += ["", *notes]
    why = "\n".join(f"| {kind} | {least:g} | {reason} |" for kind, (least, reason) in REASONS.items())
    parts.append(TAIL.format(rows=len(tested), missed=f"{len(tested) / 20:.0f}", smallest=why))
    parts += ["## When and how long", "", "| experiment | date | minutes | versions |", "|---|---|---|---|"]
    for name in order:
        entry = stored[name]
        versions = ", ".join(f"{k} {v}" for k, v in entry["made"].items())
        parts.append(f"| {name} | {entry['date']} | {entry['minutes']} | {versions} |")
    return "\n".join(parts) + "\n"


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


def main() -> None:
    """Run, keep the rows, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"experiments, of {', '.join(replication.TABLE)}")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page from the stored rows")
    parser.add_argument("--folder", type=Path, default=Path("findings"), help="where finished experiments are kept")
    parser.add_argument("--n", type=int, help="tasks of every experiment, for a trial")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of findings.md and findings.json")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(replication.TABLE)
    if unknown:
        parser.error(f"unknown: {sorted(unknown)}; choose from {list(replication.TABLE)}")
    if asked.n is not None and asked.out == DOCS:
        parser.error("--n is for a trial: give --out, so that docs/findings.md stays what it is")
    found: dict[str, Any] = {}
    if not asked.table:
        with dl.load("lab") as lens:
            found = measure_all(lens, asked.names or replication.TABLE, asked.folder, asked.n)
    asked.out.mkdir(parents=True, exist_ok=True)
    page, rows = asked.out / "findings.md", asked.out / "findings.json"
    stored = json.loads(rows.read_text()) if rows.exists() else {}
    old = [name for name, entry in stored.items() if not all("judged" in row for row in entry["rows"])]
    if left := sorted(set(old) - set(found)):
        parser.error(f"{rows} holds rows of {left} without paired verdicts: name these experiments, too")
    stored |= found
    for file, text in ((rows, json.dumps(stored, indent=1, allow_nan=False) + "\n"), (page, table(stored))):
        with new_file(file) as scratch:
            scratch.write_text(text)


if __name__ == "__main__":
    main()
