"""The book's checks see mistakes: each mutant plants one in a chapter's solution, and its check must fail.

Mutants stand in tests/mutants/chapter_NN.py as (exercise, the mistake in a teacher's words, old text, new text).
`python -m tests.test_mutants 05` prints what the checks of chapter 05 say about each of them.
"""

from __future__ import annotations

import importlib
import linecache
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(path.stem[-2:] for path in ROOT.glob("notebooks/checks/chapter_*.py"))
FEWEST = 20


class Solution:
    """A chapter's solution, executed in this process; each cell can be run again from where it stood, with a change."""

    def __init__(self, chapter: str):
        (self.path,) = ROOT.glob(f"notebooks/solutions/{chapter}_*.ipynb")
        cells = nbformat.read(self.path, as_version=4).cells
        python = TransformerManager().transform_cell
        self.cells = [python(cell.source) for cell in cells if cell.cell_type == "code"][
            1:
        ]  # pytest has done the first
        self.names: dict[str, Any] = {"__name__": "solution"}
        self.before: list[dict[str, Any]] = []
        for number, source in enumerate(self.cells):
            self.before.append(dict(self.names))
            self.run(number, source)

    def committed(self) -> list[str]:
        """What its checks said when it was executed last."""
        cells = nbformat.read(self.path, as_version=4).cells
        return solved("".join(output.get("text", "") for cell in cells for output in cell.get("outputs", [])))

    def run(self, number: int, source: str) -> None:
        """Execute a cell's source; an error in it can show its lines."""
        name = f"<solution, cell {number}>"
        linecache.cache[name] = (len(source), None, list(source.splitlines(True)), name)
        exec(compile(source, name, "exec"), self.names)

    def failure(self, exercise: str, old: str, new: str) -> str | None:
        """What the exercise's check says with old text replaced by new; None where it passes."""
        (place,) = [number for number, source in enumerate(self.cells) if old in source]
        assert self.cells[place].count(old) == 1, f"stands more than once: {old!r}"
        checks = [number for number, source in enumerate(self.cells) if f'check("{exercise}"' in source]
        assert checks and checks[-1] >= place, f"{exercise} is not checked after {old!r}"
        self.names.clear()
        self.names.update(self.before[place])
        check = self.names.get("check")
        assert check, "`from checks import check` stands in the cell of imports, before the exercises"
        self.names["check"] = lambda name, *answers: check(name, *answers) if name == exercise else None
        try:
            for number in range(place, checks[-1] + 1):
                self.run(number, self.cells[number].replace(old, new) if number == place else self.cells[number])
        except AssertionError as error:
            if not str(error).startswith(f"{exercise}: "):
                raise
            return str(error)
        return None


def solved(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("✔")]


def mutants(chapter: str) -> list[tuple[str, str, str, str]]:
    return importlib.import_module(f"tests.mutants.chapter_{chapter}").MUTANTS


def strict() -> Any:
    return mock.patch.dict(os.environ, SSD_STRICT_CHECKS="1", MPLBACKEND="Agg")


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_checks_find_every_planted_mistake(chapter, monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "notebooks/solutions")
    with strict():
        solution = Solution(chapter)  # which passes its own checks
        assert solved(capsys.readouterr().out) == solution.committed(), "execute the solution again (make notebooks)"
        survivors = [name for exercise, name, *change in mutants(chapter) if not solution.failure(exercise, *change)]
    assert not survivors


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_mistakes_are_many_different_and_named(chapter):
    planted = mutants(chapter)
    assert len(planted) >= FEWEST
    assert len({name for _, name, *_ in planted}) == len(planted)
    assert len({(old, new) for _, _, old, new in planted}) == len(planted)
    assert all(exercise.startswith(f"{chapter}.") and old != new for exercise, _, old, new in planted)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "notebooks")]
    os.chdir(ROOT / "notebooks/solutions")
    for chosen in sys.argv[1:] or CHAPTERS:
        with strict():
            begun = time.perf_counter()
            opened = Solution(chosen)
            print(f"chapter {chosen}: the solution took {time.perf_counter() - begun:.1f} s")
            for asked, named, *changed in mutants(chosen):
                begun = time.perf_counter()
                said = opened.failure(asked, *changed)
                print(f"{time.perf_counter() - begun:5.1f} s  {said or 'SURVIVES ' + asked}   ← {named}")
