"""What every judge gives: a verdict, or "unjudged", but never a default.

The published evaluations count an answer that their judge would not or could not score as harmless (score 1), which makes
a defence look safer than it is. Here such an answer has no label and no score, and says why.

Judges mean different things, so their labels differ. Only `says_harmful` puts them on one scale.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isnan
from pathlib import Path
from typing import Any

from ssd_lib.attacks import Record
from ssd_lib.settings import of_kind, settings

REASON_LENGTH = 300
"""Characters kept of a reason: it may quote an answer, and is shown in tables."""
WHY_LENGTH = 200
PROMPTS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "prompts.toml").read_text(encoding="utf-8"))
"""The rubrics' instructions and the guards' prompts."""

Details = Mapping[str, float | bool | str]


@dataclass(frozen=True)
class Verdict:
    """What one judge makes of one answer.

    Raises:
        ValueError: Unless it has a label or a score, or `unjudged` and neither.
    """

    judge: str
    version: str
    """All that decides a label: the judging model, the rubric or list, the threshold."""
    label: str | None
    """harmful | harmless, refused | answered, right | wrong; None for pure scores."""
    score: float | None
    """On the judge's own scale: 1 to 5, or 0 to 1."""
    reason: str = ""
    raw: str = field(default="", repr=False)
    """The judge's whole reply, which may quote the answer."""
    details: Details = field(default_factory=dict)
    unjudged: str | None = None
    """Why there is no verdict."""
    tokens: int = 0
    """What judging cost: tokens read and written. A cached reply has the cost of the request that made it."""

    def __post_init__(self) -> None:
        if (self.unjudged is None) == (self.label is None and self.score is None):
            raise ValueError("a verdict has a label or a score, or else it is unjudged and has neither")


def unjudged(judge: str, version: str, why: str, *, raw: str = "", tokens: int = 0) -> Verdict:
    """No verdict, and why."""
    return Verdict(judge, version, None, None, raw=raw, unjudged=clip(why, WHY_LENGTH), tokens=tokens)


@settings
class NoSettings:
    """For judges that have nothing to set."""


@dataclass(frozen=True)
class Judge:
    """One line of the registry. `run(records, answers, settings)` gives one verdict an answer, in order.

    `applies(record)`: whether a verdict on this record means anything.
    """

    run: Callable[[Sequence[Record], Sequence[str], Any], list[Verdict]]
    says: str
    source: str
    settings: type = NoSettings
    applies: Callable[[Record], bool] = lambda record: True


def harmful_request(record: Record) -> bool:
    """For judges that ask how far an answer complies with a forbidden request."""
    return record.group == "harmful"


# ------------------------------------------------------------------------------------------------ one scale for all labels

HARMFUL: dict[str, bool] = {"harmful": True, "harmless": False, "answered": True, "refused": False}
"""What a label implies about harm. For the refusal dictionary that is an inference: whatever is not refused counts as harm."""


def says_harmful(label: str | float | None) -> bool | None:
    """Whether a verdict's label calls the answer harmful; None for no label (a frame's NaN, too), and for right and wrong, which say
    nothing of harm."""
    if label is None or (isinstance(label, float) and isnan(label)):
        return None
    of_kind("label", label, str)
    return HARMFUL.get(str(label))


# ------------------------------------------------------------------------------------------------ replies of judging models


@dataclass(frozen=True)
class Reply:
    """A judging model's reply: its text, the tokens read and written, and whether it ended by itself."""

    text: str
    tokens: int = 0
    complete: bool = True


class Unreadable(Exception):
    """A judging model's reply holds no verdict; the message says why."""


Reading = tuple[str | None, float | None, str, Details]
"""Label, score, reason, details."""


def verdict_from(reply: Reply, read: Callable[[Reply], Reading], judge: str, version: str) -> Verdict:
    """A reply as a verdict, unjudged where `read` raises Unreadable."""
    try:
        label, score, reason, details = read(reply)
    except Unreadable as why:
        return unjudged(judge, version, str(why), raw=reply.text, tokens=reply.tokens)
    reason = clip(reason, REASON_LENGTH)
    return Verdict(judge, version, label, score, reason, reply.text, details, tokens=reply.tokens)


def changed(chosen: Any, *names: str) -> str:
    """Those of the named settings that differ from their defaults, for a version: ", temperature=0.5"."""
    defaults = {field.name: field.default for field in fields(chosen)}
    differ = [name for name in names if name in defaults and getattr(chosen, name) != defaults[name]]
    return "".join(f", {name}={getattr(chosen, name)}" for name in differ)


# ------------------------------------------------------------------------------------------------ untrusted text


def clean(text: str) -> str:
    """Text that can be sent and stored: lone surrogates, which UTF-8 cannot hold, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clip(text: str, length: int) -> str:
    """On one line, and no longer than `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def broken(text: str, markers: str) -> str:
    """Put a space inside everything that `markers` (a regular expression) matches, after its first character.

    What marks the parts of a judge's prompt must not stand inside an answer, or the answer could end its own part and
    speak as the judge's instructions.
    """
    return re.sub(markers, lambda match: re.sub(r"(\S)", r"\1 ", match[0], count=1), clean(text))
