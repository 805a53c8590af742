"""docs/benchmarks.md: each benchmark writes its own section and leaves the others as they are."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = "# Benchmarks\n"


def write(file: Path, name: str, text: str) -> None:
    """Put ``text`` in place of the section ``name``, or at the end where there is none yet."""
    page = file.read_text(encoding="utf-8") if file.exists() else HEAD
    first, last = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{first}\n{text.strip()}\n{last}"
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", flags=re.S)
    found = pattern.search(page) is not None
    page = pattern.sub(lambda _: section, page) if found else f"{page.rstrip()}\n\n{section}\n"
    file.write_text(page, encoding="utf-8")
