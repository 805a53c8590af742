"""Which tests are marked ``quick``: those that a developer runs while working, `pytest -m quick`, in under a minute.

A test function is quick where

* it is neither ``slow`` nor needs a browser,
* it takes no fixture that a file, a class or the session shares: those hold loaded models and generated runs, and
  whoever needs one of them pays for it,
* and all its cases together take half a second or less. Functions that take more are listed in ``durations.txt``,
  with their seconds.

A new test counts as short until it was measured. To measure again, on an idle machine:

    pytest --junit-xml=junit.xml
    python tests/quick_rule.py junit.xml
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

LONGEST = 0.5  # seconds, of all cases of a function together
DURATIONS = Path(__file__).resolve().parent / "durations.txt"
#: Shared fixtures that cost nothing.
LIGHT = frozenset({"few_threads", "pytestconfig", "testrun_uid", "tmp_path_factory", "worker_id"})
#: In ``config.stash``: room -> number of quick tests, of what was collected.
COLLECTED = pytest.StashKey[dict[str, int]]()
SHARED = ("module", "class", "package", "session")


@cache
def long_functions(file: Path = DURATIONS) -> frozenset[str]:
    """``path::function`` of those that took more than half a second."""
    return frozenset(line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line)


def is_quick(item: pytest.Item, long: frozenset[str]) -> bool:
    """Whether a collected test is quick."""
    if item.get_closest_marker("slow") or item.get_closest_marker("browser"):
        return False
    fixtures: Mapping[str, Iterable] = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    shared = {name for name, found in fixtures.items() if found and found[-1].scope in SHARED}
    return not shared - LIGHT and item.nodeid.partition("[")[0] not in long


def room_of(nodeid: str) -> str:
    """The room of the package that a test file is about; files beside the rooms are of ``tests`` itself."""
    parts = Path(nodeid.partition("::")[0]).parts[1:]
    return parts[0] if len(parts) > 1 else "cli" if parts[0] == "test_cli.py" else ""


def measured(junit: Path) -> dict[str, float]:
    """Seconds of all cases of each function together, from a report that pytest wrote."""
    found: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].partition('[')[0]}"
        found[name] += float(case.attrib["time"])
    return dict(found)


def main(junit: str) -> None:
    """Write ``durations.txt`` from a report of pytest."""
    long = {name: seconds for name, seconds in measured(Path(junit)).items() if seconds > LONGEST}
    DURATIONS.write_text("".join(f"{name} {long[name]:.1f}\n" for name in sorted(long)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
