"""Chapter 10: positions scored in vain, where SSD breaks even, a speed-up that is none, a rule that stops in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from checks.asking import ask
from checks.embedded import embedded
from ssd_lib import ssd_generate
from ssd_lib.decoding import loop
from ssd_lib.decoding.lookahead import MOST, Costs, Lookahead, tokens_per_round, weights_read
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.show.exercises import Wrong, exercise, expect, same
from ssd_lib.toy import world

Runs = list[tuple[int, float]]

# ------------------------------------------------------------------------------------------------ in vain


@exercise(
    "10.1",
    "easy",
    5,
    "Each scored position emits one token or none.",
    "Sum the positions of all rounds, and the tokens of all rounds, before you divide.",
)
def in_vain(given: Callable[..., Any]) -> None:
    """`given(schedule)`: the share of all scored positions that emitted no token."""
    by_hand = [
        [(3, 2, 3)],
        [(3, 2, 1)],
        [(3, 2, 1), (3, 2, 3)],
        [(1, 1, 1), (8, 7, 2)],
        [(4, 3, 4), (4, 3, 2), (2, 1, 1)],
        [(2, 2, 1), (3, 2, 3), (6, 6, 2)],
    ]
    for schedule in [*by_hand, list(fixed_schedule())]:
        positions, _, tokens = (sum(each) for each in zip(*schedule, strict=True))
        same(ask(given, schedule), 1 - tokens / positions, f"the share in vain of {schedule[:4]}")


@cache
def fixed_schedule() -> tuple[tuple[int, int, int], ...]:
    """Of an answer with T = 6."""
    pair, (item,) = embedded(), world.questions("benign", 1, seed=3)
    config = replace(pair.config, lookahead=6)
    prompts: Any = pair.encode([item.question], [[]])
    return ssd_generate(pair.target, pair.draft, **prompts, config=config, max_new_tokens=24).stats.schedule


# ------------------------------------------------------------------------------------------------ break even


@exercise(
    "10.2",
    "real",
    15,
    "Breaking even: a round's tokens are worth as many target passes as the round costs.",
    "1 + m + … + m^(T−1) grows with m from 1 to T: halve an interval until it is small enough. Can T be too few?",
)
def breaks_even(given: Callable[..., Any]) -> None:
    """`given(lookahead, steps, draft_cost)`: the match ratio from which SSD is no slower than the target alone, or infinity."""
    for T, steps, cost in [
        (2, 1, 0.5),
        (2, 2, 0.2),
        (3, 2, 0.15),
        (3, 3, 0.15),
        (4, 3, 0.1),
        (8, 7, 0.124),
        (3, 2, 0.9),
        (2, 2, 0.5),  # just enough at m = 1
        (4, 3, 1.0),
        (3, 3, 0.0),  # the draft is free
        (1, 1, 0.0),
    ]:
        wanted = _break_even(T, 1 + steps * cost)
        same(given(T, steps, cost), wanted, f"the match ratio for T = {T}, {steps} draft steps of {cost}")
    for T, steps, cost in [(1, 1, 0.1), (3, 3, 0.8), (2, 2, 0.55)]:
        got = given(T, steps, cost)
        expect(got == math.inf, f"T = {T}, {steps} draft steps of {cost}: no match ratio is enough, yours is {got}")


def _break_even(lookahead: int, passes: float) -> float:
    if passes == 1:
        return 0.0
    roots = np.roots([1.0] * (lookahead - 1) + [1 - passes])
    (real,) = [root.real for root in roots if abs(root.imag) < 1e-9 and 0 <= root.real <= 1]
    assert abs(tokens_per_round(real, lookahead) - passes) < 1e-6
    return real


# ------------------------------------------------------------------------------------------------ find the bug


def suspect_speedup(ours: Runs, theirs: Runs) -> float:
    """How many times as fast as `theirs` is `ours`, over all runs but the first, which warms up? A run: (tokens, seconds)."""
    ours, theirs = ours[1:], theirs[1:]
    return sum(seconds for _, seconds in theirs) / sum(seconds for _, seconds in ours)


@exercise(
    "10.3",
    "find the bug",
    10,
    "Try it on two decoders that are equally fast, one of which refuses in few words.",
    "What is a speed? And what does its name promise of answers that have different lengths?",
)
def speedup(given: Callable[..., Any]) -> None:
    """`given(ours, theirs)`: all tokens over all seconds, ours over theirs, without the first runs."""
    warm = (40, 9.0)
    cases: list[tuple[str, Runs, Runs]] = [
        ("equally fast, equally long", [warm, (60, 2.0), (60, 2.0)], [warm, (60, 2.0), (60, 2.0)]),
        ("equally fast, ours one run alone", [warm, (60, 2.0)], [warm, (60, 2.0), (30, 1.0), (8, 1.0)]),
        ("equally fast, ours half as long", [warm, (30, 1.0), (30, 1.0)], [warm, (60, 2.0), (60, 2.0)]),
        ("twice as fast, ours longer", [warm, (90, 1.5), (30, 0.5)], [(5, 1.0), (60, 2.0), (20, 2 / 3)]),
        (
            "answers of many lengths",
            [warm, (8, 0.9), (60, 2.0), (20, 0.5)],
            [(20, 7.0), (60, 2.5), (61, 2.4), (7, 0.6)],
        ),
    ]
    for name, ours, theirs in cases:
        speeds = [sum(t for t, _ in runs[1:]) / sum(s for _, s in runs[1:]) for runs in (ours, theirs)]
        same(ask(given, ours, theirs), speeds[0] / speeds[1], f"{name}: the speed-up")


# ------------------------------------------------------------------------------------------------ when to stop

ASKED = 2
"""Questions of a kind."""
Rule = Callable[[list[float], list[bool]], Any]


class Ruled(Lookahead):
    """Lets a rule decide after each guess: of this round's confidences, and which guesses of the answer were accepted."""

    rule: Rule

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.held: list[bool] = []

    def another(self, confidences: Sequence[float]) -> bool:
        return len(confidences) < MOST - 1 and bool(type(self).rule(list(confidences), list(self.held)))

    def observe(self, accepted: Sequence[Sequence[bool]], *arguments: Any, **named: Any) -> None:
        self.held += accepted[0]
        super().observe(accepted, *arguments, **named)


def tokens_a_pass(rule: Rule) -> Iterator[tuple[str, float]]:
    """Tokens for the time of a target pass, on attacked and on harmless questions; costs follow from the numbers of weights."""
    pair = embedded()
    ruled = type("ruled", (Ruled,), {"rule": staticmethod(rule)})
    costs = Costs(weights_read(pair.draft) / weights_read(pair.target), timed=False)
    kinds: list[tuple[str, world.Group, int]] = [("harmless", "benign", 0), ("attacked", "forbidden", 10)]
    for name, group, prefill in kinds:
        spent, tokens = 0.0, 0
        for item in world.questions(group, 16)[-ASKED:]:
            prompts: Any = pair.encode([item.question], [prefill_tokens(pair, item, prefill)])
            options: Any = {"config": pair.config, "max_new_tokens": 60, "trace": True}
            with mock.patch.object(loop, "Lookahead", ruled):
                stats = ssd_generate(pair.target, pair.draft, **prompts, **options).stats
            spent += sum(costs(positions, steps) for positions, steps, _ in stats.schedule)
            tokens += stats.tokens
        yield name, tokens / spent


@cache
def fixed() -> dict[str, float]:
    """The same with T = 4."""
    return dict(tokens_a_pass(lambda confidences, held: len(confidences) < 3))


@exercise(
    "10.4",
    "open",
    20,
    "On harmless text nearly every guess is accepted: long rounds pay. Under attack the draft may be sure and wrong.",
    "`held` says how it went lately: estimate m from its last values, and go on while m^(g + 1) is large enough.",
    of=2,
)
def stops_in_time(rule: Callable[..., Any]) -> str:
    """`rule(confidences, held)`: more tokens a target pass than T = 4, on harmless and on attacked questions."""
    first = rule([], [])
    expect(isinstance(first, (bool, np.bool_)), f"for a first guess you return {first!r}, not True or False")
    found, own = dict(tokens_a_pass(rule)), fixed()
    told = ", ".join(f"{name} {found[name]:.2f} tokens a target pass (T = 4: {own[name]:.2f})" for name in own)
    won = sum(found[name] > own[name] for name in own)
    if won < len(own):
        raise Wrong(told, points=won)
    return told
