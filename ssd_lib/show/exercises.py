"""Check cells of the book: they say whether an exercise is solved, what is wrong, and after each wrong try one hint more.

What is asked stands in a package beside the chapters (notebooks/checks): `chapter_NN.py` holds a judge for each exercise,
`chapter_NN.toml` predictions and questions. A `Book` reads it, counts tries and keeps the score. With SSD_STRICT_CHECKS=1, as
the solutions are run, an unsolved exercise raises; with SSD_SCORE_FILE each check and each committed answer becomes a line there.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
import tomllib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssd_lib.show.scores import Result

LEVELS = ("easy", "real", "open", "find the bug", "break it")
LONGEST = 200
"""Characters of a value that is shown."""


class Wrong(Exception):
    """What is wrong with an answer, in words that help. `points`: what it is worth all the same."""

    def __init__(self, message: str, points: float = 0):
        super().__init__(message)
        self.points = points


class Unsolved(Exception):
    """The answer is still `...`."""


@dataclass(frozen=True)
class Exercise:
    """An exercise: its judge raises `Wrong`, or returns what there is to say about a right answer."""

    name: str
    level: str
    minutes: int
    hints: tuple[str, ...]
    of: float
    judge: Callable[..., str | None]


EXERCISES: dict[str, Exercise] = {}
"""By name, such as "05.2"; a chapter's stand here once its module is imported."""


def exercise(name: str, level: str, minutes: int, *hints: str, of: float = 1) -> Callable[..., Any]:
    """Make a function the judge of an exercise.

    Args:
        name: Chapter and number, such as "05.2".
        level: One of `LEVELS`.
        minutes: That a reader needs, as in the exercise's heading.
        hints: Shown one more after each wrong try.
        of: Points for a right answer.
    """
    if level not in LEVELS:
        raise ValueError(f"exercise {name} is {level!r}: choose of {', '.join(LEVELS)}")

    def register(judge: Callable[..., str | None]) -> Callable[..., str | None]:
        EXERCISES[name] = Exercise(name, level, minutes, hints, of, judge)
        return judge

    return register


def expect(true: Any, message: str) -> None:
    """Raise `Wrong` with this message unless it is true."""
    if not true:
        raise Wrong(message)


def same(got: Any, wanted: Any, what: str) -> None:
    """Raise `Wrong` unless both are the same, numbers and arrays to 1e-4; what was wanted is not told.

    Args:
        got: A reader's value.
        wanted: The right one.
        what: What the value is, such as "the threshold before token 14".
    """
    expect(equal(got, wanted), f"{what} is not {clipped(got)}")


def equal(got: Any, wanted: Any) -> bool:
    """Whether two values are the same, numbers and arrays to 1e-4; a text is no number."""
    try:
        if {np.asarray(got).dtype.kind, np.asarray(wanted).dtype.kind} & {"U", "S"}:
            return bool(got == wanted)
        ours, theirs = np.asarray(got, float), np.asarray(wanted, float)
        return ours.shape == theirs.shape and bool(np.allclose(ours, theirs, atol=1e-4))
    except (TypeError, ValueError):
        return bool(got == wanted)


def clipped(value: Any) -> str:
    """A value as it is written in Python, not too long."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


@dataclass
class Book:
    """The exercises, predictions and questions of a package, and one reader's results."""

    package: str
    """A module `chapter_NN` a chapter, and `chapter_NN.toml` beside it."""
    folder: Path
    results: dict[str, Result] = field(default_factory=dict)

    def exercises(self, chapter: str) -> dict[str, Exercise]:
        """A chapter's exercises by name."""
        if (self.folder / f"chapter_{chapter}.py").exists():
            importlib.import_module(f"{self.package}.chapter_{chapter}")
        return {name: each for name, each in EXERCISES.items() if name.startswith(f"{chapter}.")}

    def quizzes(self, chapter: str) -> dict[str, dict[str, Any]]:
        """A chapter's predictions (`p1`, …) and questions (`q1`, …) by full name: `ask`, `options`, `right`, `why`."""
        path = self.folder / f"chapter_{chapter}.toml"
        entries = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {f"{chapter}.{name}": entry for name, entry in entries.items()}

    def check(self, name: str, *answers: Any) -> None:
        """Judge the answer to an exercise and print what is to be said about it.

        Args:
            name: Of the exercise, such as "05.2".
            answers: The reader's: values or functions. `...`, or a function that returns it, is not solved yet.

        Raises:
            KeyError: For an unknown name.
            AssertionError: Where the answer is missing or wrong and SSD_STRICT_CHECKS=1 is set.
        """
        asked = self.exercises(name.partition(".")[0])
        if name not in asked:
            raise KeyError(f"no exercise {name!r}: this chapter has {', '.join(asked) or 'none'}")
        exercise = asked[name]
        result = self.results.setdefault(name, Result(name, "exercise", of=exercise.of, minutes=exercise.minutes))
        mark, shown = self._judge(exercise, answers, result)
        record(result)
        if not result.passed and os.environ.get("SSD_STRICT_CHECKS") == "1":
            raise AssertionError(f"{name}: {result.message}")
        print("\n".join([f"{mark} {name}: {result.message}", *shown]))

    def _judge(self, exercise: Exercise, answers: tuple[Any, ...], result: Result) -> tuple[str, list[str]]:
        """Fill in the result; the mark in front of its message, and the hints behind it."""
        given = [Watched(each) if inspect.isroutine(each) else each for each in answers]
        result.passed, result.points = False, 0
        try:
            if any(each is ... for each in given):
                raise Unsolved
            remark = exercise.judge(*given)
        except Unsolved:
            result.message = "not solved yet"
            return "…", []
        except Wrong as wrong:
            result.message, result.points = str(wrong), wrong.points
        except Exception as error:
            result.message = self._raised(error)
        else:
            result.passed, result.points = True, exercise.of
            result.message = "solved" + (f". {remark}" if remark else "")
        result.tries += 1
        if result.passed:
            return "✔", []
        if any(isinstance(each, Watched) and each.returned_none for each in given):
            result.message += " (your function returned None: is a `return` missing?)"
        told = exercise.hints[: result.tries]
        return "✘", [f"  hint {n} of {len(exercise.hints)}: {hint}" for n, hint in enumerate(told, 1)]

    def _raised(self, error: Exception) -> str:
        """A reader's error in one line: its type, its text, and the last line of the reader's own that it went through."""
        ours = (Path(__file__).resolve().parents[1], self.folder, Path(sys.prefix), Path(sys.base_prefix))
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<frozen")
            and not any(Path(frame.filename).is_relative_to(folder) for folder in ours)
        ]
        said = f"{type(error).__name__}: {clipped_text(str(error))}"
        if not own:
            return f"the check cannot read your answer ({said})"
        return f"your code raises {said}, in line {own[-1].lineno}: {own[-1].line}"

    def predict(self, name: str, answer: str | None = None) -> None:
        """Show a prediction to commit to, before what it predicts is seen.

        Args:
            name: Such as "05.p1".
            answer: The letter of an option, to commit without the buttons.
        """
        self._ask("prediction", name, answer)

    def question(self, name: str, answer: str | None = None) -> None:
        """Show one of the chapter's closing questions; arguments as for `predict`, the name such as "05.q1"."""
        self._ask("question", name, answer)

    def _ask(self, kind: str, name: str, answer: str | None) -> None:
        from IPython.display import display

        from ssd_lib.show.quiz import Quiz

        asked = self.quizzes(name.partition(".")[0])
        if name not in asked or name.partition(".")[2][0] != kind[0]:
            raise KeyError(f"no {kind} {name!r}: this chapter has {', '.join(asked) or 'none'}")
        result = self.results.setdefault(name, Result(name, kind))
        quiz = Quiz(result, asked[name])
        if answer is not None:
            quiz.commit(answer)
        display(quiz)

    def score(self, chapter: str) -> None:
        """Print what of a chapter was solved, predicted and answered right, of how many."""
        asked = {"exercise": list(self.exercises(chapter)), "prediction": [], "question": []}
        for name in self.quizzes(chapter):
            asked["prediction" if name.partition(".")[2].startswith("p") else "question"].append(name)
        for kind, word in (("exercise", "solved"), ("prediction", "right"), ("question", "right")):
            found = {name: self.results.get(name, Result(name, kind)) for name in asked[kind]}
            right = sum(result.passed for result in found.values())
            left = [
                name for name, result in found.items() if not (result.passed or (result.tries and kind != "exercise"))
            ]
            print(f"{kind}s {word}: {right} of {len(found)}" + (f" (open: {', '.join(left)})" if left else ""))


class Watched:
    """A reader's function: it is unsolved where it returns `...`, and remembers whether it ever returned None."""

    def __init__(self, function: Callable[..., Any]):
        functools.update_wrapper(self, function)
        self.function = function
        self.returned_none = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        value = self.function(*arguments, **named)
        if value is ...:
            raise Unsolved
        self.returned_none |= value is None
        return value


def clipped_text(text: str) -> str:
    """The first line of a text, not too long."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"


def record(result: Result) -> None:
    """Append a result to the file that SSD_SCORE_FILE names, if any, as one line of JSON."""
    if path := os.environ.get("SSD_SCORE_FILE"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(vars(result), ensure_ascii=False) + "\n")
