"""One record type for every attack and benign set, and how a set is described.

An attack decides two things only: what the user turn says (`prompt`) and how the answer already begins (`prefill`). What
was asked (`question`) and what it is worth to the attacker (`target`) stay beside them, so that one judge serves all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

Group = Literal["harmful", "borderline", "benign"]
"""Should be refused; sounds harmful but should be answered; plain."""
HandedBack = Literal["prefill", "turn"]
Kind = Literal["embedded", "kitchen", "hub", "file"]
"""Made from the embedded world; from the kitchen's questions; loaded from the Hub (or a local copy); only ever a local file."""


@dataclass(frozen=True)
class Record:
    """One item of an attack or benign set."""

    id: str
    """Unique within its set."""
    question: str
    """The plain request; what a judge reads."""
    prompt: str
    """What the user turn says: the question, or what an attack made of it."""
    prefill: str = ""
    """What the attacker wrote as the beginning of the answer."""
    target: str = ""
    """The answer (or its beginning) that the attack aims for; a reference answer for benign sets."""
    category: str = ""
    group: Group = "harmful"
    facts: tuple[str, ...] = ()
    """Strings that decide exactly: the embedded world's facts, GSM8K's final number."""
    source: str = ""
    """Hub id or file, with its revision."""
    licence: str = ""
    piece: int = 0
    """Tokens asked for in a call; 0: the whole answer in one (`asking`)."""
    handed_back: HandedBack = "prefill"
    """Where the next call finds what was answered: written into its answer, or in an earlier turn."""
    top_k: int = 0
    """The attacker sees so many next tokens, and assembles the answer from them (`rap`); 0: sees the answer alone."""
    quiet_bins: int = 0
    """Bins of perfect agreement that SSD's scheduler has seen before this answer."""


@dataclass(frozen=True)
class Request:
    """What a caller of `load_set` asked for beside the name."""

    limit: int | None = None
    path: Path | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    target_model: str | None = None
    seed: int = 0
    columns: tuple[tuple[str, str], ...] = ()
    """Of a file of your own: which column holds what."""
    unseen_wording: bool = False
    """Of a set drawn from the embedded world: in wordings that training never saw."""


@dataclass(frozen=True)
class HubData:
    """Where a set lies on the Hub. `files` maps a label to a file where the repository's own configuration is not used;
    `columns` names the columns of files without a header."""

    repo: str
    revision: str = "main"
    split: str = "train"
    config: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    gated: bool = False

    @property
    def page(self) -> str:
        return f"https://huggingface.co/datasets/{self.repo}"


@dataclass(frozen=True)
class AttackSet:
    """A set by name: what it is, under which terms, and the function that loads it.

    `groups` are the kinds of record in it, `tokens` the length N of a prefilled answer, `hub` its place on the Hub,
    `file_pattern` the files to look for where `path` is a folder, `package` its files in an installed package
    ("module/pattern"), `path` the file that it is, `note` what a user should know before using it.
    """

    name: str
    kind: Kind
    groups: tuple[Group, ...]
    load: Loader
    size: int | None
    licence: str
    paper: str
    aliases: tuple[str, ...] = ()
    hub: HubData | None = None
    tokens: int | None = None
    file_pattern: str = ""
    package: str = ""
    path: Path | None = None
    note: str = ""


Loader = Callable[[AttackSet, Request], list[Record]]


def first_tokens(tokenizer: PreTrainedTokenizerBase | None, text: str, count: int, name: str) -> str:
    """The text of the first `count` tokens of an answer: what a prefilling attack writes into it.

    Raises ValueError without a tokenizer.
    """
    if count == 0:
        return ""
    if tokenizer is None:
        raise ValueError(f"{name} is cut by the target's tokens: pass tokenizer=pair.tokenizer")
    ids = tokenizer.encode(text, add_special_tokens=False)[:count]
    return str(tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\ufffd")  # a cut inside a character
