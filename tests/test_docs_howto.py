"""Following a how-to page to the letter in a copy of the package: one file beside its test, and the test passes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs_snippets import DOCS, HOUSE, blocks

PAGES = ("add-a-measure", "add-an-intervention", "add-an-experiment", "add-a-task")


def files(page: Path) -> dict[str, str]:
    """What the page shows as files: blocks that begin with a path. A test's import of the other file is made real."""
    found = {}
    for _, code in blocks(page):
        if named := re.match(r"# ([\w/]+\.py)\n", code):
            found[named[1]] = re.sub(r"^# (from \S+ import .*)$", r"\1", code, count=1, flags=re.M)
    return found


@pytest.mark.slow  # a new process each, half a minute together
@pytest.mark.parametrize("name", PAGES)
def test_the_page_followed_to_the_letter_works(name: str, tmp_path: Path) -> None:
    shown = files(DOCS / "how-to" / f"{name}.md")
    assert len(shown) == 2, "one file beside its test"
    shutil.copytree(HOUSE / "dit_lens", tmp_path / "dit_lens", ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in shown.items():
        file = tmp_path / path
        assert not file.exists(), f"{path} is there already: take another name"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
    (test,) = (path for path in shown if Path(path).name.startswith("test_"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
