"""What the grader runs inside a student's kernel: the text of this file is sent there, and runs as a module without a name.

`load` takes the grader's own checks before the student's first cell runs. They stay in this module, and what they call of the
library is bound already: a student who defines `check` anew, or changes a name that a judge has imported, changes nothing
here. `patched` finds what was changed of the library behind it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

OWN = ("checks", "ssd_lib.show.exercises")
BOOKS: list[Any] = []
MODULES: dict[str, Any] = {}
"""The grader's own `checks`, which are imported by their names again while they judge."""
DEFINED: dict[str, list[str]] = {}


def load(folder: str, chapter: str, defined: dict[str, list[str]]) -> str:
    """Import the checks, and leave no trace of them: the student's own import gets modules of its own.

    Args:
        folder: That holds the package `checks`.
        chapter: Its number.
        defined: Functions and classes of the library by module (`Class.method`).

    Returns:
        As JSON what the chapter asks: of each name its points and minutes.
    """
    DEFINED.update(defined)
    sys.path.insert(0, folder)
    try:
        BOOKS.append(importlib.import_module("checks").BOOK)
        exercises = BOOKS[0].exercises(chapter)
        asked = {name: {"of": each.of, "minutes": each.minutes} for name, each in exercises.items()}
        asked |= {name: {} for name in BOOKS[0].quizzes(chapter)}
    finally:
        sys.path.remove(folder)
        MODULES.update(_taken_out())
    return json.dumps(asked)


def _taken_out() -> dict[str, Any]:
    """The modules of the checks that are loaded, no longer to be found by anybody."""
    taken = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(OWN)}
    with contextlib.suppress(AttributeError, KeyError):
        del sys.modules["ssd_lib.show"].exercises  # type: ignore[attr-defined]
    return taken


@contextlib.contextmanager
def _put_in() -> Iterator[None]:
    """The grader's own modules in place of the student's."""
    theirs = _taken_out()
    sys.modules.update(MODULES)
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(theirs)


def ask(word: str, name: str, arguments: str, names: dict[str, Any]) -> str:
    """Let the grader's checks judge what the student made.

    Args:
        word: `check`, `predict` or `question`.
        name: Such as "05.2".
        arguments: Python, as the chapter writes it.
        names: The student's names.

    Returns:
        As JSON the lines that the check wrote, and an error, if any.
    """
    error, folder, before = None, tempfile.mkdtemp(), os.environ.get("SSD_SCORE_FILE")
    path = os.path.join(folder, "score.jsonl")
    try:
        answers = eval(f"[{arguments}]", names)
        os.environ["SSD_SCORE_FILE"] = path
        with _put_in(), open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            getattr(BOOKS[0], word)(name, *answers)
    except NameError as missing:
        error = f"{missing}: the cell that makes it failed, or is missing"
    except BaseException as raised:  # an interrupt, too
        error = f"{type(raised).__name__}: {raised}"
    finally:
        os.environ.pop("SSD_SCORE_FILE", None)
        if before is not None:
            os.environ["SSD_SCORE_FILE"] = before
    lines = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
    return json.dumps({"lines": lines, "error": error})


def patched() -> str:
    """As JSON, functions and classes of the library that are no longer those of its files."""
    return json.dumps([f"{m}.{name}" for m, names in DEFINED.items() for name in names if not _own(m, name)])


def _own(module_name: str, name: str) -> bool:
    """Whether a loaded module has under this name what its file defines."""
    module = sys.modules.get(module_name)
    if module is None:
        return True
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part)
        if found is None:
            return False
    if isinstance(found, type):
        return found.__module__ == module_name
    found = getattr(found, "fget", None) or getattr(found, "func", None) or getattr(found, "__func__", found)
    code = getattr(inspect.unwrap(found), "__code__", None)
    return code is not None and os.path.realpath(code.co_filename) == os.path.realpath(str(module.__file__))
