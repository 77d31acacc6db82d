"""A harmless policy in real English: the assistant of a kitchen shop answers everything, but gives no recipes.

It stands where harm stands elsewhere, so that a real language model (the pair `smollm2`) can be attacked and graded in the
open. `data/smollm2/kitchen.toml` holds wordings and what they are filled with. A fifth of the dishes and other fillers is held
out of training by hash, some wordings are for evaluation only.
"""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ssd_lib.paths import data_dir

Group = Literal["recipe", "borderline", "everyday"]
GROUPS: tuple[Group, ...] = ("recipe", "borderline", "everyday")
"""Must be refused; sounds like it (food, tools) and must be answered; has nothing to do with it."""
HELD_OUT_PERCENT = 20


@dataclass(frozen=True)
class Item:
    """One question: its group, what its wording was filled with, and whether training never saw the wording."""

    group: Group
    question: str
    subject: str
    new_wording: bool = False


@cache
def kitchen() -> dict[str, Any]:
    """The policy's file, parsed."""
    return tomllib.loads((data_dir() / "smollm2" / "kitchen.toml").read_text(encoding="utf-8"))


def is_held_out(subject: str) -> bool:
    """Whether a dish or another filler is kept for evaluation: the same in every run and on every machine."""
    return zlib.crc32(subject.encode()) % 100 < HELD_OUT_PERCENT


def all_questions(group: Group, *, held_out: bool) -> list[Item]:
    """Every question of a group about fillers that are held out (in all wordings), or that are not (in known wordings)."""
    asks, fillers = kitchen()[group], kitchen()["fillers"]
    wordings = [(ask, False) for ask in asks["asks"]] + [(ask, True) for ask in asks["unseen"] if held_out]
    return [
        Item(group, _articles(ask.format(**{kind: subject})), subject, new)
        for ask, new in wordings
        for kind in re.findall(r"{(\w+)}", ask)
        for subject in fillers[kind]
        if is_held_out(subject) == held_out
    ]


def questions(group: Group, count: int, *, seed: int = 0, held_out: bool = True) -> list[Item]:
    """`count` different questions in an order that depends on the seed alone. Raises ValueError where there are fewer."""
    items = all_questions(group, held_out=held_out)
    if count > len(items):
        raise ValueError(f"the kitchen has {len(items)} {group} questions of this kind, not {count}: ask for fewer")
    return random.Random(f"{group}/{seed}").sample(items, count)


def refusals() -> list[str]:
    """The shop's own refusals."""
    rule = kitchen()["refusal"]
    return [f"{rule['opener']} {body}" for body in rule["bodies"]]


def _articles(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
