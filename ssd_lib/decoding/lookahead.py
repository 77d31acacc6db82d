"""The lookahead controller: how many tokens the next round guesses, from how often guesses are accepted and what rounds cost.

The output does not depend on T, so T may change while decoding. If each guess is emitted with probability m, a round of T
guesses emits tokens(T) = 1 + m + … + m^(T−1) tokens and takes seconds(T) = T·d + v(T): T draft steps and one target pass. The
best T maximises tokens(T) / seconds(T). With a constant v it has a closed form (`best_lookahead`); d and v(T) of a real machine
are measured (`Costs`), since every round ends with a transfer to the CPU anyway.

With one row on a CPU, each guess is followed by the question whether another one is worth its step (`another`): yes, as long
as some number of further guesses promises more tokens a second than the last rounds gave (the marginal value theorem,
Charnov 1976), by what is known of guesses of such a confidence. Derivations: docs/lookahead.md.

With `lookup=True` guesses may also come from the text so far (`ContextLookup`): any number of them costs one draft pass.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from weakref import WeakKeyDictionary

from scipy.special import lambertw
from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.kv_cache import token_table

CHOICES = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # lookaheads that are chosen and timed; others count as the next larger one
RECORDED = (2, 3, 4, 6, 8)  # those of recorded rounds: each takes a recording (`cuda_graph`)
FIRST, MOST = 3, CHOICES[-1]  # the paper's T, until something is known; positions of a round, at most
EDGES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.96, 0.99)  # between two of these, confidences are counted together
MEMORY = 0.97  # an observation counts this much less with each one since
PRIOR, PRIOR_TOKENS = 0.8, 2.0  # the first estimate of a match ratio, and the number of guesses that it weighs
ROUNDS = 16  # R is taken over so many rounds
SLOPE = 0.1  # share of a target pass that each further position adds, before anything is measured
FORGET = 1.1  # the quickest time lately: each new measurement makes an older one count as this many times as long
SIZES = (4, 3)  # tokens that must agree for a lookup, the longest first


def tokens_per_round(match_ratio: float, lookahead: int) -> float:
    """(1 − m^T) / (1 − m): tokens that a round of T guesses emits."""
    if match_ratio >= 1:
        return float(lookahead)
    return (1 - match_ratio**lookahead) / (1 - match_ratio)


def best_lookahead(match_ratio: float, cost_ratio: float) -> float:
    """The real-valued T* for 0 < m < 1 and r = v/d, target pass over draft step (docs/lookahead.md)."""
    s = -math.log(match_ratio)
    exponent = 1 + s * cost_ratio
    # Below the smallest double W₋₁(−e^(−x)) is −x − ln x up to far less than a token.
    y = -float(lambertw(-math.exp(-exponent), -1).real) if exponent < 700 else exponent + math.log(exponent)
    return (y - 1) / s - cost_ratio


def weights_read(model: PreTrainedModel) -> int:
    """Weights that a forward over one token multiplies: all but a lookup table that is not the output matrix, too."""
    total = sum(weight.numel() for weight in model.parameters())
    head = model.get_output_embeddings()
    table = token_table(model)
    tied = head is not None and head.weight is table
    return total - (0 if tied else table.numel())


def longest_lookahead(config: SSDConfig) -> int:
    """The most positions of a round: so much room is needed beyond the answer."""
    fixed = 1 if config.lookahead == "auto" else config.lookahead
    return max(fixed, MOST) if config.lookahead == "auto" or config.lookup else fixed


# ------------------------------------------------------------------------------------------------ what is known


@dataclass
class AcceptedShare:
    """How often guesses were accepted lately; before any was seen, as often as `prior` says."""

    seen: float = 0.0
    accepted: float = 0.0

    def add(self, *rows: Sequence[bool]) -> None:
        """Count each row's observations one after the other; older ones fade."""
        fade = MEMORY ** max(map(len, rows))
        self.seen = fade * self.seen + sum(map(len, rows))
        self.accepted = fade * self.accepted + sum(map(sum, rows))

    def estimate(self, prior: float) -> float:
        """The share, with the prior as so many observations."""
        return (self.accepted + PRIOR_TOKENS * prior) / (self.seen + PRIOR_TOKENS)


@dataclass
class Costs:
    """Seconds of a draft step, d, and of a target pass over T positions with all that is decided on it, v(T).

    Args:
        draft: The ratio d / v(1), from the numbers of weights.
        timed: False measures nothing, so that rounds repeat exactly.
    """

    draft: float
    timed: bool = True
    step_seconds: float | None = None
    pass_seconds: dict[int, float] = field(default_factory=dict)
    seen_once: set[int] = field(default_factory=set)

    def add(self, positions: int, steps: int, seconds: float, drafting: float) -> None:
        """A round over so many positions took `seconds`, of which `drafting` for its draft steps (0: not known)."""
        size = CHOICES[bisect_left(CHOICES, positions)]
        if not self.timed:
            return
        if size not in self.seen_once:  # the first pass of a shape pays for what libraries prepare
            self.seen_once.add(size)
            return
        if steps:
            step = drafting / steps if drafting else self.draft * seconds / (1 + steps * self.draft)
            self.step_seconds = _quickest(self.step_seconds, step)
        rest = seconds - (drafting or steps * self.step)
        self.pass_seconds[size] = _quickest(self.pass_seconds.get(size), rest)

    @property
    def step(self) -> float:
        """d; in target passes while nothing is measured."""
        return self.draft * self.target(1) if self.step_seconds is None else self.step_seconds

    def target(self, positions: int) -> float:
        """v(T): measured, interpolated between its neighbours, or beyond them as flat as the nearest (so that it will be tried)."""
        known, at = self.pass_seconds, CHOICES[bisect_left(CHOICES, positions)]
        if at in known or not known:
            return known.get(at, 1 + SLOPE * (positions - 1))
        lower, higher = [t for t in known if t < at], [t for t in known if t > at]
        if not lower or not higher:
            return known[max(lower) if lower else min(higher)]
        below, above = max(lower), min(higher)
        share = (at - below) / (above - below)
        return (1 - share) * known[below] + share * known[above]

    def __call__(self, positions: int, steps: int) -> float:
        """Seconds of a round; in target passes while nothing is measured."""
        return steps * self.step + self.target(positions)


def _quickest(before: float | None, now: float) -> float:
    """The quickest time lately: what else runs on the machine can only make it longer."""
    return now if before is None else min(now, FORGET * before)


@dataclass
class Known:
    """What is known of two models at a number of rows, from call to call: costs, and how often guesses were accepted."""

    costs: Costs
    overall: AcceptedShare = field(default_factory=AcceptedShare)
    looked_up: AcceptedShare = field(default_factory=AcceptedShare)
    by_confidence: list[AcceptedShare] = field(default_factory=lambda: [AcceptedShare() for _ in range(len(EDGES) + 1)])
    rounds: deque[tuple[int, int]] = field(default_factory=lambda: deque([(3, 3)], maxlen=ROUNDS))
    """Positions and tokens of the last rounds; the first entry is a guess."""


_known: WeakKeyDictionary[PreTrainedModel, WeakKeyDictionary[PreTrainedModel, dict[tuple[int, bool], Known]]]
_known = WeakKeyDictionary()


def known_of(
    target: PreTrainedModel, draft: PreTrainedModel, rows: int, timed: bool = True, recorded: bool = False
) -> Known:
    """What is known of this pair at this batch size; the numbers of weights alone where nothing may be timed."""
    if not timed:
        return Known(Costs(weights_read(draft) / weights_read(target), timed=False))
    of_pair = _known.setdefault(target, WeakKeyDictionary()).setdefault(draft, {})
    if (rows, recorded) not in of_pair:
        of_pair[rows, recorded] = Known(Costs(weights_read(draft) / weights_read(target)))
    return of_pair[rows, recorded]


# ------------------------------------------------------------------------------------------------ the controller


class Lookahead:
    """Chooses every round's guesses of one call.

    Args:
        config: Settings of the method.
        target: The target, whose known costs are taken up.
        draft: The draft.
        prompts: Where lookups begin.
        stepwise: Whether the decoder asks after each guess (`another`).
        timed: Whether costs are measured, so that rounds may differ from run to run; never with sampling, whose tokens depend
            on how many numbers were drawn.
    """

    def __init__(
        self,
        config: SSDConfig,
        target: PreTrainedModel,
        draft: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        stepwise: bool = False,
        timed: bool = True,
    ):
        self.pair = target, draft, len(prompts), timed and not config.do_sample
        self.known = known_of(*self.pair)
        self.costs, self.fixed = self.known.costs, None if config.lookahead == "auto" else config.lookahead
        self.stepwise = stepwise and self.fixed is None
        self.text = ContextLookup(prompts[0]) if config.lookup and len(prompts) == 1 and not config.do_sample else None
        self.choices, self.looking_up, self.current_rate = CHOICES, False, 0.0
        # On a shared CPU this thread's computing time says more than the time that passes.
        on_cpu = token_table(target).device.type == "cpu"
        self.clock = time.thread_time if on_cpu else time.perf_counter
        for share in (self.known.overall, self.known.looked_up, *self.known.by_confidence):
            share.seen, share.accepted = (
                share.seen / 2,
                share.accepted / 2,
            )  # so that this answer's own share soon counts

    @property
    def match_ratio(self) -> float:
        """m: the share of guesses that were accepted lately."""
        return self.known.overall.estimate(PRIOR)

    def next(self, room: int) -> tuple[int, list[int] | None]:
        """T of the next round (stepwise: at most), no more than `room` tokens, and the guesses if there are any."""
        lookahead = self.fixed or (MOST if self.stepwise else self.best(self.match_ratio, drafted=True))
        self.current_rate = self.rate() if self.stepwise else self.promise(lookahead, self.match_ratio, drafted=True)
        self.looking_up, guesses = False, None
        if self.text is not None:
            ratio = self.known.looked_up.estimate(PRIOR)
            count = min(self.best(ratio, drafted=False), room)
            guesses = self.text.guess(count)
            if guesses is not None and self.promise(count, ratio, drafted=False) > self.current_rate:
                self.looking_up = True
                return count, guesses
        return min(lookahead, room), None

    def best(self, match_ratio: float, drafted: bool) -> int:
        """The T that promises most."""
        if self.costs.timed and not self.costs.pass_seconds:
            return FIRST
        return max(self.choices, key=lambda t: self.promise(t, match_ratio, drafted))

    def record(self) -> None:
        """Rounds are recorded from now on, one recording for each lookahead, so only a few are chosen; their costs are their own."""
        self.choices, self.stepwise = RECORDED, False
        self.costs = known_of(*self.pair, recorded=True).costs

    def promise(self, lookahead: int, match_ratio: float, drafted: bool) -> float:
        """Tokens a second of rounds of this T, whose guesses take a draft step each, or one for all."""
        return tokens_per_round(match_ratio, lookahead) / self.costs(lookahead, lookahead if drafted else 1)

    # -------------------------------------------------------------------------------------------- within a round

    def rate(self) -> float:
        """R: tokens a second of the last rounds, each at the present cost of such a round."""
        spent = sum(self.costs(positions, max(positions - 1, 1)) for positions, _ in self.known.rounds)
        return sum(tokens for _, tokens in self.known.rounds) / spent

    def acceptance(self, confidence: float) -> float:
        """How often guesses of such a confidence were accepted lately."""
        return self.known.by_confidence[bisect_right(EDGES, confidence)].estimate(self.match_ratio)

    def another(self, confidences: Sequence[float]) -> bool:
        """After guesses of these confidences, is another one worth its step?"""
        made = len(confidences)
        if self.fixed is not None:
            return made < self.fixed - 1
        if self.costs.timed and FIRST not in self.costs.pass_seconds:
            return made < FIRST - 1
        ratio, seconds = self.match_ratio, self.costs
        reached = gain = prod(self.acceptance(confidence) for confidence in confidences)
        paid, promised = seconds(made + 1, max(made, 1)), 0.0
        for guesses in range(made + 1, MOST):
            gain *= ratio
            promised += gain
            if promised > self.current_rate * (seconds(guesses + 1, guesses) - paid):
                return True
            if gain < reached * 1e-3:
                break
        return False

    # -------------------------------------------------------------------------------------------- after a round

    def observe(
        self,
        accepted: Sequence[Sequence[bool]],
        positions: int,
        steps: int,
        seconds: float,
        drafting: float = 0.0,
        confidences: Sequence[float] = (),
    ) -> None:
        """What came of a round: which of each row's walked guesses were accepted, and what it cost."""
        self.costs.add(positions, steps, seconds, drafting)
        (self.known.looked_up if self.looking_up else self.known.overall).add(*accepted)
        for confidence, good in zip(confidences, accepted[0], strict=False):
            self.known.by_confidence[bisect_right(EDGES, confidence)].add([good])
        if not self.looking_up:
            self.known.rounds.append((positions, max(map(len, accepted))))

    def emitted(self, tokens: Iterable[int], anew: bool = False) -> None:
        """The only row's new tokens, for lookups; its whole text where some were taken back."""
        if self.text is not None and anew:
            self.text = ContextLookup(tokens)
        elif self.text is not None:
            self.text.extend(tokens)


class ContextLookup:
    """Guesses from the text so far: what followed the last few tokens when they occurred before.

    Where an answer copies (code, quotes, sums repeated from the question) the context itself guesses well. Source of the
    idea: prompt lookup decoding (Saxena 2023), in transformers as `prompt_lookup_num_tokens`.
    """

    def __init__(self, tokens: Iterable[int]):
        self.tokens: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens. A run is indexed once a token follows it, so that a lookup never finds the text's own end."""
        for token in tokens:
            for size in SIZES:
                if len(self.tokens) >= size:
                    self.ends[tuple(self.tokens[-size:])] = len(self.tokens)
            self.tokens.append(token)

    def guess(self, count: int) -> list[int] | None:
        """The next `count` tokens as they followed the last run like this one, None where there is none.

        Where the text ends first it is continued as a repetition: a loop of any length guesses itself.
        """
        for size in SIZES:
            end = self.ends.get(tuple(self.tokens[-size:])) if len(self.tokens) >= size else None
            if end is not None:
                followed = self.tokens[end:]
                return [followed[i % len(followed)] for i in range(count)]
        return None
