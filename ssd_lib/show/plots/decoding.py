"""Figures of one decoding: probabilities at a position, switching over an answer, rates and lines of a few systems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_lib.show.plots.style import COLORS, HATCHES, LINES, MARKS, on_axes, role


def rates_by_prefill(rates: pd.DataFrame, ylabel: str, title: str = "", axes: Axes | None = None) -> Figure:
    """Rates with 95% intervals against prefill length; columns system, prefill, rate, low, high."""
    figure, axes = on_axes(axes, (6, 3.4))
    for shift, (system, rows) in enumerate(rates.groupby("system", sort=False)):
        name = role(str(system))
        axes.errorbar(
            rows.prefill + 0.5 * (shift - 1),
            rows.rate,
            yerr=[(rows.rate - rows.low).clip(lower=0), (rows.high - rows.rate).clip(lower=0)],
            color=COLORS[name],
            marker=MARKS[name],
            linestyle=LINES[name],
            capsize=3,
            label=str(system),
        )
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
    """P_M, P_m and F of some tokens at one position; tokens outside the sample space are greyed."""
    figure, axes = on_axes(axes, (max(5.0, 0.75 * len(tokens)), 3.2))
    places = np.arange(len(tokens))
    for shift, (name, label, values) in enumerate(
        [
            ("target", "target $P_M$", target_probs),
            ("draft", "draft $P_m$", draft_probs),
            ("SSD", "composite $F$", scores),
        ]
    ):
        bars = axes.bar(
            places + 0.27 * (shift - 1),
            values,
            0.27,
            color=COLORS[name],
            hatch=HATCHES[name],
            edgecolor="white",
            label=label,
        )
        for bar, within in zip(bars, inside, strict=True):
            bar.set_alpha(1.0 if within else 0.3)
    labels = [repr(t)[1:-1] + ("" if i else "\n(outside)") for t, i in zip(tokens, inside, strict=True)]
    axes.set_xticks(places, labels, rotation=30, parse_math=False)  # a token may hold a dollar sign
    axes.set_title(title, parse_math=False)
    axes.set_ylabel("probability / score")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False)
    return figure


def switching(trace: pd.DataFrame, bin_size: int, title: str = "", axes: Axes | None = None) -> Figure:
    """Match ratio of each bin, threshold and α over the answer; Union shaded."""
    figure, axes = on_axes(axes, (8, 3.2))
    ends = trace[(trace.bin_tokens == bin_size) | (trace.position == trace.position.max())]
    axes.step(trace.position, trace.threshold, where="post", color="black", linestyle=":", label="threshold")
    axes.step(trace.position, trace.alpha, where="post", color="#CC79A7", linestyle="--", label="α of the scheme")
    axes.plot(
        ends.position, ends.match_ratio, color=COLORS["SSD"], marker=MARKS["SSD"], label="match ratio β of the bin"
    )
    for position, scheme in zip(trace.position, trace.scheme, strict=True):
        if scheme == "union":
            axes.axvspan(position - 0.5, position + 0.5, color=COLORS["draft"], alpha=0.18, linewidth=0)
    matched = trace[trace.match]
    axes.plot(matched.position, [-0.07] * len(matched), "|", color=COLORS["target"], label="matched token")
    axes.set(xlabel="answer position", ylabel="β, threshold, α", ylim=(-0.12, 1.1), title=title + "   (shaded: Union)")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
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
        axes.plot(places, mean, color=COLORS[role(name)], linestyle=LINES[role(name)], label=name)
        axes.fill_between(places, mean - half, mean + half, color=COLORS[role(name)], alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend(frameon=False)
    return figure
