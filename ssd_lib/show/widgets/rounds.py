"""The rounds of an answer, to be played: the draft proposes, the target verifies (arXiv 2508.17739, section 4).

Two frames a round. A trace keeps what was looked at: behind the first token that differs from its proposal the round ends, so
proposals further on were thrown away unseen. Tokens that were taken back stand in their rounds, struck through.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby

from ssd_lib.method.trace import SIGNS
from ssd_lib.show.widgets.views import BOX, FADED, SCROLLS, Line, look, token_html

SO_FAR = 24
"""Tokens of the answer shown before a round."""
VERDICTS = {"matched": "✓ accepted", "corrected": "✗ corrected", "insisted": "! target insists"}
CELL = "padding:2px 8px;text-align:center;border:1px solid rgba(128,128,128,.4)"


def rounds(lines: Sequence[Line]) -> list[list[Line]]:
    """The answer's lines, round by round."""
    return [list(group) for _, group in groupby(lines, key=lambda line: line["round"])]


def standing(lines: Sequence[Line], now: Sequence[Line]) -> list[Line]:
    """The answer before this round: of each place the token that came last."""
    earlier = {line["position"]: line for line in lines if line["round"] < now[0]["round"]}
    return [earlier[place] for place in range(now[0]["position"])]


def frame(lines: Sequence[Line], index: int, lookahead: int, prefill: Sequence[str] = ()) -> str:
    """Frame 2r: what the draft proposes in round r; frame 2r + 1: what became of it. `lookahead`: proposals of a round.

    lines: those that were taken back among them.
    """
    every = rounds(lines)
    number, verified = divmod(index, 2)
    now = every[number]
    step = "target verifies" if verified else "draft proposes"
    title = f"Round {number + 1} of {len(every)}: {step}"
    return f"<div><b>{title}</b>{_so_far(standing(lines, now), prefill)}{_table(now, lookahead, bool(verified))}</div>"


def frame_text(lines: Sequence[Line], index: int, lookahead: int, prefill: Sequence[str] = ()) -> str:
    """The same as plain text."""
    every = rounds(lines)
    number, verified = divmod(index, 2)
    now, before = every[number], [line["text"] for line in standing(lines, every[number])]
    head = f"Round {number + 1} of {len(every)}: {'target verifies' if verified else 'draft proposes'}"
    so_far = "".join([*prefill, *before][-SO_FAR:])
    proposals = " | ".join([line["proposal_text"] for line in now] + ["…"] * _unseen(now, lookahead))
    text = f"{head}\n…{so_far}\ndraft proposes:  {proposals}"
    if verified:
        text += "\nemitted:         " + " | ".join(f"{line['text']} ({verdict(line)})" for line in now)
    return text


def frames(lines: Sequence[Line]) -> int:
    """How many frames there are."""
    return 2 * len(rounds(lines))


def verdict(line: Line) -> str:
    """What became of a token."""
    return VERDICTS[look(line)] + ", then taken back" * line["retracted"]


def _so_far(before: Sequence[Line], prefill: Sequence[str]) -> str:
    position = len(before)
    # what is taken back later stood there then
    kept = [line | {"retracted": False} for line in before[max(0, position - SO_FAR) :]]
    written = "".join(prefill[max(0, len(prefill) - max(0, SO_FAR - position)) :])
    head = f'<span style="{FADED}"><bdi>{html.escape(written, quote=True)}</bdi></span>' + (" ‖ " if prefill else "")
    return f'<div style="{BOX}">…{head if position < SO_FAR else ""}{"".join(map(token_html, kept))} ▌</div>'


def _unseen(now: Sequence[Line], lookahead: int) -> int:
    return max(0, lookahead - len(now))


def _table(now: Sequence[Line], lookahead: int, verified: bool) -> str:
    rest = _unseen(now, lookahead)
    proposals = [f"<bdi>{html.escape(line['proposal_text'], quote=True)}</bdi>" for line in now] + ["…"] * rest
    hidden = [""] * lookahead
    emitted = [token_html(line) for line in now] + ["–"] * rest
    verdicts = [f"{verdict(line)} {SIGNS[line['scheme']]}" for line in now] + ["not reached"] * rest
    rows = (
        ("draft proposes", proposals),
        ("emitted", emitted if verified else hidden),
        ("verdict", verdicts if verified else hidden),
    )
    return f'<div style="{SCROLLS}"><table style="border-collapse:collapse;white-space:pre">{"".join(_row(*row) for row in rows)}</table></div>'


def _row(name: str, cells: Sequence[str]) -> str:
    return (
        f'<tr><th style="{CELL};text-align:left">{name}</th>'
        + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells)
        + "</tr>"
    )
