"""What happened at every token, as data.

`ssd_generate` records one line for each emitted token: what the draft proposed, what was emitted and why, under which
scheme, and the best candidates of both models. A `Trace` is those lines as a data frame, with a token strip for
notebooks (inline styles only, every token escaped: model output is untrusted) and a plain-text twin.

Columns: row, position, round, token, proposal, match, scheme, k, threshold, alpha, bin_tokens, match_ratio (of the
running bin, this token included), target_prob, draft_prob, composite (P_M, P_m and F of the emitted token), insisted
(the target fallback, rule 2), retracted (the token was taken back, see `switching`), and as short lists target_top, target_top_probs, draft_top,
draft_top_probs, space, space_composite.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from ssd_lib.paths import replacing, write_whole

TOP = 10
"""Candidates kept of each model."""
SPACE = 20
"""Tokens kept of the sample space, best F first."""


class Decodes(Protocol):
    """The one thing a trace needs of a tokenizer."""

    def decode(self, token_ids: Any, **kwargs: Any) -> Any: ...


class Trace:
    """The record of one call, one line an emitted token; the column `row` names the row of the batch.

    `frame` holds the tokens of the answers; `lines` also those that were taken back, in the order in which they came.

    Args:
        lines: A data frame with the columns that this module names.
    """

    def __init__(self, lines: pd.DataFrame):
        self.lines = lines if "retracted" in lines else lines.assign(retracted=False)
        kept = ~self.lines["retracted"].to_numpy(dtype=bool)
        self.frame: pd.DataFrame = self.lines if kept.all() else self.lines.loc[kept].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.frame)

    def row(self, index: int) -> Trace:
        """The lines of one row of the batch, as row 0 of a new trace."""
        lines = self.lines[self.lines["row"] == index]
        return Trace(lines.assign(row=0).reset_index(drop=True))

    def to_frame(
        self,
        tokenizer: Decodes | None = None,
        row: int | None = None,
        *,
        retracted: bool = False,
        before: int | None = None,
    ) -> pd.DataFrame:
        """The lines as a data frame, one line an emitted token.

        Args:
            tokenizer: Adds the columns `text` and `proposal_text` to the ids.
            row: One row of the batch alone. Default: all.
            retracted: Also the tokens that were taken back, where they came.
            before: The id of the token in front of the answer, on which the first token's text may depend.
        """
        trace = self if row is None else self.row(row)
        frame = trace.lines if retracted else trace.frame
        if tokenizer is None:
            return frame.copy()
        earlier = _tokens_before(frame, math.nan if before is None else before)
        text, proposal = (
            [visible(_text_after(tokenizer, *pair)) for pair in zip(earlier, frame[name], strict=True)]
            for name in ("token", "proposal")
        )
        return frame.assign(text=text, proposal_text=proposal)

    def to_html(self, tokenizer: Decodes, row: int = 0, *, retracted: bool = False) -> str:
        """The answer as a strip of tokens: matched, corrected or target fallback ("insisted"), and the scheme of each.

        Args:
            tokenizer: Of the pair.
            row: Of the batch.
            retracted: Also show tokens that were taken back, struck through.
        """
        frame = self.to_frame(tokenizer, row, retracted=retracted)
        tokens = "".join(_token_html(line) for line in frame.to_dict("records"))
        return f'<div style="line-height:2.1;font-family:monospace;white-space:pre-wrap">{tokens}</div>{_legend(retracted)}'

    def to_text(self, tokenizer: Decodes, row: int = 0, *, retracted: bool = False) -> str:
        """The same strip without colour: [corrected], {insisted}, ~retracted~, and ∪ ∩ where the scheme changes."""
        words, scheme = [], None
        for line in self.to_frame(tokenizer, row, retracted=retracted).to_dict("records"):
            if line["scheme"] != scheme:
                scheme = line["scheme"]
                words.append(f" {SIGNS[scheme]}:")
            word = {"matched": "{}", "corrected": "[{}]", "insisted": "{{{}}}"}[kind(line)].format(line["text"])
            words.append(f"~{word}~" if line["retracted"] else word)
        legend = "\n[corrected]  {target insists}  ∩ Intersection  ∪ Union" + "  ~taken back~" * retracted
        return "".join(words).strip() + legend

    def show(self, tokenizer: Decodes, row: int = 0, *, retracted: bool = False) -> Strip:
        """The strip for display: HTML in a notebook, text in a terminal. Arguments as for `to_html`."""
        return Strip(
            self.to_html(tokenizer, row, retracted=retracted), self.to_text(tokenizer, row, retracted=retracted)
        )

    def save(self, path: str | Path) -> None:
        """Write all lines to a file.

        Args:
            path: Ends in `.parquet` or `.json`.

        Raises:
            ValueError: For another suffix.
        """
        path = Path(path)
        if path.suffix == ".parquet":
            with replacing(path) as file:
                self.lines.to_parquet(file, index=False)
        elif path.suffix == ".json":
            write_whole(path, json.dumps(self.lines.to_dict("records")))
        else:
            raise ValueError(f"a trace is saved as .parquet or .json, not {path.name!r}")

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote.

        Raises:
            ValueError: For another suffix than `.parquet` or `.json`.
        """
        path = Path(path)
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            for column in LISTS:
                frame[column] = [list(values) for values in frame[column]]
            return cls(frame)
        if path.suffix == ".json":
            lines = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
            return cls(lines if len(lines) else pd.DataFrame(columns=COLUMNS))
        raise ValueError(f"a trace is loaded from .parquet or .json, not {path.name!r}")


LISTS = ["target_top", "target_top_probs", "draft_top", "draft_top_probs", "space", "space_composite"]
COLUMNS = [
    *("row", "position", "round", "token", "proposal", "match", "scheme", "k", "threshold", "alpha"),
    *("bin_tokens", "match_ratio", "target_prob", "draft_prob", "composite", "insisted", "retracted", *LISTS),
]

SIGNS = {"intersection": "∩", "union": "∪"}
# Blue, vermilion and grey of Okabe and Ito, readable on light and dark; line style and brackets say the same without colour.
STYLES = {
    "matched": "border-bottom:2px solid #0072B2",
    "corrected": "border-bottom:4px double #D55E00;font-weight:bold",
    "insisted": "border-bottom:3px dotted #E69F00;font-style:italic",
}
UNION = "background:rgba(0,158,115,.22);outline:1px solid rgba(0,158,115,.6)"
RETRACTED = "text-decoration:line-through;opacity:.65"
TAKEN_BACK = "taken-back"
"""The class of tokens that were taken back: a page may hide them."""


class Strip:
    """A token strip that displays itself: HTML in a notebook, text elsewhere."""

    def __init__(self, markup: str, text: str):
        self.markup, self.text = markup, text

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def _text_after(tokenizer: Decodes, before: float, token: int) -> str:
    """A token's text after the token before it (NaN for none): SentencePiece drops the space that begins a text."""
    if before == before:
        head, whole = tokenizer.decode([int(before)]), tokenizer.decode([int(before), token])
        if whole.startswith(head):
            return whole[len(head) :]
    return tokenizer.decode([token])


def _tokens_before(frame: pd.DataFrame, first: float) -> list[float]:
    """The token before each line in its answer (`first` in front of it, NaN for none): of lines taken back, in theirs."""
    standing: dict[tuple[int, int], float] = {(row, -1): first for row in frame["row"].unique()}
    before = []
    for row, position, token in zip(frame["row"], frame["position"], frame["token"], strict=True):
        before.append(standing.get((row, position - 1), math.nan))
        standing[row, position] = token
    return before


def kind(line: dict[str, Any]) -> str:
    """How a token came to be emitted."""
    return "matched" if line["match"] else "insisted" if line["insisted"] else "corrected"


HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories without a look of their own: controls, direction marks, private and half characters, separators."""


def visible(text: str) -> str:
    """Make control and direction marks visible, so that no token can change what stands around it.

    A combining mark at the beginning would sit on the token before: it gets a dotted circle of its own.
    """
    shown = "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in HIDDEN and c != "\n" else c for c in text
    ).replace("\n", "⏎")
    return "◌" + shown if shown and unicodedata.category(shown[0]).startswith("M") else shown


def number(value: float) -> str:
    """A probability or score in few letters: 0.998, 0.98, 0.003, 4e-6, 0."""
    if abs(value) < 1e-4:
        return re.sub("e-0*", "e-", f"{value:.0e}") if value else "0"
    return f"{value:.{3 if 0.99 < abs(value) < 1 else 2}g}"


def pieces(tokenizer: Decodes, ids: Sequence[int], before: int | None = None) -> list[str]:
    """The visible text of every token of a sequence, each after the one before it (`before`: what stands in front)."""
    earlier = [math.nan if before is None else before, *ids]
    return [visible(_text_after(tokenizer, *pair)) for pair in zip(earlier, ids, strict=False)]


def _token_html(line: dict[str, Any]) -> str:
    style = STYLES[kind(line)] + (";" + UNION if line["scheme"] == "union" else "")
    style += ";" + RETRACTED if line["retracted"] else ""
    title = (
        f"{'taken back · ' if line['retracted'] else ''}#{line['position']} round {line['round']} · {kind(line)} · {line['scheme']}"
        f" · draft proposed {line['proposal_text']!r} · P_M {number(line['target_prob'])} P_m {number(line['draft_prob'])} F {number(line['composite'])}"
        f" · k {line['k']} · α {line['alpha']:.2f} · match ratio {line['match_ratio']:.2f} / threshold {line['threshold']:.2f}"
    )
    marked = f' class="{TAKEN_BACK}"' if line["retracted"] else ""
    return f'<span{marked} style="{style};margin-right:2px" title="{html.escape(title, quote=True)}">{html.escape(line["text"], quote=True)}</span>'


def _legend(retracted: bool) -> str:
    entries = [
        (STYLES["matched"], "matched"),
        (STYLES["corrected"], "corrected"),
        (STYLES["insisted"], "target insists"),
        (UNION, "Union"),
        *([(RETRACTED, "taken back")] if retracted else []),
    ]
    words = " &nbsp; ".join(f'<span style="{style}">{name}</span>' for style, name in entries)
    return f'<div style="font-size:85%;opacity:.85;margin-top:4px">{words} &nbsp; (not shaded: Intersection)</div>'
