"""The parts of `python -m tests.reliability` in their short form, and the page's figures are those that were measured."""

import pytest

from tests.reliability import __main__ as reliability
from tests.reliability.missing import Missing
from tests.reliability.outcome import Outcome

PARTS = reliability.parts()


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")  # as a user runs it; the hostile tokenizer is a stand-in
@pytest.mark.parametrize("name", PARTS)
def test_a_part_in_its_short_form(name):
    try:
        outcome = PARTS[name].run(PARTS[name].SHORT, 0, False)
    except Missing as reason:
        pytest.skip(str(reason))
    assert outcome.failures == []
    assert outcome.tried > 0 and outcome.facts


def test_the_page_holds_the_figures_of_the_stored_results():
    text = reliability.PAGE.read_text(encoding="utf-8")
    before, after = f"<!-- measured: {reliability.COMMAND} -->", f"<!-- end of {reliability.COMMAND} -->"
    shown = text[text.index(before) + len(before) : text.index(after)].strip()
    assert shown == reliability.page(reliability.read(reliability.RESULTS)).strip()


class Part:
    """A part that says what it was asked."""

    TITLE, FULL, SHORT = "Counting", 7, 2

    @staticmethod
    def run(count, seed, progress):
        if seed == 9:
            raise Missing("no nine here")
        return Outcome(count, ["one | broke"] if seed == 1 else [], {"the seed": seed, "share": 0.123456})


def test_a_result_is_kept_and_asked_again_only_where_something_changed(tmp_path):
    asked = {"count": 7, "seed": 0, "code": "abc"}
    results = {"counting": reliability.measured(Part, asked)}
    reliability.keep(tmp_path / "results.json", results)
    stored = reliability.read(tmp_path / "results.json")
    assert stored == results and stored["counting"]["tried"] == 7
    assert reliability.done(stored, "counting", asked)
    for change in ({"seed": 1}, {"count": 8}, {"code": "abd"}):
        assert not reliability.done(stored, "counting", asked | change)
    assert not reliability.done(stored, "another", asked)


def test_the_page_says_what_failed_and_what_was_not_run():
    results = {
        str(seed): reliability.measured(Part, {"count": 1200, "seed": seed, "code": "abc"}) for seed in (0, 1, 9)
    }
    page = reliability.page(results)
    assert "| Counting | 1,200 | 0 |" in page and "| Counting | 1,200 | 1 |" in page
    assert "- failed: one | broke" in page and "| share | 0.123 |" in page
    assert "not run here" in page and "no nine here" in page and not reliability.done(results, "9", {})
