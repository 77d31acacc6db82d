"""Which candidates a token was chosen from, and how the scheduler saw the answer.

    candidates   P_M, P_m and F = P_M + α (P_m − P_M) of both models' best tokens, the sample space V marked with ∈
    timeline     match ratio of the running bin against its threshold, Union shaded (arXiv 2508.17739, section 4.3)

The table can be read without styles: every bar has its number. The timeline is inline SVG, for pages with a kernel;
`plots.switching` draws the same as a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssd_lib.method.trace import SIGNS
from ssd_lib.show.strips import (
    FADED,
    SCROLLS,
    SMALL,
    VERDICTS,
    Token,
    TraceLine,
    details,
    details_html,
    isolated,
    tokens,
)
from ssd_lib.show.style import COLORS

SHOWN = 10
"""Candidates in the table."""
BAR = 56
"""Pixels of a bar of 1."""


class Candidate(NamedTuple):
    """One token at a position; None: not among the best that the trace keeps."""

    token: int
    text: str
    target: float | None
    draft: float | None
    composite: float | None
    emitted: bool
    proposed: bool

    @property
    def inside(self) -> bool:
        return self.composite is not None


def candidates(line: TraceLine, texts: Mapping[int, str], shown: int = SHOWN) -> list[Candidate]:
    """The likeliest tokens of either model: the sample space by F, then the rest by the greater probability.

    The emitted, the proposed and the target's own favourite token are always among them.
    """
    lists = ("target_top", "target_top_probs"), ("draft_top", "draft_top_probs"), ("space", "space_composite")
    target, draft, space = (dict(zip(line[ids], line[values], strict=True)) for ids, values in lists)
    target.setdefault(line["token"], line["target_prob"])
    draft.setdefault(line["token"], line["draft_prob"])

    def rank(token: int) -> tuple[bool, float]:
        best = max(target.get(token, 0.0), draft.get(token, 0.0))
        return token not in space, -space.get(token, best)

    ordered = sorted(target | draft | space, key=rank)
    must = [line["token"], line["proposal"], line["target_top"][0]]
    outside = [token for token in ordered if token not in space][:3]  # see what V keeps out
    chosen = list(dict.fromkeys([*must, *outside, *ordered]))[:shown]
    return [
        Candidate(t, texts[t], target.get(t), draft.get(t), space.get(t), t == line["token"], t == line["proposal"])
        for t in ordered
        if t in chosen
    ]


def candidates_html(line: TraceLine, texts: Mapping[int, str]) -> str:
    """The candidates as a table of bars."""
    names = ("", "token", "V", "target P_M", "draft P_m", "composite F")
    head = "".join(f'<th style="text-align:left;padding:0 6px">{name}</th>' for name in names)
    rows = "".join(_row(candidate) for candidate in candidates(line, texts))
    return (
        f'<div style="{SMALL}">{details_html(line)}</div>'
        f'<div style="{SCROLLS}"><table style="{SMALL};border-collapse:collapse"><tr>{head}</tr>{rows}</table></div>'
        f'<div style="{SMALL};{FADED}">▶ emitted &nbsp;·&nbsp; ␣ a space &nbsp;·&nbsp; ◇ the draft’s proposal &nbsp;·&nbsp; ∈ in the sample '
        "space V &nbsp;·&nbsp; – not among the ten best that the trace keeps</div>"
    )


def candidates_text(line: TraceLine, texts: Mapping[int, str]) -> str:
    """The same table as plain text."""
    rows = [details(line), f"{'token':>17} V    P_M    P_m      F"]
    for c in candidates(line, texts):
        numbers = ["     –" if value is None else f"{value:6.3f}" for value in (c.target, c.draft, c.composite)]
        rows.append(" ".join([f"{_signs(c):2} {c.text!r:>14}", "∈" if c.inside else " ", *numbers]))
    return "\n".join(rows)


def _signs(candidate: Candidate) -> str:
    return ("▶" if candidate.emitted else "") + ("◇" if candidate.proposed else "")


def _row(candidate: Candidate) -> str:
    """The emitted token bold; what is outside the sample space faded."""
    text = isolated(candidate.text.replace(" ", "␣"))
    cells = [_signs(candidate), f"<b>{text}</b>" if candidate.emitted else text, "∈" if candidate.inside else ""]
    values = (("target", candidate.target), ("draft", candidate.draft), ("SSD", candidate.composite))
    cells += [_bar(value, COLORS[name]) for name, value in values]
    style = "padding:0 6px;text-align:left;white-space:pre" + ("" if candidate.inside else f";{FADED}")
    return "<tr>" + "".join(f'<td style="{style}">{cell}</td>' for cell in cells) + "</tr>"


def _bar(value: float | None, color: str) -> str:
    if value is None:
        return "–"
    width = round(BAR * min(max(value, 0.0), 1.0))
    bar = f'<span style="display:inline-block;width:{width}px;height:9px;background-color:{color}"></span>'
    return f"{bar} {value:.3f}"


# ------------------------------------------------------------------------------------------------ over the answer

STEP, TALL, LEFT = 16, 64, 26
"""Pixels: a token's width, the height of 1, the room for labels."""


def timeline(lines: Sequence[TraceLine], chosen: int | None = None) -> str:
    """Match ratio as bars, threshold as a dashed line, ✓ and ✗ of every token, Union shaded; one SVG."""
    width, height = LEFT + STEP * len(lines) + 6, TALL + 38
    parts = [_label(0, 12 + TALL - TALL * y, f"{y:g}") for y in (0.0, 0.5, 1.0)]
    marked = tokens(lines)
    parts += [_column(LEFT + STEP * i, token, i == chosen) for i, token in enumerate(marked)]
    parts += [_label(LEFT + STEP * i + 4, TALL + 35, token.sign) for i, token in enumerate(marked) if token.sign]
    levels = [f"{8 + TALL * (1 - line['threshold']):.1f}" for line in lines]
    points = " ".join(f"{LEFT + STEP * (i + side)},{level}" for i, level in enumerate(levels) for side in (0, 1))
    stroke = 'fill="none" stroke="currentColor" stroke-dasharray="4 2" stroke-width="1.5"'
    parts.append(f'<polyline points="{points}" {stroke}/>')
    style = f"width:100%;max-width:{width}px;min-width:{round(0.6 * width)}px;height:auto;display:block"
    return (
        f'<div style="{SCROLLS}"><svg viewBox="0 0 {width} {height}" style="{style}" role="img">{"".join(parts)}</svg></div>'
        f'<div style="{SMALL};{FADED}"><span style="color:{COLORS["SSD"]}">▮</span> match ratio of the running bin '
        "&nbsp;·&nbsp; ╌ threshold &nbsp;·&nbsp; ✓ matched ✗ corrected ! target insists &nbsp;·&nbsp; shaded: ∪ Union</div>"
    )


def timeline_text(lines: Sequence[TraceLine]) -> str:
    """The same as three lines of text: schemes, marks, and the bins' match ratios against their thresholds."""
    schemes = "".join(SIGNS[line["scheme"]] for line in lines)
    marks = "".join(map(_mark, tokens(lines)))
    following = [*lines[1:], None]
    ends = [line for line, after in zip(lines, following, strict=True) if not after or after["bin_tokens"] == 1]
    bins = "  ".join(f"{line['match_ratio']:.2f}/{line['threshold']:.2f}" for line in ends)
    return f"scheme  {schemes}\ntokens  {marks}\nmatch ratio/threshold of each bin: {bins}"


def _column(x: int, token: Token, chosen: bool) -> str:
    bar = TALL * token.line["match_ratio"]
    shade = f'width="{STEP}" height="{TALL}" fill="{COLORS["draft"]}" fill-opacity="{0.22 if token.union else 0}"'
    ratio = f'width="{STEP - 6}" height="{max(bar, 1):.1f}" fill="{COLORS["SSD"]}" fill-opacity="0.8"'
    frame = f'width="{STEP}" height="{TALL + 15}" fill="none" stroke="currentColor" stroke-width="1.5"'
    parts = [
        f"<title>{details_html(token.line)}</title>",
        f'<rect x="{x}" y="8" {shade}/>',
        f'<rect x="{x + 3}" y="{8 + TALL - bar:.1f}" {ratio}/>',
        _label(x + 4, TALL + 20, _mark(token)),
        f'<rect x="{x}" y="8" {frame}/>' * chosen,
    ]
    return f"<g>{''.join(parts)}</g>"


def _mark(token: Token) -> str:
    """✓, ✗ or !"""
    return VERDICTS[token.how][0]


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y:.1f}" font-size="11" fill="currentColor">{text}</text>'
