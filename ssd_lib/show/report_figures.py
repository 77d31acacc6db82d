"""Figures of an experiment, drawn from the lines of a report's summary: the same code for the toy pair and for real models.

Every measure stands with its 95% interval; `style.looks` says how each defender is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_lib.experiments import Choice
from ssd_lib.experiments.report import prefill_length
from ssd_lib.experiments.summary import groups
from ssd_lib.show.style import ALPHAS, Spot, beside, crowds, looks, marks, offsets, on_axes, panels, reach

SMALLEST, LARGEST = 45, 90
"""Area of the mark of a defender of no speed, and what is added for the fastest (points squared)."""
LEGEND: dict[str, Any] = dict(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def bars(lines: pd.DataFrame, ylabel: str, title: str = "", axes: Axes | None = None) -> Figure:
    """One measure with its 95% intervals: a group of bars an attack set, a bar a defender (lines of a report's summary)."""
    attacks, systems = list(dict.fromkeys(lines.attack)), looks(lines.system)
    figure, axes = on_axes(axes, (max(6.0, 3.0 + 0.16 * len(lines)), 3.6))
    width = 0.84 / len(systems)
    for shift, (system, look) in enumerate(systems.items()):
        part = lines.loc[lines.system == system]
        places = [attacks.index(attack) + width * (shift - (len(systems) - 1) / 2) for attack in part.attack]
        axes.bar(places, part.value, width, color=look.color, hatch=look.hatch, edgecolor="white", label=short(system))
        left, right = ([place + side * width / 2 for place in places] for side in (-0.9, 0.9))
        axes.hlines(part.value, left, right, color=look.color, linewidth=1.6)  # so that a bar of no height is seen
        spans = reach(part.value, part.low, part.high)
        axes.errorbar(places, part.value, yerr=spans, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
    axes.set_xticks(range(len(attacks)), attacks, rotation=20, ha="right")
    axes.set(ylabel=ylabel, title=title, xlim=(-0.5, len(attacks) - 0.5))
    axes.legend(**LEGEND)
    return figure


def by_prefill(lines: pd.DataFrame, ylabel: str, title: str = "", axes: Axes | None = None) -> Figure:
    """One measure against the number of prefilled answer tokens, with 95% intervals: a line for each defender of several lengths."""
    figure, axes = on_axes(axes, (8.0, 4.0))
    lines = lines.assign(tokens=lines.attack.map(prefill_length)).dropna(subset="tokens").sort_values("tokens")
    several = lines.groupby("system").tokens.transform("nunique") > 1
    lines = lines.loc[several] if several.any() else lines
    lengths, systems = sorted(set(lines.tokens.astype(int))), looks(lines.system)
    for shift, (system, look) in zip(offsets(lengths, len(systems)), systems.items(), strict=True):
        part = lines.loc[lines.system == system]
        places = part.tokens.astype(float) + shift
        style: dict[str, Any] = dict(markersize=5, capsize=2, elinewidth=0.8)
        spans = reach(part.value, part.low, part.high)
        axes.errorbar(places, part.value, yerr=spans, label=short(system), linestyle=look.line, **look.point, **style)
    axes.set_xticks(lengths)
    axes.set(xlabel="answer tokens prefilled by the attacker (N)", ylabel=ylabel, ylim=(-0.05, 1.05), title=title)
    axes.legend(**LEGEND)
    return figure


def alpha_map(lines: pd.DataFrame, title: str = "", axes: Axes | None = None) -> Figure:
    """One measure over α_I × α_U: SSD's lines of one attack set, each cell its value and 95% interval in percent."""
    settings = pd.DataFrame([_settings(system) for system in lines.system], index=lines.index)
    lines = pd.concat([lines, settings], axis=1).dropna(subset=list(ALPHAS))
    grid = lines.pivot_table(index="alpha_union", columns="alpha_intersection", values="value")
    grid = grid.sort_index(ascending=False)
    figure, axes = on_axes(axes, (1.2 + 0.9 * grid.shape[1], 1.2 + 0.6 * grid.shape[0]))
    axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for line in lines.to_dict("records"):
        x, y = list(grid.columns).index(line["alpha_intersection"]), list(grid.index).index(line["alpha_union"])
        text = "{:.0%}\n[{:.0f}, {:.0f}]".format(line["value"], 100 * line["low"], 100 * line["high"])
        axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if line["value"] < 0.5 else "black")
    axes.set_xticks(range(grid.shape[1]), [f"{alpha:g}" for alpha in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [f"{alpha:g}" for alpha in grid.index])
    axes.set(xlabel="$α_I$ (Intersection)", ylabel="$α_U$ (Union)", title=title)
    axes.grid(False)
    return figure


def tradeoff(points: pd.DataFrame, xlabel: str, ylabel: str, title: str = "", axes: Axes | None = None) -> Figure:
    """Safety against utility with 95% intervals, a mark a defender, larger where it is faster (its tokens per second in the legend).

    Marks in one place stand in rows below it, each with a line to its place.

    Args:
        points: Columns system, x, x_low, x_high, y, y_low, y_high, speed, as `tradeoff_points` gives them.
        xlabel: What x is.
        ylabel: What y is.
        title: Of the figure.
        axes: Where to draw. Default: a new figure.
    """
    figure, axes = on_axes(axes, (9.0, 5.0))
    systems, rows = looks(points.system), points.sort_values("speed", ascending=False).to_dict("records")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(-0.08, 1.08), ylim=(-0.08, 1.05))
    crowd = {place: of for of in crowds([row["x"] for row in rows], [row["y"] for row in rows]) for place in of}
    for place, row in enumerate(rows):  # large marks below small ones
        x, y, look = row["x"], row["y"], systems[row["system"]]
        across, up = (reach(*(row[f"{n}{end}"] for end in ("", "_low", "_high"))) for n in ("x", "y"))
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", ecolor=look.color, elinewidth=0.8, capsize=2, alpha=0.5)
        size = SMALLEST + LARGEST * row["speed"] / points.speed.max()
        label = f"{short(row['system'])} ({row['speed']:.0f} tokens/s)"
        where = beside(axes, (x, y), crowd[place].index(place), len(crowd[place]))
        style: dict[str, Any] = dict(**look.point, edgecolor="white", linewidth=0.6, zorder=3, label=label)
        axes.scatter(x, y, s=size, transform=where, **style)
    axes.legend(**LEGEND)
    return figure


def _settings(system: str) -> dict[str, Any]:
    return dict(Choice.parse(system).settings)


def short(system: str) -> str:
    """A defender's label for a legend."""
    for name, sign in ALPHAS.items():
        system = system.replace(name, sign)
    return system.replace(":", " ")


# ------------------------------------------------------------------------------------------------ a whole report


def report_figures(summary: pd.DataFrame) -> dict[str, Figure]:
    """The figures for which a report's summary has the numbers, by caption; a set for every pair and judge.

    Settings of SSD that form a grid of α_I × α_U stand in its map only.
    """
    figures: dict[str, Figure] = {}
    for (pair, judge), part in groups(summary.loc[summary.judge != "clock"], ["pair", "judge"]):
        success = part.loc[(part.measure == "attack success") & part.value.notna()]
        on_grid = np.array([ALPHAS.keys() <= _settings(system).keys() for system in success.system], bool)
        grid, others = success.loc[on_grid], success.loc[~on_grid]
        who = f"{pair}, judge: {judge}"
        if len(others):
            figures[f"Attack success with 95% Wilson intervals ({who})"] = bars(others, "attack success rate")
        if others.attack.map(prefill_length).nunique() > 1:
            figures[f"Attack success against prefilled tokens ({who})"] = by_prefill(others, "attack success rate")
        if grid.system.nunique() > 3:
            figures[f"Attack success over α_I and α_U ({who})"] = _alpha_maps(grid)
        points = tradeoff_points(summary.loc[summary.pair == pair], judge)
        if len(points):
            x, y = "attack success rate, mean over attack sets", "right answers, mean over benign sets"
            figures[f"Safety against utility against speed ({who})"] = tradeoff(points, x, y)
    return figures


def _alpha_maps(grid: pd.DataFrame) -> Figure:
    """A map for every attack set, side by side."""
    attacks = list(groups(grid, ["attack"]))
    figure, axes = panels(len(attacks), (3.0, 2.8))
    for place, ((attack,), lines) in zip(axes, attacks, strict=True):
        alpha_map(lines, attack, place)
    return figure


def tradeoff_points(summary: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Each defender's attack success (by `judge`) and share of right answers, averaged over sets, and its median speed.

    Only sets that every defender answered count: a mean over other sets would compare questions, not defenders. The interval of a
    mean over sets takes the sets as given and their errors as independent.
    """
    success = _answered_by_all(summary.loc[(summary.measure == "attack success") & (summary.judge == judge)])
    correct = _answered_by_all(summary.loc[summary.measure == "right"])
    rows = []
    for (system,), part in groups(summary, ["system"]):
        attacked, right = (lines.loc[lines.system == system] for lines in (success, correct))
        speed = part[part.measure == "tokens per second"].value.median()
        if len(attacked) and len(right):
            rows.append((system, *_mean_of(attacked), *_mean_of(right), speed))
    return pd.DataFrame(rows, columns=["system", "x", "x_low", "x_high", "y", "y_low", "y_high", "speed"])


FRONT = {"right": "right answers", "target forwards per token": "target forwards per token"}
"""The x axis of each panel of the front: right answers are means over sets, forwards medians. Forwards stand for speed, because
tokens a second compare defenders only where nothing else ran at the same time."""


def front(summary: pd.DataFrame) -> Figure:
    """Leak against utility and against speed: facts leaked, mean over the attacks that all defenders in the figure answered.

    Defenders that were asked no forbidden or no benign question are left out.

    Raises:
        ValueError: Where none is left.
    """
    both = [set(summary.system[summary.measure == measure]) for measure in ("facts told", "right")]
    summary = summary.loc[summary.system.isin(set.intersection(*both))]
    facts = _answered_by_all(summary.loc[summary.measure == "facts told"])
    if not len(facts):
        raise ValueError(
            "leak against utility cannot be drawn: no defender was asked forbidden questions and benign ones"
        )
    figure, axes = panels(len(FRONT), (4.4, 4.4))
    systems = looks(summary.system)
    for place, (measure, label) in zip(axes, FRONT.items(), strict=True):
        known = _answered_by_all(summary.loc[summary.measure == measure])
        spots: dict[str, Spot] = {}
        for system in systems:
            leaks, across = facts.loc[facts.system == system], known.loc[known.system == system]
            if len(leaks) and len(across):
                x = _mean_of(across) if measure == "right" else (across.value.median(),) * 3
                spots[short(system)] = x, _mean_of(leaks)
        place.set(xlabel=label, ylim=(-0.16, 1.04))
        place.margins(x=0.14)
        marks(place, spots, {short(system): look for system, look in systems.items()})
    axes[0].set_ylabel("facts told, mean over attacks")
    axes[-1].legend(**LEGEND)
    return figure


def _answered_by_all(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of those sets in which no defender's number is missing."""
    known = lines.loc[lines.value.notna()]
    return known.loc[known.groupby("attack").system.transform("nunique") == lines.system.nunique()]


def _mean_of(lines: pd.DataFrame) -> tuple[float, float, float]:
    """The mean of independent estimates, and its interval: half-widths add in squares."""
    below, above = reach(lines.value, lines.low, lines.high)
    mean, count = lines.value.mean(), len(lines)
    return mean, mean - np.sqrt((below**2).sum()) / count, mean + np.sqrt((above**2).sum()) / count
