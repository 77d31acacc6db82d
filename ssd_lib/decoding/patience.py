"""When to stop guessing: after each guess the draft is asked how sure it is, and one more guess must be worth its step.

A round of g guesses emits a first token for sure, another one if the first guess holds, and so on; behind g guesses that all
hold it emits one more (`stepwise`). With A_i the probability that the first i guesses hold, d the seconds of a draft step and
v(T) those of a target pass over T positions,

    tokens(g) = A_0 + A_1 + … + A_g,  A_0 = 1        seconds(g) = max(g, 1) · d + v(g + 1)

(the step that completes a round reads the next round's first token ahead, so each guess costs one step, but a round without
guesses costs one, too). Rounds follow each other, and what counts is the tokens of many rounds over their seconds, R. That is
a problem of optimal stopping with a known answer, the marginal value theorem (Charnov 1976): go on as long as there are n
more guesses that promise more tokens a second than R,

    A_g (m + m² + … + mⁿ)  >  R · (seconds(g + n) − seconds(g))

with m the share of guesses that held lately. A_g is the product of what is known of the g guesses made: how often guesses of
such a confidence (P_m of the guess, in steps of `EDGES`) held lately. So a draft that is sure of a whole sentence is let run,
and one that hesitates is stopped, as in assisted generation (Mamou et al. 2024, there by one fixed confidence); the output
depends on none of it. d and v are measured as they occur, or, where rounds must repeat exactly, taken from the numbers of weights.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from ssd_lib.decoding.lookahead import CHOICES, FIRST, read_off

EDGES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.96, 0.99)  # confidences between these are told apart
MEMORY = 0.97  # an observation counts this much less with each one since
PRIOR, PRIOR_TOKENS = 0.8, 2.0  # the first estimate of a match ratio, and the number of guesses that it weighs
ROUNDS = 16  # R is taken over so many rounds
SLOPE = 0.1  # of a target pass, what each further position adds to it before anything is measured
FORGET = 1.1  # the quickest time lately: an older one is taken to be this much longer with each measurement
SIZES = CHOICES  # passes over these numbers of positions are timed; others count as the next larger one
MOST = SIZES[-1]  # positions of a round, at most


@dataclass
class Share:
    """How often something held lately; before anything is seen, as often as `prior` says."""

    seen: float = 0.0
    held: float = 0.0

    def add(self, held: bool) -> None:
        """Count one observation; older ones fade."""
        self.seen = MEMORY * self.seen + 1
        self.held = MEMORY * self.held + held

    def estimate(self, prior: float) -> float:
        """The share, with the prior as so many observations."""
        return (self.held + PRIOR_TOKENS * prior) / (self.seen + PRIOR_TOKENS)


@dataclass
class Patience:
    """Decides within a round whether the draft should guess on; one for a pair of models, kept from call to call.

    draft_cost: a draft step over a target pass, while nothing is measured. timed: False never measures, so that the
    same models on the same prompt make the same rounds.
    """

    draft_cost: float
    timed: bool = True
    clock: Callable[[], float] = time.perf_counter
    step_seconds: float | None = None
    pass_seconds: dict[int, float] = field(default_factory=dict)
    seen_once: set[int] = field(default_factory=set)
    overall: Share = field(default_factory=Share)
    by_confidence: list[Share] = field(default_factory=lambda: [Share() for _ in range(len(EDGES) + 1)])
    rounds: deque[tuple[int, int]] = field(default_factory=lambda: deque([(3, 3)], maxlen=ROUNDS))
    """Positions and tokens of the last rounds; the first entry is a guess."""
    current_rate: float | None = None

    def begin(self) -> None:
        """Another answer begins: what the last one taught counts half, so that this one is soon known for what it is."""
        for share in (self.overall, *self.by_confidence):
            share.seen, share.held = share.seen / 2, share.held / 2

    # -------------------------------------------------------------------------------------------- what a round costs

    def stepped(self, seconds: float) -> None:
        """A draft step took so long."""
        if self.timed:
            self.step_seconds = _quickest(self.step_seconds, seconds)

    def passed(self, positions: int, seconds: float) -> None:
        """A target pass over so many positions, and deciding on them, took so long."""
        if self.timed:
            size = SIZES[bisect_left(SIZES, positions)]
            if size in self.seen_once:  # the first pass of a shape pays for what libraries prepare
                self.pass_seconds[size] = _quickest(self.pass_seconds.get(size), seconds)
            self.seen_once.add(size)

    def pass_cost(self, positions: int) -> float:
        """v(T): measured, read off between neighbours, or beyond them as flat as the nearest (then it will be tried)."""
        positions = SIZES[bisect_left(SIZES, positions)]
        measured, nearest = read_off(self.pass_seconds, positions)
        if nearest is None:
            return 1 + SLOPE * (positions - 1)
        return self.pass_seconds[nearest] if measured is None else measured

    def cost(self, guesses: int) -> float:
        """seconds(g); in target passes while nothing is measured."""
        step = self.step_seconds
        if step is None:
            step = self.draft_cost * self.pass_cost(1)
        return max(guesses, 1) * step + self.pass_cost(guesses + 1)

    # -------------------------------------------------------------------------------------------- is another guess worth it?

    @property
    def match_ratio(self) -> float:
        """m: the share of guesses that held lately."""
        return self.overall.estimate(PRIOR)

    def holds(self, confidence: float) -> float:
        """How often guesses of such a confidence held lately."""
        return self.by_confidence[bisect_right(EDGES, confidence)].estimate(self.match_ratio)

    def rate(self) -> float:
        """R: tokens a second of the last rounds, each at what such a round cost when this one began."""
        if self.current_rate is None:
            spent = sum(self.cost(positions - 1) for positions, _ in self.rounds)
            self.current_rate = sum(tokens for _, tokens in self.rounds) / spent
        return self.current_rate

    def another(self, confidences: Sequence[float]) -> bool:
        """Behind guesses of these confidences, is another one worth its step?"""
        made = len(confidences)
        if self.timed and FIRST not in self.pass_seconds:
            return made < FIRST - 1
        rate, ratio = self.rate(), self.match_ratio
        reached = gain = prod(self.holds(confidence) for confidence in confidences)
        paid, promised = self.cost(made), 0.0
        for guesses in range(made + 1, MOST):
            gain *= ratio
            promised += gain
            if promised > rate * (self.cost(guesses) - paid):
                return True
            if gain < reached * 1e-3:
                break
        return False

    def observe(self, confidences: Sequence[float], held: Sequence[bool], positions: int) -> None:
        """What became of a round's guesses, as far as they were walked over."""
        for confidence, good in zip(confidences, held, strict=False):
            self.overall.add(good)
            self.by_confidence[bisect_right(EDGES, confidence)].add(good)
        self.rounds.append((positions, len(held)))
        self.current_rate = None


def _quickest(before: float | None, now: float) -> float:
    """The quickest time lately: what else runs on the machine can only make it longer."""
    return now if before is None else min(now, FORGET * before)
