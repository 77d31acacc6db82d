"""`ssd grade` against notebooks that answer in place of the checks, change what lies below them, or print without an end.

On the small repository of tests/test_grade.py.
"""

import sys

import nbformat
import pytest
from typer.testing import CliRunner

from ssd_lib.cli import app
from ssd_lib.show import grading, regrading, scores
from tests.test_grade import RIGHT, SETUP, graded, notebook, repository

__all__ = ["graded", "repository"]  # fixtures
WRONG = ["def twice(x):\n    return 0\ncheck('05.1', twice)", "def four(x):\n    return 0\ncheck('05.2', four)"]
LINE = "{'name': name, 'passed': True, 'points': 99, 'of': 99, 'tries': 1, 'message': 'solved'}"
IMPOSTOR = f"""
class Impostor:
    def __getattr__(self, _):
        return self
    __getitem__ = __call__ = lambda self, *_, **__: self
    def ask(self, word, name, *_):
        return {{'lines': [{LINE}], 'error': None}}
    def patched(self):
        return []
    def sealed(self, value):
        return repr(('', value))
__import__ = lambda *_: Impostor()
"""
DUMPS = """
import json
dumps = json.dumps
def forged(told, *rest, **options):
    return dumps(dict(told, passed=True, points=99) if 'passed' in told else told, *rest, **options)
json.dumps = forged
"""


# ------------------------------------------------------------------------------------------------ without a kernel


def test_a_function_that_the_notebook_replaced_is_found_and_a_librarys_wrapper_is_not(monkeypatch):
    import functools
    import math

    before = {"math": {"isclose": math.isclose, "sqrt": math.sqrt}}
    monkeypatch.setattr(regrading, "BEFORE", before)
    assert regrading.patched() == []
    monkeypatch.setattr(math, "sqrt", functools.wraps(math.sqrt)(lambda x: x))
    assert regrading.patched() == []
    monkeypatch.setattr(math, "isclose", lambda *_, **__: True)
    assert regrading.patched() == ["math.isclose"]
    monkeypatch.delattr(math, "isclose")
    assert regrading.patched() == ["math.isclose"]


def test_a_students_text_is_one_line_without_control_characters():
    assert grading.one_line("a\n\x1b[2J\u202e" + "b" * 999)[:22] == "a ⟨U+001B⟩[2J⟨U+202E⟩b"
    assert len(grading.one_line("b" * 999)) == 300


def test_a_notebook_whose_cells_hold_no_text_is_no_notebook(repository, tmp_path):
    cell = '{"cell_type": "code", "source": 42, "outputs": [], "metadata": {}, "execution_count": null}'
    path = tmp_path / "05_ada.ipynb"
    path.write_text(f'{{"cells": [{cell}], "nbformat": 4, "nbformat_minor": 4, "metadata": {{}}}}', encoding="utf-8")
    with pytest.raises(ValueError, match="is no notebook"):
        grading.grade(path, repository=repository)


def test_whatever_one_notebook_does_the_others_are_graded(tmp_path, monkeypatch):
    def grade(path, student, *_):
        if student == "bob":
            raise RuntimeError("something that nobody has thought of")
        return scores.Sheet(student, path.name, "05", [scores.Row("05.1", "exercise", True, 1)])

    monkeypatch.setattr(grading, "grade", grade)
    for name in ("ada", "bob", "eve"):
        notebook(tmp_path / f"{name}.ipynb", [""])
    done = CliRunner().invoke(app, ["grade", str(tmp_path)])
    assert done.exit_code == 0 and "nobody has thought of" in done.output
    assert done.output.count("| 1 | 1 | 1 |") == 2


# ------------------------------------------------------------------------------------------------ in a kernel


@pytest.mark.slow
def test_nobody_answers_in_place_of_the_checks(graded):
    sheet, rows = graded([SETUP, IMPOSTOR, *WRONG])
    assert sheet.points == 0 and sheet.of == 3
    assert sheet.errors[-1] == "the notebook answers in place of the checks" and not rows["05.1"].passed


@pytest.mark.slow
def test_what_lies_below_the_checks_is_watched(graded):
    sheet, rows = graded([SETUP, DUMPS, *WRONG])
    assert sheet.points == 0 and rows["05.1"].message == "not graded: the notebook changes json.dumps"


@pytest.mark.slow
def test_names_that_hide_the_kernels_own_cost_nothing(graded):
    sheet, _ = graded([RIGHT[0], "get_ipython = json = repr = None", *RIGHT[2:]])
    assert sheet.points == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource is not there")
def test_who_prints_without_an_end_fills_no_memory(graded):
    """2 GB are printed, and neither the kernel nor the grader keeps them."""
    import resource

    grown = "import resource\nassert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000"
    begin = "import resource\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sheet, rows = graded([RIGHT[0], begin, "for _ in range(2000):\n    print('x' * 10**6)", grown, *RIGHT[2:]])
    assert sheet.errors == [] and rows["05.1"].passed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000


@pytest.mark.slow
def test_who_leaves_the_kernel_is_told_where(graded):
    sheet, _ = graded([RIGHT[0], "exit()", "import time\ntime.sleep(5)", *RIGHT[2:]])
    assert "kernel" in sheet.errors[-1] and "cell" in sheet.errors[-1]


@pytest.mark.slow
def test_a_notebook_without_cells_earns_nothing(repository, tmp_path):
    path = tmp_path / "05_ada.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    sheet = grading.grade(path, repository=repository)
    assert (sheet.points, sheet.of, {row.message for row in sheet.rows}) == (0, 3, {"did not run"})
