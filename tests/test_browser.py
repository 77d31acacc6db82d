"""The book in a real JupyterLab and a real Chromium: chapters run, the explorer answers, the console stays quiet.

Screenshots go to $SSD_SCREENSHOTS (build/screenshots). `python -m tests.test_browser` (make screenshots) writes those of the
explorer that the README shows, into figures/.
"""

import os
import re
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser import IN_CHROMIUM, ROOT, Explorer, Notebook, chromium, copy_book, jupyterlab

SCREENSHOTS = Path(os.environ.get("SSD_SCREENSHOTS") or ROOT / "build/screenshots")
EXPLORER = "notebooks/14_explorer.ipynb"
LOOKS = {"light": ("light", 1200), "dark": ("dark", 1200), "narrow": ("light", 600)}
"""Theme and width of the window in pixels."""
pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A browser, and the address of a JupyterLab that serves a copy of the book."""
    folder = tmp_path_factory.mktemp("lab") / "book"
    copy_book(folder)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with jupyterlab(folder) as address, chromium() as browser:
        yield browser, address


@pytest.fixture(scope="module")
def chapter(lab):
    """The explorer's chapter, run from the top: the page, and its first explorer."""
    browser, address = lab
    book = Notebook(browser, address, EXPLORER)
    book.run_all()
    yield book, Explorer(book)
    book.close()


def test_start_here_shows_its_outputs_before_and_after_it_runs(lab):
    browser, address = lab
    book = Notebook(browser, address, "notebooks/00_start_here.ipynb")
    page = book.page
    tokens = page.locator(".jp-OutputArea-output span[title*='draft proposed']")
    committed = tokens.count()
    assert committed > 20, "a notebook that is not trusted keeps its token strips"
    assert tokens.first.evaluate("span => getComputedStyle(span).borderBottomStyle") != "none"
    book.run_all()
    assert not book.failures() and tokens.count() >= committed
    widths = page.locator(".jp-OutputArea-output img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert widths and min(widths) > 300, "figures are drawn"
    assert re.search(r"draft: +[\d.]+ M parameters", page.inner_text(".jp-Notebook"))
    book.resize(800, 800)
    assert page.locator(".jp-OutputArea-output table").count() > 3
    assert page.evaluate(CUT_OFF) == [], "tables scroll in a narrow window"
    page.locator(".jp-OutputArea-output table").nth(1).scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / "start_here_narrow.png")
    book.resize(1200)
    for theme in ("light", "dark"):
        book.use_theme(theme)
        tokens.first.scroll_into_view_if_needed()
        page.screenshot(path=SCREENSHOTS / f"start_here_{theme}.png")
    assert not book.errors
    book.close()


def test_the_explorers_chapter_runs(chapter):
    book, explorer = chapter
    assert not book.failures()
    assert len(explorer.tokens()) > 10 and explorer.part("given").count() > 5, "after what the attacker wrote"
    below = explorer.part("token").nth(3).evaluate("e => getComputedStyle(e, '::after').backgroundImage")
    assert below.count("gradient") == 2, "under a token: its match ratio, and the threshold"
    explorer.box.scroll_into_view_if_needed()
    book.page.screenshot(path=SCREENSHOTS / "explorer_chapter.png")


def test_a_slider_changes_the_answer(chapter):
    _, explorer = chapter
    before, reading, begun = explorer.tokens(), int(explorer.value("prefill")), time.monotonic()
    explorer.press("prefill", times=5)
    explorer.wait_for_other_tokens(before)
    assert time.monotonic() - begun < 20, "a slider answers while one waits, on a busy machine too"
    assert int(explorer.value("prefill")) == reading + 5


def test_while_decoding_the_old_answer_is_dim_and_says_so(chapter):
    _, explorer = chapter
    explorer.settle()
    explorer.page.evaluate(WATCH)
    explorer.press("threshold", times=3)
    explorer.page.wait_for_function("seen.length > 1 && !seen.at(-1).busy", timeout=60_000)
    seen = explorer.page.evaluate("seen")
    assert any(each["busy"] and "decoding" in each["status"] and "the one before" in each["status"] for each in seen)
    assert "decoding" not in seen[-1]["status"]
    explorer.box.evaluate("box => box.classList.add('ssd-busy')")
    explorer.page.wait_for_timeout(400)
    opacity = "box => getComputedStyle(box.querySelector('.ssd-answer')).opacity"
    assert float(explorer.box.evaluate(opacity)) < 0.5
    explorer.box.evaluate("box => box.classList.remove('ssd-busy')")


def test_nothing_that_matters_lies_below_the_fold(chapter):
    book, explorer = chapter
    explorer.settle()
    book.resize(1200, 800)
    explorer.box.evaluate("box => box.scrollIntoView({block: 'start'})")
    fold = book.page.locator("#jp-main-statusbar").bounding_box()["y"]  # what lies under the status bar is not seen
    assert 700 < fold < 800
    for name in ("reset", "candidates", "timeline"):
        place = explorer.part(name).first.bounding_box()
        assert place["y"] >= 0 and place["y"] + place["height"] <= fold, name
    book.page.screenshot(path=SCREENSHOTS / "explorer_window.png")
    book.resize(1200)


def test_the_code_says_what_the_sliders_do(chapter):
    _, explorer = chapter
    explorer.press("alpha-union")
    explorer.open_tab("Code")
    code = explorer.part("code").locator("textarea")
    expect(code).to_have_value(re.compile(rf"alpha_union={float(explorer.value('alpha-union'))}"))
    assert "load_pair(" in code.input_value() and "answer(" in code.input_value()


def test_a_click_looks_at_a_token_without_decoding(chapter):
    _, explorer = chapter
    explorer.settle()
    explorer.open_tab("Token")
    tokens, shown = explorer.tokens(), explorer.part("candidates").inner_text()
    explorer.part("token").nth(8).click()
    expect(explorer.part("token").nth(8)).to_have_class(re.compile("ssd-chosen"))
    expect(explorer.part("candidates")).not_to_have_text(shown, use_inner_text=True)
    assert explorer.part("chosen").count() == 1 and explorer.value("position") == "8"
    explorer.press("position")
    expect(explorer.part("token").nth(9)).to_have_class(re.compile("ssd-chosen"))
    assert "draft proposed" in explorer.part("token").nth(9).get_attribute("title")
    assert explorer.tokens() == tokens and "ssd-busy" not in explorer.box.get_attribute("class")


def test_play_goes_through_the_rounds(chapter):
    _, explorer = chapter
    explorer.open_tab("Rounds")
    expect(explorer.part("round")).to_contain_text(re.compile("Round 1 of.*draft proposes"))
    play = explorer.part("play").locator("button").first
    play.click()
    expect(explorer.part("round")).to_contain_text("target verifies")
    expect(explorer.part("round")).to_contain_text(re.compile("accepted|corrected|insists"))
    expect(explorer.part("round")).to_contain_text("Round 3 of")
    play.click()


def test_two_answers_stand_side_by_side(chapter):
    _, explorer = chapter
    explorer.open_tab("Compare")
    explorer.part("compare").locator("select").select_option("no defence")
    expect(explorer.part("comparison")).to_contain_text("«")
    assert explorer.part("comparison").inner_text().count("»") >= 3, "differing tokens are marked, as the legend says"
    explorer.settle()


@pytest.mark.parametrize("look", LOOKS)
def test_it_looks_right_and_nothing_sticks_out(chapter, look):
    book, explorer = chapter
    explorer.open_tab("Token")
    picture(book, explorer, look, SCREENSHOTS)
    assert not explorer.overflow()


def test_the_console_stayed_quiet(chapter):
    book, _ = chapter
    assert not book.errors


CUT_OFF = """[...document.querySelectorAll('.jp-OutputArea-output table')].filter(table => {
  const edge = table.closest('.jp-OutputArea-output').getBoundingClientRect().right + 1;
  const scrolls = e => e && !e.classList.contains('jp-OutputArea-output') && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return table.getBoundingClientRect().right > edge && !scrolls(table.parentElement);
}).map(table => table.innerText.slice(0, 60))"""
"""Tables that are wider than their output and do not scroll."""
WATCH = """() => {
  window.seen = [];
  const box = document.querySelector('.ssd-explorer');
  const look = () => seen.push({busy: box.classList.contains('ssd-busy'), status: box.querySelector('.ssd-status').innerText});
  new MutationObserver(look).observe(box, {attributes: true, subtree: true, childList: true, characterData: true});
}"""
"""Notes, at each change, whether the explorer is busy and what its status says."""


def picture(book, explorer, look, folder):
    """The whole explorer, as `explorer_<look>.png` of 256 colours."""
    theme, width = LOOKS[look]
    book.use_theme(theme)
    book.resize(width)
    explorer.settle()
    book.resize(width, int(explorer.box.bounding_box()["height"]) + 200)
    path = folder / f"explorer_{look}.png"
    explorer.box.screenshot(path=path)
    full = Image.open(path).convert("RGB")
    full.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)  # rare colours are kept
    assert path.stat().st_size < 300_000, f"{path} is too large for the README"


def show_the_turn(explorer):
    """The pair's own settings, ten tokens written by the attacker, and the first token decoded in Union chosen."""
    explorer.part("reset").click()
    explorer.press("prefill", "Home")
    explorer.press("prefill", times=10)
    explorer.page.wait_for_timeout(1000)  # longer than the pause before a moved slider decodes
    explorer.settle()
    explorer.open_tab("Token")
    explorer.part("token").and_(explorer.page.locator("[title*='union']")).first.click()
    explorer.page.wait_for_timeout(500)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "book"
        copy_book(place)
        with jupyterlab(place) as served, chromium() as driven:
            opened = Notebook(driven, served, EXPLORER)
            opened.run_all()
            shown = Explorer(opened)
            show_the_turn(shown)
            for every in LOOKS:
                picture(opened, shown, every, ROOT / "figures")
