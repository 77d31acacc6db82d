"""A round of one greedy row on a CPU, where a look at a number costs nothing: the draft takes no step that is not needed.

    guess      until another guess is not worth its step (`lookahead`), or T − 1 times
    verify     the target reads the pending token and all guesses: P_M at T positions
    decide     at the positions that both models have scored; most rounds end here
    complete   where all guesses held, the last position needs one more step of the draft

That last step also reads, after its own token, what the target likes best there. A pass over two tokens costs what one does,
and when the target's favourite is emitted (nearly always: the draft either agrees or seldom outvotes it) the first guess of
the next round is already there. So a round of T positions takes T − 1 draft steps, as many as speculative decoding, though
each token of SSD needs the draft's word, too.

On an accelerator each look would be a wait; many rows seldom agree to stop; and a sampled answer should not depend on how its
tokens were guessed. These take `decoder` as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssd_lib.decoding.decoder import Decoder, Emitted, Scored, Step

Guesses = tuple[list[Step], list[float]]
"""The draft's steps of a round, and the probability of each guess."""


class StepwiseDecoder(Decoder):
    """A decoder of one greedy row on a CPU."""

    ahead: Step | None = None
    """The first guess of the next round; the draft's cache then holds the pending token, too."""

    def round(
        self,
        lookahead: int,
        guesses: Sequence[int] | None = None,
        another: Callable[[Sequence[float]], bool] | None = None,
    ) -> list[Emitted]:
        """As `Decoder.round`; with `another`, `lookahead` is the most positions that it may ask for."""
        if guesses is not None:
            self.forget_ahead()
            return super().round(lookahead, guesses, another)
        self.steps, self.drafting = 0, 0.0
        steps, self.confidences = self.guess(lookahead - 1, another)
        self.positions = min(lookahead, len(steps) + 1)
        guessed = [step.proposals for step in steps]
        target_probs, target_nan = self.verify(
            torch.cat([self.pending[:1, :0], *guessed], dim=1)[:, : self.positions - 1]
        )
        emitted = self.emit_guessed(steps, target_probs, target_nan)
        if emitted.goes_on and self.positions > len(steps):
            emitted = emitted.and_then(self.complete(target_probs[:, -1:], target_nan[:, -1:], guessed))
        self.rounds += 1
        return [emitted]

    def guess(self, most: int, another: Callable[[Sequence[float]], bool] | None) -> Guesses:
        """The draft continues its pending token: `most` guesses, or until it ends the answer or another is not worth it."""
        steps, confidences, ends = [], [], set(self.eos.tolist())
        if self.ahead is not None:
            steps, confidences, self.ahead = [self.ahead], [confidence(self.ahead)], None
        while len(steps) < most and not (steps and int(steps[-1].proposals) in ends):
            if another is not None and not another(confidences):
                break
            guessed = [step.proposals for step in steps]
            steps.append(self.step(guessed[-1] if guessed else self.pending[1].unsqueeze(-1), guessed))
            confidences.append(confidence(steps[-1]))
        return steps, confidences

    def emit_guessed(self, steps: list[Step], target_probs: Tensor, target_nan: Tensor) -> Emitted:
        """What the positions emit that both models have scored; the target forgets the one that waits for the draft."""
        both = len(steps)
        self.target.cache.rewind(self.positions - both)
        if not both:
            return Emitted([], [], [], [], [], deepest=0, back=0, union=False, finished=False)
        proposals, draft_probs, draft_nan = (torch.cat(values, dim=1) for values in zip(*steps, strict=True))
        return self.walk(
            Scored(proposals, proposals, target_probs[:, :both], draft_probs, target_nan[:, :both], draft_nan)
        )[0]

    def complete(self, target_probs: Tensor, target_nan: Tensor, guessed: list[Tensor]) -> Emitted:
        """The last position on its own, with the draft's step there; with luck the next round's first guess, too."""
        self.target.cache.advance(1)
        favourite = target_probs.argmax(dim=-1)
        step = self.step(torch.cat([self.pending[1].unsqueeze(-1), favourite], dim=1), [*guessed, favourite])
        here, after = (Step(*(values[:, i : i + 1] for values in step)) for i in (0, 1))
        scored = Scored(here.proposals, here.proposals, target_probs, here.probs, target_nan, here.nan)
        emitted, self.ahead = self.walk(scored)[0], after
        self.confidences.append(confidence(here))
        if emitted.finished or emitted.back or emitted.tokens != favourite[0].tolist():
            self.forget_ahead()
        return emitted

    def forget_ahead(self) -> None:
        """The draft forgets what it read ahead."""
        if self.ahead is not None:
            self.draft.cache.rewind(1)
            self.ahead = None

    def begin(self, rows: Tensor, pending: Tensor) -> None:
        """As `Decoder.begin`; what was read ahead for another answer is of no use."""
        self.ahead = None
        super().begin(rows, pending)


def confidence(step: Step) -> float:
    """The probability of the first row's last proposal."""
    return float(step.probs[0, -1].amax())
