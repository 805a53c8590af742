"""No circle between files: what a file imports, also inside functions, never leads back to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx

PACKAGE = Path(__file__).resolve().parent.parent / "dit_lens"

def name_of(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, but for those that only a type checker follows."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from statements(node.orelse)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, part, []))
            for inner in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from statements(inner.body)


def imported(file: Path, modules: Mapping[str, Path], package: Path) -> set[str]:
    """The files of the package that a file names in its imports."""
    found: set[str] = set()
    own = name_of(file, package).split(".")
    here = own if file.name == "__init__.py" else own[:-1]
    for node in statements(ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
            continue
        base = here[: len(here) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            whole = f"{module}.{alias.name}"
            found |= {whole if whole in modules else module} & modules.keys()
    return found - {name_of(file, package)}


def circles(package: Path) -> set[frozenset[str]]:
    """Groups of files that lead to each other."""
    modules = {name_of(file, package): file for file in sorted(package.rglob("*.py"))}
    graph = nx.DiGraph({name: imported(file, modules, package) for name, file in modules.items()})
    return {frozenset(part) for part in nx.strongly_connected_components(graph) if len(part) > 1}


def test_no_circle_between_files() -> None:
    assert circles(PACKAGE) == set()


def test_circles_are_seen(tmp_path: Path) -> None:
    """In any form of import; and none where only types are named, or a file names its own package."""
    package = tmp_path / "house"
    package.mkdir()
    forms = {
        "from house.b import thing": True,
        "import house.b": True,
        "from house import b": True,
        "from . import b": True,
        "from .b import thing": True,
        "def late():\n    from house.b import thing": True,
        "class A:\n    def f(self):\n        try: ...\n        except OSError:\n            import house.b": True,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.b import thing": False,
        "if True:\n    pass\nelse:\n    import house.b": True,
        "import other.b": False,
    }
    (package / "__init__.py").write_text("")
    (package / "b.py").write_text("from house.a import thing\n")
    for text, circle in forms.items():
        (package / "a.py").write_text(text + "\n")
        assert circles(package) == ({frozenset({"house.a", "house.b"})} if circle else set()), text
