"""The rounds of an answer, to be played: the draft proposes, the target verifies (arXiv 2508.17739, section 4).

There are two frames a round. A trace keeps the tokens up to the first that differs from its proposal: there the round ends, and
later proposals are dropped unseen. Tokens that were taken back stand in their rounds, struck through.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ssd_lib.method.trace import SIGNS
from ssd_lib.show.strips import BOX, FADED, SCROLLS, VERDICTS, TraceLine, how, isolated, token_html, tokens

SO_FAR = 24
"""Tokens of the answer shown before a round."""
CELL = "padding:2px 8px;text-align:center;border:1px solid rgba(128,128,128,.4)"


def rounds(lines: Sequence[TraceLine]) -> list[list[TraceLine]]:
    """The answer's lines, round by round."""
    return [list(group) for _, group in groupby(lines, key=lambda line: line["round"])]


def standing(lines: Sequence[TraceLine], now: Sequence[TraceLine]) -> list[TraceLine]:
    """The answer before this round: of each place the token that came last."""
    earlier = {line["position"]: line for line in lines if line["round"] < now[0]["round"]}
    return [earlier[place] for place in range(now[0]["position"])]


def frames(lines: Sequence[TraceLine]) -> int:
    """How many frames there are."""
    return 2 * len(rounds(lines))


def frame(lines: Sequence[TraceLine], index: int, lookahead: int, prefill: Sequence[str] = ()) -> str:
    """Frame 2r: what the draft proposes in round r; frame 2r + 1: what became of it.

    Args:
        lines: All of the answer, with those that were taken back.
        index: Of the frame, from 0.
        lookahead: Proposals of a round; 0 where the number differs from round to round.
        prefill: The pieces of what the attacker wrote.
    """
    seen = _seen(lines, index)
    table = _table(seen.now, lookahead, seen.verified)
    return f"<div><b>{seen.title}</b>{_so_far(seen.before, prefill)}{table}</div>"


def frame_text(lines: Sequence[TraceLine], index: int, lookahead: int, prefill: Sequence[str] = ()) -> str:
    """The same as plain text."""
    seen = _seen(lines, index)
    so_far = "".join([*prefill, *(line["text"] for line in seen.before)][-SO_FAR:])
    proposals = [line["proposal_text"] for line in seen.now] + ["…"] * (lookahead - len(seen.now))
    text = f"{seen.title}\n…{so_far}\ndraft proposes:  {' | '.join(proposals)}"
    if seen.verified:
        text += "\nemitted:         " + " | ".join(f"{line['text']} ({verdict(line)})" for line in seen.now)
    return text


def verdict(line: TraceLine) -> str:
    """What became of a token."""
    return VERDICTS[how(line)] + ", then taken back" * line["retracted"]


class _Seen(NamedTuple):
    """What a frame shows: a round's lines, the answer before it, and whether the target has verified."""

    title: str
    before: list[TraceLine]
    now: list[TraceLine]
    verified: bool


def _seen(lines: Sequence[TraceLine], index: int) -> _Seen:
    every = rounds(lines)
    number, verified = divmod(index, 2)
    title = f"Round {number + 1} of {len(every)}: {'target verifies' if verified else 'draft proposes'}"
    return _Seen(title, standing(lines, every[number]), every[number], bool(verified))


def _so_far(before: Sequence[TraceLine], prefill: Sequence[str]) -> str:
    # also what is taken back later
    kept = tokens([line | {"retracted": False} for line in before[-SO_FAR:]])
    room = SO_FAR - len(before)
    written = isolated("".join(prefill[-room:])) if room > 0 else ""
    head = f'<span style="{FADED}">{written}</span>' + " ‖ " * bool(prefill) if room > 0 else ""
    return f'<div style="{BOX}">…{head}{"".join(map(token_html, kept))} ▌</div>'


def _table(now: Sequence[TraceLine], lookahead: int, verified: bool) -> str:
    rest = lookahead - len(now)
    proposals = [isolated(line["proposal_text"]) for line in now] + ["…"] * rest
    emitted = [token_html(token) for token in tokens(now)] + ["–"] * rest
    verdicts = [f"{verdict(line)} {SIGNS[line['scheme']]}" for line in now] + ["not reached"] * rest
    hidden = [""] * len(proposals)
    rows = (
        ("draft proposes", proposals),
        ("emitted", emitted if verified else hidden),
        ("verdict", verdicts if verified else hidden),
    )
    body = "".join(_row(*row) for row in rows)
    return f'<div style="{SCROLLS}"><table style="border-collapse:collapse;white-space:pre">{body}</table></div>'


def _row(name: str, cells: Sequence[str]) -> str:
    shown = "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells)
    return f'<tr><th style="{CELL};text-align:left">{name}</th>{shown}</tr>'
