"""What the grader runs inside a student's kernel: the text of this file is sent there, and runs as a module without a name.

`load` takes the grader's own checks before the student's first cell runs. They stay in this module, and what they call of the
library is bound already: a student who defines `check` anew, or changes a name that a judge has imported, changes nothing
here. `patched` finds what was changed of the library behind it, and of what the library itself stands on.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from IPython import get_ipython

OWN = ("checks", "ssd_lib.show.exercises")
BOOKS: list[Any] = []
MODULES: dict[str, Any] = {}
"""The grader's own `checks`, which are imported by their names again while they judge."""
DEFINED: dict[str, list[str]] = {}
BELOW = """builtins json json.encoder math os posixpath tempfile contextlib inspect ast random statistics numpy numpy.linalg
    torch torch.nn.functional scipy.stats""".split()  # noqa: SIM905
"""What a judge compares, counts and writes with."""
BEFORE: dict[str, dict[str, Any]] = {}
"""Their functions before the student's first cell, by module."""
SEAL: list[str] = []
written = repr


class Nowhere(io.TextIOBase):
    """Where a student's prints go: they count nothing, and may have no end. IPython's history, which would keep them, puts a `write`
    of its own in this one's place; it stays out."""

    name = "<nowhere>"
    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def __setattr__(self, name: str, value: Any) -> None:
        pass


def sealed(value: Any) -> str:
    """A value as Python, with the seal that says that it comes from here."""
    return written((SEAL[0], value))


def load(seal: str, folder: str, chapter: str, defined: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Import the checks, and leave no trace of them: the student's own import gets modules of its own.

    Args:
        seal: A word that nobody else knows.
        folder: That holds the package `checks`.
        chapter: Its number.
        defined: Functions and classes of the library by module (`Class.method`).

    Returns:
        What the chapter asks: of each name its points and minutes.
    """
    SEAL.append(seal)
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
    for module in BELOW:
        if module in sys.modules:
            BEFORE[module] = {name: each for name, each in vars(sys.modules[module]).items() if callable(each)}
    sys.stdout = sys.stderr = Nowhere()
    return asked


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


def ask(word: str, name: str, arguments: str) -> dict[str, Any]:
    """Let the grader's checks judge what the student made.

    Args:
        word: `check`, `predict` or `question`.
        name: Such as "05.2".
        arguments: Python, as the chapter writes it, in the student's names.

    Returns:
        The `lines` that the check wrote, and an `error`, if any.
    """
    error, folder, before = None, tempfile.mkdtemp(), os.environ.get("SSD_SCORE_FILE")
    path = os.path.join(folder, "score.jsonl")
    try:
        answers = eval(f"[{arguments}]", get_ipython().user_ns)
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
    return {"lines": lines, "error": error}


def patched() -> list[str]:
    """Functions and classes of the library that are no longer those of its files, and functions below it that somebody replaced."""
    library = [f"{m}.{name}" for m, names in DEFINED.items() for name in names if not _own(m, name)]
    below = [f"{m}.{name}" for m, names in BEFORE.items() for name, each in names.items() if _replaced(m, name, each)]
    return library + below


def _replaced(module: str, name: str, before: Any) -> bool:
    """Whether a function was replaced by the notebook: a library that wraps one leaves it its name."""
    now = vars(sys.modules[module]).get(name) if module in sys.modules else before
    if now is before:
        return False
    return getattr(now, "__module__", None) == "__main__" or _name(now) != _name(before)


def _name(function: Any) -> Any:
    return getattr(function, "__name__", type(function))


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
