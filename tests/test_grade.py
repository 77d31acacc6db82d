"""`ssd grade`: a notebook earns what the grader's own checks say of it, whatever it says of itself.

The kernel's tests run on a small repository of their own, whose checks keep to what chapters rely on: `check`, `predict` and
`question`, and one line of JSON in SSD_SCORE_FILE for each.
"""

import csv
import io
import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from ssd_lib.cli import app
from ssd_lib.show import grading, regrading, scores
from ssd_lib.show.grading import Limits, grade
from ssd_lib.show.scores import Row, Sheet

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = """
import json, os
from dataclasses import dataclass

@dataclass
class Exercise:
    judge: object
    of: float = 1
    minutes: int = 10

class Book:
    def __init__(self):
        self.tries = {}

    def exercises(self, chapter):
        from checks.chapter_05 import EXERCISES
        return EXERCISES

    def quizzes(self, chapter):
        return {"05.p1": {"right": "b"}, "05.q1": {"right": "a"}}

    def check(self, name, answer):
        exercise = self.exercises("05")[name]
        try:
            passed = exercise.judge(answer)
        except Exception as error:
            return self.line("exercise", name, False, exercise, f"raises {error}")
        self.line("exercise", name, passed, exercise, "solved" if passed else "not right")

    def predict(self, name, answer=None):
        if answer:
            self.line("prediction", name, answer == self.quizzes("05")[name]["right"], Exercise(None, 1, 0), answer)

    def question(self, name, answer=None):
        if answer:
            self.line("question", name, answer == self.quizzes("05")[name]["right"], Exercise(None, 1, 0), answer)

    def line(self, kind, name, passed, exercise, message):
        self.tries[name] = self.tries.get(name, 0) + 1
        told = {"kind": kind, "name": name, "passed": passed, "tries": self.tries[name], "minutes": exercise.minutes,
                "points": exercise.of * passed, "of": exercise.of, "message": message}
        if path := os.environ.get("SSD_SCORE_FILE"):
            with open(path, "a") as file:
                file.write(json.dumps(told) + "\\n")
"""
FILES = {
    "ssd_lib/__init__.py": "",
    "ssd_lib/maths.py": "def double(x):\n    return 2 * x\n",
    "ssd_lib/deep.py": "def double(x):\n    return 2 * x\n\ndef quadruple(x):\n    return double(double(x))\n",
    "ssd_lib/show/__init__.py": "",
    "ssd_lib/show/exercises.py": EXERCISES,
    "notebooks/checks/__init__.py": "from ssd_lib.show.exercises import Book\n\nBOOK = Book()\n"
    "check, predict, question = BOOK.check, BOOK.predict, BOOK.question\n",
    "notebooks/checks/chapter_05.py": "from ssd_lib.deep import quadruple\nfrom ssd_lib.maths import double\n"
    "from ssd_lib.show.exercises import Exercise\n\nEXERCISES = {\n"
    '    "05.1": Exercise(lambda f: f(4) == double(4)),\n'
    '    "05.2": Exercise(lambda f: f(4) == quadruple(4), of=2, minutes=30),\n}\n',
    "data/facts.txt": "some",
}
SETUP = "import sys\nsys.path[:0] = ['..', '.']\nfrom checks import check, predict, question"
RIGHT = [
    SETUP,
    'predict("05.p1", "b")',
    "def twice(x):\n    return x + x",
    'check("05.1", twice)',
    "def four(x):\n    return 4 * x",
    'check("05.2", four)',
    'question("05.q1", "c")',
]
CHAPTER = [SETUP, 'predict("05.p1")', 'check("05.1", twice)', 'check("05.2", four)', 'question("05.q1")']


def notebook(path, cells):
    """Write a notebook of code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    return path


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    notebook(root / "notebooks/05_book.ipynb", CHAPTER)
    return root


@pytest.fixture
def graded(repository, tmp_path):
    """Grades cells; returns the sheet and its rows by name."""

    def run(cells, **limits):
        sheet = grade(
            notebook(tmp_path / "ada.ipynb", cells), limits=Limits(**limits) if limits else None, repository=repository
        )
        return sheet, {row.name: row for row in sheet.rows}

    return run


# ------------------------------------------------------------------------------------------------ without a kernel


def cells(*sources):
    return [nbformat.v4.new_code_cell(source) for source in sources]


def test_calls_are_found_with_their_arguments():
    found = scores.calls_in(
        cells("%pip list\ncheck('05.2', mine, wait=3)", "x = (", "checks.predict('05.p1', 'b')\ncheck(name, 1)")
    )
    assert [(c.kind, c.name, c.arguments, c.cell) for c in found] == [
        ("exercise", "05.2", "mine, 3", 0),
        ("prediction", "05.p1", "'b'", 2),
    ]
    assert scores.calls_in(cells("check('five', 1)", "check()", "print('05.2')")) == []


def test_the_chapter_is_told_by_the_checks_then_by_the_name():
    calls = scores.calls_in(cells("check('04.2', a)\ncheck('05.2', a)\ncheck('05.3', a)"))
    assert scores.chapter_of(calls, "01_mine.ipynb") == "05"
    assert scores.chapter_of([], "04_mine.ipynb") == "04" and scores.chapter_of([], "mine.ipynb") is None


def test_students_are_named_after_their_file_or_folder(tmp_path):
    for name in ("ada.ipynb", "bob/04.ipynb", "bob/05.ipynb", ".ipynb_checkpoints/ada.ipynb"):
        notebook(tmp_path / name, [""])
    found = [(student, path.relative_to(tmp_path).as_posix()) for student, path in scores.submissions([tmp_path])]
    assert found == [("ada", "ada.ipynb"), ("bob", "bob/04.ipynb"), ("bob", "bob/05.ipynb")]
    assert scores.submissions([tmp_path / "ada.ipynb"]) == [("ada", tmp_path / "ada.ipynb")]
    (tmp_path / "empty/folder.ipynb").mkdir(parents=True)
    for missing in ("empty", "nobody.ipynb"):
        with pytest.raises(FileNotFoundError, match=missing):
            scores.submissions([tmp_path / missing])


SHEETS = [
    Sheet(
        "ada",
        "ada.ipynb",
        "05",
        [
            Row("05.1", "exercise", True, 1, 1, 2, 10, "solved"),
            Row("05.2", "exercise", of=2, message="=1|<b>"),
            Row("05.p1", "prediction", message="a is wrong", answered=True),
        ],
        minutes=0.5,
    ),
    Sheet("bob", "bob.ipynb", "05", [Row("05.1", "exercise", message="no")], ["cell 3: NameError: x"]),
    Sheet("bob", "bob4.ipynb", "04", [Row("04.1", "exercise", True, 1), Row("04.q1", "question")]),
]


def test_one_sheet_is_its_rows_and_several_are_a_row_a_student():
    one = list(csv.reader(io.StringIO(scores.as_text(SHEETS[:1], ".csv"))))
    assert one[0] == list(scores.COLUMNS) and one[1][:4] == ["05.1", "exercise", "True", "1"]
    assert one[-1][0] == "total" and one[-1][3:5] == ["1", "3"]
    several = list(csv.reader(io.StringIO(scores.as_text(SHEETS, ".csv"))))
    assert several[0] == ["student", "04.1", "05.1", "05.2", *scores.SUMS, "errors", "minutes"]
    assert several[1] == ["ada", "", "1", "0", "1", "3", "1", "1", "", "0.5"]
    assert several[2] == ["bob", "1", "0", "", "1", "2", "0", "1", "1 error, the first: cell 3: NameError: x", "0"]
    whole = json.loads(scores.as_text(SHEETS, ".json"))
    assert [(each["student"], each["points"], len(each["rows"])) for each in whole] == [
        ("ada", 1, 3),
        ("bob", 0, 1),
        ("bob", 1, 2),
    ]


def test_a_students_text_is_no_formula_and_no_markup():
    assert "'=1|<b>" in scores.as_text(SHEETS[:1], ".csv")
    table = scores.as_text(SHEETS[:1], ".md")
    assert r"=1\|\<b>" in table and len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1
    with pytest.raises(ValueError, match=r"not '\.txt'"):
        scores.as_text(SHEETS, ".txt")


def test_a_students_kernel_gets_no_key(monkeypatch, tmp_path):
    for name in (
        "DASHSCOPE_API_KEY",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "SSD_STRICT_CHECKS",
    ):
        monkeypatch.setenv(name, "secret")
    seen = grading.environment(tmp_path / "ssd", tmp_path / "home")
    assert "secret" not in seen.values() and seen["HOME"] == str(tmp_path / "home") and seen["PATH"]


def test_the_library_as_it_is_counts_as_untouched_and_a_patch_is_found(monkeypatch):
    """All of ssd_lib that the tests have imported: decorated functions, settings, commands."""
    from ssd_lib import ssd_generate  # noqa: F401
    from ssd_lib.decoding import loop
    from ssd_lib.experiments import stats

    defined = grading.definitions(ROOT / "ssd_lib")
    defined = {name: names for name, names in defined.items() if not hooked(name)}
    assert len([name for name in defined if name in sys.modules]) > 40
    monkeypatch.setattr(regrading, "DEFINED", defined)
    assert regrading.patched() == []
    monkeypatch.setattr(loop.Loop, "output", lambda self: None)
    monkeypatch.setattr(stats, "wilson", lambda *_: (0, 1))
    assert regrading.patched() == ["ssd_lib.decoding.loop.Loop.output", "ssd_lib.experiments.stats.wilson"]


def hooked(module):
    from conftest import SHAPES_CHECKED

    return module in SHAPES_CHECKED


def test_without_a_chapter_that_asks_there_is_nothing_to_grade(repository, tmp_path):
    path = notebook(tmp_path / "ada.ipynb", ["1"])
    for against, said in ((None, "say --against|Say --against"), ("77", "no chapter '77'")):
        with pytest.raises(ValueError, match=said):
            grade(path, against=against, repository=repository)
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(ValueError, match="is no notebook"):
        grade(tmp_path / "broken.ipynb", repository=repository)


def test_mistakes_on_the_command_line_give_one_line(tmp_path):
    for words, said in ((["nobody.ipynb"], "nobody.ipynb"), (["nobody.ipynb", "--out", "x.txt"], ".txt")):
        done = CliRunner().invoke(app, ["grade", *words])
        assert done.exit_code == 1 and said in done.stderr and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ in a kernel


def test_what_is_right_earns_its_points(graded):
    sheet, rows = graded(RIGHT)
    assert (sheet.chapter, sheet.points, sheet.of, sheet.errors) == ("05", 3, 3, [])
    assert (sheet.answered, sheet.asked) == (2, 2)
    assert rows["05.2"] == Row("05.2", "exercise", True, 2, 2, 1, 30, "solved", True)
    assert rows["05.p1"].passed and rows["05.p1"].kind == "prediction"
    assert not rows["05.q1"].passed and rows["05.q1"].message == "c"


@pytest.mark.slow
def test_after_a_crash_the_points_of_what_ran_are_kept(graded):
    crash = [*RIGHT[:4], "1 / 0", "undefined", 'check("05.2", four)', "import os\nos._exit(3)", RIGHT[-1]]
    sheet, rows = graded(crash)
    assert rows["05.1"].passed and rows["05.p1"].passed and sheet.points == sheet.answered == 1
    assert "'four' is not defined" in rows["05.2"].message and rows["05.q1"].message == "did not run"
    assert sheet.errors[:2] == [
        "cell 4: ZeroDivisionError: division by zero",
        "cell 5: NameError: name 'undefined' is not defined",
    ]
    assert sheet.errors[-1] == "cell 7 ended the kernel"


CHEATS = {
    "a check of one's own": "def check(name, answer):\n    print('✔', name)",
    "a score file of one's own": "import json, os\nfor name in ('05.1', '05.2'):\n    line = {'kind': 'exercise', 'name': name, "
    "'passed': True, 'tries': 1, 'points': 9, 'of': 9, 'minutes': 1, 'message': 'solved'}\n"
    "    open(os.environ['SSD_SCORE_FILE'], 'a').write(json.dumps(line) + '\\n')",
    "another function in the check": "check('05.1', lambda x: 2 * x)",
    "checks without a check": "import checks\nchecks.BOOK.check = lambda *_: None\n"
    "checks.BOOK.exercises('05')['05.1'].judge = lambda f: True",
    "the module of the checks": "import sys\nsys.modules['checks'] = sys.modules['json']",
    "a name that a judge has imported": "import ssd_lib.maths\nssd_lib.maths.double = lambda x: 0",
    "a name behind it": "import ssd_lib.deep\nssd_lib.deep.double = lambda x: 0",
    "the checks' file": "open('checks/chapter_05.py', 'a').write('EXERCISES = {}')",
    "the library's file": "open('../ssd_lib/maths.py', 'w').write('def double(x):\\n    return 0')",
    "the data": "open('../data/facts.txt', 'w').write('others')",
    "a module that comes first": "open('checks/json.py', 'w').write('x = 1')",
}


@pytest.mark.slow
def test_who_changes_the_checks_gains_nothing(graded):
    """Every cheat, with an answer that is wrong: no point, in one kernel where they do not end the grading."""
    wrong = ["def twice(x):\n    return 0", "def four(x):\n    return 0"]
    for name, cheat in CHEATS.items():
        sheet, rows = graded([SETUP, *wrong, cheat, 'check("05.1", twice)', 'check("05.2", four)'])
        assert sheet.points == 0, name
        assert rows["05.1"].message.startswith(("not right", "not graded: the notebook changes ")), name
        assert sheet.of == 3, "what an exercise is worth is the grader's to say"


@pytest.mark.slow
def test_a_check_that_is_gone_is_asked_at_the_end_and_a_click_is_no_answer(graded):
    sheet, rows = graded([RIGHT[0], 'predict("05.p1")', RIGHT[2], RIGHT[4]])
    assert rows["05.1"].passed and rows["05.2"].passed
    assert rows["05.p1"].message == 'no answer in the cell: write predict("05.p1", "a")'


@pytest.mark.slow
def test_time_runs_out_for_a_cell_and_for_all(graded, monkeypatch):
    monkeypatch.setattr(grading, "PATIENCE", 2)
    endless = ["while True:\n    pass", *RIGHT[2:]]
    sheet, rows = graded([RIGHT[0], *endless], cell=0.03)
    assert rows["05.1"].passed and len(sheet.errors) == 1 and sheet.errors[0].startswith("cell 1: stopped after")
    slow = "def twice(x):\n    while True:\n        pass"
    sheet, rows = graded([RIGHT[0], slow, *RIGHT[4:]], cell=0.03)
    assert "KeyboardInterrupt" in rows["05.1"].message and rows["05.2"].passed
    stubborn = "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except BaseException:\n        pass"
    sheet, rows = graded([*RIGHT[:4], stubborn, *RIGHT[4:]], whole=0.1)
    assert rows["05.1"].passed and not rows["05.2"].passed and "does not answer" in sheet.errors[-1]


@pytest.mark.slow
def test_the_command_grades_a_folder_into_one_table(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(grading.grade, "__defaults__", (None, None, None, repository))
    monkeypatch.setenv("HF_TOKEN", "secret")
    leak = "import os\nassert 'HF_TOKEN' not in os.environ\nassert not os.listdir(os.path.expanduser('~/.cache'))"
    notebook(tmp_path / "in/ada.ipynb", RIGHT)
    notebook(tmp_path / "in/bob.ipynb", [RIGHT[0], leak, *RIGHT[2:4]])
    (tmp_path / "in/eve.ipynb").write_text("no notebook")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    done = CliRunner().invoke(app, ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out/scores.csv")])
    assert done.exit_code == 0, done.output
    lines = list(csv.reader((tmp_path / "out/scores.csv").open(encoding="utf-8")))
    assert lines[0] == ["student", "05.1", "05.2", *scores.SUMS, "errors", "minutes"]
    assert [line[:7] for line in lines[1:3]] == [
        ["ada", "1", "2", "3", "3", "2", "2"],
        ["bob", "1", "0", "1", "3", "0", "2"],
    ]
    assert lines[3][0] == "eve" and "is no notebook" in lines[3][-2]
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "notebooks/checks/chapter_04.py").exists(), reason="chapter 04 has no judges")
def test_a_chapters_own_solutions_earn_full_marks(tmp_path):
    """By the repository's own checks; a prediction counts by its letter."""
    solutions = nbformat.read(next(ROOT.glob("notebooks/solutions/04_*.ipynb")), as_version=4)
    sources = [cell.source for cell in solutions.cells if cell.cell_type == "code"]
    sheet = grade(notebook(tmp_path / "ada.ipynb", [*sources, "from checks import predict\npredict('04.p1', 'a')"]))
    assert not sheet.errors and sheet.points == sheet.of > 0, [row.message for row in sheet.rows]
    assert [row.name for row in sheet.rows if row.answered and row.kind != "exercise"] == ["04.p1"]


def test_nothing_of_a_run_stays(graded, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    graded(["1"] + RIGHT[:1] + ['check("05.1", 1)'])
    assert [name for name in os.listdir(tmp_path) if name.startswith("ssd-grade-")] == []
