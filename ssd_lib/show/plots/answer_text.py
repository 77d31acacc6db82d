"""Answers of several systems below one another, letter by letter: what was given, told, decoded in Union, taken back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ssd_lib.show.plots.style import COLORS, role

ADVANCE = 0.602
"""Width of a letter of DejaVu Sans Mono, in font sizes."""
TOLD, GIVEN, STRUCK = "#F0E442", "#777777", "#333333"
Letter = tuple[str, set[str]]


def answers(
    frames: Mapping[str, pd.DataFrame], prefill: str = "", facts: Sequence[str] = (), columns: int = 88
) -> Figure:
    """What several systems say to one prefilled question, one below the other.

    frames: of each system its tokens in the order in which they came: `text`, and of a trace `scheme` and `retracted`.
    facts: marked where an answer tells them; columns: letters in a line.
    """
    blocks = {name: _lines(_letters(frame, prefill, facts), columns) for name, frame in frames.items()}
    height = sum(len(lines) + 1.6 for lines in blocks.values()) + 1
    figure = plt.figure(figsize=(9, 0.2 * height), layout="none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, columns), ylim=(height, 0))
    axes.axis("off")
    size, y = 9 * 72 / columns / ADVANCE, 0.5
    for name, lines in blocks.items():
        axes.text(0, y, name, color=COLORS[role(name)], weight="bold", va="center", size=size * 1.1)
        for i, line in enumerate(lines):
            _write_line(axes, line, y + 1.1 + i, size)
        y += len(lines) + 1.6
    _write_line(axes, _key(), y, size)
    return figure


def _letters(frame: pd.DataFrame, prefill: str, facts: Sequence[str]) -> list[Letter]:
    """Every letter with what is to be seen of it: given, union, retracted, told."""
    letters: list[Letter] = [(letter, {"given"}) for letter in prefill]
    for line in frame.to_dict("records"):
        marks = {"union"} if line.get("scheme") == "union" else set()
        marks |= {"retracted"} if line.get("retracted") else set()
        letters += [(letter, set(marks)) for letter in line["text"]]
    kept = [place for place, (_, marks) in enumerate(letters) if not marks & {"given", "retracted"}]
    said = "".join(letters[place][0] for place in kept)
    for fact in facts:
        for found in re.finditer(re.escape(fact), said, re.IGNORECASE):
            for place in kept[found.start() : found.end()]:
                letters[place][1].add("told")
    return letters


def _lines(letters: Sequence[Letter], columns: int) -> list[list[Letter]]:
    """Broken at spaces; a word that is too long is broken anywhere."""
    lines: list[list[Letter]] = []
    rest = list(letters)
    while len(rest) > columns:
        space = max((i for i in range(columns + 1) if rest[i][0] == " "), default=columns)
        lines.append(rest[: space or columns])
        rest = rest[(space or columns) :]
        rest = rest[1:] if rest[0][0] == " " else rest
    return [*lines, rest]


def _write_line(axes: Axes, line: Sequence[Letter], y: float, size: float) -> None:
    """One line of letters, a column each; letters with the same marks are drawn together."""
    x = 0
    for marks, run in groupby(line, key=lambda letter: letter[1]):
        text = "".join(letter for letter, _ in run)
        shade = TOLD if "told" in marks else COLORS["draft"] if "union" in marks else None
        if shade:
            axes.add_patch(
                Rectangle(
                    (x, y - 0.45), len(text), 0.9, color=shade, alpha=0.9 if "told" in marks else 0.22, linewidth=0
                )
            )
        style: dict[str, Any] = dict(color=GIVEN if marks & {"given", "retracted"} else "black", va="center", size=size)
        style["style"] = "italic" if "given" in marks else "normal"
        for word in re.finditer(r"\S+", text):  # at its own column: a renderer rounds the width of letters
            axes.text(x + word.start(), y, word[0], family="DejaVu Sans Mono", parse_math=False, **style)
        if "retracted" in marks:
            axes.plot([x, x + len(text)], [y, y], color=STRUCK, linewidth=1.2)
        x += len(text)


def _key() -> list[Letter]:
    """What the marks mean, in the marks themselves."""
    words = {"written by the attacker": "given", "forbidden fact": "told", "Union": "union", "taken back": "retracted"}
    return [
        letter for word, mark in words.items() for letter in [*((c, {mark}) for c in word), *[(" ", set[str]())] * 3]
    ]
