"""The law of the house: only the store renames files into place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dit_lens"
MOVES = {"os.replace", "os.rename", "os.renames", "os.link", "os.symlink", "shutil.move"}
NAMES = {"names", "columns"}  # mappings that xarray's rename is given by name


def moves(source: str) -> list[int]:
    """Lines that rename a file: by os and shutil under any name, or by a path's own methods."""
    tree, aliases = ast.parse(source), {"os": "os", "shutil": "shutil"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, _, rest = ast.unparse(node).partition(".")
            if f"{aliases.get(head, head)}{'.' * bool(rest)}{rest}" in MOVES:
                found.append(node.lineno)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.keywords:
            continue
        if len(node.args) != 1:  # text.replace(old, new)
            continue
        (given,) = node.args
        text = isinstance(given, ast.Constant | ast.Dict | ast.JoinedStr) or (
            isinstance(given, ast.Name) and given.id in NAMES
        )
        if node.func.attr in ("rename", "hardlink_to", "symlink_to") and not text:
            found.append(node.lineno)
        if node.func.attr == "replace" and not ast.unparse(node.func).startswith(("dataclasses.", "copy.")):
            found.append(node.lineno)
    return sorted(set(found))


def test_only_the_store_renames() -> None:
    found = {
        str(file.relative_to(PACKAGE)): lines
        for file in PACKAGE.rglob("*.py")
        if (lines := moves(file.read_text(encoding="utf-8")))
    }
    assert set(found) == {"store/atomic.py"}, found


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import os\nos.replace(a, b)", True),
        ("import os as o\no.rename(a, b)", True),
        ("from os import replace\nreplace(a, b)", True),
        ("from os import replace as put\nput(a, b)", True),
        ("import shutil\nshutil.move(a, b)", True),
        ("import os\nmove = os.replace", True),
        ("part.rename(path)", True),
        ("part.replace(path)", True),
        ("Path(a).rename(Path(b) / 'x')", True),
        ("text.replace('a', 'b')", False),
        ("array.rename({'a': 'b'})", False),
        ("array.rename(step='frame')", False),
        ("array.rename('stability')", False),
        ("array.rename(None)", False),
        ("from dataclasses import replace\nreplace(run, task=None)", False),
    ],
)
def test_renames_are_seen(source: str, seen: bool) -> None:
    assert bool(moves(source)) is seen
