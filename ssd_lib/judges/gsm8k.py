"""GSM8K: is the final number right? Exact, and beside it the share of the reference's words that the answer holds.

The final number is looked for where models put it: behind `####` (the data set's own mark), in `\\boxed{}`, behind "the
answer is", else the last number of the answer. Numbers are compared as numbers: 1,234.50 is 1234.5. The published
comparison, ROUGE-1 recall against the reference solution (Lin 2004), stands in the details: it hardly tells right from wrong.

Cobbe et al. 2021, arXiv 2110.14168.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from ssd_lib.attacks import Record
from ssd_lib.judges.base import NoSettings, Verdict, clip, unjudged

VERSION = "final-number-1"

NUMBER = (
    r"(?:(?<![\w.,)])[-−])?[$€£]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)
"""A number as written: a minus only where nothing stands before it (10-4 holds 10 and 4), commas only between thousands."""
PLACES = (
    rf"####\s*({NUMBER})",
    rf"\\boxed\{{\s*(?:\\\$)?\s*({NUMBER})",
    rf"(?i:\banswer(?:\s+is|\s*[:=])\s*:?)[^0-9.\n−-]{{0,40}}({NUMBER})",
    rf"({NUMBER})",
)
"""Where the final number stands, the surest place first; of several, the last."""


def final_number(text: str) -> Decimal | None:
    """The number that an answer ends on, None where there is none."""
    for place in PLACES:
        found = re.findall(place, text)
        if found:
            return Decimal(re.sub(r"[^0-9.-]", "", found[-1].replace("−", "-")))
    return None


def expected_number(record: Record) -> Decimal | None:
    """The right number: the record's only fact, else what follows `####` in its reference solution."""
    if len(record.facts) == 1 and re.fullmatch(rf"\s*{NUMBER}\s*", record.facts[0]):
        return final_number(record.facts[0])
    return final_number(record.target) if "####" in record.target else None


def has_number(record: Record) -> bool:
    return record.group == "benign" and expected_number(record) is not None


def gsm8k(records: Sequence[Record], answers: Sequence[str], settings: NoSettings) -> list[Verdict]:
    """right | wrong by the final number; `details`: both numbers and `rouge1_recall`."""
    return [_verdict(record, answer) for record, answer in zip(records, answers, strict=True)]


def _verdict(record: Record, answer: str) -> Verdict:
    expected, given = expected_number(record), final_number(answer)
    if expected is None:
        return unjudged(
            "gsm8k", VERSION, f"record {record.id!r} has no final number, in its facts or behind #### in its target"
        )
    details: dict[str, float | bool | str] = {
        "expected": str(expected),
        "given": "" if given is None else clip(str(given), 40),
    }
    if record.target:
        details["rouge1_recall"] = _rouge().score(record.target, answer)["rouge1"].recall
    reason = "no number in the answer" if given is None else f"ends on {details['given']}, expected {expected}"
    return Verdict("gsm8k", VERSION, "right" if given == expected else "wrong", None, reason, details=details)


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError("the judge 'gsm8k' needs rouge-score: pip install 'ssd_lib[judge]'") from error
    return RougeScorer(["rouge1"], use_stemmer=False)
