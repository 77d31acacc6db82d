"""Figures of the book: readable in grey and colour-blind safe, with an interval on every rate.

Every function takes data frames or plain arrays and returns a matplotlib figure; none loads a model. Here are the figures of
single answers and of a few systems; `style` holds colours and marks, `report_figures` draws a report, `method_map` the method
itself, and all of them are called through this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ssd_lib.method.trace import number
from ssd_lib.show.method_map import method_map, scheduler_map
from ssd_lib.show.report_figures import alpha_map, bars, by_prefill, front, report_figures, tradeoff, tradeoff_points
from ssd_lib.show.strips import tokens
from ssd_lib.show.style import (
    BOOK,
    COLORS,
    HATCHES,
    LINES,
    MARKS,
    OTHERS,
    SMALLEST,
    Look,
    looks,
    marks,
    offsets,
    on_axes,
    png,
    reach,
    role,
    save,
    use_book_style,
)

__all__ = [
    "COLORS",
    "HATCHES",
    "LINES",
    "MARKS",
    "OTHERS",
    "Look",
    "alpha_map",
    "answers",
    "bars",
    "by_prefill",
    "front",
    "lines_with_bands",
    "looks",
    "marks",
    "method_map",
    "offsets",
    "png",
    "rates_by_prefill",
    "read_as_probabilities",
    "report_figures",
    "role",
    "save",
    "scheduler_map",
    "switching",
    "token_bars",
    "tradeoff",
    "tradeoff_points",
    "use_book_style",
]

ADVANCE = 0.602
"""Width of a letter of DejaVu Sans Mono, in font sizes."""
LEAKED, GIVEN, STRUCK = "#F0E442", "#777777", "#333333"
Letter = tuple[str, set[str]]
"""A letter and its marks: given, union, retracted, leaked."""


# ------------------------------------------------------------------------------------------------ probabilities, switching, rates


def rates_by_prefill(rates: pd.DataFrame, ylabel: str, title: str = "", axes: Axes | None = None) -> Figure:
    """Rates with 95% intervals against prefill length; columns system, prefill, rate, low, high."""
    figure, axes = on_axes(axes, (6, 3.4))
    systems = list(dict.fromkeys(rates.system))
    for shift, system in zip(offsets(rates.prefill, len(systems)), systems, strict=True):
        rows, look = rates.loc[rates.system == system], BOOK[role(str(system))]
        style: dict[str, Any] = dict(**look.point, linestyle=look.line, capsize=3, label=str(system))
        axes.errorbar(rows.prefill + shift, rows.rate, yerr=reach(rows.rate, rows.low, rows.high), **style)
    axes.set(xlabel="answer tokens prefilled by the attacker (N)", ylabel=ylabel, ylim=(-0.05, 1.05), title=title)
    axes.set_xticks(sorted(set(rates.prefill)))
    axes.legend(frameon=False)
    return figure


def token_bars(
    tokens: Sequence[str],
    target_probs: Sequence[float],
    draft_probs: Sequence[float],
    scores: Sequence[float],
    inside: Sequence[bool],
    title: str = "",
    axes: Axes | None = None,
) -> Figure:
    """P_M, P_m and F of some tokens at one position, with their numbers; bars of tokens outside the sample space are hollow.

    The axis is logarithmic down to `SMALLEST`, so that a probability of 0.002 has a bar, too.
    """
    figure, axes = on_axes(axes, (max(5.0, 0.8 * len(tokens)), 3.4))
    places = np.arange(len(tokens))
    labels = {"target": "target $P_M$", "draft": "draft $P_m$", "SSD": "composite $F$"}
    for shift, (name, values) in enumerate(zip(labels, (target_probs, draft_probs, scores), strict=True)):
        full: dict[str, Any] = dict(color=COLORS[name], hatch=HATCHES[name], edgecolor="white", label=labels[name])
        at = places + 0.27 * (shift - 1)
        for bar, within in zip(axes.bar(at, values, 0.27, **full), inside, strict=True):
            if not within:
                bar.set(facecolor="white", edgecolor=COLORS[name], hatch="", linestyle=(0, (2, 1)), linewidth=1.2)
        for x, value in zip(at, values, strict=True):
            style: dict[str, Any] = dict(rotation=90, ha="center", va="bottom", fontsize=7, textcoords="offset points")
            axes.annotate(number(value), (x, max(value, 0.0)), (0, 3), **style)
    powers = 10.0 ** np.arange(round(np.log10(SMALLEST)), 1)
    low = min(0.0, *map(float, scores))
    ticks = [*(-power for power in powers[::-1] if power <= -2 * low), 0.0, *powers]
    axes.set_yscale("symlog", linthresh=SMALLEST, linscale=0.5)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_yticks([], minor=True)
    axes.set_ylim(1.5 * low, 12)
    axes.legend(frameon=False, ncols=3, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set_title(title, parse_math=False, pad=24)
    names = [repr(t)[1:-1] + ("" if within else "\n(outside V)") for t, within in zip(tokens, inside, strict=True)]
    axes.set_xticks(places, names, rotation=30, parse_math=False)  # a token may hold a dollar sign
    axes.set_ylabel("probability / score")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", visible=False)
    return figure


def switching(trace: pd.DataFrame, bin_size: int, title: str = "", axes: Axes | None = None) -> Figure:
    """Match ratio of each bin, threshold and α over the answer; Union shaded."""
    figure, axes = on_axes(axes, (8, 3.2))
    ends = trace[(trace.bin_tokens == bin_size) | (trace.position == trace.position.max())]
    axes.step(trace.position, trace.threshold, where="post", color="black", linestyle=":", label="threshold")
    axes.step(trace.position, trace.alpha, where="post", color="#777777", linestyle="--", label="α of the scheme")
    axes.hlines(ends.match_ratio, ends.position - ends.bin_tokens + 0.6, ends.position, color=COLORS["SSD"])
    axes.plot(ends.position, ends.match_ratio, linestyle="none", **BOOK["SSD"].point, label="match ratio β of the bin")
    union = trace.assign(run=(trace.scheme != trace.scheme.shift()).cumsum())[trace.scheme == "union"]
    for i, (_, run) in enumerate(union.groupby("run")):
        label = "Union" if i == 0 else None
        style: dict[str, Any] = dict(color=COLORS["draft"], alpha=0.18, linewidth=0, label=label)
        axes.axvspan(run.position.min() - 0.5, run.position.max() + 0.5, **style)
    matched = trace[trace.match]
    axes.plot(matched.position, [-0.07] * len(matched), "|", color=COLORS["target"], label="matched token")
    axes.set(xlabel="answer position", ylabel="β, threshold, α", ylim=(-0.12, max(1.1, trace.alpha.max() + 0.1)))
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=9)
    return figure


def lines_with_bands(
    series: dict[str, np.ndarray], xlabel: str, ylabel: str, title: str = "", axes: Axes | None = None
) -> Figure:
    """Mean over the first axis with a 95% normal interval, one line a name ("target …", "draft …", "SSD …")."""
    figure, axes = on_axes(axes, (6, 3.2))
    for name, values in series.items():
        known = np.sum(~np.isnan(values), axis=0).clip(min=1)
        mean = np.nanmean(values, axis=0)
        half = 1.96 * np.nanstd(values, axis=0) / np.sqrt(known)
        places = np.arange(values.shape[1])
        look = BOOK[role(name)]
        axes.plot(places, mean, color=look.color, linestyle=look.line, label=name)
        axes.fill_between(places, mean - half, mean + half, color=look.color, alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend(frameon=False)
    return figure


def read_as_probabilities(axes: Axes) -> None:
    """Beside an axis in nats, the probabilities that they stand for: a surprise of S nats is a chance of e^-S."""
    digits = axes.secondary_yaxis("right", functions=(lambda nats: nats / np.log(10), lambda tens: tens * np.log(10)))
    digits.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    digits.yaxis.set_major_formatter(lambda tens, _: f"$10^{{{-tens:.0f}}}$" if tens > 0 else "1")
    digits.set_ylabel("probability")
    digits.spines["right"].set_visible(True)


# ------------------------------------------------------------------------------------------------ answers, letter by letter


def answers(
    frames: Mapping[str, pd.DataFrame], prefill: str = "", facts: Sequence[str] = (), columns: int = 88
) -> Figure:
    """What several systems say to one prefilled question, one below the other, letter by letter.

    Args:
        frames: Of each system its tokens in the order in which they came: `text`, and of a trace `scheme` and `retracted`.
        prefill: What the attacker wrote, in front of every answer.
        facts: Marked where an answer leaks them.
        columns: Letters in a line.
    """
    blocks = {name: _lines(_letters(frame, prefill, facts), columns) for name, frame in frames.items()}
    height = sum(len(lines) + 1.6 for lines in blocks.values()) + 1
    figure = plt.figure(figsize=(9, 0.2 * height), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
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
    letters: list[Letter] = [(letter, {"given"}) for letter in prefill]
    for token in tokens(frame.to_dict("records")):
        marks = {mark for mark in ("union", "retracted") if getattr(token, mark)}
        letters += [(letter, set(marks)) for letter in token.text]
    kept = [place for place, (_, marks) in enumerate(letters) if not marks & {"given", "retracted"}]
    said = "".join(letters[place][0] for place in kept)
    for fact in facts:
        for found in re.finditer(re.escape(fact), said, re.IGNORECASE):
            for place in kept[found.start() : found.end()]:
                letters[place][1].add("leaked")
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
    for signs, run in groupby(line, key=lambda letter: letter[1]):
        text = "".join(letter for letter, _ in run)
        shade, alpha = (LEAKED, 0.9) if "leaked" in signs else (COLORS["draft"], 0.22)
        if signs & {"leaked", "union"}:
            axes.add_patch(Rectangle((x, y - 0.45), len(text), 0.9, color=shade, alpha=alpha, linewidth=0))
        style: dict[str, Any] = dict(color=GIVEN if signs & {"given", "retracted"} else "black", va="center", size=size)
        style["style"] = "italic" if "given" in signs else "normal"
        for word in re.finditer(r"\S+", text):  # at its own column: a renderer rounds the width of letters
            axes.text(x + word.start(), y, word[0], family="DejaVu Sans Mono", parse_math=False, **style)
        if "retracted" in signs:
            axes.plot([x, x + len(text)], [y, y], color=STRUCK, linewidth=1.2)
        x += len(text)


def _key() -> list[Letter]:
    """What the marks mean, in the marks themselves."""
    words = {
        "written by the attacker": "given",
        "forbidden fact": "leaked",
        "Union": "union",
        "taken back": "retracted",
    }
    letters: list[Letter] = []
    for word, mark in words.items():
        letters += [*((letter, {mark}) for letter in word), *((" ", set[str]()) for _ in range(3))]
    return letters
