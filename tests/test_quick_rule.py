"""The tests that run while one works: from every room, and chosen by a rule that cannot grow expensive unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from quick_rule import COLLECTED, DURATIONS, LONGEST, is_quick, long_functions, measured, room_of

HOUSE = Path(__file__).resolve().parent.parent
ROOMS = sorted(p.name for p in (HOUSE / "dit_lens").iterdir() if (p / "__init__.py").is_file())


def test_rooms_have_quick_tests(request: pytest.FixtureRequest) -> None:
    """Every room of the package, and the files beside the rooms."""
    found = request.config.stash[COLLECTED]
    if not set(ROOMS) <= set(found):  # a part of the suite runs now
        words = ["--collect-only", "-q", "-n0", "-m", "quick", "-p", "no:cacheprovider", "tests"]
        told = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=HOUSE, capture_output=True, text=True)
        names = [room_of(line) for line in told.stdout.splitlines() if "::" in line]
        found = {room: names.count(room) for room in names}
    assert {room for room in ("", *ROOMS) if not found.get(room)} == set()
    assert sum(found.values()) > 1000


@pytest.fixture(scope="module")
def shared() -> int:
    return 1


@pytest.fixture
def over_shared(shared: int) -> int:
    return shared


def test_what_is_shared_is_not_quick(request: pytest.FixtureRequest, over_shared: int) -> None:
    assert not is_quick(request.node, frozenset()) and request.node.get_closest_marker("quick") is None


@pytest.mark.parametrize("case", [0, 1])
def test_what_shares_nothing_is_quick_until_it_was_measured(request: pytest.FixtureRequest, case: int) -> None:
    name = request.node.nodeid.partition("[")[0]
    assert is_quick(request.node, frozenset()) and request.node.get_closest_marker("quick") is not None
    assert not is_quick(request.node, frozenset({name}))
    for mark in ("slow", "browser"):
        request.node.add_marker(mark)
        assert not is_quick(request.node, frozenset())
        request.node.own_markers.pop()
    assert is_quick(request.node, frozenset())


def test_rooms_of_files() -> None:
    names = ("tests/wan/test_exact.py::test_a[b/c]", "tests/test_cli.py::test_b", "tests/test_house.py::test_c")
    assert [room_of(name) for name in names] == ["wan", "cli", ""]
    assert room_of("tests/lab/training/test_optim.py::test_d") == "lab"


def test_durations_are_read_from_a_report(tmp_path: Path) -> None:
    case = '<testcase classname="tests.wan.test_x" name="{}" time="{}"/>'
    cases = [case.format("test_a[1]", 0.25), case.format("test_a[2]", 0.5), case.format("test_b", 0.125)]
    (tmp_path / "junit.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    found = measured(tmp_path / "junit.xml")
    assert found == {"tests/wan/test_x.py::test_a": 0.75, "tests/wan/test_x.py::test_b": 0.125}


def test_the_list_names_tests_that_are_there() -> None:
    """Under another name a long test counts as short; a few may be gone before all is measured again."""
    lines = DURATIONS.read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines) and all(float(line.split()[1]) > LONGEST - 0.05 for line in lines)
    gone = []
    for name in long_functions():
        file, _, function = name.partition("::")
        there = (HOUSE / file).is_file() and f"def {function}(" in (HOUSE / file).read_text(encoding="utf-8")
        gone += [] if there else [name]
    assert len(gone) < len(lines) / 10, f"measure again (tests/quick_rule.py); these are gone: {gone}"


def test_it_is_documented() -> None:
    assert "`pytest -m quick`" in (HOUSE / "CONTRIBUTING.md").read_text(encoding="utf-8")
