"""Is a defender really different from no defence, or from another one? Paired tests on the same questions.

For a rate, only questions that changed count: under the null hypothesis each is as likely to have gone one way as the
other, so the number that went one way is that of heads of a fair coin (McNemar's test, exact). Many tests find something by
chance, so p is adjusted for their number (Benjamini and Hochberg 1995).
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from scipy.stats import binomtest, false_discovery_control

from ssd_lib.experiments.report.numbers import BASELINE, MEASURES, estimate, groups


def tests_of(verdicts: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Every defender against one, by default no defence, for every rate: a line each with `mcnemar`'s columns and p_adjusted.

    verdicts: as of `judged`.
    """
    lines = []
    for measure in MEASURES:
        part = verdicts[verdicts.group.isin(measure.groups)] if measure.kind == "rate" else verdicts.iloc[:0]
        values = part.assign(value=measure.values(part)).dropna(subset="value")
        for key, block in groups(values, ["pair", "attack", "group", "judge"]):
            wide = block.pivot_table(index="item", columns="system", values="value", aggfunc="first", sort=False)
            head = dict(zip(("pair", "attack", "group", "judge"), key, strict=True)) | {"measure": measure.name}
            others = [name for name in wide.columns if name != baseline and baseline in wide]
            lines += [head | {"system": name} | mcnemar(wide[baseline], wide[name]) for name in others]
    tests = pd.DataFrame(lines)
    return tests.assign(p_adjusted=false_discovery_control(tests.p)) if len(tests) else tests


def mcnemar(alone: pd.Series, defended: pd.Series) -> dict[str, Any]:
    """Exact McNemar test of two yes-or-no answers (1 or 0) to the same questions, two-sided.

    Only questions with both count: n. `gained` went from 0 to 1, `lost` from 1 to 0; `difference` is the mean change, with
    its 95% bootstrap interval.
    """
    both = pd.DataFrame({"alone": alone, "defended": defended}).dropna()
    change = (both.defended - both.alone).to_numpy()
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference, low, high = estimate("mean", change)
    return dict(n=len(both), gained=gained, lost=lost, difference=difference, low=low, high=high, p=p)
