"""An answer as a strip of tokens, as HTML and as text, and two answers beside each other.

Every mark is made three times, so that it is seen in colour, in grey and without styles (GitHub drops them):

    matched      plain        blue line
    corrected    bold         double vermilion line      [in brackets] as text
    insisted     italics      dotted amber line          {in braces} as text     (the target fallback)
    Union        ∪            shaded                     ∪: as text     (Intersection: ∩, not shaded)
    taken back   struck       faded                      ~tilde~ as text
    differs      «between»    dashed outline

`tokens` finds the marks for every strip: these, the explorer's buttons, the figure of answers, the terminal.
Texts are untrusted: tokens come through `trace.visible`, all of them are escaped, each stands in a `bdi` of its own.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any, NamedTuple

from ssd_lib.method.trace import RETRACTED, SIGNS, STYLES, UNION, kind, number, visible

TraceLine = dict[str, Any]
"""A trace's line with its `text`; where nothing was recorded, position, token and text only."""
Side = tuple[str, Sequence[TraceLine], Sequence[str]]
"""One of two answers: title, lines, and the pieces of its prefill."""

TAGS = {"matched": "span", "corrected": "b", "insisted": "i", "untraced": "span"}
BRACKETS = {"matched": "{}", "corrected": "[{}]", "insisted": "{{{}}}", "untraced": "{}"}
VERDICTS = {"matched": "✓ accepted", "corrected": "✗ corrected", "insisted": "! target insists"}
FADED = "opacity:.65"
SCROLLS = "width:0;min-width:100%;overflow-x:auto"
"""As wide as there is room for; what is wider scrolls instead of widening the page."""
SMALL = "font-size:85%;line-height:1.5"
DIFFERS = "outline:1px dashed rgba(128,128,128,.9)"
SHARED = 3
"""How many equal tokens in a row make two answers the same there."""
BOX = "font-family:monospace;line-height:2;white-space:pre-wrap;overflow-wrap:anywhere"


def escape(text: str) -> str:
    """Any text, made safe for HTML and for its surroundings."""
    return html.escape(visible(text), quote=True)


def isolated(piece: str) -> str:
    """A piece that `trace.visible` made, escaped, in an element that keeps its writing direction to itself."""
    return f"<bdi>{html.escape(piece, quote=True)}</bdi>"


def clip(text: str, length: int = 72) -> str:
    """The beginning of a text: prompts are never shown whole."""
    return text if len(text) <= length else text[: length - 2].rstrip() + " …"


# ------------------------------------------------------------------------------------------------ tokens


class Token(NamedTuple):
    """A token of an answer and its marks."""

    line: TraceLine
    how: str
    union: bool
    retracted: bool
    sign: str
    """∩ or ∪ where another scheme begins with this token."""

    @property
    def text(self) -> str:
        return self.line["text"]


def tokens(lines: Sequence[TraceLine]) -> list[Token]:
    """The lines of an answer as tokens with their marks."""
    found, before = [], None
    for line in lines:
        scheme = line.get("scheme")
        sign = SIGNS[scheme] if scheme and scheme != before else ""
        found.append(Token(line, how(line), scheme == "union", bool(line.get("retracted")), sign))
        before = scheme
    return found


def how(line: TraceLine) -> str:
    """How a token came to be emitted; "untraced" where nothing was recorded."""
    return kind(line) if "match" in line else "untraced"


def details(line: TraceLine) -> str:
    """One line about a token, as plain text: what hovering shows."""
    token = f"#{line['position']} {line['text']!r}"
    if how(line) == "untraced":
        return token
    return (
        f"{'taken back · ' if line['retracted'] else ''}{token} · round {line['round'] + 1} · {how(line)} · {line['scheme']} "
        f"· draft proposed {line['proposal_text']!r} · P_M {number(line['target_prob'])} P_m {number(line['draft_prob'])} "
        f"F {number(line['composite'])} · α {line['alpha']:.2f} "
        f"· match ratio {line['match_ratio']:.2f} / threshold {line['threshold']:.2f}"
    )


def details_html(line: TraceLine) -> str:
    """The same, escaped."""
    return html.escape(details(line), quote=True)


# ------------------------------------------------------------------------------------------------ one answer


def strip(lines: Sequence[TraceLine], prefill: Sequence[str] = (), differs: Sequence[bool] = ()) -> str:
    """The answer as HTML, after what the attacker wrote. `differs` marks tokens, one flag each."""
    written = f'<span style="{FADED}" title="written by the attacker">{isolated("".join(prefill))}</span> ‖ '
    parts = [written] * bool(prefill)
    for differ, run in _runs(lines, differs):
        marked = "".join(_sign_html(token.sign) + token_html(token) for token in run)
        parts.append(f'<span style="{DIFFERS}">«{marked}»</span>' if differ else marked)
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def strip_text(lines: Sequence[TraceLine], prefill: Sequence[str] = (), differs: Sequence[bool] = ()) -> str:
    """The same strip as plain text."""
    words = [f"{''.join(prefill)} ‖ "] if prefill else []
    for differ, run in _runs(lines, differs):
        opening = "«" * differ
        for token in run:
            words.append((f" {token.sign}:" if token.sign else "") + opening + _bracketed(token))
            opening = ""
        words.append("»" * differ)
    return "".join(words).strip()


def _runs(lines: Sequence[TraceLine], differs: Sequence[bool]) -> Iterator[tuple[bool, list[Token]]]:
    """Runs of tokens that differ from another answer, and of tokens that do not."""
    pairs = zip(differs or [False] * len(lines), tokens(lines), strict=True)
    return ((differ, [token for _, token in run]) for differ, run in groupby(pairs, key=lambda pair: pair[0]))


def _bracketed(token: Token) -> str:
    text = BRACKETS[token.how].format(token.text)
    return f"~{text}~" if token.retracted else text


def _sign_html(sign: str) -> str:
    return f'<small style="{FADED}"> {sign} </small>' if sign else ""


def token_html(token: Token) -> str:
    """One token; hovering over it shows the details."""
    word = token.text.lstrip(" ")
    space = token.text[: len(token.text) - len(word)]  # outside, so that a line can break there
    style = ";".join([STYLES.get(token.how, ""), *[UNION] * token.union, "margin-right:2px"]).lstrip(";")
    tag, title = TAGS[token.how], details_html(token.line)
    marked = f'<{tag} style="{style}" title="{title}">{isolated(word or "␣")}</{tag}>'
    return space + (f'<s style="{RETRACTED}">{marked}</s>' if token.retracted else marked)


def legend(traced: bool = True, compared: bool = False, retracted: bool = False) -> str:
    """What the marks mean, as HTML."""
    entries = [
        f'<span style="{STYLES["matched"]}">matched</span> (the draft’s own choice)',
        f'<b style="{STYLES["corrected"]}">corrected</b>',
        f'<i style="{STYLES["insisted"]}">target insists</i>',
        f'<span style="{UNION}">∪ Union</span>',
        "∩ Intersection",
    ]
    shown = entries * traced + [f'<span style="{DIFFERS}">«differs»</span>'] * compared
    shown += [f'<s style="{RETRACTED}">taken back</s>'] * retracted
    return f'<div style="{SMALL};{FADED}">{" &nbsp;·&nbsp; ".join(shown)}</div>'


LEGEND_TEXT = "[corrected]  {target insists}  ∩ Intersection  ∪ Union"

# ------------------------------------------------------------------------------------------------ two answers


def differing(left: Sequence[int], right: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Which tokens of each answer are not in the other one, in the order they stand in.

    A word or two that both happen to use ("the") do not count: runs shorter than SHARED are different.
    """
    flags = [True] * len(left), [True] * len(right)
    for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        if 0 < block.size < min(SHARED, len(left), len(right)):
            continue
        for side, start in zip(flags, (block.a, block.b), strict=True):
            side[start : start + block.size] = [False] * block.size
    return flags


def comparison(left: Side, right: Side) -> str:
    """Two answers side by side, below each other where there is no room."""
    columns = [
        f'<div style="display:inline-block;vertical-align:top;width:48%;min-width:260px;margin-right:1%">'
        f"<b>{escape(title)}</b>{strip(lines, prefill, differs)}</div>"
        for title, lines, prefill, differs in _compared(left, right)
    ]
    return f"<div>{''.join(columns)}</div>{legend(compared=True)}"


def comparison_text(left: Side, right: Side) -> str:
    """The same as plain text."""
    return "\n\n".join(
        f"{visible(title)}\n{strip_text(lines, prefill, differs)}"
        for title, lines, prefill, differs in _compared(left, right)
    )


def _compared(*sides: Side) -> Iterator[tuple[str, Sequence[TraceLine], Sequence[str], list[bool]]]:
    """Each side, and which of its tokens differ from the other's."""
    left, right = ([line["token"] for line in lines] for _, lines, _ in sides)
    return ((*side, flags) for side, flags in zip(sides, differing(left, right), strict=True))
