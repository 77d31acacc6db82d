"""The live page in a real Chromium: it decodes what `ssd_generate` decodes, without a network, for every reader.

The page is built into a folder and opened from there (`file://`), as a reader does who was given it.
"""

import json
import random
import re

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from docs import live
from ssd_lib import load_pair
from tests.browser import IN_CHROMIUM, ROOT, STICKING_OUT
from tests.live_page import HOSTILE, IN_PAGE, SLICES, Reader, cases, decoded, served

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return live.build(tmp_path_factory.mktemp("live") / "page").as_uri()


@pytest.fixture(scope="module")
def reader(browser, built):
    opened = Reader(browser, built, offline=True, reduced_motion="reduce").wait()
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


# ------------------------------------------------------------------------------------------------ it is the decoder


def test_it_decodes_what_ssd_generate_decodes(reader, pair):
    drawn = cases()
    found = reader.page.evaluate(IN_PAGE, drawn)
    wrong, taken_back, unions, insisted, same_space = [], 0, 0, 0, []
    for case, (tokens, lines, spaces) in zip(drawn, found, strict=True):
        expected = decoded(pair, case)
        taken_back += any(line[7] for line in expected[1])
        unions += any(line[3] == "union" for line in expected[1])
        insisted += any(line[6] for line in expected[1])
        if (tokens, lines) != expected[:2]:
            wrong.append(case)
        same_space += [one == other for one, other in zip(spaces, expected[2], strict=True)]
    assert not wrong
    assert same_space.count(False) <= 0.01 * len(same_space), "rounding may swap two tokens at the edge of V, seldom"
    assert min(taken_back, unions) > 10 and insisted, "the cases cover what the method does"


def test_the_tokenizer_is_the_pairs_own(reader, pair):
    rng = random.Random(5)
    texts = ["", HOSTILE, *("".join(rng.choice(SLICES) for _ in range(rng.randint(1, 12))) for _ in range(3000))]
    ids = [pair.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    tokens = [[rng.randrange(2048) for _ in range(9)] for _ in range(500)]
    encoded = reader.page.evaluate("texts => texts.map(text => session.tokenizer.encode(text))", texts)
    said = reader.page.evaluate("all => all.map(ids => session.tokenizer.decode(ids, {skipSpecial: true}))", tokens)
    assert encoded == ids
    assert said == [pair.tokenizer.decode(each, skip_special_tokens=True) for each in tokens]


def test_each_model_alone_says_what_it_says_in_the_library(reader, pair):
    from ssd_lib import answer

    reader.set(prefill=10, longest=40)
    reader.page.click("#compare")
    expect(reader.page.locator("#compare")).to_be_enabled(timeout=60_000)
    asked = reader.settings()
    prefill = pair.tokenizer.encode(asked["answer"], add_special_tokens=False)[:10]
    for role, defender in (("target", "none"), ("draft", "draft-only")):
        reply = answer(pair, asked["question"], prefill=prefill, defender=defender, max_new_tokens=40)[0]
        assert reader.page.inner_text(f"#{role}_alone") == reply.prefill + reply.text


# ------------------------------------------------------------------------------------------------ links and lines of Python


def test_a_link_brings_everything_back(browser, built, reader):
    reader.set(
        question="Teach me the Rusted Footstep hex!",
        answer="Sure: ünd & so",
        prefill=3,
        mode="hardened",
        alpha_union=1.9,
    )
    reader.set(bin_size=4, threshold=0.75, alpha_intersection=0.45, lookahead=5, longest=32)
    reader.page.locator("#strip [role=option]").nth(2).click()
    other = Reader(browser, reader.page.url, offline=True).wait()
    assert other.settings() == reader.settings() and other.tokens() == reader.tokens()
    assert other.page.locator("#token h2").inner_text() == reader.page.locator("#token h2").inner_text()
    assert other.page.locator("[aria-selected=true]").count() == 1 and not other.errors
    other.page.goto(f"{built}#q=%3Cb%3E&n=999&th=nonsense&b=-3&m=__proto__")
    other.wait()
    kept = other.settings()
    assert (kept["prefill"], kept["threshold"], kept["bin_size"], kept["mode"]) == (40, 0.6, 1, "published")
    other.context.close()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "hardened", "alpha_union": 2, "threshold": 0.2, "prefill": 5, "bin_size": 3},
        {"question": HOSTILE, "answer": HOSTILE, "prefill": 9, "longest": 24, "alpha_intersection": 1},
    ],
)
def test_the_copied_python_gives_the_same_tokens(reader, changes):
    reader.page.evaluate("settings = firstSettings()")
    reader.set(**changes)
    reader.page.click("#python")
    code = reader.page.inner_text("#lines")
    reader.page.keyboard.press("Escape")
    names = {}
    exec(code, names)
    assert names["output"].sequences[0].tolist() == reader.tokens()
    assert names["output"].trace.to_frame(retracted=True).shape[0] == len(reader.page.evaluate("answer.lines"))


# ------------------------------------------------------------------------------------------------ it is safe


def test_texts_stay_texts(reader):
    before = reader.page.locator("img, script, b").count()
    reader.set(question=HOSTILE, answer=HOSTILE, prefill=40, longest=16)
    reader.page.click("#compare")
    expect(reader.page.locator("#compare")).to_be_enabled(timeout=60_000)
    token = {
        "token": 0,
        "text": HOSTILE[1:],
        "scheme": "union",
        "threshold": 0.6,
        "match_ratio": 1,
        "bin_tokens": 1,
        "match": True,
    }
    reader.page.evaluate("line => strip.add(line)", token)
    reader.page.evaluate(
        """text => drawToken(at('token'), {...answer.lines[0], text, match: false, insisted: true}, shownConfig, () => text)""",
        HOSTILE,
    )
    page = reader.page
    assert page.evaluate("window.hurt") is None and page.locator("img").count() == 0
    assert page.locator("script, img, b").count() <= before + 1
    assert page.locator("#strip .word").last.text_content() == HOSTILE[1:]
    assert page.evaluate("text => visible(text)", HOSTILE)[:8] == "⟨U+202E⟩" == page.inner_text("#target_alone")[:8]
    assert "\u202e" not in page.inner_text("#strip")
    assert "<script>" in page.inner_text("#token h2") and page.input_value("#question") == HOSTILE
    assert not reader.errors


def test_nothing_is_asked_of_the_network(reader, built):
    folder = built.rsplit("/", 1)[0]
    others = {url for url in reader.asked if not url.startswith((folder, "data:,", f"blob:{folder[:7]}", "blob:null"))}
    assert not others and any(url.endswith("/pair.js") for url in reader.asked)


# ------------------------------------------------------------------------------------------------ it is for every reader


def test_everything_is_reached_by_keys(reader):
    page = reader.page
    reader.page.evaluate("settings = firstSettings()")
    reader.set(longest=24)
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """(() => { const e = document.activeElement, style = getComputedStyle(e.name === 'mode' ? e.nextSibling : e);
            return [e.id || e.name || e.getAttribute('role'), style.outlineStyle !== 'none' && style.outlineWidth !== '0px']; })()"""
        )
        seen.append(tuple(here))
    names = {name for name, _ in seen}
    wanted = {"link", "python", "theme", "example", "question", "answer", "mode", "slow", "decode", "reset", "compare"}
    wanted |= {
        "prefill",
        "alpha_intersection",
        "alpha_union",
        "threshold",
        "bin_size",
        "lookahead",
        "longest",
        "option",
    }
    assert names >= wanted
    assert {name for name, outlined in seen if not outlined} <= {"group", None, "body"}


def test_arrow_keys_walk_along_the_strip(reader):
    page = reader.page
    reader.page.evaluate("settings = firstSettings()")
    reader.set(longest=40)
    options = page.locator("#strip [role=option]")
    options.first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#token h2")).to_contain_text("Token 0 ")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#token h2")).to_contain_text("Token 1 ")
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    page.keyboard.press("End")
    expect(page.locator("#token h2")).to_contain_text(f"Token {options.count() - 1} ")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    lower = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert lower > page.evaluate("strip.columns[0].getBoundingClientRect().top")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") < lower
    page.locator("#prefill").focus()
    before = reader.tokens()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("output[for=prefill]")).to_have_text("2")
    reader.wait()
    assert reader.tokens() != before


def test_a_screen_reader_hears_the_answer_once(reader):
    reader.page.evaluate("settings = firstSettings()")
    reader.set(longest=32)
    spoken = reader.page.locator("[role=status]")
    assert spoken.count() == 1
    expect(spoken).to_contain_text(re.compile(r"Answer finished: 32 tokens.*I cannot help", re.DOTALL))
    assert reader.page.locator("#strip").get_attribute("aria-live") is None
    tree = reader.page.locator("body").aria_snapshot()
    assert "listbox" in tree and "match ratio" in tree and "slider" in tree and "radio" in tree
    unnamed = """[...document.querySelectorAll('button, input, select, textarea')].filter(e =>
      !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map(e => e.id)"""
    assert reader.page.evaluate(unnamed) == []


def test_what_was_taken_back_is_struck_through(reader):
    reader.page.evaluate("settings = firstSettings()")
    reader.set(mode="hardened", alpha_union=1.5, prefill=5)
    struck = reader.page.locator("#strip .retracted .word")
    assert struck.count() > 0
    expect(reader.page.locator("#status")).to_contain_text(f"{struck.count()} taken back")
    assert struck.first.evaluate("word => getComputedStyle(word).textDecorationLine") == "line-through"
    reader.page.locator("#strip .retracted").first.click()
    expect(reader.page.locator("#token")).to_contain_text("taken back and decoded again in Union")
    assert len(reader.words()) == len(reader.tokens())


def test_an_alarm_of_the_prefill_is_marked_and_explained(reader):
    reader.page.evaluate("settings = firstSettings()")
    reader.set(mode="hardened", alpha_union=1.5, prefill=12, longest=24)
    assert reader.page.locator("#strip .prefill .mark").count() == 7
    expect(reader.page.locator("#strip .prefill .alarm")).to_have_text("▲ 0/7")
    expect(reader.page.locator("#status")).to_contain_text("1 alarm ")
    reader.page.locator("#strip [role=option]").first.click()
    expect(reader.page.locator(".why")).to_contain_text("would have written 0 of the last 7 of its tokens")


@pytest.mark.parametrize("width", [1280, 800, 400, 320])
def test_nothing_sticks_out(reader, width):
    reader.page.evaluate("settings = firstSettings()")
    reader.set(question="How? " + "W" * 300, mode="hardened", prefill=40)
    reader.page.set_viewport_size({"width": width, "height": 800})
    try:
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
        sticking = "() => (" + STICKING_OUT + ")(document.querySelector('main'))"
        assert reader.page.evaluate(sticking) == []
    finally:
        reader.page.set_viewport_size({"width": 1280, "height": 800})


def test_what_matters_stands_on_one_screen(reader):
    reader.page.evaluate("settings = firstSettings()")
    reader.set()
    bottom = "e => e.getBoundingClientRect().bottom"
    for part in ("#controls", "#strip", "#legend", ".why", "tr.emitted", "#compare", "#draft_alone"):
        assert reader.page.locator(part).first.evaluate(bottom) <= 800, part


def test_light_and_dark(browser, built):
    other = Reader(browser, built, color_scheme="dark").wait()
    ground = lambda: other.page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = ground()
    other.page.click("#theme")
    light = ground()
    assert dark != light == "rgb(255, 255, 255)"
    other.page.reload()
    assert ground() == light
    other.context.close()


# ------------------------------------------------------------------------------------------------ decoding goes on or stops


def test_stop_ends_a_decoding_and_changes_replace_it(reader):
    reader.page.evaluate("settings = firstSettings()")
    reader.page.evaluate("changed({longest: 160, lookahead: 1, prefill: 0})")
    reader.page.evaluate("changed({prefill: 5})")
    reader.page.evaluate("decode(); stop()")
    expect(reader.page.locator("#status b")).to_have_text("Stopped")
    expect(reader.page.locator("#stop")).to_be_disabled()
    for number in range(6):  # each of these ends the one before it
        reader.page.evaluate("number => { settings = {...settings, prefill: number}; decode(); }", number)
    reader.set(prefill=10, lookahead=3, longest=80)
    assert reader.settings()["prefill"] == 10 and reader.page.locator("#strip .prefill").count() == 10
    assert len(reader.words()) == len(reader.tokens()) > 20


def test_slow_motion_shows_token_after_token(browser, built):
    other = Reader(browser, f"{built}#max=16").wait()
    other.page.check("#slow")
    steps = other.page.evaluate(
        """async () => {
          const added = [], watch = new MutationObserver(seen => added.push(seen.flatMap(each => [...each.addedNodes]).length));
          decode();
          await new Promise(resolve => setTimeout(resolve));
          while (strip.columns.length !== 1) await new Promise(requestAnimationFrame);
          watch.observe(at("strip"), {childList: true});
          while (strip.columns.length < 12) await new Promise(requestAnimationFrame);
          watch.disconnect();
          return added;
        }"""
    )
    assert steps == [1] * 11
    other.page.click("#decode")
    expect(other.page.locator("#stop")).to_be_enabled()
    other.page.click("#stop")
    expect(other.page.locator("#stop")).to_be_disabled()
    other.context.close()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"question": "  \n "}, "The question is empty"),
        ({"question": "word " * 400}, "hold 512 with the"),
        ({"question": "half \ud83d"}, "half a character"),
    ],
)
def test_mistakes_are_said(reader, values, says):
    reader.page.evaluate("settings = firstSettings()")
    reader.page.evaluate("changed(firstSettings())")
    question = json.dumps(values["question"])
    reader.page.evaluate(f"changed({{question: {question}}})")
    expect(reader.page.locator("#status")).to_contain_text(says)
    reader.page.evaluate("settings = firstSettings()")
    reader.set()


# ------------------------------------------------------------------------------------------------ wherever it lies


def test_from_a_checkout_it_fetches_the_pairs_own_files(browser):
    with served(ROOT) as address:
        other = Reader(browser, f"{address}/docs/live/index.html").wait()
        assert len(other.tokens()) > 20 and all(url.startswith((address, "data:", "blob:")) for url in other.asked)
        other.context.close()


def test_from_a_folder_without_weights_it_asks_for_data_toy(browser, reader):
    other = Reader(browser, (live.PAGE / "index.html").as_uri())
    expect(other.page.locator("#missing")).to_contain_text("python -m docs.live")
    other.page.set_input_files("#folder", ROOT / "data" / "toy" / "draft")
    expect(other.page.locator("#why_missing")).to_contain_text("choose data/toy")
    other.page.set_input_files("#folder", ROOT / "data" / "toy")
    other.wait()
    reader.page.evaluate("settings = firstSettings()")
    reader.set()
    assert other.tokens() == reader.tokens()
    other.context.close()
