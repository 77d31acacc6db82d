"""Which candidates a token was chosen from, and how the scheduler saw the answer.

    candidates   P_M, P_m and F = P_M + α (P_m − P_M) of both models' best tokens, the sample space V marked with ∈
    timeline     match ratio of the running bin against its threshold, Union shaded (arXiv 2508.17739, section 4.3)

The table can be read without styles: every bar has its number. The timeline is inline SVG, for pages with a kernel;
`plots.switching` draws the same as a PNG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssd_lib.method.trace import SIGNS, number
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
from ssd_lib.show.style import COLORS, SMALLEST

SHOWN = 10
"""Candidates in the table."""
BAR = 50
"""Pixels of a bar of 1."""
CELL = "padding:0 4px;text-align:left;white-space:pre;line-height:1.3"
NEARLY = 1e-3
"""Of an α nearer than this to 0 or to 1, a probability cannot be solved for."""
ROUNDING = 2.0**-22
"""Of a trace's numbers, which are float32: a difference smaller than this share of them says nothing."""


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
    _solve(target, draft, space, line["alpha"])

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


def _solve(target: dict[int, float], draft: dict[int, float], space: Mapping[int, float], alpha: float) -> None:
    """Of a token in V whose F is known and one of its probabilities, put in the other: F = (1 − α) P_M + α P_m.

    What is smaller than the rounding of F stays unknown: it would read 0, which it is not.
    """
    for token, composite in space.items():
        for known, share, missing, weight in ((target, 1 - alpha, draft, alpha), (draft, alpha, target, 1 - alpha)):
            if token in known and token not in missing and abs(weight) > NEARLY:
                part = share * known[token]
                found = (composite - part) / weight
                if found > ROUNDING * max(abs(composite), abs(part)) / abs(weight):
                    missing[token] = min(found, 1.0)


def others(found: Sequence[Candidate]) -> tuple[float, float]:
    """How much of P_M and of P_m lies outside of these tokens, with those of which it is not known."""
    target, draft = (sum(getattr(c, name) or 0.0 for c in found) for name in ("target", "draft"))
    return max(0.0, 1 - target), max(0.0, 1 - draft)


def candidates_html(line: TraceLine, texts: Mapping[int, str]) -> str:
    """The candidates as a table of bars."""
    names = ("", "token", "in V", "target P_M", "draft P_m", "composite F")
    head = "".join(f'<th style="{CELL}">{name}</th>' for name in names)
    found, most = candidates(line, texts), (line["target_top_probs"][-1], line["draft_top_probs"][-1])
    rows = "".join(_row(candidate, most) for candidate in found)
    outside = [_bar(value, COLORS[name]) for name, value in zip(("target", "draft"), others(found), strict=True)]
    cells = "".join(f'<td style="{CELL}">{cell}</td>' for cell in ("", "<i>all others</i>", "", *outside, ""))
    return (
        f'<div style="{SMALL}">{details_html(line)}</div>'
        f'<div style="{SCROLLS}"><table style="{SMALL};border-collapse:collapse"><tr>{head}</tr>{rows}<tr>{cells}</tr></table></div>'
        f'<div style="{SMALL};{FADED}">▶ emitted &nbsp;·&nbsp; ◇ the draft’s proposal &nbsp;·&nbsp; ␣ a space &nbsp;·&nbsp; ∈ in the sample '
        f"space V &nbsp;·&nbsp; bars: logarithmic, from {SMALLEST:g} to 1 &nbsp;·&nbsp; ≤ not among that model’s ten best</div>"
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


def _row(candidate: Candidate, most: tuple[float, float]) -> str:
    """The emitted token bold; what is outside the sample space faded. `most`: P_M and P_m of what is not known, at most."""
    text = isolated(candidate.text.replace(" ", "␣"))
    cells = [_signs(candidate), f"<b>{text}</b>" if candidate.emitted else text, "∈" if candidate.inside else ""]
    cells += [_bar(candidate.target, COLORS["target"], most[0]), _bar(candidate.draft, COLORS["draft"], most[1])]
    cells.append("–" if candidate.composite is None else _bar(candidate.composite, COLORS["SSD"]))
    style = CELL + ("" if candidate.inside else f";{FADED}")
    return "<tr>" + "".join(f'<td style="{style}">{cell}</td>' for cell in cells) + "</tr>"


def _bar(value: float | None, color: str, most: float = 0.0) -> str:
    """A bar on a logarithmic scale and its number; for a value that is not known, the most that it can be."""
    known = most if value is None else value
    width = round(BAR * (1 - math.log10(max(known, SMALLEST)) / math.log10(SMALLEST))) if known > 0 else 0
    width = min(width, BAR) if value is not None else 0
    fill = f'<span style="display:inline-block;width:{width}px;height:9px;background-color:{color}"></span>'
    track = f'<span style="display:inline-block;width:{BAR}px;height:9px;background-color:rgba(128,128,128,.15)">{fill}</span>'
    return f"{track} {'≤ ' if value is None else ''}{number(known)}"


# ------------------------------------------------------------------------------------------------ under each token

UNDER = 20
"""Pixels of a match ratio of 1 under a token."""


def under(lines: Sequence[TraceLine]) -> list[str]:
    """For each token the CSS class that draws its match ratio and threshold under it; "" without a trace."""
    following = [*lines[1:], None][: len(lines)]
    return [_under(line, after) if "match" in line else "" for line, after in zip(lines, following, strict=True)]


def _under(line: TraceLine, after: TraceLine | None) -> str:
    end = "e" if after is None or after["bin_tokens"] == 1 else ""
    return f"ssd-under ssd-r{round(100 * line['match_ratio'])}-{round(100 * line['threshold'])}{end}"


def under_css(classes: Sequence[str]) -> str:
    """The style sheet of these classes: a bar as high as the match ratio, full where a bin ends, and the threshold as a dashed line."""
    return "".join(_rule(each) for each in dict.fromkeys(name.split(" ")[1] for name in classes if name))


def _rule(name: str) -> str:
    ratio, threshold = (int(part.strip("e")) / 100 for part in name.removeprefix("ssd-r").split("-"))
    color = COLORS["SSD"] if name.endswith("e") else f"{COLORS['SSD']}77"
    dashes = "repeating-linear-gradient(90deg,currentColor 0 4px,transparent 4px 7px)"
    return (
        f".{name}::after{{background-image:{dashes},linear-gradient({color},{color});"
        f"background-size:100% 1.5px,calc(100% - 2px) {max(UNDER * ratio, 1):.1f}px;"
        f"background-position:0 {(UNDER - 1.5) * (1 - threshold):.1f}px,50% 100%}}"
    )


def under_legend() -> str:
    """What stands under the tokens."""
    return (
        f'<div style="{SMALL};{FADED}">under each token: <span style="color:{COLORS["SSD"]}">▮</span> match ratio of the running bin '
        "(full: the bin ends here) &nbsp;·&nbsp; ╌ threshold: a bin that ends below it brings Union</div>"
    )


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
