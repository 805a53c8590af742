"""How well each method does on networks with known mechanisms, and on networks without any: docs/calibration.md.

    python benchmarks/calibration.py                        # all of it; hours on one busy core
    python benchmarks/calibration.py nulls maps             # some parts, the others keep their numbers
    python benchmarks/calibration.py --table                # only write the page again from docs/calibration.json
    python benchmarks/calibration.py --folder calibration   # where finished measurements are kept
    python benchmarks/calibration.py --folder calibration --kept   # tabulate what is finished, and measure nothing
    python benchmarks/calibration.py nulls --method probes         # one method alone of these parts; repeat for several

Each part is kept in docs/calibration.json with the date, the machine and the versions that it was made with; methods
that were measured again replace their own rows, and are kept with the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import calibration_page
import torch
import xarray as xr
from calibration_tables import packed, unpacked

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


def measure(
    name: str, folder: Path | None, kept: bool, progress: Callable[..., None], methods: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure one part, or tabulate what the folder holds of it; all of its methods, or those of these that it has."""
    from dit_lens.planted.calibration import RANKED

    asked = {**PARTS[name]}
    if methods:
        asked["methods"] = methods_of(name, methods)
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


def methods_of(name: str, methods: Sequence[str]) -> list[str]:
    """Those of these methods that a part has."""
    there = PARTS[name].get("methods", tuple(method.name for method in METHODS))
    return [method for method in methods if method in there]


def merged(part: Mapping[str, Any], again: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """A part in which these methods are those of another measurement.

    Args:
        part: As it was.
        again: The part measured for these methods alone.
        methods: Their names.
    """
    tables = {}
    for name, table in again["tables"].items():
        new = unpacked(table)
        if name in part["tables"]:
            old = unpacked(part["tables"][name])
            old = old.sel(approach=[one for one in old["approach"].values if one not in methods])
            new = xr.concat([old, new], "approach", join="outer", combine_attrs="drop")
        order = [method.name for method in METHODS if method.name in new["approach"].values]
        tables[name] = packed(new.sel(approach=order))
    made = {key: value for key, value in again.items() if key != "tables"}
    again_of = {**part.get("again", {}), **{method: made for method in methods}}
    return {**part, "tables": {**part["tables"], **tables}, "again": again_of}


def told(done: int, total: int, what: str) -> None:
    """One line for every measurement."""
    print(f"{time.strftime('%H:%M:%S')} {done}/{total} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--folder", type=Path, help="where finished measurements are kept")
    parser.add_argument("--method", action="append", default=[], help="measure this method alone; repeat for several")
    parser.add_argument("--kept", action="store_true", help="tabulate what the folder holds, and measure nothing")
    asked = parser.parse_args()
    if set(asked.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(set(asked.parts) - set(PARTS))}: choose from {', '.join(PARTS)}")
    unknown = sorted(set(asked.method) - {method.name for method in METHODS})
    if unknown:
        parser.error(f"unknown methods {unknown}: choose from {', '.join(method.name for method in METHODS)}")
    kept = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    for name in () if asked.table else asked.parts or PARTS:
        if asked.method and not methods_of(name, asked.method):
            continue
        found = measure(name, asked.folder, asked.kept, told, asked.method)
        if asked.method and name in kept and found["tables"]:
            kept[name] = merged(kept[name], found, methods_of(name, asked.method))
        elif found["tables"]:
            kept[name] = found
        elif not asked.method:  # nothing of it is finished
            kept.pop(name, None)
        ROWS.write_text(json.dumps(kept, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    PAGE.write_text(calibration_page.page(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
