"""The report in a real browser, opened from a file: it works, it says nothing on the console, it fetches nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dit_lens.figures import Report, forest, heatmap, lines

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "</script><script>window.evil=1</script>"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator:
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def url(effects, film, tmp_path) -> str:
    report = Report("Map " + EVIL, summary=["one"], methods={"seed": 0})
    cells = {(0, 1): {"base": film[-1], "patched": film[0]}, (3, 2): {"base": film[-1], "patched": film[1]}}
    report.figure(heatmap(effects, title="Effect"), cells=cells)
    report.figure(lines(effects, x="step", by="layer", title="Curves"))
    arms = effects.isel(step=0, drop=True).assign_coords(layer=["alone", "noise mean", "shared latents", "all"])
    report.figure(forest(arms, chance=-0.1, title="Arms"))
    report.table("Layers", effects.isel(step=0, drop=True))
    sigmas = np.linspace(1, 0.2, len(film))
    seen = {"film": film, "sigmas": sigmas, "clip": film[-1]}
    report.generation(title="maze", prompt=EVIL, **seen, truth="right", verdict="solved")
    return report.write(tmp_path / "report.html").as_uri()


@pytest.fixture
def page(browser, url) -> Iterator:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else said.append(f"request: {r.url}"))
    page.goto(url)
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    context.close()
    assert said == []


def offset(page, kind: str = "film") -> str:
    return page.locator(f".generation .pane canvas[data-kind={kind}]").first.get_attribute("data-offset")


def settle(page, at: str, kind: str = "film") -> None:
    page.wait_for_selector(f".generation .pane canvas[data-kind={kind}][data-offset='{at}']")


def pixels(page, selector: str) -> np.ndarray:
    # read from a copy: reading a page's own canvas over and over makes Chromium complain on the console
    values = page.evaluate(
        """s => { const c = document.querySelector(s), copy = document.createElement('canvas');
                  [copy.width, copy.height] = [c.width, c.height];
                  const context = copy.getContext('2d', { willReadFrequently: true });
                  context.drawImage(c, 0, 0);
                  return Array.from(context.getImageData(0, 0, c.width, c.height).data) }""",
        selector,
    )
    return np.array(values, dtype=np.uint8).reshape(12, 12, 4)[..., :3]


def test_sliders_show_exactly_the_frame_they_name(page, film):
    settle(page, "48,0")  # the first step, the last frame
    step = page.get_by_label("Step", exact=True)
    step.focus()
    for _ in range(3):
        step.press("ArrowRight")
    settle(page, "48,36")
    assert np.array_equal(pixels(page, ".generation .pane canvas[data-kind=film]"), film[3, 4])
    frame = page.locator(".generation input[data-axis=frame]")
    frame.focus()
    frame.press("Home")
    settle(page, "0,36")
    settle(page, "0,0", "clip")
    assert np.array_equal(pixels(page, ".generation .pane canvas[data-kind=film]"), film[3, 0])
    assert np.array_equal(pixels(page, ".generation .pane canvas[data-kind=clip]"), film[-1, 0])
    assert step.get_attribute("aria-valuetext") == "step 3 of 5 · σ 0.52"


def test_arrows_and_space_work_on_the_viewer_itself(page):
    settle(page, "48,0")
    viewer = page.locator(".generation .viewer")
    viewer.focus()
    viewer.press("ArrowUp")
    settle(page, "48,12")
    viewer.press("ArrowLeft")
    settle(page, "36,12")
    viewer.press(" ")
    play = page.locator(".generation [data-play=frame]")
    assert play.get_attribute("aria-pressed") == "true"
    offset = "document.querySelector('.generation canvas[data-kind=film]').dataset.offset"
    page.wait_for_function(f"() => {offset} !== '36,12'")
    viewer.press(" ")
    assert play.get_attribute("aria-pressed") == "false"


def test_the_strip_shows_the_film_and_jumps_to_a_step(page, film):
    settle(page, "48,0")
    page.wait_for_selector(".strip canvas[data-step='5'][data-frame='4'][data-offset='48,60']")
    assert np.array_equal(pixels(page, ".strip canvas[data-step='2'][data-frame='4']"), film[2, 4])
    page.get_by_role("button", name="step 4").click()
    settle(page, "48,48")


def cell_at(page, step: int, layer: int) -> list[float]:
    """Where the first heatmap shows a cell, in pixels of the window."""
    return page.evaluate(
        """([x, y]) => { const p = document.querySelector('.plot'), r = p.getBoundingClientRect(), l = p._fullLayout;
                         return [r.x + l.xaxis._offset + l.xaxis.d2p(x), r.y + l.yaxis._offset + l.yaxis.d2p(y)] }""",
        [step, layer],
    )


def test_clicking_a_cell_opens_its_clips(page, film):
    box = cell_at(page, 3, 2)
    page.mouse.move(*box)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "n = 32" in page.locator(".hoverlayer .hovertext").first.text_content()
    page.mouse.click(*box)
    page.wait_for_selector(".cells .viewer:not([hidden])")
    assert page.locator(".cells .label").text_content() == "step 3, layer 2"
    page.wait_for_selector(".cells canvas[aria-label=patched][data-offset='48,0']")
    assert np.array_equal(pixels(page, ".cells canvas[aria-label=patched]"), film[1, 4])


def test_cells_open_from_the_keyboard_too(page):
    page.get_by_label("Clips of a cell").select_option(label="step 0, layer 1")
    page.wait_for_selector(".cells canvas[aria-label=base][data-offset='48,0']")
    frame = page.locator(".cells input[data-axis=frame]")
    frame.focus()
    frame.press("ArrowLeft")
    page.wait_for_selector(".cells canvas[aria-label=base][data-offset='36,0']")
    page.get_by_label("Clips of a cell").select_option(label="choose …")
    assert page.locator(".cells .viewer").is_hidden()


def test_figures_follow_the_page_into_the_dark(page):
    colour = """() => [getComputedStyle(document.body).backgroundColor,
                       document.querySelector('.plot')._fullLayout.font.color]"""
    light = page.evaluate(colour)
    page.get_by_role("button", name="Switch to dark colours").click()
    dark = page.evaluate(colour)
    assert light != dark and dark[1] == "#e6e4df"
    page.get_by_role("button", name="Switch to light colours").click()
    assert page.evaluate(colour) == light


def test_the_system_theme_is_followed(page):
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")


def test_text_from_outside_never_ran(page):
    assert page.evaluate("window.evil") is None
    assert EVIL in page.locator(".prompt").text_content()


def test_a_phone_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 360, "height": 760})
    page.wait_for_function("() => document.querySelector('.plot')._fullLayout.width <= 360")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.evaluate("() => [document.querySelector('.plot')._fullLayout.yaxis2.domain]")
    assert box[0][1] < 0.6  # the placebo went below the effect
    page.set_viewport_size({"width": 1200, "height": 900})
    page.wait_for_function("() => document.querySelector('.plot')._fullLayout.yaxis2.domain[1] > 0.9")
    page.mouse.click(*cell_at(page, 3, 2))
    page.wait_for_selector(".cells .viewer:not([hidden])")


def test_figures_can_be_saved_under_the_page_policy(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as SVG: Effect").press("Enter")
    assert download.value.suggested_filename == "effect.svg"
    assert "local effect" in Path(download.value.path()).read_text(encoding="utf-8")


def test_no_button_sends_a_figure_away(page, effects, tmp_path):
    page.locator(".plot").first.hover()
    assert page.locator(".modebar-btn").count() == 0
    heatmap(effects).write_html(tmp_path / "alone.html")  # as in a notebook
    page.goto((tmp_path / "alone.html").as_uri())
    page.wait_for_selector(".modebar-btn", state="attached")
    names = page.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title)")
    assert any("Download" in name for name in names) and not any("Share" in name for name in names)


#: Texts under 4.5:1, controls without a name, headings that skip a level, and things wider than the window.
FAULTS = """() => {
  const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                         return .2126 * r + .7152 * g + .0722 * b; };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                                                           if (c.length < 4 || c[3] > .5) return c.slice(0, 3); } };
  const seen = (e) => e.getClientRects().length > 0;
  const all = (s) => Array.from(document.querySelectorAll(s));
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, style = getComputedStyle(e), svg = e instanceof SVGElement;
    if (!texts.currentNode.textContent.trim() || e.matches("script, noscript") || !seen(e)) continue;
    const ink = rgb(svg ? style.fill : style.color).slice(0, 3);
    const paper = behind(svg ? e.ownerSVGElement.parentElement : e);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.push(`pale: ${texts.currentNode.textContent.trim()}`);
  }
  all("a, button, input, select, summary, video, canvas, [role=img], [tabindex='0']").filter(seen).forEach((e) => {
    const named = e.getAttribute("aria-label") || e.textContent.trim() || (e.labels || []).length;
    if (!named) found.push(`mute: ${e.outerHTML}`);
    if (!e.matches("canvas, [role=img]") && e.tabIndex < 0) found.push(`no keyboard: ${e.outerHTML}`);
  });
  all("h1, h2, h3, h4").map((e) => Number(e.tagName[1])).reduce((last, now) => {
    if (now > last + 1) found.push(`heading ${now} after ${last}`);
    return now;
  }, 0);
  if (document.documentElement.scrollWidth > innerWidth) found.push(`wide: ${document.documentElement.scrollWidth}`);
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_everybody_can_read_the_page(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector(f"html[data-theme={scheme}]")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    page.get_by_label("Clips of a cell").select_option(index=1)
    page.wait_for_selector(".cells .viewer:not([hidden])")
    assert page.evaluate(FAULTS) == []


def test_the_reader_of_faults_sees_them(page):
    spoilt = """() => { document.querySelector('h3').outerHTML = '<h5>x</h5><h4 style="color: #999">pale one</h4>';
                        document.querySelector('.prompt').innerHTML = '<button tabindex="-1"></button>';
                        document.querySelector('main').style.minWidth = '2000px' }"""
    page.evaluate(spoilt)
    kinds = {fault.split(":")[0].split(" ")[0] for fault in page.evaluate(FAULTS)}
    assert kinds == {"pale", "mute", "no", "heading", "wide"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector(f"html[data-theme={scheme}]")
    left = page.evaluate(
        """() => { const all = Array.from(document.querySelectorAll('a[href], button, input, select, summary'))
                                    .filter((e) => e.getClientRects().length && !e.disabled);
                   all.forEach((e, i) => { e.dataset.stop = i }); return all.length }"""
    )
    assert left > 20
    reached = set()
    for _ in range(3 * left):
        page.keyboard.press("Tab")
        stop, ring = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                       return [e.dataset.stop, s.outlineStyle === 'none' ? '' : s.outlineColor] }"""
        )
        if stop is None and page.evaluate("document.activeElement === document.body"):
            break
        if stop is not None:
            reached.add(int(stop))
            assert ring == ("rgb(11, 98, 166)" if scheme == "light" else "rgb(124, 188, 240)")
    assert reached == set(range(left))


def test_playing_is_not_read_aloud_and_the_step_shown_is_named(page):
    page.get_by_role("button", name="step 3").click()
    assert page.locator("[data-go][aria-current=step]").text_content().startswith("step 3")
    assert set(page.locator("output").evaluate_all("all => all.map((o) => o.getAttribute('aria-live'))")) == {"off"}


def test_a_finger_scrolls_past_a_figure(browser, url):
    context = browser.new_context(viewport={"width": 390, "height": 760}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready=yes]")
    assert page.evaluate("document.querySelector('.plot')._fullLayout.dragmode") is False
    page.touchscreen.tap(*cell_at(page, 3, 2))
    page.wait_for_selector(".cells .viewer:not([hidden])")
    context.close()


def test_the_clip_plays(page):
    page.locator("details summary", has_text="video file").click()
    page.wait_for_function(
        "() => document.querySelector('video').readyState >= 1 && document.querySelector('video').videoWidth > 0"
    )
