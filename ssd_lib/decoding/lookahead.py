"""How far the draft should look ahead: T from the match ratio and from what rounds cost.

The output does not depend on T, so T may change while decoding. If each guess is emitted with probability m, independently,
a round of T guesses emits at least one token, a second if the first guess held, and so on:

    tokens(T) = 1 + m + … + m^(T−1) = (1 − m^T) / (1 − m)

(no token is to be had for nothing behind the last guess, since every SSD token needs both models). It costs T draft steps
and one target pass, seconds(T) = T·d + v. (One row on a CPU saves a step and stops in the middle: `stepwise`, `patience`.)
The best T maximises tokens(T) / seconds(T). With r = v/d and s = −ln m, setting
the derivative to zero gives

    s e^(−sT) (T + r) = 1 − e^(−sT)      ⇔      e^(sT) = 1 + s (T + r) =: y      ⇔      y e^(−y) = e^(−(1 + s r))

where the last step puts sT = y − 1 − s r into the one before. Its root above 1 is a branch of Lambert's W:

    T* = (y − 1)/s − r,      y = −W₋₁(−e^(−(1 + s r)))                                     (`best_lookahead`)

On real machines v is not constant: on a CPU the pass over 4 tokens may take nearly twice the time of that over 3, on a GPU
it is flat up to hundreds. So `Tuner` keeps the closed form's model of tokens(T), but measures seconds(T) for the few T of
`CHOICES`: a round ends with a transfer to the host anyway, so its time is known without a further wait. Until a T has been
tried its time is read off between its neighbours, and beyond them from the numbers of weights of both models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scipy.special import lambertw
from transformers import PreTrainedModel

CHOICES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
FIRST = 3  # the paper's T, until something is known
MEMORY = 0.93  # a match counts this much less with each token since
PRIOR_TOKENS = 4.0  # the first estimate of the match ratio weighs as much as so many tokens
GAIN = 1.02  # another T must promise this much more, so that noise does not make T wander
RECENT, OUTLIER = 0.2, 1.5  # weight of the newest measured time, and the most that it may exceed the ones before
TRUSTED = 2  # rounds after which a measured time is believed


def tokens_per_round(match_ratio: float, lookahead: int) -> float:
    """(1 − m^T) / (1 − m): tokens that a round of T guesses emits."""
    if match_ratio >= 1:
        return float(lookahead)
    return (1 - match_ratio**lookahead) / (1 - match_ratio)


def best_lookahead(match_ratio: float, cost_ratio: float) -> float:
    """The real-valued T* for 0 < m < 1 and r = v/d, target pass over draft step (see the module's derivation)."""
    s = -math.log(match_ratio)
    exponent = 1 + s * cost_ratio
    # Below the smallest double W₋₁(−e^(−x)) is −x − ln x up to far less than a token.
    y = -float(lambertw(-math.exp(-exponent), -1).real) if exponent < 700 else exponent + math.log(exponent)
    return (y - 1) / s - cost_ratio


def weights_read(model: PreTrainedModel) -> int:
    """Weights that a forward over one token multiplies: all but a lookup table that is not the output matrix, too."""
    total = sum(weight.numel() for weight in model.parameters())
    head = model.get_output_embeddings()
    table = model.get_input_embeddings().weight
    tied = head is not None and head.weight is table
    return total - (0 if tied else table.numel())


def read_off(known: Mapping[int, float], at: int) -> tuple[float | None, int | None]:
    """What is known at this T or reads off between its neighbours; beyond them None, and the nearest T that is known."""
    if at in known:
        return known[at], at
    below = max((t for t in known if t < at), default=None)
    above = min((t for t in known if t > at), default=None)
    if below is None or above is None:
        return None, above if below is None else below
    share = (at - below) / (above - below)
    return (1 - share) * known[below] + share * known[above], below


@dataclass
class Costs:
    """Seconds of a round by its T: measured, or expected from `draft` (a draft step over a target pass)."""

    draft: float
    unit: Costs | None = None
    """Set where the guesses are given, so that the draft reads them in one pass: the costs of rounds that it proposes."""
    timed: bool = True
    """False: never measured, the expectation is all there is."""
    seconds: dict[int, float] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)
    match_ratio: float = 0.8
    """The share of guesses that held lately: where the next call starts from."""

    def expected(self, lookahead: int) -> float:
        """In target passes, before anything is measured."""
        return 1 + self.draft * (lookahead if self.unit is None else 1)

    def __getitem__(self, lookahead: int) -> float:
        """Seconds of a round; in target passes while nothing has been measured."""
        known = {t: self.seconds[t] for t, count in self.rounds.items() if count >= TRUSTED}
        measured, nearest = read_off(known, lookahead)
        return self._pass(nearest) * self.expected(lookahead) if measured is None else measured

    def _pass(self, nearest: int | None) -> float:
        """Seconds of a target pass, judging by rounds of `nearest` guesses; 1 while nothing has been measured."""
        if nearest is not None:
            return self.seconds[nearest] / self.expected(nearest)
        return 1.0 if self.unit is None else self.unit[FIRST] / self.unit.expected(FIRST)

    def add(self, lookahead: int, seconds: float) -> None:
        """A measured round; one that took very long counts as a little longer (something else ran on the machine)."""
        before = self.seconds.get(lookahead, seconds)
        self.seconds[lookahead] = before + RECENT * (min(seconds, OUTLIER * before) - before)
        self.rounds[lookahead] = self.rounds.get(lookahead, 0) + 1


@dataclass
class Tuner:
    """Chooses T for the next round."""

    costs: Costs
    current: int = FIRST

    def __post_init__(self) -> None:
        # Guesses that were walked over, and those of them that were emitted; old ones fade.
        self.guessed, self.held = PRIOR_TOKENS, PRIOR_TOKENS * self.costs.match_ratio

    @property
    def match_ratio(self) -> float:
        """The share of guesses that held lately."""
        return self.held / self.guessed

    def rate(self, lookahead: int) -> float:
        """Tokens a second that rounds of this T promise."""
        return tokens_per_round(self.match_ratio, lookahead) / self.costs[lookahead]

    def choose(self) -> int:
        """T of the next round: the one that promises most, or the current one where the promise is small."""
        best = max(CHOICES, key=self.rate)
        known = self.costs.rounds.get(self.current, 0) >= TRUSTED
        if (known or not self.costs.timed) and self.rate(best) > GAIN * self.rate(self.current):
            self.current = best
        return self.current

    def observe(self, guessed: int, held: int) -> None:
        """Count a round's walked guesses of one row and those that held."""
        fade = MEMORY**guessed
        self.guessed = fade * self.guessed + guessed
        self.held = fade * self.held + held
        self.costs.match_ratio = self.match_ratio
