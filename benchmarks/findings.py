"""Every claim of the paper that the experiments cover, measured on the lab models: docs/findings.md.

    python benchmarks/findings.py                      # all of them on lab; an hour on one core
    python benchmarks/findings.py noise swap           # some, the others keep their rows
    python benchmarks/findings.py --model lab40        # those that need forty layers or harder puzzles
    python benchmarks/findings.py --model lab40-seed1  # another training of it, for an interval over trainings
    python benchmarks/findings.py --table              # only write the page again from docs/findings.json
    python benchmarks/findings.py --folder findings    # where finished experiments are kept: the same command goes on
    python benchmarks/findings.py --n 5 --out trial    # few tasks, another page: does everything run?

``dl.replication.claims`` runs each experiment with its own n and seed 0 on unseen tasks. Rows are kept in
docs/findings.json by model, with the date and the versions they were made with, so that one experiment can be run again
without the rest. The page (``findings_page.py``) corrects over all of them, also those that were measured before.

Each experiment is kept as soon as it is finished; stopped or killed, the same command goes on, and several processes on
one folder share the work. The folder belongs to the model, the versions and the code of the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import findings_page

import dit_lens as dl
from dit_lens import replication
from dit_lens.store.atomic import new_file
from dit_lens.store.folder import open_store

DOCS = Path(__file__).resolve().parent.parent / "docs"
#: What each model is asked: experiment -> arguments other than the experiment's own. A model named here is opened.
ASKED: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "lab": {name: {} for name in replication.TABLE if name != "emerge"},
        "lab40": {
            "behaviour": {"names": ("maze-hard", "choose-hard", "order-easy", "order-hard", "bounce-easy", "pattern")},
            "emerge": {},
            "schedules": {"lengths": (9, 13, 17, 21), "student": "lab40-student"},
            "roles": {},
            "serial": {"name": "maze-hard", "short": (8, 9), "long": (12, 14), "n": 24},
        },
    }
)
_OPENED = ("student",)  # arguments that are models


def asked_of(model: str) -> Mapping[str, Mapping[str, Any]]:
    """The experiments of a model with their arguments; those of another training are the same, without other models."""
    of = findings_page.training_of(model)
    alone = of != model
    return {name: {k: v for k, v in given.items() if not (alone and k in _OPENED)} for name, given in ASKED[of].items()}


def measure(name: str, lens: Any, n: int | None = None, model: str = "lab") -> dict[str, Any]:
    """Run one experiment's claims as a model is asked them, with the experiment's own n or another."""
    began = time.time()
    with ExitStack() as opened:
        given = dict(asked_of(model)[name])
        for key in set(_OPENED) & set(given):
            given[key] = opened.enter_context(dl.load(given[key]))
        found = replication.claims(lens, name, **given | ({} if n is None else {"n": n}))
    rows = [plain(row) for row in found]
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


def measure_all(
    lens: Any, names: Iterable[str], folder: Path | None, n: int | None = None, model: str = "lab"
) -> dict[str, dict[str, Any]]:
    """The entries of these experiments; those that are finished are read from the folder."""
    names = list(names)
    store = open_store(folder, "findings", lambda: {**lens.identity(), "code": code(), "n": n})
    with store.todo({name: [name] for name in names}) as todo:
        for name, _ in todo:
            entry = measure(name, lens, n, model)
            store.put(name, entry)
            print(f"{name}: {len(entry['rows'])} rows, {entry['minutes']} min", flush=True)
    return {name: store.get(name) for name in names}


def code() -> str:
    """A short hash of the package's sources: under one version number they still change."""
    digest = hashlib.sha256()
    for file in sorted(Path(dl.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Run, keep the rows, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"experiments, of {', '.join(replication.TABLE)}")
    parser.add_argument("--model", default="lab", help=f"one of {', '.join(ASKED)}, or another training of it")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page from the stored rows")
    parser.add_argument("--folder", type=Path, default=Path("findings"), help="where finished experiments are kept")
    parser.add_argument("--n", type=int, help="tasks of every experiment, for a trial")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of findings.md and findings.json")
    asked = parser.parse_args()
    if findings_page.training_of(asked.model) not in ASKED:
        parser.error(f"--model {asked.model} is asked nothing: choose from {', '.join(ASKED)}")
    unknown = set(asked.names) - set(asked_of(asked.model))
    if unknown:
        parser.error(f"{asked.model} is not asked {sorted(unknown)}: choose from {list(asked_of(asked.model))}")
    if asked.n is not None and asked.out == DOCS:
        parser.error("--n is for a trial: give --out, so that docs/findings.md stays what it is")
    found: dict[str, Any] = {}
    if not asked.table:
        with dl.load(asked.model) as lens:
            names = asked.names or asked_of(asked.model)
            found = measure_all(lens, names, asked.folder / asked.model, asked.n, asked.model)
    asked.out.mkdir(parents=True, exist_ok=True)
    page, rows = asked.out / "findings.md", asked.out / "findings.json"
    stored = json.loads(rows.read_text()) if rows.exists() else {}
    old = [f"{model}/{name}" for model, entries in stored.items() for name, entry in entries.items()
           if not all("judged" in row for row in entry["rows"])]  # fmt: skip
    if left := sorted(set(old) - {f"{asked.model}/{name}" for name in found}):
        parser.error(f"{rows} holds rows of {left} without paired verdicts: name these experiments, too")
    stored.setdefault(asked.model, {}).update(found)
    kept = json.dumps(stored, indent=1, allow_nan=False) + "\n"
    for file, text in ((rows, kept), (page, findings_page.table(stored))):
        with new_file(file) as scratch:
            scratch.write_text(text)


if __name__ == "__main__":
    main()
