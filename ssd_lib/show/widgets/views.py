"""An answer as text and as HTML: the strip of its tokens, and two answers beside each other.

Every mark is made three times, so that it is seen in colour, in grey and without styles (GitHub drops them):

    matched      plain        blue line
    corrected    bold         double vermilion line      [in brackets] as text
    insisted     italics      dotted amber line          {in braces} as text
    Union        ∪            shaded                     ∪: as text     (Intersection: ∩, not shaded)
    taken back   struck       faded                      ~tilde~ as text
    differs      «between»    dashed outline

Texts are untrusted: tokens come through `trace.visible`, all of them are escaped, each stands in a `bdi` of its own.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from ssd_lib.method.trace import RETRACTED, SIGNS, STYLES, UNION, kind, visible

Line = dict[str, Any]

TAGS = {"matched": "span", "corrected": "b", "insisted": "i", "untraced": "span"}
BRACKETS = {"matched": "{}", "corrected": "[{}]", "insisted": "{{{}}}", "untraced": "{}"}
FADED = "opacity:.65"
SCROLLS = "width:0;min-width:100%;overflow-x:auto"
"""As wide as there is room for; what is wider scrolls instead of widening the page."""
SMALL = "font-size:85%;line-height:1.5"
DIFFERS = "outline:1px dashed rgba(128,128,128,.9)"
SHARED = 3
"""Tokens in a row that make two answers the same there."""
BOX = "font-family:monospace;line-height:2;white-space:pre-wrap;overflow-wrap:anywhere"


def escape(text: str) -> str:
    """Any text, made safe for HTML and for its surroundings."""
    return html.escape(visible(text), quote=True)


def clip(text: str, length: int = 72) -> str:
    """The first characters only: prompts are never shown whole."""
    return text if len(text) <= length else text[: length - 2].rstrip() + " …"


def look(line: Line) -> str:
    """How a token came to be emitted; "untraced" where nothing was recorded."""
    return kind(line) if "match" in line else "untraced"


def details(line: Line) -> str:
    """One line about a token, as plain text: what hovering shows."""
    if look(line) == "untraced":
        return f"#{line['position']} {line['text']!r}"
    return (
        f"{'taken back · ' if line['retracted'] else ''}#{line['position']} {line['text']!r} · round {line['round'] + 1} · {look(line)} · {line['scheme']} · draft proposed "
        f"{line['proposal_text']!r} · P_M {line['target_prob']:.3f} P_m {line['draft_prob']:.3f} F {line['composite']:.3f} · "
        f"α {line['alpha']:.2f} · match ratio {line['match_ratio']:.2f} / threshold {line['threshold']:.2f}"
    )


# ------------------------------------------------------------------------------------------------ one answer


def strip(lines: Sequence[Line], prefill: Sequence[str] = (), differs: Sequence[bool] = ()) -> str:
    """The answer as HTML, what the attacker wrote in front of it. `differs` marks tokens, one flag each."""
    flags = differs or [False] * len(lines)
    runs = groupby(zip(_with_schemes(lines), flags, strict=True), key=lambda pair: pair[1])
    parts = [_marked("".join(token for token, _ in run), differ) for differ, run in runs]
    return f'<div style="{BOX}">{_written(prefill)}{"".join(parts)}</div>'


def strip_text(lines: Sequence[Line], prefill: Sequence[str] = (), differs: Sequence[bool] = ()) -> str:
    """The same strip as plain text."""
    words, scheme = [f"{''.join(prefill)} ‖ "] if prefill else [], None
    flags = [False, *(differs or [False] * len(lines)), False]
    for i, line in enumerate(lines):
        if line.get("scheme", scheme) != scheme:
            scheme = line["scheme"]
            words.append(f" {SIGNS[scheme]}:")
        token = BRACKETS[look(line)].format(line["text"])
        token = f"~{token}~" if line.get("retracted") else token
        words.append(f"{'«' if flags[i + 1] > flags[i] else ''}{token}{'»' if flags[i + 1] > flags[i + 2] else ''}")
    return "".join(words).strip()


def _written(prefill: Sequence[str]) -> str:
    if not prefill:
        return ""
    text = html.escape("".join(prefill), quote=True)
    return f'<span style="{FADED}" title="written by the attacker"><bdi>{text}</bdi></span> ‖ '


def _with_schemes(lines: Sequence[Line]) -> list[str]:
    """Each token as HTML, with a sign in front where the scheme changes."""
    tokens, scheme = [], None
    for line in lines:
        now = line.get("scheme")
        sign = f'<small style="{FADED}"> {SIGNS[now]} </small>' if now != scheme and now else ""
        scheme = now
        tokens.append(sign + token_html(line))
    return tokens


def token_html(line: Line) -> str:
    """One token; hovering over it shows the details."""
    how, word = look(line), line["text"].lstrip(" ")
    space = line["text"][: len(line["text"]) - len(word)]  # outside, so that a line can break there
    style = ";".join([STYLES.get(how, ""), *([UNION] if line.get("scheme") == "union" else []), "margin-right:2px"])
    text, title = html.escape(word or "␣", quote=True), html.escape(details(line), quote=True)
    token = f'<{TAGS[how]} style="{style.lstrip(";")}" title="{title}"><bdi>{text}</bdi></{TAGS[how]}>'
    return space + (f'<s style="{RETRACTED}">{token}</s>' if line.get("retracted") else token)


def _marked(tokens: str, differs: bool) -> str:
    return f'<span style="{DIFFERS}">«{tokens}»</span>' if differs else tokens


def legend(traced: bool = True, compared: bool = False, retracted: bool = False) -> str:
    """What the marks mean, as HTML."""
    entries = [
        f'<span style="{STYLES["matched"]}">matched</span> (the draft’s own choice)',
        f'<b style="{STYLES["corrected"]}">corrected</b>',
        f'<i style="{STYLES["insisted"]}">target insists</i>',
        f'<span style="{UNION}">∪ Union</span>',
        "∩ Intersection",
    ]
    shown = (entries if traced else []) + ([f'<span style="{DIFFERS}">«differs»</span>'] if compared else [])
    shown += [f'<s style="{RETRACTED}">taken back</s>'] if retracted else []
    return f'<div style="{SMALL};{FADED}">{" &nbsp;·&nbsp; ".join(shown)}</div>'


LEGEND_TEXT = "[corrected]  {target insists}  ∩ Intersection  ∪ Union"


# ------------------------------------------------------------------------------------------------ two answers


def differing(left: Sequence[int], right: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Which tokens of each answer are not in the other one, in the order they stand in.

    A word or two that both happen to use ("the") is no agreement: shorter runs than SHARED count as different.
    """
    flags = [True] * len(left), [True] * len(right)
    for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        if 0 < block.size < min(SHARED, len(left), len(right)):
            continue
        for side, start in zip(flags, (block.a, block.b), strict=True):
            side[start : start + block.size] = [False] * block.size
    return flags


def comparison(
    left: tuple[str, Sequence[Line], Sequence[str]], right: tuple[str, Sequence[Line], Sequence[str]]
) -> str:
    """Two answers side by side (below each other where there is no room), each as (title, lines, prefill)."""
    flags = differing(*([line["token"] for line in lines] for _, lines, _ in (left, right)))
    columns = [
        f'<div style="display:inline-block;vertical-align:top;width:48%;min-width:260px;margin-right:1%">'
        f"<b>{escape(title)}</b>{strip(lines, prefill, differ)}</div>"
        for (title, lines, prefill), differ in zip((left, right), flags, strict=True)
    ]
    return f"<div>{''.join(columns)}</div>{legend(compared=True)}"


def comparison_text(
    left: tuple[str, Sequence[Line], Sequence[str]], right: tuple[str, Sequence[Line], Sequence[str]]
) -> str:
    """The same as plain text."""
    flags = differing(*([line["token"] for line in lines] for _, lines, _ in (left, right)))
    return "\n\n".join(
        f"{visible(title)}\n{strip_text(lines, prefill, differ)}"
        for (title, lines, prefill), differ in zip((left, right), flags, strict=True)
    )
