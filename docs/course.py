"""What notebooks/course.md takes from the book itself: its exercises, and the mistakes that its checks were tried on.

`python -m docs.course` writes both between the page's markers: exercises from the decorators in notebooks/checks/chapter_NN.py,
mistakes from the names of the mutants in tests/mutants/chapter_NN.py, each of which a check was seen to refuse.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs import twins

ROOT = Path(__file__).resolve().parent.parent
PAGE = "notebooks/course.md"


def exercises(root: Path = ROOT) -> Iterator[tuple[str, str, int, float]]:
    """Name, level, minutes and points of every exercise, in the order of the book."""
    for path in sorted(root.glob("notebooks/checks/chapter_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "exercise":
                    name, level, minutes = (ast.literal_eval(argument) for argument in call.args[:3])
                    points = [ast.literal_eval(each.value) for each in call.keywords if each.arg == "of"]
                    yield name, level, minutes, (points or [1])[0]


def mistakes(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Exercise and mistake, for every mutant."""
    for path in sorted(root.glob("tests/mutants/chapter_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if "MUTANTS" in {getattr(target, "id", None) for target in targets}:
                yield from (_first_two(entry) for entry in _elements(node))


def _elements(node: Any) -> list[ast.Tuple]:
    return node.value.elts


def _first_two(entry: ast.Tuple) -> tuple[str, str]:
    return ast.literal_eval(entry.elts[0]), ast.literal_eval(entry.elts[1])


def chapters(root: Path = ROOT) -> dict[str, Path]:
    """Chapters by their number."""
    return {path.name[:2]: path for path in sorted(root.glob("notebooks/*.ipynb"))}


def exercise_table(root: Path = ROOT) -> str:
    """All exercises, a row a chapter: name, minutes, and points where they are more than one."""
    rows: dict[str, dict[str, list[str]]] = {}
    for name, level, minutes, points in exercises(root):
        worth = f", {points:g} points" if points != 1 else ""
        rows.setdefault(name[:2], {}).setdefault(level, []).append(f"{name} ({minutes} min{worth})")
    if not rows:
        return "No chapter has exercises that a judge checks yet."
    levels = ["easy", "real", "open", "find the bug", "break it"]
    lines = [f"| chapter | {' | '.join(levels)} |", "| --- " * (len(levels) + 1) + "|"]
    for chapter, found in sorted(rows.items()):
        cells = ["<br>".join(found.get(level, ["–"])) for level in levels]
        lines.append(f"| {_link(chapter, root)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mistake_list(root: Path = ROOT) -> str:
    """Common mistakes, a list a chapter."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, mistake in mistakes(root):
        found.setdefault(name[:2], {}).setdefault(name, []).append(_plain(mistake))
    if not found:
        return "No chapter has planted mistakes yet."
    parts = []
    for chapter, by_name in sorted(found.items()):
        lines = [f"- **{name}**: {'; '.join(named)}." for name, named in sorted(by_name.items())]
        parts.append("\n".join([f"Chapter {_link(chapter, root)}", "", *lines]))
    return "\n\n".join(parts)


def _link(chapter: str, root: Path) -> str:
    path = chapters(root).get(chapter)
    return f"[{chapter}]({path.name})" if path else chapter


def _plain(text: str) -> str:
    """A mistake as text: nothing in it is Markdown or HTML."""
    return re.sub(r"([|<>*_\[\]\\])", r"\\\1", " ".join(text.split())).rstrip(".")


PARTS = {"exercises": exercise_table, "mistakes": mistake_list}


def filled(page: str, root: Path = ROOT) -> str:
    """The page with its generated parts written anew.

    Args:
        page: Its text.
        root: Of the repository.

    Raises:
        ValueError: Where a part's markers are missing.
    """
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: python -m docs.course -->", f"<!-- end of {name} -->"
        if not re.search(f"{re.escape(begin)}.*{re.escape(end)}", page, re.DOTALL):
            raise ValueError(f"{PAGE} needs the lines {begin} and {end}")
        before, rest = page.split(begin, 1)
        page = f"{before}{begin}\n\n{make(root)}\n\n{end}{rest.split(end, 1)[1]}"
    return page


if __name__ == "__main__":
    target = ROOT / PAGE
    if twins.write(target, filled(target.read_text(encoding="utf-8"))):
        print(PAGE)
