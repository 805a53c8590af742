"""Each benchmark rewrites its own section of docs/benchmarks.md and no other."""

import importlib.util
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent


def page() -> Any:
    spec = importlib.util.spec_from_file_location("page", HOUSE / "benchmarks" / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_leave_each_other_alone(tmp_path: Path) -> None:
    write, file = page().write, tmp_path / "benchmarks.md"
    write(file, "one", "## One\n\n1 \\1")
    write(file, "two", "## Two\n")
    assert file.read_text().startswith(
        "# Benchmarks\n\n<!-- begin one -->\n## One\n\n1 \\1\n<!-- end one -->\n\n<!-- beg"
    )
    before = file.read_text()
    write(file, "one", "## One\n\nnew")
    assert file.read_text() == before.replace("1 \\1", "new")
    write(file, "one", "## One\n\n1 \\1")
    assert file.read_text() == before


def test_the_page_has_the_section_of_overhead() -> None:
    text = (HOUSE / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count("<!-- begin overhead -->") == text.count("<!-- end overhead -->") == 1
