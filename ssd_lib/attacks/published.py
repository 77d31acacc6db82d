"""The published attack and benign sets: from each set's own columns to records.

`published.toml` says what each set is and where; here is how it is read. Attacks that somebody optimised for one model
(GCG, AutoDAN and PAIR prompts of SafeDecoding, Xu et al. 2024, arXiv 2402.08983) are filtered as its code and SSD's do.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ssd_lib.attacks.files import SourceRow, read_rows
from ssd_lib.attacks.prefilling import PREFILL_LENGTHS, first_tokens
from ssd_lib.attacks.records import AttackSet, HubData, Loader, Record, SetRequest

Fields = dict[str, Any]
Parse = Callable[[SourceRow, AttackSet, SetRequest], Fields | None]
"""Turns a row into fields of a record, or None where the row is not of this set."""


def table(parse: Parse) -> Loader:
    """A loader that reads all rows and parses each; the set's terms and source are added to every record."""

    def load(found: AttackSet, request: SetRequest) -> list[Record]:
        rows, source = read_rows(found, request)
        return to_records(parse, found, request, rows, source)

    return load


def to_records(parse: Parse, found: AttackSet, request: SetRequest, rows: list[SourceRow], source: str) -> list[Record]:
    """Records of the rows that belong to the set. Raises ValueError where an id is used twice."""
    records: dict[str, Record] = {}
    for row in rows:
        fields = parse(row, found, request)
        if fields is None:
            continue
        own = {"id": f"{found.name}-{row.number:04d}", "prompt": fields["question"], "group": found.groups[0]}
        record = Record(**{**own, "source": source, "licence": found.licence} | fields)
        if record.id in records:
            raise row.broken(f"the id {record.id!r} is used twice")
        records[record.id] = record
    return list(records.values())


def from_columns(entry: Fields, row: SourceRow, found: AttackSet, request: SetRequest) -> Fields | None:
    """What the columns named in an entry of published.toml hold, and what its function of `ROWS` adds."""
    source = entry.get("source", "")
    if source and row.text("source", default=source) != source:
        return None
    more = ROWS[entry["rows"]](row, found, request) if "rows" in entry else {}
    if more is None:
        return None
    columns, filled = entry.get("columns", {}), entry.get("filled", ["question"])
    fields = {key: row.text(*names, default=None if key in filled else "") for key, names in columns.items()}
    if "categories" in entry and not fields["category"]:
        number = re.search(r"\d+", row.label)
        fields["category"] = entry["categories"].get(number[0], "") if number else ""
    return fields | more


# ------------------------------------------------------------------------------------------------ what the columns do not say


def harmbench(row: SourceRow, found: AttackSet, _request: SetRequest) -> Fields | None:
    if row.text("FunctionalCategory", default="standard") != "standard":
        return None
    return {"id": row.text("BehaviorID", default=f"{found.name}-{row.number:04d}")}


def xstest(row: SourceRow, found: AttackSet, _request: SetRequest) -> Fields | None:
    """The label is safe or unsafe. In files without one, types that begin with "contrast_" are the unsafe ones (as the
    authors' README says)."""
    label = row.text("label", default="unsafe" if row.text("type").startswith("contrast_") else "safe")
    if label not in ("safe", "unsafe"):
        raise row.broken(f"the label is 'safe' or 'unsafe', not {label[:20]!r}")
    group = "borderline" if label == "safe" else "harmful"
    return {"group": group} if group in found.groups else None


JUST_EVAL_PUBLISHED = 200
"""How many of the first rows the published SSD run uses (exp/defense.py)."""
JUST_EVAL_REGULAR = 800
"""From this row on, Just-Eval holds red-teaming requests (re-align/just-eval's README: the last 200 score safety)."""


def just_eval(row: SourceRow, _found: AttackSet, _request: SetRequest) -> Fields:
    return {"group": "benign" if row.number < JUST_EVAL_REGULAR else "harmful"}


def first_of_just_eval(row: SourceRow, found: AttackSet, request: SetRequest) -> Fields | None:
    return just_eval(row, found, request) if row.number < JUST_EVAL_PUBLISHED else None


def gsm8k(row: SourceRow, _found: AttackSet, _request: SetRequest) -> Fields:
    """The answer is worked out and ends in "#### number" (kept as it is, with its <<calculator>> notes). The published SSD
    code's own JSON has `prompt` and the number as `goal`."""
    if "goal" in row.fields:
        return {"question": row.text("prompt"), "facts": (_number(row.text("goal")),)}
    answer = row.text("answer")
    final = re.search(r"####\s*(-?[\d,.]*\d)\s*$", answer)
    if final is None:
        raise row.broken("the answer does not end in '#### number'")
    return {"question": row.text("question"), "target": answer, "facts": (_number(final[1]),)}


def _number(text: str) -> str:
    return text.strip().replace(",", "")


# ------------------------------------------------------------------------------------------------ prefilled answers

LLAMA2_HEAD = "<s>[INST] <<SYS>>\n\n<</SYS>>\n\n"
LLAMA2_END = " [/INST] "


def prefilled(row: SourceRow, found: AttackSet, request: SetRequest) -> Fields:
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


def _question_and_answer(row: SourceRow) -> tuple[str, str]:
    texts = {message.get("role"): message.get("content") for message in row.fields["messages"]}
    if not texts.get("user") or not texts.get("assistant"):
        raise row.broken("expected a conversation with a user and an assistant message")
    return str(texts["user"]), str(texts["assistant"])


def _check_length(row: SourceRow, found: AttackSet) -> None:
    stated = re.search(r"prefix(\d+)tokens", row.label)
    if stated and int(stated[1]) != found.tokens:
        raise row.broken(f"the file holds prefixes of {stated[1]} tokens, {found.name} asks for {found.tokens}")


def split_llama2_prompt(row: SourceRow) -> tuple[str, str]:
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


ROWS: dict[str, Parse] = {
    each.__name__: each for each in (prefilled, harmbench, xstest, just_eval, first_of_just_eval, gsm8k)
}

# ------------------------------------------------------------------------------------------------ made for one model

OPTIMISED_FOR = {
    "vicuna": "vicuna",
    "llama2": "llama2",
    "guanaco": "guanaco",
    "falcon": "falcon",
    "dolphin": "llama2",
    "llama3.1_8b": "llama2",
    "llama2-13b-chat": "llama2",
    "tinyllama": "llama2",
    "deep_align_llama2": "llama2",
    "deep_align_vicuna": "vicuna",
}
"""Whose attacks a model is given: exp/defense.py of SafeDecoding (uw-nsl/SafeDecoding, commit 8afa3003, first five lines)
and of SSD (k-k1w-w1x-x/Speculative-Safety-Aware-Decoding, commit bfd365e7)."""


def attacks_for(attacker: str, target_model: str | None) -> str | None:
    """The `target-model` whose attacks are used against `target_model`; None for all of them.

    Exceptions of the published code: Falcon gets Llama-2's GCG suffixes; PAIR against llama2-13b-chat is not filtered;
    GCG against llama2-13b-chat has a file of its own (GCG_llama2_13b.json), without which Llama-2-7B's are transferred.

    Raises:
        ValueError: Without a target model, or for one that the published rules do not name.
    """
    name = _known(attacker, target_model)
    if (attacker, name) == ("PAIR", "llama2-13b-chat"):
        return None
    if (attacker, name) == ("GCG", "falcon"):
        return "llama2"
    return OPTIMISED_FOR[name]


def _known(attacker: str, target_model: str | None) -> str:
    from ssd_lib.models.pairs import ALIASES  # here: naming sets needs no model library

    known = ", ".join(OPTIMISED_FOR)
    if target_model is None:
        raise ValueError(f"{attacker} was optimised for one model: pass target_model=, one of {known}")
    name = ALIASES.get(target_model.lower(), target_model.lower())
    if name not in OPTIMISED_FOR:
        raise ValueError(
            f"no published {attacker} attacks for {target_model!r}: to transfer another model's, pass target_model=, "
            f"one of {known}"
        )
    return name


def optimised(attacker: str, parse: Parse) -> Loader:
    """GCG, AutoDAN, PAIR: the rows for one target model. A local file that was made for one model is taken whole."""

    def load(found: AttackSet, request: SetRequest) -> list[Record]:
        model = attacks_for(attacker, request.target_model)
        rows, source = read_rows(found, request)
        rows = [row for row in rows if row.text("source", default=attacker) == attacker]
        models = _models(rows)
        if model is not None and len(models) > 1:
            rows = [row for row in rows if row.text("target-model", default="") == model]
        if not rows:
            raise ValueError(
                f"{source} has no {attacker} attacks for {model}; it has them for {', '.join(models) or 'none'}"
            )
        if request.path is None and (attacker, _known(attacker, request.target_model)) == ("GCG", "llama2-13b-chat"):
            warnings.warn(
                "these GCG suffixes were optimised for Llama-2-7B; the published run on llama2-13b-chat used "
                "GCG_llama2_13b.json of SSD's repository: pass it as path=",
                stacklevel=4,
            )
        return to_records(parse, found, request, rows, f"{source}, optimised for {', '.join(_models(rows))}")

    return load


def _models(rows: list[SourceRow]) -> list[str]:
    return sorted({row.text("target-model", default="a model that it does not name") for row in rows})


# ------------------------------------------------------------------------------------------------ the sets


_READ_HERE = {"like", "kind", "hub", "groups", "size", "aliases"}
_READ_HERE |= {"rows", "columns", "filled", "categories", "source", "per_model"}


def _set(name: str) -> AttackSet:
    """An entry of published.toml. Raises TypeError for a key that nothing reads."""
    own: Fields = _TABLES[name]
    base: Fields = _TABLES.get(own.get("like", ""), {})
    entry, hub = base | own, base.get("hub", {}) | own.get("hub", {})
    parse = partial(from_columns, entry)
    on_hub = bool(hub) and entry.get("kind") != "file"
    return AttackSet(
        name=name,
        kind="hub" if on_hub else "file",
        groups=tuple(entry.get("groups", ["harmful"])),
        load=optimised(entry["source"], parse) if entry.get("per_model") else table(parse),
        size=entry["size"] or None,
        hub=HubData(**{key: _frozen(value) for key, value in hub.items()}) if on_hub else None,
        aliases=tuple(entry.get("aliases", ())),
        **{key: text for key, text in entry.items() if key not in _READ_HERE},
    )


def _frozen(value: Any) -> Any:
    """Lists and tables of a TOML file as tuples."""
    return tuple(value.items() if isinstance(value, dict) else value) if isinstance(value, dict | list) else value


def _hex_phi_prefill(tokens: int) -> AttackSet:
    found, length = _set(_ANY_PREFILL), str(tokens)
    return replace(
        found,
        name=found.name.replace("{N}", length),
        aliases=tuple(alias.replace("{N}", length) for alias in found.aliases),
        file_pattern=found.file_pattern.replace("{N}", length),
        tokens=tokens,
    )


_ANY_PREFILL = "hex-phi-prefill-{N}"
_TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
SETS = tuple(
    found
    for name in _TABLES
    for found in (map(_hex_phi_prefill, PREFILL_LENGTHS) if name == _ANY_PREFILL else [_set(name)])
)
FOR_ANY_LENGTH = {
    r"hex-phi-prefill-(\d+)": _hex_phi_prefill,
    r"harmful-hex-phi_with_prefix(\d+)tokens_llama2": _hex_phi_prefill,
}
