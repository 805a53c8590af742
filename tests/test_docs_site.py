"""The documentation site: it builds without a warning, names everything public, and loads nothing from elsewhere."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import inspect
import io
import linecache
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dit_lens
from dit_lens import errors
from dit_lens.wan.lens import Lens
from dit_lens.wan.points import POINTS, UPDATE

HOUSE = Path(__file__).resolve().parent.parent
DOCS = HOUSE / "docs"
ERRORS = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.DitLensError)]


class Page(HTMLParser):
    """What of a page the tests ask for: ids, what it loads, and of its article the text and the links by their text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: dict[str, str] = {}  # text -> href
        self.loads: list[str] = []
        self.text = ""
        self._href: str | None = None
        self._article = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self._article |= tag == "article"
        if tag == "a" and self._article:
            self._href, self._said = given.get("href", ""), ""
        elif tag == "link":
            self.loads.append(given.get("href", ""))
        self.loads += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style", ""))

    def handle_data(self, data: str) -> None:
        self.text += data if self._article else ""
        if self._href is not None:
            self._said += data

    def handle_endtag(self, tag: str) -> None:
        self._article &= tag != "article"
        if tag == "a" and self._href is not None:
            self.links.setdefault(self._said.strip(), self._href)
            self._href = None


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of the built site, what the program said), about five seconds."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.fail("the site cannot be built here: install the extra `dev`", pytrace=False)
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=HOUSE, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"mkdocs build --strict\n{done.stdout}{done.stderr}", pytrace=False)
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(built: tuple[Path, str]) -> dict[str, Page]:
    """Every page by its path below the site."""
    folder, _ = built
    return {file.relative_to(folder).as_posix(): Page(file) for file in folder.rglob("*.html")}


def test_builds_without_a_warning(built: tuple[Path, str]) -> None:
    folder, said = built
    assert "WARNING" not in said and "ERROR" not in said, said
    sources = [p.relative_to(DOCS).with_suffix(".html") for p in DOCS.rglob("*.md")]
    assert len(sources) > 40 and all((folder / page).is_file() for page in sources)


def test_every_public_name_is_in_the_reference(site: dict[str, Page]) -> None:
    """By a link from the table of names to the place where it is described."""
    table = site["reference/index.html"].links
    for name in dit_lens.__all__:
        assert name in table, f"docs/reference/index.md does not name {name}"
        found = getattr(dit_lens, name)
        path = found.__name__ if isinstance(found, ModuleType) else f"{found.__module__}.{found.__qualname__}"
        page, _, anchor = table[name].partition("#")
        assert anchor == path, f"{name} leads to {anchor}"
        assert anchor in site[f"reference/{page}" if page else "reference/index.html"].ids


def test_docstrings_became_pages(site: dict[str, Page]) -> None:
    reference = {name: page for name, page in site.items() if name.startswith("reference/")}
    for name, page in reference.items():
        assert not re.findall(r":(?:class|func|meth|mod|data|attr):\S*", page.text), name
        assert "::\n" not in page.text, name
    said = reference["reference/interventions.html"]
    assert re.search(r"patch\(\s+steps: Any = None,\s+layers: Any = None,\s+\*,", said.text)  # its signature
    assert said.links["AddressError"] == "index.html#dit_lens.errors.AddressError"  # of Raises:
    assert said.links["dit_lens.patch"].endswith("#dit_lens.interventions.patch.patch")  # a role became a link
    assert "Parameters:" in said.text and "Args:" not in said.text  # Google sections became lists


def test_the_table_of_points_is_the_codes(site: dict[str, Page]) -> None:
    text = (DOCS / "reference" / "points.md").read_text(encoding="utf-8")
    rows = [f"| `{p.name}` | `{p.path}` | `{p.shape}` | {p.meaning} |" for p in (*POINTS, UPDATE)]
    shown = [line for line in text.splitlines() if line.startswith("| `")]
    assert shown == rows, "docs/reference/points.md: put these rows\n" + "\n".join(rows)


# -- errors


def slug(error: type[Exception]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", error.__name__).lower()


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_every_error_has_a_page_with_a_remedy(error: type[Exception], site: dict[str, Page]) -> None:
    page = site[f"errors/{slug(error)}.html"]
    text = (DOCS / "errors" / f"{slug(error)}.md").read_text(encoding="utf-8")
    bases = ", ".join(base.__name__ for base in error.__bases__)
    assert text.startswith(f"# {error.__name__}\n") and f"class {error.__name__}({bases})" in text
    assert {"what-it-means", "example", "what-to-do"} <= page.ids
    assert len(text.partition("## What to do")[2].split()) > 25
    assert site["errors/index.html"].links[error.__name__] == f"{slug(error)}.html"


@pytest.fixture(scope="module")
def one_lab(few_threads: None) -> Iterator[Callable[..., Any]]:
    """``DiffusionPipeline.from_pretrained`` that reads the lab model once: it takes longer than most examples."""
    from diffusers import DiffusionPipeline

    yield functools.cache(DiffusionPipeline.from_pretrained)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_the_example_prints_what_stands_below_it(
    error: type[Exception], one_lab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "errors" / f"{slug(error)}.md").read_text(encoding="utf-8")
    ((code, wanted),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, flags=re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", one_lab)
    names: dict[str, Any] = {}
    where, said = f"<{slug(error)}>", io.StringIO()
    linecache.cache[where] = (len(code), None, code.splitlines(True), where)
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(code, where, "exec"), names)
    finally:
        for lens in (value for value in names.values() if isinstance(value, Lens)):
            lens.close()
    assert f"dl.errors.{error.__name__}" in code or f"dl.{error.__name__}" in code or f"import {error.__name__}" in code
    assert said.getvalue().split() == wanted.split()


# -- nothing from elsewhere

ELSEWHERE = re.compile(r"^\s*(?:https?:)?//")


def test_no_page_loads_anything_from_elsewhere(built: tuple[Path, str], site: dict[str, Page]) -> None:
    loads = {name: [what for what in page.loads if ELSEWHERE.match(what)] for name, page in site.items()}
    assert {name: found for name, found in loads.items() if found} == {}
    assert sum(len(page.loads) for page in site.values()) > 3 * len(site)  # styles and scripts were seen
    for sheet in built[0].rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        asked = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
        assert not [one for pair in asked for one in pair if ELSEWHERE.match(one)], sheet.name


def test_a_page_that_loads_from_elsewhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<link rel=stylesheet href=https://a.org/x.css><script src=//a.org/x.js></script><img src='http://a.org/i.png'>"
        "<p style='background: url(https://a.org/b.png)'><a href=https://a.org>a link is fine</a><img src=img/i.png>"
    )
    assert len([what for what in Page(page).loads if ELSEWHERE.match(what)]) == 4


@pytest.mark.browser
def test_in_a_browser(built: tuple[Path, str], chromium: str) -> None:
    """Light and dark, wide and narrow: no request leaves, no error is said, nothing is wider than the screen, and
    search finds."""
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(built[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}/"
    away: list[str] = []
    wrong: list[str] = []
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for scheme, width in (("light", 1280), ("dark", 390)):
                page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                page.on("request", lambda r: r.url.startswith((here, "data:")) or away.append(r.url))
                page.on("console", lambda m: m.type == "error" and wrong.append(f"{m.text} {m.location}"))
                page.on("pageerror", lambda e: wrong.append(str(e)))
                for path in ("index.html", "findings.html", "how-to/large-models.html", "reference/lens.html"):
                    page.goto(here + path)
                    assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), path
                scheme_of_page = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
                assert scheme_of_page == {"light": "default", "dark": "slate"}[scheme]
                if width > 1000:
                    page.click(".md-search__input")
                    page.keyboard.type("knockout")
                    page.wait_for_selector(".md-search-result__item", timeout=10_000)
                page.close()
            browser.close()
    finally:
        server.shutdown()
    assert away == [] and wrong == []
