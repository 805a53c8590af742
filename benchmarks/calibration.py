"""How well each method does on networks with known mechanisms, and on networks without any: docs/calibration.md.

    python benchmarks/calibration.py                        # all of it; hours on one busy core
    python benchmarks/calibration.py nulls maps             # some parts, the others keep their numbers
    python benchmarks/calibration.py --table                # only write the page again from docs/calibration.json
    python benchmarks/calibration.py --folder calibration   # where finished measurements are kept
    python benchmarks/calibration.py --folder calibration --kept   # tabulate what is finished, and measure nothing

Each part is kept in docs/calibration.json with the date, the machine and the versions that it was made with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import calibration_page
import torch
from calibration_tables import packed

import dit_lens as dl
from dit_lens.planted import suite
from dit_lens.planted.methods import METHODS
from dit_lens.wan.versions import versions

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, ROWS = DOCS / "calibration.md", DOCS / "calibration.json"
SLOW = ("causal check, normal", "causal check, pattern")
QUICK = tuple(method.name for method in METHODS if method.name not in SLOW)
GRADED = ("patch", "ablate", "attribute", "knockout", "region attention", "energy", "layer lens", "probes")


def maps() -> list[dl.planted.WholeMap]:
    """Every shape on 12 layers six times, on 30 once, on 40 twice."""
    shapes = ("three", "two", "ramp", "one", "none")
    sizes = [(12, drawn) for drawn in range(6)] + [(30, 0), (40, 0), (40, 1)]
    return [dl.planted.WholeMap(shape=s, n_layers=n, drawn=d) for n, d in sizes for s in shapes]


PARTS: Mapping[str, Mapping[str, Any]] = {
    "plants": {"seeds": (0, 1)},
    "graded": {"plants": (), "seeds": (0, 1), "methods": GRADED, "rests": suite.RESTS},
    "nulls": {"plants": (), "methods": QUICK, "models": 40},
    "nulls of causal checks": {"plants": (), "methods": SLOW, "models": 20},
    "untrained": {"plants": (), "methods": QUICK, "untrained": 20},
    "faithfulness": {"plants": (), "methods": (), "ranked": "RANKED", "rests": (0.0, 0.5)},
    "maps": {"plants": (), "methods": (), "maps": "maps"},
}


def measure(name: str, folder: Path | None, kept: bool, progress: Callable[..., None]) -> dict[str, Any]:
    """Measure one part, or tabulate what the folder holds of it."""
    from dit_lens.planted.calibration import RANKED

    asked = {**PARTS[name]}
    if name == "maps":
        asked["maps"] = maps()
    if name == "faithfulness":
        asked["ranked"] = RANKED
    found = dl.planted.calibrate(folder=folder, kept=kept, progress=progress, **asked)
    tables = {
        key: packed(getattr(found, key))
        for key in type(found).__dataclass_fields__
        if getattr(found, key)
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores (shared), {torch.get_num_threads()} thread(s)"
    return {
        "tables": tables, "date": str(date.today()), "machine": machine, "python": platform.python_version(),
        "versions": versions(),
    }  # fmt: skip


def told(done: int, total: int, what: str) -> None:
    """One line for every measurement."""
    print(f"{time.strftime('%H:%M:%S')} {done}/{total} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--folder", type=Path, help="where finished measurements are kept")
    parser.add_argument("--kept", action="store_true", help="tabulate what the folder holds, and measure nothing")
    asked = parser.parse_args()
    if set(asked.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(set(asked.parts) - set(PARTS))}: choose from {', '.join(PARTS)}")
    kept = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    for name in () if asked.table else asked.parts or PARTS:
        kept[name] = measure(name, asked.folder, asked.kept, told)
        if not kept[name]["tables"]:  # nothing of it is finished
            del kept[name]
        ROWS.write_text(json.dumps(kept, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    PAGE.write_text(calibration_page.page(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
