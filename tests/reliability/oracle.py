"""Random answers against the plain oracle: tests/oracle.py, which follows docs/contract.md and shares no code with ssd_lib.

A case is one call with a random pair of micro-models, settings, prompts and way to call: alone, in a ragged batch, in a
conversation, or inside transformers' `generate` with its logits processors.

- A greedy answer must be the oracle's, token for token, and its trace, too: scheme, match, target fallback, k, threshold, α,
  and what was taken back.
- A sampled answer is followed: the oracle takes its draws as given and says what else must be so (as above), and how likely
  each outcome was (x accepted, x drawn after a rejection). No token may be impossible. The probability integral transform of
  all outcomes must be uniform (chi-square over 100 bins), and as many proposals accepted as expected.
- What cannot be honoured must be refused by name.

Where two tokens are equally likely up to rounding, the contract does not say which is chosen: such answers are left out and
counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context

import jaxtyping
import torch
from scipy.stats import chisquare, norm
from tqdm import tqdm

from tests.reliability.answers import Case, one_case
from tests.reliability.outcome import Outcome

TITLE = "Random answers against a plain oracle"
FULL, SHORT = 10_000, 300
CHUNK = 25  # cases that a process does at once
BINS = 100
TOO_UNLIKELY = 1e-4  # p-value of a test that is made once a run


def some_cases(seeds: range) -> list[Case]:
    torch.set_num_threads(1)
    jaxtyping.config.update("jaxtyping_disable", True)  # smaller tests run the same code with every shape checked
    return [one_case(seed) for seed in seeds]


def cases(seed: int, processes: int) -> Iterator[Case]:
    """Cases without an end, in the order of their seeds."""
    starts = iter(range(seed, 1 << 62, CHUNK))
    if processes == 1:
        for start in starts:
            yield from some_cases(range(start, start + CHUNK))
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running = [pool.submit(some_cases, range(start, start + CHUNK)) for start in islice(starts, 2 * processes)]
        try:
            while True:
                yield from running.pop(0).result()
                start = next(starts)
                running.append(pool.submit(some_cases, range(start, start + CHUNK)))
        finally:
            for future in running:
                future.cancel()


def run(count: int, seed: int = 0, progress: bool = False, processes: int | None = None) -> Outcome:
    """Compare `count` answers.

    Args:
        count: Answers to compare.
        seed: Of the first case; a failure names its own.
        progress: Show a tqdm bar.
        processes: Default: 2 for the full form, 1 otherwise.
    """
    total = Case()
    with tqdm(total=count, unit="answer", disable=not progress) as bar:
        for case in cases(seed, processes or (2 if count > 1000 else 1)):
            for name in ("compared", "left_out", "failures", "seen", "transforms", "accepted", "variance"):
                setattr(total, name, getattr(total, name) + getattr(case, name))
            bar.update(case.compared)
            if total.compared >= count:
                break
    return Outcome(total.compared, total.failures + [*unlikely(total, seed)], facts_of(total))


def uniform(transforms: list[float]) -> float:
    """p-value of a chi-square test of uniformity."""
    bins = Counter(min(BINS - 1, int(BINS * value)) for value in transforms)
    return float(chisquare([bins[place] for place in range(BINS)]).pvalue)


def as_many_accepted(total: Case) -> float:
    """Two-sided p-value of the number of accepted proposals."""
    return float(2 * norm.sf(abs(total.accepted) / math.sqrt(total.variance))) if total.variance else 1.0


def unlikely(total: Case, seed: int) -> Iterator[str]:
    for name, p in (("sampled tokens", uniform(total.transforms)), ("accepted proposals", as_many_accepted(total))):
        if p < TOO_UNLIKELY:
            yield f"seed {seed}: {name} are not distributed as the contract says (p = {p:.2g})"


def facts_of(total: Case) -> dict[str, float | int | str]:
    facts: dict[str, float | int | str] = {
        f"answers {name}" if name != "tokens" else name: total.seen[name] for name in total.seen
    }
    return facts | {
        "answers left out, two tokens being equally likely up to rounding": total.left_out,
        "sampled tokens": len(total.transforms),
        "p-value of the sampled tokens": round(uniform(total.transforms), 3),
        "p-value of the accepted proposals": round(as_many_accepted(total), 3),
    }
