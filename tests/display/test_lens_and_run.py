"""What a notebook shows of lenses, runs, interventions and sweeps: true, small, and with everything escaped."""

import base64
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import imageio_ffmpeg
import numpy as np
import pytest
from families import FAMILIES

import dit_lens as dl
from dit_lens.address import Select
from dit_lens.display import html
from dit_lens.display.lens_and_run import judged
from dit_lens.figures.run_page import score_of, write_run
from dit_lens.tasks.task import Score
from dit_lens.tasks.vbvr import Graded

EVIL = '<script>alert("x")</script>&amp;<img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """Tags, attributes and text of a piece of HTML; every tag that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert self.tags == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag

    def handle_data(self, data):
        self.text += data + "|"

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def lens():
    with dl.load("lab") as lens:
        yield lens


@pytest.fixture(scope="module")
def run(lens):
    record = dl.record("resid_post", reduce="token_norm", steps=0)
    return lens.generate(dl.tasks.load("choose", seed=1), seed=4, num_inference_steps=2, record=record)


def test_a_run_shows_its_video_its_score_and_its_sampling(run) -> None:
    page = Page(run._repr_html_())
    (video,) = page.all("video")
    content = base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,"))
    assert content[4:8] == b"ftyp" and len(content) < 100_000 and run.prompt in video["aria-label"]
    assert f"prompt|{run.prompt}|" in page.text and "seed|4|" in page.text and "model|lab|" in page.text
    assert "steps|2, UniPCMultistepScheduler, guidance 1.5|" in page.text
    assert f"score|{'solved' if run.score else 'failed'}, value {run.score.value:.2f}|" in page.text
    assert "activations of resid_post" in page.text and "changed" not in page.text


def test_the_video_shown_is_the_runs_own(run, tmp_path) -> None:
    (video,) = Page(run._repr_html_()).all("video")
    path = tmp_path / "clip.mp4"
    path.write_bytes(base64.b64decode(video["src"].partition(",")[2]))
    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
    width, height = next(reader)["size"]
    frames = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    assert frames.shape == (13, 288, 288, 3)  # enlarged by 3, without smoothing
    assert np.abs(frames[:, 1::3, 1::3].astype(float) - 255 * run.video).mean() < 6


@pytest.mark.parametrize("field", ["prompt", "meta"])
def test_a_script_tag_stays_text(run, field) -> None:
    evil = replace(run, **({"prompt": EVIL} if field == "prompt" else {"meta": {**run.meta, "model": EVIL}}), _cache={})
    text = evil._repr_html_()
    page = Page(text)
    assert not page.all("script") and not page.all("img") and "<script" not in text
    assert EVIL in page.text.replace("|", "")
    assert html.facts(EVIL, {EVIL: EVIL}).count("&lt;script&gt;") == 3
    assert "<script" not in str(html.table([EVIL], [[EVIL]], EVIL))


def test_a_run_that_cannot_be_decoded_says_how(run, tmp_path) -> None:
    run.save(tmp_path / "run")
    loaded = dl.load_run(tmp_path / "run")
    page = Page(loaded._repr_html_())
    assert not page.all("video") and "lens.attach(run)" in page.text and run.prompt in page.text


def test_a_stopped_and_changed_run_says_so(lens) -> None:
    task = dl.tasks.load("choose", seed=1)
    stopped = lens.generate(task, num_inference_steps=3, stop_after=0, interventions=[dl.ablate(step=0, layers=2)])
    page = Page(stopped._repr_html_())
    assert page.all("video") and "stopped after 1" in page.text and "score" not in page.text
    assert "changed|ablate(update to zero" in page.text
    assert "not shown|" in Page(stopped.until(0)._repr_html_()).text  # nothing was done: nothing to show


def test_a_task_that_cannot_judge_is_no_error(run, tmp_path) -> None:
    class Judge:
        def score(self, video):
            raise dl.TaskError("13 frames are too few")

    mute = replace(run, task=Judge(), _cache={})
    assert "score|13 frames are too few|" in Page(mute._repr_html_()).text
    assert "Not judged: 13 frames are too few" in write_run(mute, tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "word", "summary"),
    [
        (Score(True, 0.5), "solved", "Solved (score 0.50)."),
        (Score(False, 0.5), "failed", "Failed (score 0.50)."),
        (True, "solved", "Solved."),
        (Graded(0.25, 0.5), "Graded(value=0.25, static=0.5)", "Graded(value=0.25, static=0.5)."),
    ],
)
def test_notebook_and_report_judge_alike(run, tmp_path, said, word, summary) -> None:
    """A benchmark's number is no verdict: neither of them calls it solved."""

    class Judge:
        name, seed = "own", 1

        def score(self, video):
            return said

    judging = replace(run, task=Judge(), _cache={})
    assert judged(judging) == (said, word) and score_of(judging) == said
    assert f"score|{word}" in Page(judging._repr_html_()).text
    page = write_run(judging, tmp_path / "run.html").read_text(encoding="utf-8")
    assert f"<li>{summary}</li>" in page and f"<dd>{word}</dd>" in page


def test_a_lens_shows_family_experts_steps_and_points(lens) -> None:
    page = Page(lens._repr_html_())
    assert "family|WanImageToVideoPipeline|" in page.text and lens.fingerprint in page.text
    assert "steps|20, UniPCMultistepScheduler, guidance 1.5|" in page.text
    experts = re.findall(r"expert (\w+)\|12 layers x 4 heads x 32.*?; (\d+) of the steps", page.text)
    assert experts == [("high", "8"), ("low", "12")]
    assert "|resid_post|blocks.{i}.hook_resid_post|B N d|residual stream leaving the block|" in page.text
    assert page.all("details") and "26 kinds of points" in page.text and "26 kinds of points" in repr(lens)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_every_family_shows_itself_open_and_closed(family) -> None:
    lens = dl.load(family.build("unipc"))
    open_, kinds = Page(lens._repr_html_()), len(lens.points().splitlines()) - 1
    assert type(lens.pipe).__name__ in open_.text and f"{kinds} kinds of points" in open_.text
    assert type(lens.pipe).__name__ in repr(lens) and f"{kinds} kinds" in repr(lens)
    lens.close()
    assert "this lens is closed" in Page(lens._repr_html_()).text


def test_an_intervention_says_what_was_chosen_and_no_more() -> None:
    where = "Select(steps=5, layers=range(2, 4), hooks=('update',))"
    assert repr(dl.patch(step=5, layers=range(2, 4))) == f"Patch(where={where})"
    assert repr(Select()) == "Select()"
    chosen = Select(steps=(1, 2), layers=dl.Depth(0.5, 0.75), branches="cond", tokens="agent")
    assert eval(repr(chosen), {"Select": Select, "Depth": dl.Depth}) == chosen


def test_a_sweep_shows_what_it_would_measure_and_its_cost(lens, tmp_path) -> None:
    tasks = [dl.tasks.load("choose", seed=i) for i in range(5)]
    sweep = dl.Sweep(lens, tasks=tasks, source="other_answer", steps=[0, range(0, 3)], layers=[1, 11], folder=tmp_path)
    page = Page(sweep._repr_html_())
    assert "Sweep of 40 cells" in page.text and "step|2|0, 0-2|" in page.text and "layer|2|1, 11|" in page.text
    assert tasks[0].prompt in page.text and "and 1 more" in page.text and str(tmp_path) in page.text
    assert f"{sweep.plan(calibrate=False).total:,} block evaluations" in page.text
    assert "seed + 10,000" in page.text and "horizon|local|" in page.text


def test_large_frames_are_made_small(monkeypatch) -> None:
    sizes = []
    monkeypatch.setattr(html, "mp4", lambda frames, fps: sizes.append((frames.shape, fps)) or b"clip")
    html.clip(np.zeros((3, 480, 832, 3), np.uint8), 16, "words")
    html.clip(np.zeros((3, 96, 96, 3), np.float32), 8, "words")
    assert sizes == [((3, 240, 416, 3), 16), ((3, 96, 96, 3), 8)]


def test_a_broken_encoder_leaves_the_table(run, monkeypatch) -> None:
    failed = subprocess.CompletedProcess((), 1, b"", b"no such codec")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    page = Page(run._repr_html_())
    assert not page.all("video") and "no such codec" in page.text and "prompt" in page.text
