"""Every set by name, with its terms, and one function that loads any of them.

    load_set("direct", limit=50)
    load_set("prefill-20", tokenizer=pair.tokenizer)
    load_set("GCG", target_model="llama2")
    load_set("gsm8k", path="my/copy.jsonl")
    load_set("my/questions.csv")
    load_set("advbench", prefill=10, tokenizer=pair.tokenizer)

Names are found whatever their case, under our own spelling or a published one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import NoneType

import pandas as pd
from transformers import PreTrainedTokenizerBase

from ssd_lib.attacks import embedded, published
from ssd_lib.attacks.custom import CUSTOM, custom
from ssd_lib.attacks.files import READERS
from ssd_lib.attacks.prefilling import SetPrefill, check_prefill, prefilled_with
from ssd_lib.attacks.records import AttackSet, Record, SetRequest
from ssd_lib.settings import of_kind

SETS: dict[str, AttackSet] = {found.name: found for found in (*embedded.SETS, *published.SETS, CUSTOM)}
"""Sets by their own name. `prefill-N`, `kitchen-prefill-N`, `pieces-N`, `turns-N`, `quiet-N` and `hex-phi-prefill-N` exist
for every N; some stand here."""


def find_set(name: str | Path) -> AttackSet:
    """The set of this name or alias, in any case, or the file of your own at this path. Raises ValueError that lists all
    names."""
    of_kind("the set's name", name, str, Path)
    name = str(name).strip()
    if Path(name).suffix.lower() in READERS:
        return replace(CUSTOM, name=name, path=Path(name).expanduser())
    wanted = name.lower()
    for found in SETS.values():
        if wanted in (found.name, *(alias.lower() for alias in found.aliases)):
            return found
    for pattern, build in (embedded.FOR_ANY_LENGTH | published.FOR_ANY_LENGTH).items():
        if match := re.fullmatch(pattern, wanted):
            return build(int(match[1]))
    raise ValueError(
        f"unknown set {name!r}: choose one of {', '.join(SETS)} "
        "(prefill-N, kitchen-prefill-N, pieces-N, turns-N, quiet-N and hex-phi-prefill-N for any N), or give a file: "
        f"its name ends in {', '.join(READERS)}"
    )


def load_set(
    name: str | Path,
    *,
    limit: int | None = None,
    path: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    target_model: str | None = None,
    seed: int = 0,
    prefill: SetPrefill | None = None,
    question: str | None = None,
    target: str | None = None,
    wording: Literal[unseen] | None = None,
) -> list[Record]:
    """Load a set, by its name or as a file of your own.

    Args:
        name: A set's name or alias in any case, or the path of a file of your own.
        limit: How many records, the first ones; for embedded and kitchen sets how many questions to draw (default: 100, kitchen
            60).
        path: A local file instead of the Hub.
        tokenizer: The target's, for prefilled answers.
        target_model: The pair's name, for attacks that were optimised for one model.
        seed: Decides which questions are drawn, for embedded and kitchen sets.
        prefill: The beginning of every answer: a text, or a number of tokens of the record's own target string
            (arXiv 2406.05946).
        question: The column of a file of your own that holds the questions, where it has no usual name.
        target: The same for target strings.
        wording: "unseen" for questions of the embedded world in wordings that training never saw.

    Returns:
        At least one record, in the set's own order.

    Raises:
        ValueError: For an unknown name, a wrong option or a broken file (with file, row and reason).
        FileNotFoundError: Where there is no file at `path`.
        PermissionError: For a gated set, with how to ask for access.
        ConnectionError: Offline, where the set is not in the cache.
        ImportError: Where the set is on the Hub, without the library `datasets`.
    """
    found = find_set(name)
    of_kind("limit", limit, int, NoneType)
    if limit is not None and limit < 1:
        raise ValueError(f"limit counts records and is at least 1, not {limit}")
    check_prefill(found.name, prefill)
    check_wording(found, wording)
    columns = tuple((key, name) for key, name in (("question", question), ("target", target)) if name is not None)
    if columns and found.load is not custom:
        raise ValueError(
            f"{found.name} has columns of its own: map those of a file as custom:path=FILE:question=COLUMN"
        )
    place = found.path if path is None else Path(path).expanduser()
    records = found.load(found, SetRequest(limit, place, tokenizer, target_model, seed, columns, wording is not None))
    if not records:
        raise ValueError(f"no records of {found.name} were found in {place or found.name}")
    records = records[:limit]
    return records if prefill is None else prefilled_with(records, prefill, tokenizer, found.name)


def check_wording(found: AttackSet, wording: object) -> None:
    """Raise ValueError for a wording that a set does not have."""
    if wording is not None and (wording != "unseen" or found.kind != "embedded" or not found.size):
        raise ValueError(
            f"{found.name} has no wording={wording!r}: sets drawn from the embedded world have wording=unseen"
        )


def describe() -> pd.DataFrame:
    """One row a set: name, kind, groups, size, licence, paper, where it is from, whether it is gated, a note."""
    return pd.DataFrame(
        [
            {
                "name": found.name,
                "kind": found.kind,
                "groups": ", ".join(found.groups),
                "size": found.size,
                "licence": found.licence,
                "paper": found.paper,
                "source": f"{found.hub.repo}@{found.hub.revision}" if found.hub else "",
                "gated": bool(found.hub and found.hub.gated),
                "aliases": ", ".join(found.aliases),
                "note": found.note,
            }
            for found in SETS.values()
        ]
    ).astype({"size": "Int64"})
