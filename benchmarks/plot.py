"""figures/speed.png and figures/scaling.png from benchmarks/results/*.csv."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

FIGURES = Path(__file__).resolve().parent.parent / "figures"
# Okabe and Ito's colours; SSD has its own through the whole book. Markers say the same in grey.
STYLES = {
    "ssd_lib": dict(color="#D55E00", marker="o", linewidth=2.4, zorder=5),
    "ssd_lib, T = 3": dict(color="#D55E00", marker="o", linestyle=":", fillstyle="none"),
    "ssd_lib, products as they are": dict(color="#D55E00", marker="x", linestyle="-.", linewidth=1),
    "target.generate": dict(color="#0072B2", marker="s"),
    "assisted generation": dict(color="#E69F00", marker="^"),
    "assisted generation, T = 2": dict(color="#E69F00", marker="^", linestyle=":", fillstyle="none"),
    "published loop": dict(color="#CC79A7", marker="v"),
    "bare forwards": dict(color="#888888", marker="", linestyle="--"),
    "memory (limit)": dict(color="#444444", marker="", linestyle="-"),
}


def draw(results: Path) -> None:
    """Both figures, from what is on disk."""
    FIGURES.mkdir(exist_ok=True)
    for name, figure in (("speed", speed), ("scaling", scaling)):
        made = figure(pd.read_csv(results / f"{name}.csv"))
        made.savefig(FIGURES / f"{name}.png", dpi=150, bbox_inches="tight")
        plt.close(made)


def speed(frame: pd.DataFrame) -> plt.Figure:
    """Tokens a second against the match ratio, every peer, on the synthetic pair; error bars are quartiles."""
    short = frame.loc[(frame["pair"] == frame["pair"].iloc[0]) & (frame["new_tokens"] == frame["new_tokens"].iloc[0])]
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for name, style in STYLES.items():
        lines = short.loc[short["peer"] == name].sort_values("match_ratio")
        if len(lines):
            axis.errorbar(lines.match_ratio, lines.tokens_per_second, lines.spread, label=name, capsize=2, **style)
    first = short.iloc[0]
    axis.set_xlabel("match ratio (share of tokens on which target and draft agree)")
    axis.set_ylabel("tokens a second")
    doubling(axis, short.tokens_per_second)
    axis.set_title(
        f"One prompt, greedy, {first.new_tokens} tokens, pair {first.pair} (random weights), {first.threads} CPU thread(s), {first.clock} time",
        fontsize=10,
    )
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def doubling(axis: plt.Axes, values: pd.Series) -> None:
    """A logarithmic axis with plain numbers, each twice the one before."""
    ticks = [2**i for i in range(20) if values.min() / 2 < 2**i < 2 * values.max()]
    axis.set_yscale("log", base=2)
    axis.set_yticks(ticks, [str(tick) for tick in ticks])


def scaling(frame: pd.DataFrame) -> plt.Figure:
    """Left: milliseconds a token over the context, with and without attention. Right: tokens a second over the batch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    context = frame.dropna(subset=["ours_ms"]).sort_values("context")
    left.errorbar(
        context.context,
        context.generate_ms,
        context.generate_ms_spread,
        label="target.generate",
        capsize=2,
        **STYLES["target.generate"],
    )
    left.errorbar(
        context.context, context.ours_ms, context.ours_ms_spread, label="ssd_lib", capsize=2, **STYLES["ssd_lib"]
    )
    rest = context.ours_ms - context.attention_ms
    left.plot(context.context, rest, label="ssd_lib, without its attention products", color="#D55E00", linestyle="--")
    left.set_xscale("log", base=2)
    left.set_xticks(context.context, [str(length) for length in context.context])
    left.set_xlabel("context (tokens)")
    left.set_ylabel("milliseconds a token")
    left.set_ylim(0)
    left.legend(frameon=False, fontsize=8)
    batch = frame.dropna(subset=["tokens_per_second"]).sort_values("rows")
    right.errorbar(batch.rows, batch.tokens_per_second, batch.spread, capsize=2, label="ssd_lib", **STYLES["ssd_lib"])
    right.plot(
        batch.rows, batch.rows * batch.tokens_per_second.iloc[0], color="#888888", linestyle="--", label="in proportion"
    )
    right.set_xscale("log", base=2)
    doubling(right, batch.tokens_per_second)
    right.set_xticks(batch.rows, [str(rows) for rows in batch.rows])
    right.set_xlabel("rows decoded together")
    right.set_ylabel("tokens a second, all rows")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Match ratio 0.8, pair {frame.pair.iloc[0]}, {frame.threads.iloc[0]} CPU thread(s), {frame.clock.iloc[0]} time",
        fontsize=10,
    )
    return figure
