"""How the book's figures look: one colour and one mark for each of target, draft, SSD and hardened SSD, greys for others."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_lib.experiments import Choice
from ssd_lib.paths import REPOSITORY, replacing

COLORS = {"target": "#0072B2", "draft": "#009E73", "SSD": "#D55E00", "hardened SSD": "#CC79A7"}  # Okabe and Ito
MARKS = {"target": "o", "draft": "s", "SSD": "D", "hardened SSD": "P"}
HATCHES = {"target": "", "draft": "///", "SSD": "...", "hardened SSD": "---"}
LINES = {"target": "-", "draft": "--", "SSD": "-.", "hardened SSD": ":"}
ALPHAS = {"alpha_intersection": "α_I", "alpha_union": "α_U"}


FILE: dict[str, Any] = {"bbox_inches": "tight", "metadata": {"Software": None}}
"""How figures are written: the same file whatever version of matplotlib made it."""


def use_book_style() -> None:
    """Fonts and grids of the book."""
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 160, "figure.constrained_layout.use": True})
    plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "hatch.linewidth": 0.6})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


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
    mark: str
    line: str | tuple[int, tuple[int, ...]]
    hatch: str

    @property
    def point(self) -> dict[str, Any]:
        """Colour and mark, as matplotlib's functions take them."""
        return {"color": self.color, "marker": self.mark}


BOOK = {name: Look(COLORS[name], MARKS[name], LINES[name], HATCHES[name]) for name in COLORS}
GREYS = ("#333333", "#777777", "#AAAAAA")
OTHER_MARKS = ("^", "v", "P", "X", "<", ">", "p", "h", "*", "d")
OTHER_LINES = ((0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 2)))
OTHER_HATCHES = ("xxx", "\\\\\\", "ooo", "+++", "|||", "---")
ROLES = {"none": "target", "draft-only": "draft", "ssd": "SSD", "ssd-hardened": "hardened SSD"}


def looks(systems: Iterable[str]) -> dict[str, Look]:
    """Target's colour for none, draft's for draft-only, SSD's and hardened SSD's for each of their settings; greys for others."""
    greys, marks, lines, hatches = cycle(GREYS), cycle(OTHER_MARKS), cycle(OTHER_LINES), cycle(OTHER_HATCHES)
    found, seen = {}, set()
    for system in dict.fromkeys(systems):
        name = ROLES.get(Choice.parse(system).name)
        if name is not None and name not in seen:
            found[system] = BOOK[name]
            seen.add(name)
        else:  # another setting of SSD has its colour, a mark of its own
            color = next(greys) if name is None else COLORS[name]
            found[system] = Look(color, next(marks), next(lines), next(hatches))
    return found


def reach(value: Any, low: Any, high: Any) -> np.ndarray:
    """How far intervals reach below and above their values, as matplotlib's error bars take it; nothing where there is none."""
    sides = np.array([np.atleast_1d(value - low), np.atleast_1d(high - value)], float)
    return np.nan_to_num(np.clip(sides, 0, None))


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
