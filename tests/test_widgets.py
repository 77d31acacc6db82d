"""The explorer: what it shows, that hostile tokens stay text, and that only what changes an answer decodes one."""

import copy
import cProfile
import re
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from ssd_lib import answer, load_pair
from ssd_lib.method.trace import pieces, visible  # noqa: E402
from ssd_lib.show import charts, rounds, session, strips  # noqa: E402
from ssd_lib.show.controls import OWN  # noqa: E402
from ssd_lib.show.explorer import BARE, KEPT, ONE, explore  # noqa: E402
from ssd_lib.show.latest import Latest  # noqa: E402
from ssd_lib.show.session import Session, Settings, Stopped, as_code, decode  # noqa: E402
from ssd_lib.toy import world  # noqa: E402

FORBIDDEN = world.questions("forbidden", 3)[0]
PATIENCE = 60


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture(scope="module")
def explorer(pair):
    return explore(pair, FORBIDDEN, prefill=10)


@pytest.fixture
def fresh(explorer):
    """The explorer as it was opened."""
    explorer.set(
        **vars(Settings(FORBIDDEN.question, explorer.session.pair.config, FORBIDDEN.answer, 10)), compare=ONE, seed=0
    )
    explorer.choose(0)
    return explorer


def words(explorer):
    return [button.description for button in explorer.strip.buttons]


# ------------------------------------------------------------------------------------------------ hostile tokens

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x",
    "</span></td></svg><b onclick=x>",
    "&amp;&lt;",
    "<!--",
    "]]><title>",
    "\u202eabc",
    "\u2066\u200f",
    "\x1b[31mred",
    "a\x00b",
    "\ud800",
    "\u2028",
    "\u0301\u0301",
    "\n",
    " $x^$ \\frac",
    "",
    "אבג",
    " plain",
]
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
ALLOWED = {
    **dict.fromkeys(
        ["div", "span", "b", "i", "s", "small", "bdi", "table", "tr", "th", "td", "pre"], {"style", "title"}
    ),
    "svg": {"viewbox", "style", "role"},
    "g": set(),
    "title": set(),
    "rect": {"x", "y", "width", "height", "fill", "fill-opacity", "stroke", "stroke-width"},
    "text": {"x", "y", "font-size", "fill"},
    "polyline": {"points", "fill", "stroke", "stroke-width", "stroke-dasharray"},
}


class Checked(HTMLParser):
    """Parses markup to allowed elements and attributes only, each closed where it was opened."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.open, self.texts = [], []
        self.feed(markup)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED, f"<{tag}>"
        assert {name for name, _ in attrs} <= ALLOWED[tag], (tag, attrs)
        style = dict(attrs).get("style") or ""
        assert re.fullmatch(r"[\w\s:;#.,%()-]*", style) and "url" not in style, style
        assert not HIDDEN.search("".join(value or "" for _, value in attrs))
        if tag not in ("rect", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        assert tag in ("rect", "polyline")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl):
        raise AssertionError(f"a declaration: {decl}")

    def handle_pi(self, data):
        raise AssertionError(f"an instruction: {data}")

    unknown_decl = handle_pi

    def handle_data(self, data):
        assert not HIDDEN.search(data), repr(data)
        self.texts.append(data)


@pytest.fixture(scope="module")
def hostile(pair):
    """An explorer whose tokenizer says nothing but hostile texts."""
    tokenizer = copy.copy(pair.tokenizer)

    def say(self, ids, **kwargs):
        return "".join(HOSTILE[int(i) % len(HOSTILE)] for i in ids)

    tokenizer.__class__ = type("Hostile", (type(tokenizer),), {"decode": say})
    return explore(
        replace(pair, tokenizer=tokenizer), "<b onclick=alert(1)>\u202eWhy?</b>\x00", prefill=FORBIDDEN.answer
    )


def html_of(explorer):
    panes = [
        explorer.status,
        explorer.history,
        explorer.timeline,
        explorer.candidates,
        explorer.round,
        explorer.comparison,
    ]
    return [pane.value for pane in [*panes, explorer.controls.cost]]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"compare": BARE},
        {"defender": "self-reminder"},
        {"alpha_union": 2.5, "threshold": 1},
        {"defender": "ssd-hardened", "prefill_tokens": 3, "threshold": 1},
    ],
)
def test_hostile_tokens_stay_text_in_every_view(hostile, change):
    hostile.set(**change)
    hostile.retracted.value = True
    assert hostile.error is None and bool(hostile.history.value) == (change.get("defender") == "ssd-hardened")
    for position in range(len(hostile.run.lines)):
        hostile.choose(position)
        for markup in html_of(hostile):
            Checked(markup)
    for number in range(rounds.frames(hostile.run.lines) if hostile.run.traced else 0):
        hostile.frame.value = number
        Checked(hostile.round.value)
    for button in hostile.strip.buttons:
        assert button.description and not HIDDEN.search(button.description + button.tooltip)
    parts = ["strip", "timeline", "token", "rounds", "retracted"] + ["comparison"] * (hostile.compare.value == BARE)
    shown = hostile.static(*parts)
    Checked(shown.html)
    assert "<svg" not in shown.html and not HIDDEN.search(shown.text)
    hostile.set(defender="ssd", compare=ONE, threshold=0.6)


def test_the_hostile_texts_were_there(hostile):
    hostile.set(max_new_tokens=40)
    said = {line["text"] for line in hostile.run.lines} | set(hostile.run.prefill)
    assert any("<script>" in text or "onerror" in text or "onclick" in text for text in said)
    seen = "".join(Checked(hostile.static("strip").html).texts)
    assert all(text in seen for text in said), "escaped, and not cut away"


def test_an_error_with_markup_in_it_stays_text(hostile, monkeypatch):
    def fail(*_):
        raise ValueError("<img src=x onerror=alert(1)>\u202e")

    monkeypatch.setattr(session, "decode", fail)
    with pytest.raises(ValueError, match="onerror"):
        hostile.set(max_new_tokens=33)
    texts = "".join(Checked(hostile.status.value).texts)
    assert texts.startswith("✘ ValueError:") and "onerror" in texts
    assert words(hostile) == [] and hostile.code_area.value == "", "nothing stale is left standing"
    for markup in html_of(hostile):
        Checked(markup)


def test_what_cannot_be_seen_is_shown_and_nothing_sits_on_its_neighbour():
    assert visible("\u0301a") == "◌\u0301a" and visible("e\u0301") == "e\u0301"
    assert visible("\u2028") == "⟨U+2028⟩" and visible("") == ""


def test_pieces_are_the_texts_behind_one_another(pair):
    ids = pair.tokenizer.encode(FORBIDDEN.answer, add_special_tokens=False)
    assert "".join(pieces(pair.tokenizer, ids)) == FORBIDDEN.answer
    assert pieces(pair.tokenizer, ids[1:], ids[0]) == pieces(pair.tokenizer, ids)[1:]


# ------------------------------------------------------------------------------------------------ what is shown


def test_the_strip_says_the_same_with_and_without_styles(fresh):
    run = fresh.run
    bare = re.sub(r' (style|title)="[^"]*"', "", strips.strip(run.lines, run.prefill))
    assert {"matched", "corrected", "insisted"} == {strips.how(line) for line in run.lines}, "all kinds occur here"
    for how, tag in (("corrected", "b"), ("insisted", "i")):
        marked = re.findall(rf"<{tag}><bdi>(.*?)</bdi></{tag}>", bare)
        assert marked == [line["text"].strip() for line in run.lines if strips.how(line) == how]
    switches = sum(a["scheme"] != b["scheme"] for a, b in zip(run.lines, run.lines[1:], strict=False))
    assert switches and len(re.findall(r"<small> [∩∪] </small>", bare)) == switches + 1
    plain = strips.strip_text(run.lines, run.prefill)
    assert re.sub(r"[\[\]{}‖∩∪:]|\s", "", plain) == re.sub(
        r"[:]|\s", "", "".join(run.prefill) + run.answer.text + "<|eos|>"
    )


def test_candidates_hold_what_matters_and_their_numbers_agree(fresh):
    for position, line in enumerate(fresh.run.lines):
        found = charts.candidates(line, fresh.run.texts(position))
        assert len(found) <= charts.SHOWN and sum(c.emitted for c in found) == sum(c.proposed for c in found) == 1
        assert line["target_top"][0] in [c.token for c in found]
        inside: list[Any] = [c.composite for c in found if c.inside]
        assert inside == sorted(inside, reverse=True) and [c.inside for c in found] == sorted(
            (c.inside for c in found), reverse=True
        )
        c: Any
        for c in found:
            if None not in (c.target, c.draft, c.composite):
                assert c.composite == pytest.approx(c.target + line["alpha"] * (c.draft - c.target), abs=1e-5)


def test_the_timeline_is_that_of_the_trace(fresh):
    lines = fresh.run.lines
    svg = charts.timeline(lines, chosen=3)
    assert svg.count("<g>") == len(lines) and svg.count('fill-opacity="0.22"') == sum(
        x["scheme"] == "union" for x in lines
    )
    assert svg.count(">✓</text>") == sum(x["match"] for x in lines)
    text = charts.timeline_text(lines)
    assert text.count("✓") == sum(x["match"] for x in lines)
    assert text.count("/") - 1 == -(-len(lines) // fresh.settings.config.bin_size), "one entry a bin"


def test_every_token_stands_above_its_match_ratio_and_threshold(fresh):
    lines = fresh.run.lines
    for button, line in zip(fresh.strip.buttons, lines, strict=True):
        drawn = next(name for name in button._dom_classes if name.startswith("ssd-r"))
        assert drawn.rstrip("e") == f"ssd-r{round(100 * line['match_ratio'])}-{round(100 * line['threshold'])}"
        assert f".{drawn}::after" in fresh.strip.sheet.value
    ends = [any(name.endswith("e") for name in button._dom_classes) for button in fresh.strip.buttons]
    assert sum(ends) == -(-len(lines) // fresh.settings.config.bin_size), "one bin, one full bar"
    assert "calc(100% - 2px) 11.4px" in charts.under_css(["ssd-under ssd-r57-60e"]), "0.57 of 20 pixels"


def test_the_prefill_stands_in_grey_before_the_answer(fresh):
    given = [child for child in fresh.strip.box.children if "ssd-given" in child._dom_classes]
    assert [child.description for child in given] == [*(piece.strip() for piece in fresh.run.prefill), "‖"]
    assert all(child.disabled and child.style.text_color == "#808080" for child in given)
    assert list(fresh.strip.box.children) == [*given, *fresh.strip.buttons]
    fresh.set(prefill_tokens=0)
    assert list(fresh.strip.box.children) == fresh.strip.buttons


def test_a_probability_smaller_than_the_rounding_of_f_is_unknown_and_not_0():
    f = {1: np.float32(0.2) * np.float32(0.35), 2: np.float32(0.2) * np.float32(0.35) + np.float32(8e-4)}
    target, draft = {1: float(np.float32(0.35)), 2: float(np.float32(0.35))}, {}
    charts._solve(target, draft, {token: float(value) for token, value in f.items()}, 0.8)
    assert 1 not in draft and draft[2] == pytest.approx(1e-3, rel=1e-3)


def test_bars_are_logarithmic_and_say_what_lies_outside(fresh):
    for position, line in enumerate(fresh.run.lines):
        found = charts.candidates(line, fresh.run.texts(position))
        target, draft = charts.others(found)
        assert target == pytest.approx(1 - sum(c.target or 0 for c in found), abs=1e-6) and 0 <= draft <= 1
        shown = charts.candidates_html(line, fresh.run.texts(position))
        assert "all others" in shown and shown.count("<tr>") == len(found) + 2
        inside: Any = [c for c in found if c.inside and line["scheme"] == "union"]
        unknown = [c for c in inside if c.target is None or c.draft is None]
        assert len(unknown) <= 2, "P for all of V, but where it is smaller than the rounding of F"
        assert 0 not in [p for c in inside for p in (c.target, c.draft)], "0 is written for an exact 0 alone"
    widths = [
        int(re.findall(r"width:(\d+)px", charts._bar(value, "red"))[1]) for value in (1, 0.1, 0.01, 1e-5, 0, -0.3)
    ]
    assert widths == [charts.BAR, round(0.75 * charts.BAR), charts.BAR // 2, 0, 0, 0]
    assert "≤ 0.003" in charts._bar(None, "red", 0.003)


def test_the_rounds_emit_the_answer(fresh):
    lines, lookahead = fresh.run.lines, fresh.settings.config.lookahead
    every = rounds.rounds(lines)
    assert [line for part in every for line in part] == lines
    assert all(len(part) <= lookahead and all(line["match"] for line in part[:-1]) for part in every)
    assert fresh.frame.max == rounds.frames(lines) - 1 == 2 * len(every) - 1
    for number, part in enumerate(every):
        before, after = (rounds.frame(lines, 2 * number + i, lookahead, fresh.run.prefill) for i in (0, 1))
        assert (
            "draft proposes</b>" in before and "accepted" not in before and "corrected" not in before.split("<table")[1]
        )
        assert after.count("accepted") == sum(line["match"] for line in part)
        assert after.count("not reached") == lookahead - len(part)


def test_what_was_taken_back_is_shown_on_request_and_in_its_rounds(fresh):
    fresh.set(defender="ssd-hardened", prefill_tokens=5)
    run, decoded = fresh.run, fresh.session.decoded
    assert run.taken_back >= 3 and f"{run.taken_back} taken back" in fresh.status.value
    assert len(words(fresh)) == len(run.lines) == len(run.answer.token_ids)
    assert "<s " not in strips.strip(run.lines) and fresh.history.value == "" and fresh.retracted.layout.display is None
    fresh.retracted.value = True
    struck = re.findall(r"<s [^>]*><\w+ [^>]*><bdi>(.*?)</bdi></\w+></s>", fresh.history.value)
    assert struck == [line["text"].strip(" ") or "␣" for line in run.history if line["retracted"]]
    assert fresh.static("retracted").text.count("~") == 2 * (run.taken_back + 1), "and one in the legend"
    frames = [rounds.frame_text(run.history, 2 * i + 1, 3, run.prefill) for i in range(rounds.frames(run.history) // 2)]
    assert sum(frame.count("then taken back") for frame in frames) == run.taken_back
    end = max(i for i, frame in enumerate(frames) if "then taken back" in frame)
    again = rounds.rounds(run.history)[end + 1][0]
    assert again["position"] == min(line["position"] for line in run.history if line["retracted"])
    assert (
        rounds.standing(run.history, rounds.rounds(run.history)[-1])
        == run.lines[: len(run.lines) - len(rounds.rounds(run.history)[-1])]
    )
    assert fresh.session.decoded == decoded, "to look decodes nothing"
    fresh.set(defender="ssd")
    assert fresh.history.value == "" and fresh.retracted.layout.display == "none"
    fresh.retracted.value = False


@pytest.mark.parametrize(
    ("left", "right"),
    [([1, 2, 3, 4, 5], [9, 2, 3, 4, 8]), ([], [1]), ([1, 2], [1, 2]), ([1], [2]), ([1, 2, 3, 4], [2, 3, 4])],
)
def test_what_is_not_marked_is_the_same(left, right):
    first, second = strips.differing(left, right)
    same = [t for t, differs in zip(left, first, strict=True) if not differs]
    assert same == [t for t, differs in zip(right, second, strict=True) if not differs]
    assert (left == right) == (not any(first + second))


def test_two_answers_beside_each_other(fresh):
    fresh.set(compare=BARE)
    assert fresh.beside.settings.defender == "none" and not fresh.beside.traced
    assert fresh.comparison.value.count("«") == fresh.comparison.value.count("»") >= 3  # one is the legend's
    fresh.keep_answer().set(compare=KEPT)
    assert "«" not in fresh.comparison.value.replace("«differs»", ""), "the kept answer is the same one"
    fresh.set(threshold=0.0)
    assert fresh.beside.settings.config.threshold == 0.6 and fresh.comparison.value.count("«") > 1


@pytest.mark.parametrize("defender", ["none", "self-reminder", "self-exam", "ppl", "safedecoding", "draft-only"])
def test_an_answer_without_a_trace_is_shown(fresh, defender):
    fresh.set(defender=defender)
    assert fresh.error is None and fresh.run.answer.trace is None
    assert "".join(line["text"] for line in fresh.run.lines).startswith(fresh.run.answer.text[:30])
    assert len(words(fresh)) == len(fresh.run.answer.token_ids)
    assert (
        "no trace" in fresh.candidates.value and "no trace" in fresh.round.value and "ratio" not in fresh.timeline.value
    )
    assert all(name in fresh.status.value for name in fresh.run.answer.notes)
    assert fresh.static().pngs == [] and fresh.controls.threshold.disabled
    alone = fresh.static("timeline", "token")
    assert "No timeline, token: this defence has no trace" in alone.text and FORBIDDEN.question[:40] in alone.html
    fresh.set(defender="ssd")
    assert not fresh.controls.threshold.disabled and "match ratio" in fresh.timeline.value


def test_the_static_twin_holds_strip_table_and_charts(fresh):
    shown = fresh.static("strip", "timeline", "token", "rounds")
    assert [png[:4] for png in shown.pngs] == [b"\x89PNG"] * 2
    assert FORBIDDEN.question[:60] in shown.text and repr(shown) == shown.text
    with pytest.raises(ValueError, match="unknown part 'film'"):
        fresh.static("film")
    with pytest.raises(ValueError, match="nothing to compare"):
        fresh.static("comparison")


def test_long_prompts_are_clipped(fresh):
    fresh.set(question="Why? " * 60)
    assert len(fresh.static("strip").text.split("\n")[0]) <= 72
    assert all(len(option) <= 72 for option in fresh.controls.picker.options)


def test_the_status_says_what_the_answer_did(fresh):
    told = fresh.grade
    assert f"tells {told.told} of {told.new_facts} facts" in fresh.status.value
    fresh.set(question="What is 2 + 2?")
    assert fresh.grade is None and "facts" not in fresh.status.value and fresh.controls.picker.value == OWN


def test_the_explorer_asks_the_questions_of_the_pairs_own_world(pair):
    kitchen: Any = explore(replace(pair, spec=replace(pair.spec, world="kitchen")), prefill=3)
    assert kitchen.controls.item.answer.startswith(kitchen.settings.prefill) and kitchen.settings.prefill_tokens == 3
    assert f"tells {kitchen.grade.told} pieces of a recipe" in kitchen.status.value


# ------------------------------------------------------------------------------------------------ moving a control


def test_a_slider_decodes_once_it_rests(fresh):
    before, decoded = words(fresh), fresh.session.decoded
    for value in (9, 8, 7, 6, 5, 4, 3):
        fresh.controls.prefill_tokens.value = value
    assert "ssd-busy" in fresh._dom_classes
    assert fresh.wait(PATIENCE)
    assert fresh.session.decoded == decoded + 1 and words(fresh) != before
    assert fresh.run.settings.prefill_tokens == 3 and "ssd-busy" not in fresh._dom_classes
    expected = decode(fresh.session.pair, fresh.settings)
    assert [line["token"] for line in fresh.run.lines] == expected.answer.token_ids


def test_looking_does_not_decode(fresh):
    fresh.set(compare=BARE)
    decoded = fresh.session.decoded
    fresh.strip.buttons[5].click()
    assert fresh.position.value == 5 == fresh.strip.chosen
    fresh.position.value = 8
    assert "#8 " in fresh.candidates.value and "ssd-chosen" in fresh.strip.buttons[8]._dom_classes
    fresh.play.value = 3
    assert fresh.frame.value == 3 and "Round 2 " in fresh.round.value
    fresh.tabs.selected_index = 2
    fresh.keep.click()
    for choice in (ONE, KEPT, BARE):
        fresh.compare.value = choice
    assert fresh.wait(0) and "ssd-busy" not in fresh._dom_classes
    assert fresh.session.decoded == decoded


def test_a_known_answer_comes_back_at_once_and_without_decoding(fresh):
    first = words(fresh)
    fresh.set(alpha_union=2.0, threshold=1.0)
    decoded = fresh.session.decoded
    fresh.controls.put(alpha_union=0.8, threshold=0.6)
    assert fresh.wait(0) and words(fresh) == first and fresh.session.decoded == decoded
    fresh.set(defender="none", threshold=0.2)
    decoded = fresh.session.decoded
    fresh.set(threshold=0.9)
    assert fresh.session.decoded == decoded, "the target alone has no threshold"


def test_the_latest_wish_wins_and_stops_the_one_before(fresh, monkeypatch):
    begun, go = threading.Event(), threading.Event()
    seen = []

    def slow(pair, settings, stop):
        seen.append(settings.bin_size_now)
        if len(seen) == 1:
            begun.set()
            assert go.wait(PATIENCE)
        return decode(pair, settings, stop)

    monkeypatch.setattr(Settings, "bin_size_now", property(lambda self: self.config.bin_size), raising=False)
    monkeypatch.setattr(session, "decode", slow)
    fresh.controls.bin_size.value = 4
    assert begun.wait(PATIENCE)
    shown = words(fresh)
    assert "decoding" in fresh.status.value and "b 4" in fresh.status.value and "the one before" in fresh.status.value
    fresh.controls.bin_size.value = 5
    time.sleep(1.1 * fresh._latest.delay)  # the slider rests
    go.set()
    assert fresh.wait(PATIENCE) and seen == [4, 5]
    assert fresh.run.settings.config.bin_size == 5
    first = replace(fresh.settings, config=replace(fresh.settings.config, bin_size=4))
    assert fresh.session.known(first) is None, "it was stopped, not finished and thrown away"
    assert shown


def test_a_control_that_moves_while_a_known_answer_is_shown_stops_the_decoding(fresh, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def slow(pair, settings, stop):
        begun.set()
        assert go.wait(PATIENCE)
        return decode(pair, settings, stop)

    known = words(fresh)
    monkeypatch.setattr(session, "decode", slow)
    fresh.controls.bin_size.value = 11
    assert begun.wait(PATIENCE)
    fresh.controls.bin_size.value = 7
    assert words(fresh) == known and "ssd-busy" not in fresh._dom_classes
    go.set()
    assert fresh.wait(PATIENCE) and words(fresh) == known and fresh.run.settings.config.bin_size == 7


def test_an_error_is_shown_and_forgotten_with_the_next_answer(fresh):
    fresh.controls.question.value = "   "
    assert fresh.wait(PATIENCE)
    assert "the question is empty" in fresh.status.value and isinstance(fresh.error, ValueError)
    with pytest.raises(ValueError, match="no answer"):
        fresh.static()
    fresh.controls.question.value = "Where is the moon library?"
    assert fresh.wait(PATIENCE) and fresh.error is None and "empty" not in fresh.status.value and words(fresh)


def test_picking_a_question_brings_its_own_answer(fresh):
    label, item = list(fresh.controls.items.items())[-1]
    fresh.controls.picker.value = label
    assert fresh.wait(PATIENCE) and fresh.run.settings.question == item.question
    assert fresh.settings.prefill == item.answer and fresh.settings.prefill_tokens == 10


def test_the_controls_refuse_what_they_do_not_have(fresh):
    for wrong in ({"alpha": 1}, {"alpha_union": 7}, {"defender": "prayer"}, {"compare": "something"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fresh.set(**wrong)
    with pytest.raises(ValueError, match="pass the text itself"):
        explore(fresh.session.pair, "My own?", prefill=5)


def test_sliders_stand_on_their_steps_as_a_browser_would_put_them(fresh):
    for given, snapped in [(0.5039, 0.5), (0.5261, 0.55), (2.98, 3.0), (0.8, 0.8)]:
        fresh.set(alpha_union=given)
        assert fresh.settings.config.alpha_union == fresh.run.settings.config.alpha_union == snapped


def test_own_text_own_prefill_and_own_settings(pair):
    config = replace(pair.config, alpha_union=4.0, lookahead="auto", threshold=0.5)
    opened: Any = explore(pair.with_config(config), "How do I brew it?", prefill="Sure, here is")
    assert opened.settings.prefill_tokens == len(pair.tokenizer.encode("Sure, here is"))
    assert opened.run.answer.prefill == "Sure, here is" and opened.controls.picker.value == OWN
    assert opened.settings.config == replace(config, lookahead=3)
    opened.set(alpha_union=1.0)
    opened.controls.reset.click()
    assert opened.wait(PATIENCE) and opened.settings.config.alpha_union == 4.0


def test_the_explorer_is_a_widget_with_handles_for_tests(fresh):
    assert issubclass(type(fresh), ipywidgets.VBox) and "ssd-explorer" in fresh._dom_classes
    for name, control in fresh.controls.deciding.items():
        assert any(c.startswith("ssd-") for c in control._dom_classes), name
    assert all("ssd-token" in button._dom_classes for button in fresh.strip.buttons)
    assert "tokens" in repr(fresh)


# ------------------------------------------------------------------------------------------------ decoding and stopping


@pytest.mark.parametrize(
    "defender", ["ssd", "none", "safedecoding", pytest.param("smoothllm", marks=pytest.mark.slow), "draft-only"]
)
def test_every_defence_can_be_stopped_and_leaves_the_models_alone(pair, defender):
    settings = Settings(FORBIDDEN.question, pair.config, FORBIDDEN.answer, 10, defender, 30)
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(Stopped):
        decode(pair, settings, stop)
    assert len(asked) == 6
    assert not pair.target.get_input_embeddings()._forward_pre_hooks
    assert len(decode(pair, settings).lines) > 5


def test_stopping_one_thread_does_not_stop_another(pair):
    settings = Settings(FORBIDDEN.question, pair.config, max_new_tokens=5)
    with session.stoppable([pair.target, pair.draft], lambda: True):
        found = []
        other = threading.Thread(target=lambda: found.append(decode(pair, settings)))
        other.start()
        other.join(PATIENCE)
    assert len(found[0].lines) == 5


def test_the_latest_job_waits_for_rest_and_the_thread_ends():
    done = []
    latest = Latest(lambda job, stop: done.append(job), delay=0.05)
    for job in range(5):
        latest.ask(job)
    assert latest.wait(PATIENCE) and done == [4] and latest._thread is None
    latest.ask(9)
    latest.cancel()
    assert latest.wait(PATIENCE) and done == [4]


def test_a_slider_that_goes_on_moving_is_answered_now_and_then(monkeypatch):
    done, told = [], []

    def work(job, stop):
        time.sleep(0.01)
        told.append(stop())
        done.append(job)

    monkeypatch.setattr("ssd_lib.show.latest.LIVE", 0.1)
    latest = Latest(work, delay=10.0)  # it never rests
    end = time.monotonic() + PATIENCE
    for job in range(10**6):
        latest.ask(job)
        if len(done) > 2 or time.monotonic() > end:
            break
        time.sleep(0.005)
    assert len(done) > 2 and done == sorted(done) and not any(told[:1]), "what is at work has time to end"
    latest.cancel()
    assert latest.wait(PATIENCE)


def test_a_job_is_told_to_stop_when_another_is_asked_for():
    told, begun = [], threading.Event()

    def work(job, stop):
        begun.set()
        limit = time.monotonic() + PATIENCE
        while job == "first" and not stop() and time.monotonic() < limit:
            time.sleep(0.001)
        told.append((job, stop()))

    latest = Latest(work, delay=0.0)
    latest.ask("first")
    assert begun.wait(PATIENCE)
    latest.ask("second")
    assert latest.wait(PATIENCE) and told == [("first", True), ("second", False)]


def test_work_that_breaks_is_reported_and_does_not_block_what_comes_after(monkeypatch):
    done, broken = [], []
    monkeypatch.setattr(threading, "excepthook", lambda found: broken.append(str(found.exc_value)))

    def work(job, stop):
        if job == "bad":
            raise RuntimeError("broken")
        done.append(job)

    latest = Latest(work, delay=0.0)
    latest.ask("bad")
    thread: Any = latest._thread
    assert latest.wait(PATIENCE)
    latest.ask("good")
    assert latest.wait(PATIENCE) and done == ["good"]
    thread.join(PATIENCE)
    assert broken == ["broken"]


def test_only_so_many_answers_are_kept(pair, monkeypatch):
    monkeypatch.setattr(session, "KEPT", 2)
    kept = Session(pair)
    every = [Settings(FORBIDDEN.question, pair.config, max_new_tokens=n) for n in (1, 2, 3)]
    for settings in every:
        kept.run(settings)
    assert [kept.known(settings) is not None for settings in every] == [False, True, True]


# ------------------------------------------------------------------------------------------------ as code


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"alpha_union": 1.75, "alpha_intersection": 0.15, "bin_size": 5, "lookahead": 4, "threshold": 0.35},
        {"do_sample": True, "temperature": 1.3, "top_p": 0.85, "seed": 11},
        {"defender": "self-reminder", "prefill_tokens": 0},
        {"defender": "none", "question": "Who's \"there\"?\n\\ 'x'"},
        {"prefill_tokens": 40, "max_new_tokens": 20},
    ],
)
def test_the_code_makes_the_same_answer(fresh, change, capsys):
    fresh.set(max_new_tokens=24, **change) if "max_new_tokens" not in change else fresh.set(**change)
    names = {}
    exec(fresh.code, names)
    assert names["reply"].token_ids == fresh.run.answer.token_ids and names["reply"].text == fresh.run.answer.text
    assert capsys.readouterr().out.strip() == names["reply"].text.strip()
    assert fresh.code_area.value == fresh.code


def test_a_prefill_cut_inside_a_word_survives_as_code(pair):
    answer = "To brew the Moon-Goblet bane, unforgettably mixed"
    ids = pair.tokenizer.encode(answer, add_special_tokens=False)
    cuts = [n for n in range(1, len(ids)) if pair.tokenizer.encode(pair.tokenizer.decode(ids[:n])) != ids[:n]]
    for n in [*cuts[:1], 3]:
        settings = Settings("How?", pair.config, answer, n, max_new_tokens=4)
        names = {}
        exec(as_code(pair, settings).replace("print(reply.text)", ""), names)
        assert names["reply"].token_ids == decode(pair, settings).answer.token_ids


def test_code_for_a_pair_that_was_put_together_by_hand_asks_for_it(pair):
    own = replace(pair, spec=replace(pair.spec, name="mine"))
    code = as_code(own, Settings("Why?", pair.config, max_new_tokens=3))
    assert "load_pair" not in code
    names = {"pair": own}
    exec(code, names)
    assert len(names["reply"].token_ids) == 3
    other = replace(pair, spec=replace(pair.spec, draft="runs/mine"))
    assert "load_pair('toy', draft='runs/mine')" in as_code(other, Settings("Why?", pair.config))


# ------------------------------------------------------------------------------------------------ speed


def calls(act):
    """Calls of Python and of C that an act makes: what it costs, however busy the machine is."""
    profile = cProfile.Profile()
    profile.runcall(act)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_page_adds_little_to_the_answer_itself(pair):
    opened = explore(pair, FORBIDDEN, prefill=10).set(max_new_tokens=60, alpha_union=1.0)
    ids = session.written(pair, opened.settings)
    shown = calls(lambda: opened.set(alpha_union=1.05))
    options: dict[str, Any] = dict(prefill=ids, config=opened.settings.config, max_new_tokens=60, trace=True)
    bare = calls(lambda: answer(pair, FORBIDDEN.question, **options))
    assert shown < 1.3 * bare, (shown, bare)
