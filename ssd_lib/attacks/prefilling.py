"""Any set as a prefilling attack (Qi et al., arXiv 2406.05946): the beginning of the answer is already written.

advbench:prefill=10                     the first 10 tokens of the record's own target string or answer
strongreject:prefill="Sure, here is"    a fixed text
harmbench:prefill=20:from=target        the undefended target answers first, and the first 20 tokens of that are prefilled
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ssd_lib.attacks.records import Record

SetPrefill = int | str
PREFILL_LENGTHS = (0, 5, 10, 20, 40)
"""The lengths of Qi et al., and 0 as the control."""
FROM = ("record", "target")
"""Who wrote the tokens: the set, or the model that is attacked."""


def check_prefill(name: str, prefill: Any, source: Any = None) -> None:
    """Raise ValueError unless `prefill` is a number of tokens or a text, and `source` fits it."""
    if prefill is not None and (isinstance(prefill, bool) or not isinstance(prefill, int | str) or prefill == ""):
        raise ValueError(f"{name}: prefill is a number of tokens or a text, not {prefill!r}")
    if isinstance(prefill, int) and prefill < 0:
        raise ValueError(f"{name}: prefill counts tokens and is at least 0, not {prefill}")
    if source not in (None, *FROM):
        raise ValueError(f"{name}: from={source!r}, but a prefill is from one of {', '.join(FROM)}")
    if source is not None and (prefill is None or isinstance(prefill, str)):
        raise ValueError(f"{name}: from={source} needs prefill=N, a number of tokens")


def first_tokens(tokenizer: PreTrainedTokenizerBase | None, text: str, count: int, name: str) -> str:
    """The text of the first `count` tokens of an answer: what a prefilling attack writes into it.

    Raises:
        ValueError: Without a tokenizer.
    """
    if count == 0:
        return ""
    if tokenizer is None:
        raise ValueError(f"{name} is cut by the target's tokens: pass tokenizer=pair.tokenizer")
    ids = tokenizer.encode(text, add_special_tokens=False)[:count]
    return str(tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\ufffd")  # a cut inside a character


def prefilled_with(
    records: Sequence[Record], prefill: SetPrefill, tokenizer: PreTrainedTokenizerBase | None, name: str
) -> list[Record]:
    """The records with a fixed text, or with the first tokens of their own target string, as the answer's beginning.

    Raises:
        ValueError: For a record that has none, and without a tokenizer to cut by.
    """
    if isinstance(prefill, str):
        return [replace(record, prefill=prefill) for record in records]
    check_targets(records, prefill, name)
    return [replace(record, prefill=first_tokens(tokenizer, record.target, prefill, name)) for record in records]


def check_targets(records: Sequence[Record], tokens: int, name: str) -> None:
    """Raise ValueError where a record has no target string to take tokens of."""
    bare = [record.id for record in records if not record.target]
    if bare and tokens:
        raise ValueError(
            f"{name}: {len(bare)} of {len(records)} records (the first: {bare[0]!r}) have no target string or answer to "
            f'take {tokens} tokens of: give a text (prefill="Sure, here is"), or from=target'
        )


Write = Callable[[Sequence[Sequence[Record]], int], Iterator[list[str]]]
"""From parts of a set and a number of tokens to the records' prefills, part by part, in order."""


def written_by_target(
    write: Write, records: Sequence[Record], tokens: int, known: Mapping[str, Record], batch: int, progress: bool = True
) -> Iterator[list[Record]]:
    """The records with so many tokens of the undefended target's greedy answer, which `write` asks for, batch by batch, after a
    prefill that they have already; those that are `known` from an earlier start as they were."""
    parts = [records[start : start + batch] for start in range(0, len(records), batch)]
    new = [[record for record in part if record.id not in known and tokens] for part in parts]
    written = write([each for each in new if each], tokens)
    with tqdm(total=len(records), desc=f"prefills of {tokens} tokens", unit="answer", disable=not progress) as bar:
        for part, asked in zip(parts, new, strict=True):
            texts = {r.id: text for r, text in zip(asked, next(written) if asked else [], strict=True)}
            texts |= {r.id: known[r.id].prefill for r in part if r.id in known}
            yield [replace(r, prefill=texts.get(r.id, r.prefill).rstrip("\ufffd")) for r in part]
            bar.update(len(part))


def beginnings(pair: Any, records: Sequence[Record], tokens: int) -> list[str]:
    """Each record's prefill with so many tokens of the undefended target's greedy answer after it."""
    from ssd_lib.defenders import answer  # here: naming sets needs no model library

    options: dict[str, Any] = {"prefill": [record.prefill for record in records], "max_new_tokens": tokens}
    replies = answer(pair, [record.prompt for record in records], defender="none", **options)
    return [reply.prefill + reply.text for reply in replies]
