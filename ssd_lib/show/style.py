"""How the book's figures look: one colour and one mark for each of target, draft, SSD and hardened SSD, others for the rest."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.core.getipython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path as MarkerPath
from matplotlib.transforms import ScaledTranslation
from pandas.io.formats.style import Styler

from ssd_lib.experiments import Choice
from ssd_lib.paths import REPOSITORY, replacing
from ssd_lib.show.strips import SCROLLS

COLORS = {"target": "#0072B2", "draft": "#009E73", "SSD": "#D55E00", "hardened SSD": "#CC79A7"}  # Okabe and Ito
MARKS = {"target": "o", "draft": "s", "SSD": "D", "hardened SSD": "P"}
HATCHES = {"target": "", "draft": "///", "SSD": "...", "hardened SSD": "---"}
LINES = {"target": "-", "draft": "--", "SSD": "-.", "hardened SSD": ":"}
SMALLEST = 1e-4
"""Where logarithmic axes of probabilities end."""
ALPHAS = {"alpha_intersection": "α_I", "alpha_union": "α_U"}


FILE: dict[str, Any] = {"bbox_inches": "tight", "metadata": {"Software": None}}
"""How figures are written: the same file whatever version of matplotlib made it."""


def use_book_style() -> None:
    """Fonts and grids of the book, and tables that scroll where a window is too narrow for them."""
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 160, "figure.constrained_layout.use": True})
    plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "hatch.linewidth": 0.6})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    shell: Any = get_ipython()
    if shell is not None:
        scroll_tables(shell.display_formatter.formatters["text/html"])


def scroll_tables(formatter: Any) -> None:
    """Have a notebook's HTML formatter put every pandas table into a box that scrolls, in place of cutting off its columns."""
    for kind in (pd.DataFrame, Styler):
        formatter.for_type(kind, _scrolling)


def _scrolling(table: Any) -> str | None:
    """pandas' own HTML in the box; None where pandas shows text."""
    markup = table._repr_html_()
    return markup and f'<div style="{SCROLLS}">{markup}</div>'


def save(figure: Figure, name: str) -> Path:
    """Write `figures/<name>`, or `$SSD_FIGURES/<name>`, and return its path."""
    folder = Path(os.environ.get("SSD_FIGURES") or REPOSITORY / "figures")
    folder.mkdir(exist_ok=True)
    with replacing(folder / name) as file:
        figure.savefig(file, **FILE)
    return folder / name


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **FILE)
    plt.close(figure)
    return buffer.getvalue()


def role(system: str) -> str:
    """The colour role of a system's name: "target alone" → target."""
    return next((known for known in COLORS if system.lower().startswith(known.lower())), "SSD")


class Look(NamedTuple):
    """How one defender is drawn, in every figure of a report."""

    color: str
    mark: Any
    line: str | tuple[int, tuple[int, ...]]
    hatch: str

    @property
    def point(self) -> dict[str, Any]:
        """Colour and mark, as matplotlib's functions take them."""
        return {"color": self.color, "marker": self.mark}


BOOK = {name: Look(COLORS[name], MARKS[name], LINES[name], HATCHES[name]) for name in COLORS}
OTHERS = ("#333333", "#56B4E9", "#8A6D3B", "#808080", "#882255")
"""Colours of the others: black, sky, brown, grey, wine, none near the book's four."""
HALF = MarkerPath.wedge(0, 180)
"""Half a disc."""
OTHER_MARKS: tuple[Any, ...] = ("^", "v", "X", "<", ">", "*", "p", "d", "h", (4, 1, 0), HALF, r"$\clubsuit$")
"""None is one of `MARKS`, and each has a face: shape alone tells sixteen defenders apart."""
OTHER_LINES = ((0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 2)))
OTHER_HATCHES = ("xxx", "\\\\\\", "ooo", "+++", "|||", "---")
ROLES = {"none": "target", "draft-only": "draft", "ssd": "SSD", "ssd-hardened": "hardened SSD"}


def looks(systems: Iterable[str]) -> dict[str, Look]:
    """Target's look for none, draft's for draft-only, SSD's and hardened SSD's; others have marks and colours of their own."""
    colors, marks, lines, hatches = cycle(OTHERS), cycle(OTHER_MARKS), cycle(OTHER_LINES), cycle(OTHER_HATCHES)
    found, seen = {}, set()
    for system in dict.fromkeys(systems):
        name = ROLES.get(Choice.parse(system).name)
        if name is not None and name not in seen:
            found[system] = BOOK[name]
            seen.add(name)
        else:  # another setting of SSD has its colour, a mark of its own
            color = next(colors) if name is None else COLORS[name]
            found[system] = Look(color, next(marks), next(lines), next(hatches))
    return found


def reach(value: Any, low: Any, high: Any) -> np.ndarray:
    """How far intervals reach below and above their values, as matplotlib's error bars take it; nothing where there is none."""
    sides = np.array([np.atleast_1d(value - low), np.atleast_1d(high - value)], float)
    return np.nan_to_num(np.clip(sides, 0, None))


def offsets(places: Iterable[float], count: int) -> np.ndarray:
    """How far each of `count` series stands beside its place, so that their intervals can be read.

    They spread around the place itself, over less than half of the smallest gap and 3% of the axis: no mark seems to stand elsewhere.
    """
    known = np.unique(np.asarray(list(places), float))
    room = min(0.4 * np.diff(known).min(), 0.03 * (known[-1] - known[0])) if len(known) > 1 else 0.1
    return (np.arange(count) - (count - 1) / 2) * room / max(count - 1, 1)


def crowds(x: Iterable[float], y: Iterable[float], near: float = 0.045) -> list[list[int]]:
    """Points by number, those together of which each has another nearer than `near` in x and y."""
    where = np.column_stack([list(x), list(y)])
    label = np.arange(len(where))
    for i, j in zip(*np.nonzero((np.abs(where[:, None] - where[None]) < near).all(-1)), strict=True):
        label[label == label[j]] = label[i]
    return [np.flatnonzero(label == each).tolist() for each in dict.fromkeys(label.tolist())]


def beside(axes: Axes, point: tuple[float, float], number: int, count: int, size: float = 12.0) -> Any:
    """Where the mark of one of `count` points in one place is drawn: on it, or next to the others with a line to the place.

    Args:
        axes: Where to draw.
        point: The place, in data.
        number: Which of the points.
        count: How many there are.
        size: Points between two marks.

    Returns:
        A transform for the mark.
    """
    if count == 1:
        return axes.transData
    figure = axes.get_figure()
    assert figure is not None
    columns = min(count, 4)
    row, column = divmod(number, columns)
    across, up = (column - (min(columns, count - row * columns) - 1) / 2) * size, -(row + 1) * size
    line: dict[str, Any] = dict(arrowstyle="-", color="#333333", lw=0.7, shrinkA=0, shrinkB=0)
    axes.annotate("", point, (across, up), textcoords="offset points", arrowprops=line, annotation_clip=False)
    return axes.transData + ScaledTranslation(across / 72, up / 72, figure.dpi_scale_trans)


Spot = tuple[tuple[float, float, float], tuple[float, float, float]]
"""A place in x and in y, each with the ends of its interval."""


def marks(axes: Axes, spots: Mapping[str, Spot], found: Mapping[str, Look]) -> None:
    """A mark with its intervals for each name, none on another: those in one place stand below it, with a line to the place.

    Args:
        axes: Where to draw; y between 0 and 1 or so.
        spots: Places by name.
        found: How each name is drawn.
    """
    across, upward = ([spot[axis][0] for spot in spots.values()] for axis in (0, 1))
    x_range, y_range = (np.ptp(values) or 1.0 for values in (across, upward))
    crowd = crowds(np.divide(across, x_range), np.divide(upward, y_range))
    number_of = {list(spots)[place]: (i, len(of)) for of in crowd for i, place in enumerate(of)}
    for name, (x, y) in spots.items():
        look, far, up = found[name], reach(*x), reach(*y)
        axes.errorbar(
            x[0], y[0], xerr=far, yerr=up, fmt="none", ecolor=look.color, elinewidth=0.8, capsize=2, alpha=0.5
        )
        style: dict[str, Any] = dict(linestyle="none", markersize=7, markeredgecolor="white", markeredgewidth=0.5)
        where = beside(axes, (x[0], y[0]), *number_of[name])
        axes.plot(x[0], y[0], transform=where, label=name, **look.point, **style)


def on_axes(axes: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The given axes with their figure, or new ones of that size in inches."""
    if axes is None:
        return plt.subplots(figsize=size)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure, axes


def panels(count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """`count` axes side by side, each of that size in inches."""
    figure, axes = plt.subplots(1, count, figsize=(count * size[0], size[1]), squeeze=False)
    return figure, list(axes[0])
