"""The report is one file that loads nothing, and text from outside stays text."""

import base64
import errno
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dit_lens.errors import FigureError, StoreError
from dit_lens.figures import Report, heatmap, lines

EVIL = "walk</script><script>window.evil=1</script><img src=x onerror='window.evil=1'>\"'&"


def full_report(effects, film) -> Report:
    report = Report(
        "Map of " + EVIL,
        subtitle=EVIL,
        summary=["Layer 2 writes it: 0.95 [0.91, 0.98], n = 32.", EVIL],
        methods={"seeds": [0, 1], EVIL: EVIL, "model": {"name": EVIL, "blocks": 4}},
    )
    report.section("Layers " + EVIL, EVIL)
    report.table(EVIL, pd.DataFrame({EVIL: [EVIL]}), note=EVIL)
    effects["value"].attrs["long_name"] = "effect " + EVIL
    clip = film[-1]
    cells = {(0, 1): {"base": clip, "patched " + EVIL: film[0]}, (3, 2): {"base": clip, "patched": film[1]}}
    report.figure(heatmap(effects, title="Effect " + EVIL), caption=EVIL, cells=cells)
    report.figure(lines(effects, x="step", by="layer"), alt=EVIL)
    report.section("Puzzles")
    report.generation(
        title="maze " + EVIL,
        prompt=EVIL,
        film=film,
        sigmas=np.linspace(1, 0.2, len(film)),
        clip=clip,
        truth=film[0],
        verdict="solved",
        details={EVIL: EVIL},
    )
    report.generation(title="maze 2", prompt="p", film=film, truth=EVIL, verdict=EVIL)
    return report


class Reader(HTMLParser):
    """Collects tags, their attributes, and the text inside script elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self._inside: dict | None = None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._inside = dict(attrs)
            self.scripts.append((self._inside, ""))

    def handle_endtag(self, tag):
        if tag == "script":
            self._inside = None

    def handle_data(self, data):
        if self._inside is not None:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


@pytest.fixture
def page(effects, film) -> str:
    return full_report(effects, film).html()


@pytest.fixture
def read(page) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_prompts_and_names_stay_text(read):
    images = [a for tag, a in read.tags if tag == "img"]
    assert images and all(a["src"].startswith("data:image/png") and "onerror" not in a for a in images)
    assert not any("window.evil" in text for a, text in read.scripts if a.get("type") != "application/json")
    assert not any(name.startswith("on") for _, a in read.tags for name in a)
    plain = [a for a, _ in read.scripts if a.get("type") != "application/json"]
    assert len(plain) == 2  # plotly's script and the page's own


def test_json_blocks_are_valid_and_hold_no_closing_tag(read):
    blocks = [text for a, text in read.scripts if a.get("type") == "application/json"]
    assert len(blocks) == 4  # two figures, one set of cells, the templates
    assert any(EVIL in json.dumps(json.loads(b), ensure_ascii=False).replace('\\"', '"') for b in blocks)
    assert not any("<" in block for block in blocks)


def test_nothing_is_loaded_from_outside(read):
    for tag, attrs in read.tags:
        for name in ("src", "srcset", "data", "poster", "action", "xlink:href"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
        if "href" in attrs:
            assert attrs["href"].startswith("#"), (tag, attrs)
    assert not [a for tag, a in read.tags if tag in ("link", "iframe", "object", "embed", "base")]
    policy = next(a["content"] for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy and "blob" not in policy
    css = next(iter(re.findall(r"(?<=<style>).*?(?=</style>)", Report("t").html(), re.S)))
    assert "url(" not in css and "@import" not in css


def test_ids_are_unique_and_every_reference_has_its_target(read):
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attrs in read.tags:
        for name in ("for", "aria-labelledby", "data-sheet", "data-spec"):
            assert attrs.get(name, ids[0]) in ids
        if attrs.get("href", "#")[1:]:
            assert attrs["href"][1:] in ids


def test_everything_shown_has_words(read):
    for tag, attrs in read.tags:
        if tag in ("canvas", "video") or attrs.get("role") in ("img", "region", "group"):
            assert attrs.get("aria-label"), (tag, attrs)
        if tag == "img":
            assert "alt" in attrs
    labelled = {a["for"] for tag, a in read.tags if tag == "label"}
    assert all(a["id"] in labelled for tag, a in read.tags if tag in ("input", "select"))


def test_sheets_inside_the_page_are_the_films(read, film):
    sheets = {a["id"]: a for tag, a in read.tags if tag == "img"}
    shown = next(a for tag, a in read.tags if tag == "canvas" and a.get("data-kind") == "film")
    sheet = sheets[shown["data-sheet"]]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["src"].split(",")[1]))))
    s, f, h, w, _ = film.shape
    assert (int(sheet["data-rows"]), int(sheet["data-columns"])) == (s, f)
    assert np.array_equal(picture.reshape(s, h, f, w, 3).transpose(0, 2, 1, 3, 4), film)


def test_frames_shown_twice_are_stored_once(read):
    # the film, its last and first steps (clip, base, truth, patched), and the second step of the other cell
    assert len([1 for tag, _ in read.tags if tag == "img"]) == 4


def test_a_page_without_figures_leaves_plotly_out():
    assert len(Report("t", summary=["s"]).html()) < 60_000


def test_a_full_disk_is_said_and_leaves_the_old_page_and_no_part(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("old")

    def full(self, data):
        with self.open("wb") as out:
            out.write(data[:99])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"cannot write .*report.html.*No space left.*make room, or choose another"):
        Report("t", summary=["s"]).write(page)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and page.read_text() == "old"


def test_write_is_whole_and_refuses_what_is_too_large(effects, film, tmp_path):
    path = full_report(effects, film).write(tmp_path / "new" / "report.html")
    assert path.stat().st_size < 8_000_000 and [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(FigureError, match=r"limit is 1\.0 MB"):
        full_report(effects, film).write(tmp_path / "other.html", max_bytes=1_000_000)
    assert not (tmp_path / "other.html").exists()


def test_the_same_content_gives_the_same_page(effects, film):
    assert full_report(effects.copy(deep=True), film).html() == full_report(effects.copy(deep=True), film).html()


def test_large_frames_are_reduced_and_it_is_said():
    film = np.zeros((2, 3, 300, 420, 3), np.uint8)
    page = Report("t").generation(title="p", prompt="p", film=film).html()
    assert "1/3 of their size" in page and 'width="140" height="100"' in page


def test_what_does_not_fit_together_is_refused(effects, film):
    report = Report("t")
    with pytest.raises(FigureError, match="6 steps, but 2 sigmas"):
        report.generation(title="p", prompt="", film=film, sigmas=[1, 0])
    with pytest.raises(FigureError, match="5 frames, but final clip has 4"):
        report.generation(title="p", prompt="", film=film, clip=film[0, :4])
    with pytest.raises(FigureError, match="not on the figure"):
        report.figure(heatmap(effects), cells={(9, 9): {"base": film[0]}})
    with pytest.raises(FigureError, match="different numbers of frames"):
        report.figure(heatmap(effects), cells={(0, 0): {"base": film[0], "patched": film[0, :2]}})
    with pytest.raises(FigureError, match=r"made by figures\.heatmap"):
        report.figure(lines(effects, x="step", by="layer"), cells={(0, 0): {"base": film[0]}})
    assert not report._sections


def test_methods_say_every_parameter():
    methods = {
        "seeds": list(range(32)),
        "shape": [2, 3],
        "model": {"name": "lab", "depths": (0.1, 0.5)},
        "parameters": {"x": None},
    }
    page = Report("t", methods=methods).html()
    for said in ("<dd>0 to 31</dd>", "<dd>2, 3</dd>", "<h3>model</h3>", "<dd>0.1, 0.5</dd>", "<dd>–</dd>"):
        assert said in page


def test_a_figure_without_a_title_is_headed_by_what_it_draws(effects):
    page = Report("t").figure(heatmap(effects)).figure(lines(effects, x="step", by="layer", title="Curves")).html()
    assert "<h3>local effect [share]</h3>" in page and "<h3>Curves</h3>" in page


def test_things_without_a_section_gather_by_kind(effects, film):
    report = Report("t").figure(heatmap(effects)).figure(heatmap(effects)).generation(title="p", prompt="", film=film)
    assert [section["title"] for section in report._sections] == ["Results", "Generations"]
