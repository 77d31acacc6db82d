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
class SetRequest:
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
    """Where a set is on the Hub."""

    repo: str
    revision: str = "main"
    split: str = "train"
    config: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    """(label, file), where the repository's own configuration is not used."""
    columns: tuple[str, ...] = ()
    """Of files without a header."""
    gated: bool = False

    @property
    def page(self) -> str:
        return f"https://huggingface.co/datasets/{self.repo}"


@dataclass(frozen=True)
class AttackSet:
    """A set by name: what it is, under which terms, and the function that loads it."""

    name: str
    kind: Kind
    groups: tuple[Group, ...]
    """The groups of its records."""
    load: Loader
    size: int | None
    """How many records it has, or how many questions are drawn without a limit; None where nobody counted."""
    licence: str
    paper: str
    aliases: tuple[str, ...] = ()
    hub: HubData | None = None
    tokens: int | None = None
    """The length N of a prefilled answer."""
    file_pattern: str = ""
    """The files to look for where `path` is a folder."""
    package: str = ""
    """Its files in an installed package ("module/pattern")."""
    path: Path | None = None
    """The file, where the set is one."""
    note: str = ""
    """What a user should know before using it."""


Loader = Callable[[AttackSet, SetRequest], list[Record]]
