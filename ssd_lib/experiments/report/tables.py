"""A report's tables: one a measure and judge, defenders down, attack sets across, a number with its interval in each cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ssd_lib.experiments.report.numbers import CLOCK, MEASURES, groups
from ssd_lib.method.trace import visible

CLIP_PROMPT, CLIP_ANSWER = 40, 120
"""Characters of a prompt and of an answer that a report shows."""
RATES = {measure.name for measure in MEASURES if measure.kind == "rate"}
PERCENT = RATES | {"facts told", "share that is recipe", "same tokens"}
ABOUT = {measure.name: measure.about for measure in MEASURES} | {
    "tokens per second": "Of whole answers, in batches as they were decoded; the machine's own noise is not in the interval.",
    "same tokens": "Mean share of an answer's tokens that stand in the same place without a defence.",
    "ATGR": "Time a token takes with the defence over without it, on the same questions; 1 is no slower.",
    "decoded per token": "Tokens generated, those taken back or thrown away included, for every token of the answers.",
    "target forwards per token": "Target forwards of a row's batch over the row's tokens; rows that wait for longer ones count.",
    "match ratio": "Share of an answer's tokens that the draft proposed, mean over answers.",
}


@dataclass(frozen=True)
class Section:
    """One table with its title and what to know about it."""

    title: str
    note: str
    table: pd.DataFrame


def sections_of(summary: pd.DataFrame, tests: pd.DataFrame) -> Iterator[Section]:
    """One section a measure and judge, then the paired tests."""
    for (measure, judge), lines in groups(summary, ["measure", "judge"]):
        title = measure[:1].upper() + measure[1:] + ("" if judge == CLOCK else f" (judge: {judge})")
        yield Section(title, f"{ABOUT[measure]} {_counts(lines)}", _wide(lines, measure in PERCENT))
    changed = tests[tests.gained + tests.lost > 0] if len(tests) else tests
    if len(changed):
        note = (
            "On the same questions, exact McNemar; the difference in points with its 95% bootstrap interval; p adjusted "
            f"(Benjamini and Hochberg) for all {len(tests)} comparisons, of which the {len(changed)} with a change are shown."
        )
        yield Section("Each defender against none", note, _test_table(changed))


def _counts(lines: pd.DataFrame) -> str:
    kind = "Wilson" if set(lines.measure) & RATES else "bootstrap"
    return f"95% {kind} intervals; {lines.unjudged.sum()} answers unjudged, {lines.errors.sum()} rows with errors."


def _wide(lines: pd.DataFrame, percent: bool) -> pd.DataFrame:
    """Systems down, attack sets across; how many questions count stands in the heading, and in a cell where fewer do."""
    columns: dict[str, dict[str, str]] = {}
    for (pair, attack, group), part in groups(lines, ["pair", "attack", "group"]):
        most = int(part.n.max())
        names = [pair] * (lines.pair.nunique() > 1) + [attack]
        names += [group] * (lines[lines.attack == attack].group.nunique() > 1)
        heading = f"{': '.join(names)} (n = {most})"
        columns[heading] = {line["system"]: cell(line, percent, most) for line in part.to_dict("records")}
    table = pd.DataFrame(columns).reindex(list(dict.fromkeys(lines.system))).fillna("–")
    return table.rename_axis("defender").reset_index()


def cell(line: dict[Any, Any], percent: bool, most: int = 0) -> str:
    """A number with its interval, and how many questions count where that is fewer than `most`."""
    if not line["n"]:
        return f"unjudged ({line['unjudged']})"
    numbers = [line[name] for name in ("value", "low", "high")]
    digits = 0 if percent or abs(numbers[0]) >= 10 else 2
    value, low, high = ("–" if np.isnan(x) else f"{x * (100 if percent else 1):.{digits}f}" for x in numbers)
    few = f" of {line['n']}" if line["n"] < most else ""
    return f"{value}{'%' if percent else ''} [{low}, {high}]{few}"


def _test_table(tests: pd.DataFrame) -> pd.DataFrame:
    points = [
        "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * line[name] for name in ("difference", "low", "high")))
        for line in tests.to_dict("records")
    ]
    small = {name: [f"{p:.2g}" for p in tests[name]] for name in ("p", "p_adjusted")}
    columns = ["pair", "attack", "measure", "judge", "system", "n", "gained", "lost", "difference", "p", "p_adjusted"]
    shown = tests.assign(difference=points, **small)[columns if tests.pair.nunique() > 1 else columns[1:]]
    return shown.rename(columns={"system": "defender", "p_adjusted": "p adjusted"})


def examples_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The first answer of every attack set and defender, clipped; an error in place of an answer."""
    first = rows.groupby(["pair", "attack", "system"], sort=False).head(1)
    said = first.text.where(first.error.isna(), first.error)
    return pd.DataFrame(
        {
            "attack": first.attack,
            "defender": first.system,
            "question": [clip(text, CLIP_PROMPT) for text in first.question],
            "answer": [clip(text, CLIP_ANSWER) for text in said],
        }
    )


def clip(text: str, length: int) -> str:
    """The beginning of a text on one line, control characters made visible."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= length else f"{line[:length].rstrip()} …"


def prefill_length(attack: str) -> int | None:
    """How many answer tokens a set's attacker writes: N of prefill-N, 0 for the same questions asked directly."""
    found = re.search(r"prefill-(\d+)\b", attack)
    return int(found[1]) if found else 0 if attack in ("direct", "kitchen-direct", "hex-phi") else None
