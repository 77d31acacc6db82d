"""What the next round guesses: how many tokens, and whether the draft proposes them or the text so far.

With `lookahead="auto"` T follows the match ratio and the measured cost of rounds: one row on a CPU stops guessing where the
draft hesitates (`patience`), all others choose T before a round (`lookahead`). With `lookup=True` a round may take its guesses
from the context (`proposers`) when these promise more tokens a second. Costs are remembered for a pair of models and a number
of rows, so that a second call starts where the first one ended.

Sampled tokens depend on how many random numbers were drawn before, so with a seed T must not depend on a clock; nor should a
trace, which shows the rounds. There "auto" goes by the numbers of weights alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.lookahead import Costs, Tuner, weights_read
from ssd_lib.decoding.patience import MOST, Patience
from ssd_lib.decoding.proposers import ContextLookup
from ssd_lib.decoding.rounds import Emitted

Known = tuple[Costs, Costs, Patience]
_known: WeakKeyDictionary[PreTrainedModel, WeakKeyDictionary[PreTrainedModel, dict[int, Known]]] = WeakKeyDictionary()


def nothing_known(target: PreTrainedModel, draft: PreTrainedModel, timed: bool = True) -> Known:
    """What numbers of weights alone tell."""
    share = weights_read(draft) / weights_read(target)
    proposed = Costs(share, timed=timed)
    return proposed, Costs(share, unit=proposed, timed=timed), Patience(share, timed=timed)


def known_of(target: PreTrainedModel, draft: PreTrainedModel, rows: int) -> Known:
    """What is known of this pair at this batch size: rounds that the draft proposes, rounds with given guesses, single guesses."""
    of_pair = _known.setdefault(target, WeakKeyDictionary()).setdefault(draft, {})
    if rows not in of_pair:
        of_pair[rows] = nothing_known(target, draft)
    return of_pair[rows]


def longest_lookahead(config: SSDConfig) -> int:
    """The most tokens that a round may guess: so much room is needed beyond the answer."""
    fixed = 1 if config.lookahead == "auto" else config.lookahead
    return max(fixed, MOST) if config.lookahead == "auto" or config.lookup else fixed


class Pace:
    """Chooses every round's guesses for one call.

    stepwise: the decoder asks after each guess. timed: costs are measured, so that rounds may differ from run to run.
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
        self.config, self.timed = config, timed and not config.do_sample
        on_cpu = target.get_input_embeddings().weight.device.type == "cpu"
        # On a CPU that others use, too, the time that this thread computes tells more than the time that passes.
        self.clock = time.thread_time if on_cpu else time.perf_counter
        known = known_of(target, draft, len(prompts)) if self.timed else nothing_known(target, draft, timed=False)
        self.proposed, self.patience = Tuner(known[0]), None
        if stepwise and config.lookahead == "auto":
            self.patience = known[2]
            self.patience.clock = self.clock
            self.patience.begin()
        self.text = None
        if config.lookup and len(prompts) == 1 and not config.do_sample:
            self.text, self.looked_up = ContextLookup(prompts[0]), Tuner(known[1])
        self.tuner = self.proposed

    def next(self, room: int) -> tuple[int, list[int] | None]:
        """T of the next round (with patience: at most), no more than `room` tokens, and the guesses if there are any."""
        self.tuner = self.proposed
        lookahead, rate = self._proposals()
        if self.text is not None:
            count = min(self.looked_up.choose(), room)
            guesses = self.text.guess(count)
            if guesses is not None and self.looked_up.rate(count) > rate:
                self.tuner = self.looked_up
                return count, guesses
        return min(lookahead, room), None

    def _proposals(self) -> tuple[int, float]:
        """T where the draft proposes, and the tokens a second that this promises."""
        if self.patience is not None:
            return MOST, self.patience.rate()
        lookahead = self.proposed.choose() if self.config.lookahead == "auto" else self.config.lookahead
        return lookahead, self.proposed.rate(lookahead)

    def observe(self, lookahead: int, seconds: float, emitted: Sequence[Emitted]) -> None:
        """What came of a round of this T."""
        if self.timed:
            self.tuner.costs.add(lookahead, seconds)
        for row in emitted:
            if row.tokens:
                self.tuner.observe(len(row.held), sum(row.held))
        if self.text is not None:
            self.text.extend(emitted[0].tokens)
