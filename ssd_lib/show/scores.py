"""Score sheets: what a notebook calls, what its grading gave, and tables of it. Pure: nothing is run here.

`ssd grade` (ssd_lib/show/grading.py) fills a `Sheet` a notebook; several sheets are one table with a row a student.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KINDS = {"check": "exercise", "predict": "prediction", "question": "question"}
"""What a chapter calls, and the `kind` of the line that it writes."""
NAME = r"(\d\d)\.\w+"
SUMS = ("points", "of", "answered", "asked")
COLUMNS = ("name", "kind", "passed", "points", "of", "tries", "minutes", "message")


@dataclass(frozen=True)
class Call:
    """One call of `check`, `predict` or `question` in a notebook."""

    kind: str
    name: str
    arguments: str
    """As they are written, after the name."""
    cell: int


@dataclass
class Result:
    """How far a reader is with an exercise, a prediction or a question."""

    name: str
    kind: str
    passed: bool = False
    points: float = 0
    of: float = 1
    tries: int = 0
    minutes: int = 0
    message: str = ""


@dataclass
class Row(Result):
    """The same in a student's notebook."""

    answered: bool = False
    """The grader's check has judged it."""


@dataclass
class Sheet:
    """What one notebook earned."""

    student: str
    notebook: str
    chapter: str = ""
    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Cells that failed, and why a run ended early: one line each."""
    minutes: float = 0
    """How long the run took."""

    @property
    def points(self) -> float:
        """Of the exercises: predictions and questions are counted, not paid, so that nobody looks first."""
        return sum(row.points for row in self.rows if row.kind == "exercise")

    @property
    def of(self) -> float:
        return sum(row.of for row in self.rows if row.kind == "exercise")

    @property
    def answered(self) -> int:
        """Predictions and questions with an answer, right or wrong."""
        return sum(row.answered for row in self.rows if row.kind != "exercise")

    @property
    def asked(self) -> int:
        return sum(row.kind != "exercise" for row in self.rows)


def calls_in(cells: Iterable[Any]) -> list[Call]:
    """The calls of a notebook in their order; a cell that is no Python is passed over.

    Args:
        cells: The notebook's cells; text between them counts as a place, too.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    python = TransformerManager().transform_cell  # magics are calls
    found = []
    for place, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        try:
            tree = ast.parse(python(cell.source))
        except (SyntaxError, ValueError):
            continue
        found += [call for node in ast.walk(tree) if (call := _call(node, place))]
    return found


def _call(node: ast.AST, place: int) -> Call | None:
    if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
        return None
    name, called = node.args[0].value, node.func
    word = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if word not in KINDS or not (isinstance(name, str) and re.fullmatch(NAME, name)):
        return None
    arguments = [ast.unparse(each) for each in node.args[1:]]
    arguments += [ast.unparse(each.value) for each in node.keywords]
    return Call(KINDS[word], name, ", ".join(arguments), place)


def chapter_of(calls: Iterable[Call], file: str) -> str | None:
    """The chapter that most of a notebook's calls are of; else the number that its file's name begins with."""
    numbers = [call.name[:2] for call in calls]
    if numbers:
        return max(numbers, key=numbers.count)
    found = re.match(r"\d\d(?=\D)", file)
    return found[0] if found else None


def submissions(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Students and their notebooks: of a folder every notebook in it, named after its sub-folder, or else its file.

    Args:
        paths: Notebooks and folders.

    Raises:
        FileNotFoundError: Where there is no such notebook, or none in a folder.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*.ipynb")) if p.is_file() and ".ipynb_checkpoints" not in p.parts]
            if not inside:
                raise FileNotFoundError(f"no notebook (*.ipynb) in {path}")
            found += [(parts[0].removesuffix(".ipynb"), p) for p in inside for parts in [p.relative_to(path).parts]]
        elif path.is_file():
            found.append((path.stem, path))
        else:
            raise FileNotFoundError(f"no such notebook or folder: {path}")
    return found


# ------------------------------------------------------------------------------------------------ tables


def as_text(sheets: list[Sheet], suffix: str) -> str:
    """Sheets as a file's text: one sheet row by row, several as one table with a row a student.

    Args:
        sheets: At least one.
        suffix: `.csv`, `.md`, or `.json`, which always holds all rows of all sheets.

    Raises:
        ValueError: For another suffix.
    """
    if suffix == ".json":
        whole = [asdict(sheet) | {name: getattr(sheet, name) for name in SUMS} for sheet in sheets]
        return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    table = rows_of(sheets[0]) if len(sheets) == 1 else class_table(sheets)
    if suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([[_csv(value) for value in line] for line in table])
        return text.getvalue()
    if suffix == ".md":
        return "\n\n".join([_markdown(table), *filter(None, [error_lines(sheets)])]) + "\n"
    raise ValueError(f"a score sheet is .csv, .json or .md, not {suffix!r}")


def rows_of(sheet: Sheet) -> list[list[Any]]:
    """A sheet as a table: its rows, the sum, and the errors."""
    lines = [[asdict(row)[column] for column in COLUMNS] for row in sheet.rows]
    remark = "; ".join(filter(None, [f"{sheet.answered} of {sheet.asked} others answered", _errors(sheet)]))
    total = ["total", "exercise", "", sheet.points, sheet.of, "", round(sheet.minutes, 1), remark]
    return [list(COLUMNS), *lines, total]


def class_table(sheets: list[Sheet]) -> list[list[Any]]:
    """One row a student: points of each exercise and their sum, predictions and questions answered, errors, minutes of running.

    A student who handed in several chapters has all of them in the row; of the same chapter the last one counts.
    """
    names = sorted({row.name for sheet in sheets for row in sheet.rows if row.kind == "exercise"})
    lines = []
    for student in dict.fromkeys(sheet.student for sheet in sheets):
        own = list({sheet.chapter or sheet.notebook: sheet for sheet in sheets if sheet.student == student}.values())
        points = {row.name: row.points for sheet in own for row in sheet.rows}
        sums = [sum(getattr(sheet, name) for sheet in own) for name in SUMS]
        last = ["; ".join(filter(None, map(_errors, own))), round(sum(sheet.minutes for sheet in own), 1)]
        lines.append([student, *(points.get(name, "") for name in names), *sums, *last])
    return [["student", *names, *SUMS, "errors", "minutes"], *lines]


def _errors(sheet: Sheet) -> str:
    count = len(sheet.errors)
    return f"{count} error{'s' * (count > 1)}, the first: {sheet.errors[0]}" if count else ""


def error_lines(sheets: list[Sheet]) -> str:
    """All errors as a list in Markdown."""
    lines = [(sheet, error) for sheet in sheets for error in sheet.errors]
    return "\n".join(f"- {_cell(sheet.student)}: {_cell(error)}" for sheet, error in lines)


def _csv(value: Any) -> Any:
    """A student's text must not be a formula where the sheet is opened."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") and value else value


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"([|<`*_\[\]])", r"\\\1", " ".join(text.split()))


def _markdown(table: list[list[Any]]) -> str:
    lines = [[_cell(value) for value in line] for line in table]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
