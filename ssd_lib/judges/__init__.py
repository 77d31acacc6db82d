"""Judges: what an answer did, by string matching, by other models, or exactly, with one interface.

    verdicts = judge("refusal", records, answers)
    verdicts = judge("qwen", records, answers, model="qwen-plus")         # needs DASHSCOPE_API_KEY
    verdicts = judge("llama-guard", records, answers)                     # a GPU helps
    agreement(pd.concat([to_frame(records, v) for v in (some, others)]))

A judge reads the plain request (`Record.question`) and the generated part of the answer. To add one, write a function
`(records, answers, settings) -> list[Verdict]` and its line in `JUDGES`; heavy packages belong inside the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ssd_lib.attacks import Record
from ssd_lib.judges import guards, local, remote, rules
from ssd_lib.judges.agreement import Agreement, agreement, to_frame
from ssd_lib.judges.base import Judge, Verdict, harmful_request, says_harmful
from ssd_lib.judges.local import unload
from ssd_lib.settings import of_kind

__all__ = ["JUDGES", "Agreement", "Judge", "Verdict", "agreement", "judge", "says_harmful", "to_frame", "unload"]

JUDGES: dict[str, Judge] = {
    "exact": Judge(
        rules.exact,
        "harmful | harmless for forbidden questions, right | wrong for others: exact truth in the embedded world; counts "
        "pieces of recipes in the kitchen",
        "ssd_lib.toy.world, ssd_lib.toy.kitchen",
        applies=rules.knows,
    ),
    "refusal": Judge(
        rules.refusal,
        "refused | answered, by matching strings; knows nothing of harm",
        "arXiv 2307.15043, arXiv 2402.08983",
        rules.RefusalSettings,
    ),
    "qwen": Judge(
        remote.qwen,
        "harmfulness 1 to 5, harmful at 5, by a Qwen model through DashScope",
        "rubric of arXiv 2310.03693",
        remote.QwenSettings,
        harmful_request,
    ),
    "rubric-local": Judge(
        local.rubric_local,
        "harmfulness 1 to 5, harmful at 5, by any local chat model",
        "rubric of arXiv 2310.03693",
        local.RubricSettings,
        harmful_request,
    ),
    "strongreject": Judge(
        local.strong_reject,
        "0 to 1 from refusal, convincingness and specificity, by any local chat model",
        "rubric of arXiv 2402.10260",
        local.StrongRejectSettings,
        harmful_request,
    ),
    "llama-guard": Judge(
        guards.llama_guard, "harmful | harmless, and hazard categories", "arXiv 2407.21783", guards.LlamaGuardSettings
    ),
    "qwen3guard": Judge(
        guards.qwen3_guard,
        "harmful | harmless, categories, and whether it refuses",
        "arXiv 2510.14276",
        guards.Qwen3GuardSettings,
    ),
    "harmbench": Judge(
        guards.harmbench,
        "harmful | harmless: is the answer an instance of the behaviour?",
        "arXiv 2402.04249",
        guards.HarmBenchSettings,
        harmful_request,
    ),
    "just-eval": Judge(
        remote.just_eval,
        "helpfulness, clarity, factuality, depth, engagement (their mean), and safety, 1 to 5, by a Qwen model",
        "rubric of arXiv 2312.01552",
        remote.RemoteSettings,
        lambda record: record.group == "benign" or "just-eval" in record.source,
    ),
    "gsm8k": Judge(
        rules.gsm8k,
        "right | wrong by the final number, and ROUGE-1 recall",
        "arXiv 2110.14168",
        applies=rules.has_number,
    ),
}


def judge(name: str, records: Sequence[Record], answers: Sequence[str], **options: Any) -> list[Verdict]:
    """Judge answers with a judge of `JUDGES`.

    Args:
        name: Of the judge, in any case.
        records: What was asked; the judge reads each record's plain request (`Record.question`).
        answers: The generated parts, without what an attacker prefilled; they may be empty.
        options: Fields of the judge's settings (`JUDGES[name].settings`).

    Returns:
        One verdict an answer, in order. An answer with which something goes wrong is unjudged, and its verdict says why.

    Raises:
        ValueError: For an unknown judge or option, a value out of range, or another number of answers than of records.
        RuntimeError: Where the judge needs a key and has none.
        ImportError: Where a package is missing that the judge needs.
    """
    of_kind("the judge's name", name, str)
    known = {each.lower(): each for each in JUDGES}
    if name.lower() not in known:
        raise ValueError(f"unknown judge {name!r}: choose one of {', '.join(JUDGES)}")
    for what, given in (("records", records), ("answers", answers)):
        of_kind(what, given, Sequence)
    if not all(isinstance(record, Record) for record in records) or not all(isinstance(text, str) for text in answers):
        raise TypeError("records holds a Record, and answers a text, for every answer")
    if len(records) != len(answers):
        raise ValueError(f"{len(answers)} answers for {len(records)} records: give one for each")
    chosen = JUDGES[known[name.lower()]]
    offered = [field.name for field in fields(chosen.settings)]
    unknown = sorted(set(options) - set(offered))
    if unknown:
        offers = f"it has {', '.join(offered)}" if offered else "it has none"
        raise ValueError(f"the judge {name!r} has no option {', '.join(unknown)}: {offers}")
    settings = chosen.settings(**options)
    return chosen.run(records, answers, settings) if records else []
