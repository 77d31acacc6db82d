"""Check cells: what a reader is told, try after try, and what is recorded."""

import json
import linecache
import sys

import ipywidgets
import numpy as np
import pytest

from ssd_lib.show import exercises
from ssd_lib.show.exercises import Book, equal
from ssd_lib.show.quiz import Quiz

JUDGES = """
from ssd_lib.show.exercises import Wrong, exercise, same

@exercise("77.1", "easy", 5, "Look at it.", "Add them.")
def total(sum_of):
    for numbers in ([], [1], [1, 2.5]):
        same(sum_of(numbers), sum(numbers), f"the sum of {numbers}")

@exercise("77.2", "open", 20, "Try more.", of=5)
def largest(number):
    if number < 100:
        raise Wrong(f"{number} of 100", points=number // 25)
    return f"{number} is large"
"""
QUIZ = """
[p1]
ask = "What is `1 + 1`, if a < b?"
options = ["one", "two & a half", "two"]
right = "c"
why = "So we <count>."
[q1]
ask = "Is it?"
options = ["yes", "no"]
right = "a"
why = "It is."
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one chapter, and where its results are recorded."""
    package = tmp_path / "own_checks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "chapter_77.py").write_text(JUDGES)
    (package / "chapter_77.toml").write_text(QUIZ)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(exercises, "EXERCISES", {})
    monkeypatch.delitem(sys.modules, "own_checks.chapter_77", raising=False)
    monkeypatch.setenv("SSD_SCORE_FILE", str(tmp_path / "score.jsonl"))
    monkeypatch.delenv("SSD_STRICT_CHECKS", raising=False)
    yield Book("own_checks", package)
    sys.modules.pop("own_checks.chapter_77", None)
    sys.modules.pop("own_checks", None)


def recorded(book):
    return [json.loads(line) for line in (book.folder.parent / "score.jsonl").read_text().splitlines()]


def test_hints_come_after_a_wrong_try_one_more_each_time(book, capsys):
    def said(answer):
        book.check("77.1", answer)
        return capsys.readouterr().out

    for unsolved in (..., lambda numbers: ...):
        assert said(unsolved) == "… 77.1: not solved yet\n"
    first, second, third = (said(lambda numbers: 1) for _ in range(3))
    assert "the sum of [] is not 1" in first and "Look at it." in first and "Add them." not in first
    assert "Look at it." in second and "hint 2 of 2: Add them." in second and third == second
    assert said(sum) == "✔ 77.1: solved\n"
    assert [(line["passed"], line["tries"]) for line in recorded(book)] == [
        (False, 0),
        (False, 0),
        (False, 1),
        (False, 2),
        (False, 3),
        (True, 4),
    ]
    assert list(recorded(book)[-1]) == ["name", "kind", "passed", "points", "of", "tries", "minutes", "message"]


@pytest.mark.parametrize(
    ("got", "wanted", "alike"),
    [
        (np.float32(2.44), 2.44, True),
        ((1, 2), [1, 2], True),
        ("2.44", 2.44, False),
        (["1"], [1], False),
        ("b", "b", True),
        (None, 1, False),
    ],
)
def test_numbers_are_compared_nearly_and_a_text_is_none(got, wanted, alike):
    assert equal(got, wanted) is alike


def test_a_readers_error_is_a_message_with_its_line(book, capsys, monkeypatch):
    source = "def mine(numbers):\n    return numbers[0] + 1\n"
    names, cell = {}, "<cell 12>"
    monkeypatch.setitem(linecache.cache, cell, (len(source), None, list(source.splitlines(True)), cell))
    exec(compile(source, cell, "exec"), names)
    book.check("77.1", names["mine"])
    assert "your code raises IndexError: list index out of range, in line 2: return numbers[0] + 1" in (
        capsys.readouterr().out
    )
    book.check("77.2", "many")
    assert "cannot read your answer (TypeError" in capsys.readouterr().out
    book.check("77.1", lambda numbers: None)
    assert "is a `return` missing?" in capsys.readouterr().out


def test_points_can_be_earned_in_part(book, capsys):
    book.check("77.2", 60)
    book.check("77.2", 120)
    assert "✔ 77.2: solved. 120 is large" in capsys.readouterr().out
    assert [(line["points"], line["of"], line["passed"]) for line in recorded(book)] == [(2, 5, False), (5, 5, True)]


def test_strict_checks_raise(book, monkeypatch):
    monkeypatch.setenv("SSD_STRICT_CHECKS", "1")
    for wrong in (..., len, lambda numbers: numbers.total):
        with pytest.raises(AssertionError, match=r"77\.1: "):
            book.check("77.1", wrong)
    book.check("77.1", sum)


def test_an_unknown_exercise_names_those_there_are(book):
    with pytest.raises(KeyError, match=r"77\.1, 77\.2"):
        book.check("77.9", 1)
    with pytest.raises(KeyError, match="no question '77.p1'"):
        book.question("77.p1")
    with pytest.raises(ValueError, match="choose of easy"):
        exercises.exercise("77.3", "dull", 1)


def test_a_prediction_is_committed_once_and_its_answer_is_not_shown_before(book, capsys):
    entry = book.quizzes("77")["77.p1"]
    result = exercises.Result("77.p1", "prediction")
    quiz = Quiz(result, entry)
    bundle = quiz._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    for text in (bundle["text/plain"], bundle["text/html"]):
        assert "two" in text and "count" not in text and "right" not in text
    assert "<code>1 + 1</code>, if a &lt; b?" in bundle["text/html"] and "two &amp; a half" in bundle["text/html"]
    assert isinstance(quiz, ipywidgets.Widget) and quiz.button.disabled
    quiz.radio.value = "a"
    assert not quiz.button.disabled
    quiz.button.click()
    assert "a is wrong, it is c" in quiz.said.value and "So we &lt;count&gt;" in quiz.said.value and quiz.radio.disabled
    quiz.commit("c")
    assert [(line["kind"], line["passed"], line["points"]) for line in recorded(book)] == [("prediction", False, 0)]
    assert "a is wrong" in Quiz(result, entry).said.value, "run again, the cell still shows what was committed"
    with pytest.raises(ValueError, match="choose of a, b, c"):
        quiz.commit("z")


def test_the_score_counts_all_three(book, capsys):
    book.check("77.1", sum)
    book.predict("77.p1", "b")
    capsys.readouterr()
    book.score("77")
    assert capsys.readouterr().out.splitlines() == [
        "exercises solved: 1 of 2 (open: 77.2)",
        "predictions right: 0 of 1",
        "questions right: 0 of 1 (open: 77.q1)",
    ]
    book.question("77.q1", "a")
    capsys.readouterr()
    book.score("77")
    assert "questions right: 1 of 1\n" in capsys.readouterr().out
