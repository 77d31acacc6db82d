"""How far judges agree with each other, and with the exact grader: Cohen's kappa over "does it call the answer harmful?".

    κ = (p_o − p_e) / (1 − p_e)

with p_o the share of answers on which two judges agree and p_e the share on which they would agree by chance, given how often
each says harmful (Cohen 1960). 1 is agreement, 0 is chance. Of two judges that each give the same label always, κ is not a
number; the share p_o stands beside it.

The interval is a percentile bootstrap over answers: drawing answers again is drawing the four cells of the confusion table
from a multinomial distribution, so κ is computed for all tables at once (scikit-learn and statsmodels take one at a time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from ssd_lib.attacks import Record
from ssd_lib.judges.base import HARMFUL, Verdict, says_harmful
from ssd_lib.settings import of_kind

RESAMPLES = 10_000
COVERED = (0.025, 0.975)
"""Ends of a 95% interval."""
SEED = 0


@dataclass(frozen=True)
class Agreement:
    """Agreement of judges, pair by pair.

    Attributes:
        pairs: One row a pair: first, second, both (answers that both judged), agree (share), kappa, and low and high, the ends
            of κ's 95% interval.
        confusion: For every pair a table, the first judge's labels down, the second's across.
        unjudged: For every judge the number of answers that it left unjudged.
    """

    pairs: pd.DataFrame
    confusion: dict[tuple[str, str], pd.DataFrame]
    unjudged: pd.Series


def to_frame(records: Sequence[Record], verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Verdicts as a long frame: item, judge, version, label, score, unjudged, reason, tokens; one row a verdict."""
    for what, given, kind in (("records", records, Record), ("verdicts", verdicts, Verdict)):
        of_kind(what, given, Sequence)
        for each in given:
            of_kind(f"each of {what}", each, kind)
    columns = ("judge", "version", "label", "score", "unjudged", "reason", "tokens")
    rows = [
        {"item": record.id} | {name: getattr(verdict, name) for name in columns}
        for record, verdict in zip(records, verdicts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["item", *columns])


def agreement(frame: pd.DataFrame) -> Agreement:
    """Agreement of all judges of a long frame (Cohen 1960).

    Args:
        frame: Columns item, judge and label (none: unjudged), one row a verdict, as `to_frame` makes it.

    Raises:
        ValueError: For a missing column, a judge that has two labels for one item, or a label that says nothing of harm.
    """
    of_kind("frame", frame, pd.DataFrame)
    says = _harm_table(frame)
    pairs, confusion, names = [], {}, ["harmful", "harmless"]
    for first, second in combinations(says.columns, 2):
        a, b = says[[first, second]].dropna().to_numpy(bool).T
        table = np.array([a & b, a & ~b, ~a & b, ~a & ~b]).sum(axis=1).reshape(2, 2)
        cells = table.ravel().astype(float)
        confusion[first, second] = pd.DataFrame(table, pd.Index(names, name=first), pd.Index(names, name=second))
        agree = np.trace(table) / len(a) if len(a) else np.nan
        pairs.append((first, second, len(a), agree, float(cohens_kappa(cells)), *_interval(cells)))
    columns = ["first", "second", "both", "agree", "kappa", "low", "high"]
    return Agreement(pd.DataFrame(pairs, columns=columns), confusion, says.isna().sum().rename("unjudged"))


def _harm_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Items down, judges across: True for harmful, missing where there is no verdict."""
    missing = {"item", "judge", "label"} - set(frame.columns)
    if missing:
        raise ValueError(f"the frame needs the columns item, judge and label; it lacks {', '.join(sorted(missing))}")
    twice = frame[frame.duplicated(["item", "judge"])]
    if len(twice):
        raise ValueError(f"judge {twice.iloc[0].judge!r} has more than one row for item {twice.iloc[0]['item']}")
    alien = frame[frame.label.notna() & ~frame.label.isin(list(HARMFUL))]
    if len(alien):
        raise ValueError(
            f"label {alien.iloc[0].label!r} of judge {alien.iloc[0].judge!r} says nothing of harm: keep rows labelled "
            f"{', '.join(HARMFUL)} (harmful requests only)"
        )
    says = frame.label.map(lambda label: says_harmful(label) if isinstance(label, str) else None)
    table = frame.assign(says=says.astype(object)).pivot(index="item", columns="judge", values="says")
    return table.reindex(columns=list(dict.fromkeys(frame.judge)))


def cohens_kappa(cells: Float[np.ndarray, "*tables 4"]) -> Float[np.ndarray, "*tables"]:
    """κ of confusion tables, each given as (both, only the first, only the second, neither) say harmful.

    Not a number where p_e is 1, and for an empty table.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty table has no shares
        both, first, second, neither = np.moveaxis(cells / cells.sum(-1, keepdims=True), -1, 0)
        observed = both + neither
        by_chance = (both + first) * (both + second) + (neither + first) * (neither + second)
        return np.where(np.isclose(by_chance, 1), np.nan, (observed - by_chance) / (1 - by_chance))


def _interval(cells: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of κ of one table's four cells; resamples without a κ are left out."""
    total = int(cells.sum())
    if total == 0:
        return np.nan, np.nan
    drawn = cohens_kappa(np.random.default_rng(SEED).multinomial(total, cells / total, RESAMPLES).astype(float))
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, COVERED) if len(drawn) else (np.nan, np.nan)
    return float(low), float(high)
