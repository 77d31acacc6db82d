"""What the next round guesses: how many tokens, and whether the draft proposes them or the text so far.

With `lookahead="auto"` T follows the match ratio and the measured cost of rounds (`lookahead`); with `lookup=True` a round
may take its guesses from the context (`proposers`) when these promise more tokens a second. Costs are remembered for a pair
of models and a number of rows, so that a second call starts where the first one ended.

Sampled tokens depend on how many random numbers were drawn before, so with a seed T must not depend on a clock: there
"auto" goes by the numbers of weights alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.lookahead import CHOICES, Costs, Tuner, weights_read
from ssd_lib.decoding.proposers import ContextLookup
from ssd_lib.decoding.rounds import Emitted

_costs: WeakKeyDictionary[PreTrainedModel, WeakKeyDictionary[PreTrainedModel, dict[tuple[int, bool], Costs]]] = (
    WeakKeyDictionary()
)


def costs_of(target: PreTrainedModel, draft: PreTrainedModel, rows: int) -> tuple[Costs, Costs]:
    """What is known of this pair at this batch size: rounds that the draft proposes, and rounds with given guesses."""
    known = _costs.setdefault(target, WeakKeyDictionary()).setdefault(draft, {})
    if (rows, False) not in known:
        proposed = Costs(weights_read(draft) / weights_read(target))
        known[rows, False], known[rows, True] = proposed, Costs(proposed.draft, unit=proposed)
    return known[rows, False], known[rows, True]


def longest_lookahead(config: SSDConfig) -> int:
    """The most tokens that a round may guess: so much room is needed beyond the answer."""
    fixed = 1 if config.lookahead == "auto" else config.lookahead
    return max(fixed, CHOICES[-1]) if config.lookahead == "auto" or config.lookup else fixed


class Pace:
    """Chooses every round's guesses for one call."""

    def __init__(
        self, config: SSDConfig, target: PreTrainedModel, draft: PreTrainedModel, prompts: Sequence[Sequence[int]]
    ):
        self.config, self.timed = config, not config.do_sample
        on_cpu = target.get_input_embeddings().weight.device.type == "cpu"
        # On a CPU that others use, too, the time that this thread computes tells more than the time that passes.
        self.clock = time.thread_time if on_cpu else time.perf_counter
        proposed, looked_up = costs_of(target, draft, len(prompts)) if self.timed else (_untimed(target, draft),) * 2
        self.proposed = Tuner(proposed)
        self.text = None
        if config.lookup and len(prompts) == 1 and not config.do_sample:
            self.text, self.looked_up = ContextLookup(prompts[0]), Tuner(looked_up)
        self.tuner = self.proposed

    def next(self, room: int) -> tuple[int, list[int] | None]:
        """T of the next round, at most `room` (tokens that may still be emitted), and the guesses if there are any."""
        self.tuner = self.proposed
        fixed = None if self.config.lookahead == "auto" else self.config.lookahead
        lookahead = self.proposed.choose() if fixed is None else fixed
        if self.text is not None:
            count = min(self.looked_up.choose(), room)
            guesses = self.text.guess(count)
            if guesses is not None and self.looked_up.rate(count) > self.proposed.rate(lookahead):
                self.tuner = self.looked_up
                return count, guesses
        return min(lookahead, room), None

    def observe(self, lookahead: int, seconds: float, emitted: Sequence[Emitted]) -> None:
        """What came of it."""
        if self.timed:
            self.tuner.costs.add(lookahead, seconds)
        for row in emitted:
            if row.tokens:
                self.tuner.observe(len(row.held), sum(row.held))
        if self.text is not None:
            self.text.extend(emitted[0].tokens)


def _untimed(target: PreTrainedModel, draft: PreTrainedModel) -> Costs:
    return Costs(weights_read(draft) / weights_read(target), timed=False)
