"""From records to rows: one batch answered, whatever goes wrong in it.

A question that does not fit into the models' contexts is an error row for every defender alike, and is left out of its batch. Out of
memory, a batch is halved until it fits, and the size that fitted is returned for the next ones. After any other failure the
batch is asked again row by row; a row that still fails becomes an error row, and the others are not affected.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch

from ssd_lib.attacks import Record
from ssd_lib.attacks.asking import ask
from ssd_lib.defenders.base import check_item
from ssd_lib.experiments.config import Choice, ExperimentConfig, changed_settings
from ssd_lib.experiments.store import Row
from ssd_lib.models.chat import encode_answer
from ssd_lib.models.pairs import Pair

LONGEST_ERROR = 400
"""Characters of an error's message that are stored."""


def answer_rows(
    pair: Pair, records: Sequence[Record], defender: Choice, config: ExperimentConfig, size: int
) -> tuple[list[Row], int]:
    """One row a record, in their order, at most `size` of them decoded together; and the size that fitted into memory."""
    too_long = {record.id: why for record in records if (why := no_room(pair, record, config.max_new_tokens))}
    fitting = [record for record in records if record.id not in too_long]
    rows, size = _answer_fitting(pair, fitting, defender, config, size) if fitting else ([], size)
    found = {row.item: row for row in rows} | {item: Row(item, error=why) for item, why in too_long.items()}
    return [found[record.id] for record in records], size


def no_room(pair: Pair, record: Record, max_new_tokens: int) -> str | None:
    """Why a record's answer does not fit into the contexts of target and draft, None where it does."""
    try:
        check_item(pair, record.prompt, encode_answer(pair.tokenizer, record.prefill), max_new_tokens)
    except ValueError as error:
        return describe(error)
    return None


def _answer_fitting(
    pair: Pair, records: Sequence[Record], defender: Choice, config: ExperimentConfig, size: int
) -> tuple[list[Row], int]:
    if len(records) > size:
        rows: list[Row] = []
        while len(rows) < len(records):
            part, size = _answer_fitting(pair, records[len(rows) : len(rows) + size], defender, config, size)
            rows += part
        return rows, size
    try:
        return _answered(pair, records, defender, config), size
    except Exception as error:  # noqa: BLE001 (a failure in one row must not affect the others)
        message, too_big = describe(error), is_out_of_memory(error)
    if len(records) == 1:
        return [Row(records[0].id, error=message)], size
    if too_big:  # outside of `except`, which would keep the failed tensors alive
        _free_memory()
    smaller = len(records) // 2 if too_big else 1
    rows, smaller = _answer_fitting(pair, records, defender, config, smaller)
    fitted = too_big and any(row.error is None for row in rows)
    return rows, smaller if fitted else size


def _answered(pair: Pair, records: Sequence[Record], defender: Choice, config: ExperimentConfig) -> list[Row]:
    settings = changed_settings(defender, config)
    replies = ask(
        pair, records, defender=defender.name, settings=settings, max_new_tokens=config.max_new_tokens, trace=False
    )
    return [Row.of(record, reply, len(records)) for record, reply in zip(records, replies, strict=True)]


def describe(error: BaseException) -> str:
    """An error as one clipped line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_ERROR]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or a CPU (where torch raises a plain RuntimeError)."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
