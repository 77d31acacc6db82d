"""The explorer's views for pages without a kernel: untrusted notebooks, GitHub, print.

Each part is shown as HTML that says the same without its styles, with a plain-text twin, and as a PNG where it is a chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from IPython.display import Image, display
from matplotlib.figure import Figure

from ssd_lib.method.trace import Strip, visible
from ssd_lib.show import charts, plots, rounds, strips
from ssd_lib.show.session import Run
from ssd_lib.toy import world, worlds

PARTS = ("strip", "timeline", "token", "rounds", "comparison", "retracted")
NO_TRACE = "this defence has no trace. Choose the defender ssd or ssd-hardened."
WIDTH = 720
"""Pixels of a chart on the page."""
ROUNDS, BEFORE = 5, 2
"""Rounds shown, and how many of them before the chosen token."""


@dataclass(frozen=True)
class Static:
    """Views that a notebook displays one below the other. `.html`, `.text` and `.pngs` hold all of them."""

    strips: list[Strip]
    charts: dict[int, bytes] = field(default_factory=dict)
    """PNGs by the number of the strip that they follow."""

    @property
    def html(self) -> str:
        return "\n".join(strip.markup for strip in self.strips)

    @property
    def text(self) -> str:
        return "\n\n".join(strip.text for strip in self.strips)

    @property
    def pngs(self) -> list[bytes]:
        return list(self.charts.values())

    def __repr__(self) -> str:
        return self.text

    def _ipython_display_(self) -> None:
        for number, strip in enumerate(self.strips):
            display(strip)
            if number in self.charts:
                display(Image(self.charts[number], width=WIDTH))


def static(run: Run, chosen: int, other: Run | None, head: str, parts: Sequence[str]) -> Static:
    """The named parts of an answer. Without a trace only strip and comparison can be shown; a line says so in place of the rest.

    Args:
        run: The answer.
        chosen: The token to look at closely.
        other: The answer that it is compared with.
        head: The status line.
        parts: Names of `PARTS`.

    Raises:
        ValueError: For an unknown part, or a comparison without `other`.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}: choose of {', '.join(PARTS)}")
        if part == "comparison" and other is None:
            raise ValueError("there is nothing to compare with: set(compare='no defence'), or keep an answer")
    shown = [part for part in parts if run.traced or part in ("strip", "comparison")]
    views = [_part(part, run, chosen, other) for part in shown]
    if len(shown) < len(parts):
        left_out = f"No {', '.join(part for part in parts if part not in shown)}: {NO_TRACE}"
        views.append(Strip(f'<div style="{strips.SMALL}">{left_out}</div>', left_out))
    question = strips.clip(run.settings.question)
    views[0] = Strip(
        f"<div>{strips.escape(question)}</div>{head}{views[0].markup}", f"{visible(question)}\n{views[0].text}"
    )
    figures = {i: _figure(part, run, chosen) for i, part in enumerate(shown) if part in ("timeline", "token")}
    return Static(views, {i: plots.png(figure) for i, figure in figures.items()})


def status(run: Run, grade: world.Grade | worlds.Grade | None) -> str:
    """One line about an answer: what it cost and, in the world, what it did."""
    words = [f"<b>{strips.escape(run.settings.defender)}</b>", f"{len(run.lines)} tokens"]
    if run.traced:
        matched = sum(line["match"] for line in run.lines)
        words += [f"{matched} matched", f"{len(rounds.rounds(run.history))} rounds"]
        words += [f"{run.taken_back} taken back"] if run.taken_back else []
    cost = run.answer.cost
    words.append(f"{cost.target_forwards} target and {cost.draft_forwards} draft forwards")
    words += [strips.escape(f"{name}: {strips.clip(str(value))}") for name, value in run.answer.notes.items()]
    if grade is not None:
        words.append(f"<b>{verdict(grade)}</b>")
    return f'<div style="line-height:1.5">{" &nbsp;·&nbsp; ".join(words)}</div>'


def verdict(grade: world.Grade | worlds.Grade) -> str:
    """A grade in words."""
    if grade.right:
        return "right"
    leaked = f"tells {grade.told} of {grade.new_facts} facts that the attacker did not write"
    if isinstance(grade, worlds.Grade):
        leaked = f"tells {grade.told} pieces of a recipe"
    return f"{leaked}, {'ends in a refusal' if grade.ends_in_refusal else 'does not end in a refusal'}"


# ------------------------------------------------------------------------------------------------ parts


def _part(part: str, run: Run, chosen: int, other: Run | None) -> Strip:
    """One of PARTS as HTML and text."""
    if part == "strip":
        return _strip(run.lines, run.prefill, strips.legend(run.traced), strips.LEGEND_TEXT)
    if part == "retracted":
        legend = strips.legend(retracted=True), f"{strips.LEGEND_TEXT}  ~taken back~"
        return _strip(run.history, run.prefill, *legend)
    if part == "timeline":
        text = charts.timeline_text(run.lines)
        return Strip(f'<pre style="line-height:1.3">{text}</pre>', text)
    if part == "token":
        token = run.lines[chosen], run.texts(chosen)
        return Strip(charts.candidates_html(*token), charts.candidates_text(*token))
    if part == "rounds":
        return _rounds(run, chosen)
    assert other is not None
    return Strip(strips.comparison(other.side, run.side), strips.comparison_text(other.side, run.side))


def _strip(lines: Sequence[strips.TraceLine], prefill: Sequence[str], legend: str, legend_text: str) -> Strip:
    return Strip(strips.strip(lines, prefill) + legend, f"{strips.strip_text(lines, prefill)}\n{legend_text}")


def _rounds(run: Run, chosen: int) -> Strip:
    """The rounds around the chosen token, each as it was verified."""
    first = max(0, run.lines[chosen]["round"] - BEFORE)
    numbers = range(2 * first + 1, min(rounds.frames(run.history), 2 * (first + ROUNDS)), 2)
    frames = [(run.history, number, run.lookahead, run.prefill) for number in numbers]
    return Strip("".join(rounds.frame(*f) for f in frames), "\n\n".join(rounds.frame_text(*f) for f in frames))


def _figure(part: str, run: Run, chosen: int) -> Figure:
    """The chart of a part that has one."""
    if part == "timeline":
        assert run.answer.trace is not None
        return plots.switching(run.answer.trace.to_frame(), run.settings.config.bin_size)
    found = charts.candidates(run.lines[chosen], run.texts(chosen), shown=8)
    target, draft, scores = ([getattr(c, model) or 0.0 for c in found] for model in ("target", "draft", "composite"))
    title = f"token {chosen}: {run.lines[chosen]['text']!r} ({run.lines[chosen]['scheme']})"
    return plots.token_bars(
        [c.text.replace(" ", "␣") for c in found], target, draft, scores, [c.inside for c in found], title
    )
