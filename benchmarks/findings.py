"""Every claim of the paper that the experiments cover, measured on the lab model: docs/findings.md.

    python benchmarks/findings.py                      # all of them; an hour on one core
    python benchmarks/findings.py noise swap           # some, the others keep their rows
    python benchmarks/findings.py --table              # only write the page again from docs/findings.json
    python benchmarks/findings.py --folder findings    # where finished experiments are kept: the same command goes on

``dl.replication.claims`` runs each experiment with its own n and seed 0 on unseen puzzles. Rows are kept in
docs/findings.json
with the date and the versions they were made with, so that one experiment can be run again without the rest.

Each experiment is kept as soon as it is finished; stopped or killed, the same command goes on, and several processes on
one folder share the work. The folder belongs to the model, the versions and the code of the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import dit_lens as dl
from dit_lens import replication
from dit_lens.store.atomic import new_file
from dit_lens.store.folder import open_store

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, ROWS = DOCS / "findings.md", DOCS / "findings.json"
HEAD = """# Findings

What "Demystif(y)ing Video Reasoning" (arXiv 2603.16870) and the work around it claim, our measure of it, and what the
lab model shows. Written by `python benchmarks/findings.py`: every row is made by `claims(lens)` of the experiment named
above it, whose page says how it is measured. Intervals are 95 %, over puzzles, one noise seed each unless the page says
otherwise. A verdict follows from the rule stated below its table.

The lab model solves toy puzzles on a 6 x 6 board with 12 blocks and 20 steps, and its first frame enters at every step:
a row says what holds in *it*, and is a hypothesis about large models, not a finding about them.
"""
TAIL = """
## What this does not say

- Rows that disagree with the paper disagree *in this model*: it is small, solves short puzzles, and its picture
  re-enters at each step. VBVR-Wan2.2 may differ in every row; the same calls run there.
- Many rows, one level: with about {rows} intervals, {missed} are expected to miss.
- n counts puzzles; where two families are pooled they weigh equally.
- A null of exactly 0 with an interval of 0 is what cannot happen by construction of that comparison, not a measurement.
"""
#: The page that says how an experiment is measured, and its title.
PAGES = {
    "chain": ("chain-of-steps", "Chain of steps"), "branching": ("branching", "Branching"),
    "noise": ("noise", "Noise at a step, noise at a frame"), "energy": ("layer-energy", "Layer energy"),
    "attention": ("attention", "Attention"), "swap": ("layer-swapping", "Layer swapping"),
    "layer_lens": ("layer-lens", "Layer lens"), "roles": ("../map", "Early, middle and late layers"),
    "ensembles": ("ensembles", "Ensembles of latents"), "schedules": ("schedules", "Frames and few steps"),
    "memory": ("behaviours", "Working memory"),
    "behaviour": ("behaviours", "Self-correction, perception before action"),
}  # fmt: skip


def measure(name: str, lens: Any) -> dict[str, Any]:
    """Run one experiment's claims."""
    began = time.time()
    rows = [asdict(row) for row in replication.claims(lens, name)]
    made = {k: v for k, v in lens.about.items() if k in ("dit-lens", "torch", "diffusers")}
    return {"rows": rows, "date": str(date.today()), "made": made, "weights": lens.fingerprint,
            "minutes": round((time.time() - began) / 60, 1)}  # fmt: skip


def measure_all(lens: Any, names: Iterable[str], folder: Path | None) -> dict[str, dict[str, Any]]:
    """The entries of these experiments; those that are finished are read from the folder."""
    names = list(names)
    store = open_store(folder, "findings", lambda: {**lens.identity(), "code": code()})
    with store.todo({name: [name] for name in names}) as todo:
        for name, _ in todo:
            entry = measure(name, lens)
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
    """The page: a table for each experiment, with its rules and remarks below."""
    order = [name for name in PAGES if name in stored] + sorted(set(stored) - set(PAGES))
    parts = [HEAD]
    for name in order:
        page, title = PAGES.get(name, (name, name))
        parts.append(f"\n## [{title}](experiments/{page}.md)\n".replace("experiments/../", ""))
        parts.append("| # | claim | measure | found | null | n | verdict |\n|---|---|---|---|---|---|---|")
        notes = []
        for i, row in enumerate(stored[name]["rows"], 1):
            number = f"**{_number(row, '')}** {row['unit']}" if row["n"] else "–"
            null = f"{_number(row, 'null')} ({row['null_name']})" if row["n"] else "–"
            cells = (str(i), row["paper"], row["measure"], number, null, str(row["n"] or "–"), f"**{row['verdict']}**")
            parts.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
            said = " ".join(_sentence(row[part]) for part in ("rule", "remark") if row[part])
            if said:
                notes.append(f"{i}. {said}")
        parts += ["", *notes]
    count = sum(row["n"] > 0 for entry in stored.values() for row in entry["rows"])
    parts.append(TAIL.format(rows=count, missed=f"{count / 20:.0f}"))
    parts += ["## When and how long", "", "| experiment | date | minutes | versions |", "|---|---|---|---|"]
    for name in order:
        entry = stored[name]
        versions = ", ".join(f"{k} {v}" for k, v in entry["made"].items())
        parts.append(f"| {name} | {entry['date']} | {entry['minutes']} | {versions} |")
    return "\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


def _number(row: dict[str, Any], prefix: str) -> str:
    keys = ("null", "null_low", "null_high") if prefix else ("value", "low", "high")
    value, low, high = (row[key] for key in keys)
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if low is not None and math.isfinite(low) else "")


def main() -> None:
    """Run, keep the rows, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"experiments, of {', '.join(replication.TABLE)}")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page from the stored rows")
    parser.add_argument("--folder", type=Path, default=Path("findings"), help="where finished experiments are kept")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(replication.TABLE)
    if unknown:
        parser.error(f"unknown: {sorted(unknown)}; choose from {list(replication.TABLE)}")
    with dl.load("lab") as lens:
        found = {} if asked.table else measure_all(lens, asked.names or replication.TABLE, asked.folder)
    stored = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    stored |= found
    for file, text in ((ROWS, json.dumps(stored, indent=1, default=float) + "\n"), (PAGE, table(stored))):
        with new_file(file) as scratch:
            scratch.write_text(text)


if __name__ == "__main__":
    main()
