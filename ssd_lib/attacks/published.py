"""Real attack and benign sets: from each set's own columns to records.

One function a schema. Where a schema was seen in public code or a data card, the function says where; a value that could
not be confirmed is said to be so. Columns of the Hub and of the files that authors publish are both read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ssd_lib.attacks.files import Row, column_names, read_rows
from ssd_lib.attacks.records import AttackSet, Loader, Record, Request, first_tokens

Fields = dict[str, Any]
Parse = Callable[[Row, AttackSet, Request], Fields | None]
"""Turns a row into the fields of a record, or None where the row is not of this set."""


def table(parse: Parse) -> Loader:
    """A loader that reads all rows and parses each; the set's terms and source are added to every record."""

    def load(found: AttackSet, request: Request) -> list[Record]:
        rows, source = read_rows(found, request)
        return to_records(parse, found, request, rows, source)

    return load


def to_records(parse: Parse, found: AttackSet, request: Request, rows: list[Row], source: str) -> list[Record]:
    """Records of the rows that belong to the set. Raises ValueError where an id is used twice."""
    records: dict[str, Record] = {}
    for row in rows:
        fields = parse(row, found, request)
        if fields is None:
            continue
        terms = {"source": source, "licence": found.licence, "group": found.groups[0]}
        record = Record(**{"id": f"{found.name}-{row.number:04d}", "prompt": fields["question"]} | terms | fields)
        if record.id in records:
            raise row.broken(f"the id {record.id!r} is used twice")
        records[record.id] = record
    return list(records.values())


# ------------------------------------------------------------------------------------------------ plain requests


def plain(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """AdvBench: `goal, target` in the authors' CSV (github.com/llm-attacks/llm-attacks) and in PAIR's 50-row CSV (which adds
    `category`), `prompt, target` on the Hub (walledai/AdvBench), `goal` in SafeDecoding's JSON."""
    return {
        "question": row.text("goal", "prompt"),
        "target": row.text("target", default=""),
        "category": row.text("category", default=""),
    }


HEX_PHI_CATEGORIES = {
    "1": "Illegal Activity",
    "2": "Child Abuse Content",
    "3": "Hate, Harass, Violence",
    "4": "Malware",
    "5": "Physical Harm",
    "6": "Economic Harm",
    "7": "Fraud, Deception",
    "8": "Adult Content",
    "9": "Political Campaigning",
    "10": "Privacy Violation Activity",
    "11": "Tailored Financial Advice",
}


def hex_phi(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """HEx-PHI: CSV files `category_N.csv` without a header, 30 requests each. Its authors removed category 2, so the Hub
    holds 300 of the 330 of the paper. Also read: `instruction, category` (JSONL of shallow-vs-deep-alignment) and `goal`
    (JSON of the published SSD code; its other keys could not be confirmed)."""
    number = re.search(r"\d+", row.label)
    by_file = HEX_PHI_CATEGORIES.get(number[0], "") if number else ""
    return {
        "question": row.text("goal", "instruction", "prompt"),
        "target": row.text("target", default=""),
        "category": row.text("category", default=by_file),
    }


def jailbreakbench(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """JBB-Behaviors: `Index, Goal, Target, Behavior, Category, Source`."""
    return {"question": row.text("Goal"), "target": row.text("Target"), "category": row.text("Category")}


def strongreject(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """StrongREJECT: `category, source, forbidden_prompt` in the authors' CSV (github.com/alexandrasouly/strongreject), `prompt,
    category, source` on the Hub (walledai/StrongREJECT)."""
    return {"question": row.text("forbidden_prompt", "prompt"), "category": row.text("category", default="")}


def harmbench(row: Row, found: AttackSet, _request: Request) -> Fields | None:
    """HarmBench's standard behaviours: `Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID` in the
    authors' CSV (github.com/centerforaisafety/HarmBench), of which contextual and copyright ones are left out; `prompt,
    category` on the Hub (walledai/HarmBench, configuration "standard")."""
    if row.text("FunctionalCategory", default="standard") != "standard":
        return None
    return {
        "id": row.text("BehaviorID", default=f"{found.name}-{row.number:04d}"),
        "question": row.text("Behavior", "prompt"),
        "category": row.text("SemanticCategory", "category", default=""),
    }


def or_bench(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """OR-Bench: `prompt, category`, the same in all of its files (bench-llm/or-bench)."""
    return {"question": row.text("prompt"), "category": row.text("category", default="")}


def xstest(row: Row, found: AttackSet, _request: Request) -> Fields | None:
    """XSTest: `id, prompt, type, label, focus, note`; label is safe or unsafe. In files without a label, types that begin
    with "contrast_" are the unsafe ones (as the authors' README says)."""
    kind = row.text("type")
    label = row.text("label", default="unsafe" if kind.startswith("contrast_") else "safe")
    if label not in ("safe", "unsafe"):
        raise row.broken(f"the label is 'safe' or 'unsafe', not {label[:20]!r}")
    group = "borderline" if label == "safe" else "harmful"
    if group not in found.groups:
        return None
    return {"question": row.text("prompt"), "category": kind, "group": group}


# ------------------------------------------------------------------------------------------------ prefilled answers

LLAMA2_HEAD = "<s>[INST] <<SYS>>\n\n<</SYS>>\n\n"
LLAMA2_END = " [/INST] "


def prefilled(row: Row, found: AttackSet, request: Request) -> Fields:
    """HEx-PHI with the beginning of a harmful answer, from either published file.

    `Harmful-HEx-PHI_with_prefix{N}tokens_llama2.json` (SSD's code; keys `id real_id goal target prompt response source
    num_steps target-model`): `prompt` is one Llama-2 string, head + question + " [/INST] " + prefix, taken apart here so
    that it can be rendered for any template. Its generator counts BOS among the N tokens (`encode(answer)[1:N]`), so the
    prefix has N − 1 tokens of Llama-2; it is used as published.

    `Harmful-HEx-PHI.jsonl` (shallow-vs-deep-alignment; a line is a conversation of user and assistant): the prefix is
    the first N tokens of the answer, cut by the given tokenizer.
    """
    assert found.tokens is not None
    if "messages" in row.fields:
        question, answer = _question_and_answer(row)
        prefix = first_tokens(request.tokenizer, answer, found.tokens, found.name)
    else:
        _check_length(row, found)
        question, prefix = split_llama2_prompt(row)
        answer = row.text("target", default="")
    return {"question": question, "prefill": prefix, "target": answer}


def _question_and_answer(row: Row) -> tuple[str, str]:
    texts = {message.get("role"): message.get("content") for message in row.fields["messages"]}
    if not texts.get("user") or not texts.get("assistant"):
        raise row.broken("expected a conversation with a user and an assistant message")
    return str(texts["user"]), str(texts["assistant"])


def _check_length(row: Row, found: AttackSet) -> None:
    stated = re.search(r"prefix(\d+)tokens", row.label)
    if stated and int(stated[1]) != found.tokens:
        raise row.broken(f"the file holds prefixes of {stated[1]} tokens, {found.name} asks for {found.tokens}")


def split_llama2_prompt(row: Row) -> tuple[str, str]:
    """Question and prefix of a published prompt string. Raises ValueError where it is not one."""
    prompt, goal = row.text("prompt"), row.text("goal", default="")
    inside = prompt.removeprefix(LLAMA2_HEAD)
    if inside == prompt:
        raise row.broken("the prompt does not begin as the published Llama-2 prompts do")
    if goal and inside.startswith(goal + LLAMA2_END):
        return goal, inside[len(goal + LLAMA2_END) :]
    question, end, prefix = inside.partition(LLAMA2_END)
    if not end:
        raise row.broken("the prompt has no ' [/INST] ' between question and answer")
    return question, prefix


# ------------------------------------------------------------------------------------------------ utility

JUST_EVAL_PUBLISHED = 200
"""How many of the first the published SSD run uses (exp/defense.py)."""
JUST_EVAL_REGULAR = 800
"""From this row on, Just-Eval holds red-teaming requests (re-align/just-eval's README: the last 200 score safety)."""


def just_eval(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """Just-Eval: `id, instruction, source_id, dataset` (with tags `task, topic`), from test_all_with_tags.jsonl, which stands
    in the pinned commit; that the Hub's `test` split is this very file could not be confirmed."""
    group = "benign" if row.number < JUST_EVAL_REGULAR else "harmful"
    return {"question": row.text("instruction"), "category": row.text("dataset", default=""), "group": group}


def just_eval_published(row: Row, found: AttackSet, request: Request) -> Fields | None:
    return just_eval(row, found, request) if row.number < JUST_EVAL_PUBLISHED else None


def gsm8k(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """GSM8K: `question, answer`, where the answer is worked out and ends in "#### number" (kept as it is, with its
    <<calculator>> notes). The published SSD code's own JSON has `prompt` and the number as `goal`."""
    if "goal" in row.fields:
        return {"question": row.text("prompt"), "facts": (_number(row.text("goal")),)}
    answer = row.text("answer")
    final = re.search(r"####\s*(-?[\d,.]*\d)\s*$", answer)
    if final is None:
        raise row.broken("the answer does not end in '#### number'")
    return {"question": row.text("question"), "target": answer, "facts": (_number(final[1]),)}


def _number(text: str) -> str:
    return text.strip().replace(",", "")


# ------------------------------------------------------------------------------------------------ a user's own


USUAL = {
    "question": ("question", "goal", "behavior", "forbidden_prompt", "prompt", "instruction", "input"),
    "target": ("target", "answer", "response", "output"),
    **{name: (name,) for name in ("id", "prompt", "prefill", "category", "group", "facts")},
}
"""Columns by their usual names, in any case; the first that a file has is taken."""


def columns_of(rows: list[Row], mapped: Mapping[str, str]) -> dict[str, str]:
    """Which column of a file holds what: as mapped, else by its usual name.

    Raises ValueError for a column that the file does not have, or where none holds the questions.
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


def custom(found: AttackSet, request: Request) -> list[Record]:
    """A file of your own: questions, and where you have them `id, prompt, prefill, target, category, group, facts`.

    Facts are a list in JSON and parquet, and a JSON list or separated by " | " in CSV. SafeDecoding's custom_prompts.json
    (`id, prompt`) is read too.
    """
    rows, source = read_rows(found, request)
    taken = columns_of(rows, dict(request.columns))
    return to_records(partial(_custom_row, taken), found, request, rows, source)


def taken_columns(found: AttackSet, path: Path, mapped: Mapping[str, str]) -> dict[str, str]:
    """Which columns a file of one's own is read from. Raises as `custom`."""
    rows, _ = read_rows(found, Request(path=path))
    return columns_of(rows, mapped)


def _custom_row(taken: Mapping[str, str], row: Row, found: AttackSet, _request: Request) -> Fields:
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
