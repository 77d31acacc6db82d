"""A file of your own as a set: its columns are taken by their usual names, or as you map them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ssd_lib.attacks.files import SourceRow, column_names, read_rows
from ssd_lib.attacks.published import Fields, to_records
from ssd_lib.attacks.records import AttackSet, Record, SetRequest

USUAL = {
    "question": ("question", "goal", "behavior", "forbidden_prompt", "prompt", "instruction", "input"),
    "target": ("target", "answer", "response", "output"),
    **{name: (name,) for name in ("id", "prompt", "prefill", "category", "group", "facts")},
}
"""Columns by their usual names, in any case; the first that a file has is taken."""


def columns_of(rows: list[SourceRow], mapped: Mapping[str, str]) -> dict[str, str]:
    """Which column of a file holds what: as mapped, else by its usual name.

    Raises:
        ValueError: For a column that the file does not have, or where none holds the questions.
    """
    have = {column: None for row in rows for column in row.fields}
    named = {str(column).strip().lower(): column for column in reversed(have)}
    file = rows[0].where.rpartition(", row")[0]
    for column in mapped.values():
        if column not in have:
            raise ValueError(f"{file}: no column {column!r} (its columns are {column_names(have)})")
    usual = {key: next((named[name] for name in names if name in named), None) for key, names in USUAL.items()}
    taken = {key: column for key, column in usual.items() if column is not None} | dict(mapped)
    if "question" not in taken:
        raise ValueError(
            f"{file}: no column is named {', '.join(USUAL['question'])} (its columns are {column_names(have)}): "
            "say which holds the questions, as in custom:path=FILE:question=COLUMN"
        )
    return taken


def custom(found: AttackSet, request: SetRequest) -> list[Record]:
    """A file of your own: questions, and where you have them `id, prompt, prefill, target, category, group, facts`.

    Facts are a list in JSON and parquet, and a JSON list or separated by " | " in CSV. SafeDecoding's custom_prompts.json
    (`id, prompt`) is read too.
    """
    rows, source = read_rows(found, request)
    taken = columns_of(rows, dict(request.columns))
    return to_records(partial(_custom_row, taken), found, request, rows, source)


def taken_columns(found: AttackSet, path: Path, mapped: Mapping[str, str]) -> dict[str, str]:
    """Which columns a file of one's own is read from. Raises as `custom`."""
    rows, _ = read_rows(found, SetRequest(path=path))
    return columns_of(rows, mapped)


def _custom_row(taken: Mapping[str, str], row: SourceRow, found: AttackSet, _request: SetRequest) -> Fields:
    def text(key: str, default: str | None = "") -> str:
        return row.text(taken[key], default=default) if key in taken else default or ""

    group = text("group", "harmful")
    if group not in found.groups:
        raise row.broken(f"the group is one of {', '.join(found.groups)}, not {group[:20]!r}")
    question = text("question", None)
    return {
        "id": text("id", f"custom-{row.number:04d}"),
        "question": question,
        "prompt": text("prompt", question),
        "prefill": text("prefill"),
        "target": text("target"),
        "category": text("category"),
        "group": group,
        "facts": row.texts(taken["facts"]) if "facts" in taken else (),
        "licence": "yours",
    }


CUSTOM = AttackSet(
    "custom",
    "file",
    ("harmful", "borderline", "benign"),
    custom,
    None,
    "yours",
    "",
    note="Columns: question, goal, behavior, forbidden_prompt, prompt, instruction or input; optional: id, prompt, "
    "prefill, target, category, group, facts. The file's path is a name of its own.",
)
