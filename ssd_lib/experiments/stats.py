"""The statistics of every table: intervals, paired differences, tests. Each number is scipy's.

Rates carry Wilson intervals; means, ratios and differences percentile bootstrap intervals over questions, all at 95%.
Where every question says the same, resampling has nothing to vary: such a number has no interval (nan). Only of a *share*, which lies
between 0 and 1, something is known then: when all are 0, the mean could be μ with a chance of at most (1 − μ)^n, as for a rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap

SAMPLES = 2000
"""Bootstrap resamples of a report."""
CARD_SAMPLES = 9999
"""Bootstrap resamples of the model card and of chapter 11."""

Interval = tuple[float, float, float]
"""A number and the ends of its 95% interval."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% Wilson interval of a rate."""
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return interval.low, interval.high


def rates(frame: pd.DataFrame, column: str, by: Sequence[str]) -> pd.DataFrame:
    """The share of rows where `column` is true, with its 95% Wilson interval, for every group of `by`."""
    counts = frame.groupby(list(by), sort=False)[column].agg(["sum", "count"]).reset_index()
    bounds = [wilson(int(k), int(n)) for k, n in counts[["sum", "count"]].to_numpy()]
    return counts.assign(rate=counts["sum"] / counts["count"], low=[b[0] for b in bounds], high=[b[1] for b in bounds])


def estimate(kind: str, values: np.ndarray) -> Interval:
    """A number of values of one kind, with its interval; all nan for no values.

    Args:
        kind: "rate" of yes (1) and no (0), by Wilson; "share", a mean of values between 0 and 1, or "mean", by bootstrap.
        values: One a question.
    """
    if not len(values):
        return np.nan, np.nan, np.nan
    if kind == "rate" or (kind == "share" and (np.all(values == 0) or np.all(values == 1))):
        return float(values.mean()), *wilson(int(values.sum()), len(values))
    return bootstrapped((values,), _mean)


def ratio(*columns: pd.Series) -> Interval:
    """Σa/Σb, or (Σa/Σb) · (Σc/Σd), of columns over the same questions, with its bootstrap interval."""

    def statistic(*parts: np.ndarray, axis: int = -1) -> Any:
        sums = [part.sum(axis) for part in parts]
        return np.prod([top / bottom for top, bottom in zip(sums[::2], sums[1::2], strict=True)], axis=0)

    return bootstrapped([column.to_numpy(dtype=float) for column in columns], statistic)


def bootstrapped(arrays: Sequence[np.ndarray], statistic: Callable[..., Any], *, samples: int = SAMPLES) -> Interval:
    """A statistic of paired arrays with its percentile interval; one question alone, or questions that all say the same, have none."""
    value = float(statistic(*arrays))
    if len(arrays[0]) < 2:
        return value, np.nan, np.nan
    options: dict[str, Any] = dict(paired=True, vectorized=True, rng=0, n_resamples=samples, method="percentile")
    interval = bootstrap(arrays, statistic, **options).confidence_interval
    if np.isclose(interval.low, interval.high, rtol=1e-9, atol=1e-12):
        return value, np.nan, np.nan
    return value, float(interval.low), float(interval.high)


def _mean(values: np.ndarray, axis: int = -1) -> Any:
    return values.mean(axis)


# ------------------------------------------------------------------------------------------------ on the same questions


def paired_difference(frame: pd.DataFrame, column: str, system: str, other: str) -> Interval:
    """Mean of `column` for `system` minus `other` over the same questions."""
    wide = frame.pivot_table(
        index=["group", "prefill", "unseen_wording", "question"], columns="system", values=column, aggfunc="first"
    )
    differences = wide[system].to_numpy(dtype=float) - wide[other].to_numpy(dtype=float)
    return bootstrapped((differences,), _mean, samples=CARD_SAMPLES)


def mcnemar(alone: pd.Series, defended: pd.Series) -> dict[str, Any]:
    """Exact McNemar test of two yes-or-no answers (1 or 0) to the same questions, two-sided.

    Only questions that changed count: under the null hypothesis each is as likely to have changed one way as the other, so
    the number that changed one way is that of heads of a fair coin.

    Returns:
        n, questions with both answers; `gained`, those that went from 0 to 1, and `lost`, from 1 to 0; `difference`, the
        mean change, with its bootstrap interval `low` to `high`; p.
    """
    both = pd.DataFrame({"alone": alone, "defended": defended}).dropna()
    change = (both.defended - both.alone).to_numpy()
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference, low, high = estimate("mean", change)
    return dict(n=len(both), gained=gained, lost=lost, difference=difference, low=low, high=high, p=p)
