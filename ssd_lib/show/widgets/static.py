"""The explorer's views for pages without a kernel: untrusted notebooks, GitHub, print.

Each part is shown as HTML that says the same without its styles, with a plain-text twin, and as a PNG where it is a chart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from IPython.display import Image, display

from ssd_lib.method.trace import Strip
from ssd_lib.show import plots
from ssd_lib.show.widgets import charts, rounds, views
from ssd_lib.show.widgets.session import Run
from ssd_lib.toy import world, worlds

PARTS = ("strip", "timeline", "token", "rounds", "comparison", "retracted")
WIDTH = 720
"""Pixels of a chart on the page."""
ROUNDS, BEFORE = 5, 2
"""Rounds shown, and how many of them before the chosen token; a page is not a film."""


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
    """The named parts of an answer; `head` is the status line, `other` the answer that it is compared with.

    Raises ValueError for an unknown part, a comparison without `other`, or a chart of an answer without a trace.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}: choose of {', '.join(PARTS)}")
        if part == "comparison" and other is None:
            raise ValueError("there is nothing to compare with: set(compare='no defence'), or keep an answer")
    shown = [part for part in parts if run.traced or part in ("strip", "comparison")]
    strips = [_HTML[part](run, chosen, other) for part in shown]
    title = f"<div>{views.escape(views.clip(run.settings.question))}</div>{head}"
    strips[0] = Strip(title + strips[0].markup, f"{views.visible(views.clip(run.settings.question))}\n{strips[0].text}")
    return Static(
        strips, {i: plots.png(_FIGURES[part](run, chosen)) for i, part in enumerate(shown) if part in _FIGURES}
    )


def status(run: Run, grade: world.Grade | worlds.Grade | None) -> str:
    """One line about an answer: what it cost and, in the world, what it did."""
    words = [f"<b>{views.escape(run.settings.defender)}</b>", f"{len(run.lines)} tokens"]
    if run.traced:
        matched = sum(line["match"] for line in run.lines)
        words += [f"{matched} matched", f"{len(rounds.rounds(run.history))} rounds"]
        words += [f"{run.taken_back} taken back"] if run.taken_back else []
    cost = run.answer.cost
    words.append(f"{cost.target_forwards} target and {cost.draft_forwards} draft forwards")
    words += [views.escape(f"{name}: {views.clip(str(value))}") for name, value in run.answer.notes.items()]
    if grade is not None:
        words.append(f"<b>{verdict(grade)}</b>")
    return f'<div style="line-height:1.5">{" &nbsp;·&nbsp; ".join(words)}</div>'


def verdict(grade: world.Grade | worlds.Grade) -> str:
    """A grade in words."""
    if grade.right:
        return "right"
    told = f"tells {grade.told} of {grade.new_facts} facts that the attacker did not write"
    if isinstance(grade, worlds.Grade):
        told = f"tells {grade.told} pieces of a recipe"
    return f"{told}, {'ends in a refusal' if grade.ends_in_refusal else 'does not end in a refusal'}"


# ------------------------------------------------------------------------------------------------ parts

Part = Callable[[Run, int, Run | None], Strip]


def _strip(run: Run, _chosen: int, _other: Run | None) -> Strip:
    markup = views.strip(run.lines, run.prefill) + views.legend(run.traced)
    return Strip(markup, f"{views.strip_text(run.lines, run.prefill)}\n{views.LEGEND_TEXT}")


def _retracted(run: Run, _chosen: int, _other: Run | None) -> Strip:
    """The strip again, with what was taken back."""
    markup = views.strip(run.history, run.prefill) + views.legend(retracted=True)
    return Strip(markup, f"{views.strip_text(run.history, run.prefill)}\n{views.LEGEND_TEXT}  ~taken back~")


def _timeline(run: Run, _chosen: int, _other: Run | None) -> Strip:
    text = charts.timeline_text(run.lines)
    return Strip(f'<pre style="line-height:1.3">{text}</pre>', text)


def _token(run: Run, chosen: int, _other: Run | None) -> Strip:
    line, texts = run.lines[chosen], run.texts(chosen)
    return Strip(charts.candidates_html(line, texts), charts.candidates_text(line, texts))


def _rounds(run: Run, chosen: int, _other: Run | None) -> Strip:
    """The rounds around the chosen token, each as it was verified."""
    first = max(0, run.lines[chosen]["round"] - BEFORE)
    numbers = range(2 * first + 1, min(rounds.frames(run.history), 2 * (first + ROUNDS)), 2)
    frames = [(run.history, number, run.settings.config.lookahead, run.prefill) for number in numbers]
    return Strip("".join(rounds.frame(*f) for f in frames), "\n\n".join(rounds.frame_text(*f) for f in frames))


def _comparison(run: Run, _chosen: int, other: Run | None) -> Strip:
    assert other is not None
    return Strip(views.comparison(other.side, run.side), views.comparison_text(other.side, run.side))


_HTML: dict[str, Part] = {
    "strip": _strip,
    "timeline": _timeline,
    "token": _token,
    "rounds": _rounds,
    "comparison": _comparison,
    "retracted": _retracted,
}


def _timeline_figure(run: Run, _chosen: int) -> Figure:
    assert run.answer.trace is not None
    return plots.switching(run.answer.trace.to_frame(), run.settings.config.bin_size)


def _token_figure(run: Run, chosen: int) -> Figure:
    found = charts.candidates(run.lines[chosen], run.texts(chosen), shown=8)
    numbers = [[value if value is not None else 0.0 for value in (c.target, c.draft, c.composite)] for c in found]
    target, draft, scores = (list(column) for column in zip(*numbers, strict=True))
    title = f"token {chosen}: {run.lines[chosen]['text']!r} ({run.lines[chosen]['scheme']})"
    return plots.token_bars([c.text for c in found], target, draft, scores, [c.inside for c in found], title)


_FIGURES = {"timeline": _timeline_figure, "token": _token_figure}
