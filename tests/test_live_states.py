"""The live page where things cross: two starts at once, going back, hostile links, no clipboard, no pair, high contrast."""

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from docs import live
from tests.browser import IN_CHROMIUM
from tests.live_page import Reader

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """In a folder whose name has to be quoted in an address."""
    return live.build(tmp_path_factory.mktemp("a live page") / "50% #1 ü").as_uri()


@pytest.fixture(scope="module")
def reader(browser, built):
    opened = Reader(browser, built, permissions=["clipboard-read", "clipboard-write"]).wait()
    yield opened
    assert not opened.errors
    opened.context.close()


@pytest.fixture
def first(reader):
    """The page as it begins; its tokens."""
    reader.page.evaluate("changed(firstSettings())")
    return reader.wait().tokens()


def compared(reader):
    expect(reader.page.locator("#compare")).to_be_enabled(timeout=60_000)
    return reader.wait()


# ------------------------------------------------------------------------------------------------ two things at once


def test_many_starts_give_one_answer(reader, first):
    reader.page.evaluate("() => { for (let start = 0; start < 20; start++) decode(); }")
    assert reader.wait().tokens() == first
    assert len(reader.words()) == len(first)


def test_it_stops_in_the_middle_and_starts_again(reader, first):
    reader.page.evaluate(
        """async () => {
          decode();
          while (answer !== newest || strip.lines.length < 4) await new Promise(requestAnimationFrame);
          at("stop").click();
        }"""
    )
    reader.wait()
    expect(reader.page.locator("#status b")).to_have_text("Stopped")
    assert reader.tokens() == first[: len(reader.tokens())] and 4 <= len(reader.tokens()) < len(first)
    reader.page.click("#decode")
    assert reader.wait().tokens() == first


def test_asking_the_models_alone_lets_the_answer_end_first(reader, first):
    for start in ("decode()", "changed({})"):
        reader.page.evaluate(f"() => {{ {start}; compare(); }}")
        compared(reader)
        expect(reader.page.locator("#status b")).to_have_text("SSD")
        assert reader.tokens() == first
        assert reader.page.inner_text("#draft_alone").endswith("from it instead.")


def test_a_change_ends_what_the_models_say_alone(reader, first):
    reader.page.evaluate(
        """async () => {
          compare();
          while (at("target_alone").textContent.length < 60) await new Promise(requestAnimationFrame);
          changed({prefill: 11});
        }"""
    )
    compared(reader)
    expect(reader.page.locator("#status b")).to_have_text("SSD")
    assert reader.page.inner_text("#target_alone") == reader.page.inner_text("#draft_alone") == ""


# ------------------------------------------------------------------------------------------------ addresses


def test_going_back_brings_the_answer_back_even_from_an_error(reader, built, first):
    for other in ("#q=Hello&n=0&max=12&t=2", "#q=&t=2"):
        reader.page.goto(built + other)
        expect(reader.page.locator("#question")).not_to_have_value(reader.page.evaluate("firstSettings().question"))
        reader.page.wait_for_timeout(300)
        reader.page.go_back()
        expect(reader.page.locator("#question")).to_have_value(reader.page.evaluate("firstSettings().question"))
        assert reader.wait().tokens() == first


def test_a_token_chosen_while_the_reader_goes_back_does_not_hold_them(reader, built, first):
    reader.page.goto(built + "#q=Hello&n=0&max=12")
    expect(reader.page.locator("#question")).to_have_value("Hello")
    reader.wait()
    reader.page.evaluate(
        "() => { addEventListener('popstate', () => choose(1), {once: true}); setTimeout(() => history.back()); }"
    )
    expect(reader.page.locator("#question")).to_have_value(reader.page.evaluate("firstSettings().question"))
    assert reader.wait().tokens() == first


@pytest.mark.parametrize(
    "address",
    ["#q=xx" + "%F0%9F%98%80x" * 501, "#q=%FF%00%3Cscript%3E&n=NaN&th=1e999&T=-1&au=99&m=%00", "#%", "#t=99999999999"],
)
def test_a_hostile_link_gives_an_answer(reader, built, address):
    reader.page.goto("about:blank")
    reader.page.goto(built + address)
    expect(reader.page.locator("#answering")).not_to_have_attribute("aria-busy", "true", timeout=60_000)
    said = reader.page.inner_text("#status")
    assert said.startswith("SSD") or "shorten the question" in said
    least_and_greatest = "NUMBERS.every(name => range(name)[0] <= settings[name] && settings[name] <= range(name)[1])"
    assert reader.page.evaluate(least_and_greatest)


# ------------------------------------------------------------------------------------------------ buttons


def test_copying_twice_leaves_the_button_its_name(reader, first):
    reader.page.evaluate(
        """async () => {
          const link = at("link");
          const until = async text => { while (link.textContent !== text) await new Promise(requestAnimationFrame); };
          link.click();
          await until("Copied");
          link.click();
          await until("Copy link");
          await new Promise(rest => setTimeout(rest, 1500));
        }"""
    )
    expect(reader.page.locator("#link")).to_have_text("Copy link")
    expect(reader.page.locator("#spoken")).to_have_text("Copied")
    assert reader.page.evaluate("navigator.clipboard.readText()") == reader.page.url


def test_without_a_clipboard_the_link_is_shown_under_its_own_title(reader, first):
    reader.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('forbidden')); }")
    reader.page.click("#link")
    expect(reader.page.locator("dialog#code")).to_be_visible()
    assert reader.page.inner_text("#code_title") == "A link to this page"
    assert reader.page.evaluate("getSelection().toString().trim()") == reader.page.url
    reader.page.keyboard.press("Escape")
    reader.page.click("#python")
    assert reader.page.inner_text("#code_title") == "These tokens, with ssd_lib"
    reader.page.keyboard.press("Escape")
    assert reader.page.evaluate("document.activeElement.id") == "python"


def test_slow_motion_is_slow_for_whoever_asks_for_it(reader, first):
    """A reader whose system asks for less motion may still look at one token after the other."""
    reader.page.emulate_media(reduced_motion="reduce")
    reader.page.check("#slow")
    shown = reader.page.evaluate(
        """async () => {
          decode();
          while (answer !== newest || !strip.columns.length) await new Promise(requestAnimationFrame);
          return strip.columns.length;
        }"""
    )
    assert shown < 4
    reader.page.click("#stop")
    reader.page.uncheck("#slow")
    reader.page.emulate_media(reduced_motion="no-preference")
    reader.wait()


# ------------------------------------------------------------------------------------------------ every reader, and no pair


def test_a_slider_is_read_once(reader):
    """Its number beside it is for the eye: as an `output` it would be a second thing that speaks."""
    tree = reader.page.locator("main").aria_snapshot()
    assert 'slider "threshold"' in tree and "- status" not in tree


def test_high_contrast_keeps_the_bars_and_the_chosen_mode(browser, built):
    other = Reader(browser, built, forced_colors="active").wait()
    colour = "e => getComputedStyle(e).backgroundColor"
    chosen, another = (other.page.locator(f".switch input{which} + span") for which in (":checked", ":not(:checked)"))
    assert chosen.evaluate(colour) != another.evaluate(colour)
    assert other.page.locator(".bar").first.evaluate(colour) != other.page.locator("body").evaluate(colour)
    other.context.close()


def test_before_there_is_a_pair_nothing_can_be_asked_of_it(browser):
    other = Reader(browser, (live.PAGE / "index.html").as_uri())
    expect(other.page.locator("#missing")).to_be_visible()
    expect(other.page.locator("#compare")).to_be_disabled()
    other.page.evaluate("changed({prefill: 3})")
    other.page.wait_for_timeout(300)
    assert other.page.get_attribute("#answering", "aria-busy") is None
    other.context.close()
