"""Hardened SSD beside published SSD: the cost of an answer, and the time until its first token is seen.

Both take turns within one process, over the match ratio of the synthetic pair and in the worst case of docs/contract.md: every
bin of Intersection is taken back, and every bin of Union ends the alarm.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
from tqdm import tqdm

from benchmarks import peers
from benchmarks.cpu import Clock, Plan, line, warm_up, write
from benchmarks.peers import Workload, interleaved
from benchmarks.synthetic import set_alternating, set_match_ratio, synthetic_pair, synthetic_prompt
from ssd_lib.config import SSDConfig

PUBLISHED, HARDENED = "published SSD", "hardened SSD"
WORST = {"no match": 7 * [False], "the alarm comes last": [*4 * [True], *3 * [False]]}
"""Matches of a bin of Intersection: most rounds, and most tokens decoded twice."""


def hardened(plan: Plan) -> pd.DataFrame:
    """One line for each workload and way of switching."""
    lines = []
    for work in tqdm(list_of(plan), total=len(plan.match_ratios) + len(WORST), desc="hardened", unit="workload"):
        lines += compare(work, plan.repeats)
        write("hardened", lines)
    return write("hardened", lines)


def list_of(plan: Plan) -> Iterator[Workload]:
    """The workloads, each made when it is asked for: all share two models."""
    target, draft = synthetic_pair(plan.shapes)
    ids = synthetic_prompt(target.config.vocab_size, plan.prompt)
    for ratio in plan.match_ratios:
        set_match_ratio(target, draft, ratio)
        yield Workload(plan.shapes, target, draft, ids, plan.new_tokens)
    for name, matches in WORST.items():
        ids = set_alternating(target, draft, matches)
        yield Workload(f"{plan.shapes}, worst case, {name}", target, draft, ids, plan.new_tokens)


def compare(work: Workload, repeats: int) -> list[dict[str, Any]]:
    """Both ways in turn: tokens a second, milliseconds to the first token that is seen, tokens decoded, target forwards."""
    works = {PUBLISHED: work, HARDENED: replace(work, config=SSDConfig.hardened())}
    firsts: dict[str, list[float]] = {name: [] for name in works}
    for each in works.values():
        warm_up(each)
    outputs = {name: watched(each, firsts[name], name) for name, each in works.items()}
    for seen in firsts.values():
        seen.clear()
    everyone = {name: partial(_tokens, each, firsts[name], name) for name, each in works.items()}
    seconds = interleaved(work, everyone, dict.fromkeys(works, repeats))
    lines = []
    for name, output in outputs.items():
        stats = output.stats
        first = 1000 * statistics.median(firsts[name])
        lines.append(line(work, name, seconds[name], stats.match_ratio) | {"first_ms": first})
        lines[-1] |= {"decoded": stats.tokens + stats.retracted, "target_forwards": stats.target_forwards}
    published, taken_back = lines
    taken_back["times_published"] = published["tokens_per_second"] / taken_back["tokens_per_second"]
    taken_back["first_times_published"] = taken_back["first_ms"] / published["first_ms"]
    return lines


def watched(work: Workload, firsts: list[float], name: str) -> Any:
    """One answer; appends the seconds until its first token was seen."""
    clock, begun = Clock(), peers.clock()
    with peers.own_costs(name):
        output = peers.run_ours(work, clock)
    firsts.append(clock.times[1] - begun)
    return output


def _tokens(each: Workload, firsts: list[float], name: str, _: Workload) -> list[int]:
    return watched(each, firsts, name).sequences[0].tolist()
