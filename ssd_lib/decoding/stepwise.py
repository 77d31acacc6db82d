"""A round of one row on a CPU, where a look at a number costs nothing: the draft takes no step that is not needed.

    guess      until another guess is not worth its step (`patience`), or T − 1 times
    verify     the target reads the pending token and all guesses: P_M at T positions
    decide     at the positions that both models have scored; most rounds end here
    complete   where all guesses held, the last position needs one more step of the draft

That last step also reads, behind its own token, what the target likes best there. A pass over two tokens costs what one does,
and when the target's favourite is emitted (nearly always: the draft either agrees or seldom outvotes it) the first guess of
the next round is already there. So a round of T positions takes T − 1 draft steps, as many as speculative decoding, though
each token of SSD needs the draft's word, too.

On an accelerator each look would be a wait; many rows seldom agree to stop; and a sampled answer should not depend on how its
tokens were guessed. These take `rounds` as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssd_lib import switching
from ssd_lib.decoding.patience import Patience
from ssd_lib.decoding.recording import Recorder
from ssd_lib.decoding.rounds import Decoder, Emitted, Scored, Step

NOTHING = Emitted([], [], [], [], [], deepest=0, finished=False, short=False)


@dataclass
class StepwiseDecoder(Decoder):
    """A decoder of one greedy row on a CPU."""

    ahead: Step | None = None
    """The first guess of the next round; the draft's cache then holds the pending token, too."""

    def __post_init__(self) -> None:
        self.ends = set(self.eos.tolist())

    def round(
        self,
        lookahead: int,
        guesses: Sequence[int] | None = None,
        recorder: Recorder | None = None,
        patience: Patience | None = None,
    ) -> list[Emitted]:
        """As `Decoder.round`; `lookahead` is the most positions that patience may ask for."""
        if guesses is not None or self.graph is not None:
            self.forget_ahead()
            return super().round(lookahead, guesses, recorder)
        steps, confidences = self.guess(lookahead - 1, patience)
        self.positions = min(lookahead, len(steps) + 1)
        begun = patience.clock() if patience else 0.0
        target_probs, target_nan = self.verify(
            self.target, self.pending, _proposals(steps, self.pending)[:, : self.positions - 1]
        )
        emitted = self.settle_guessed(steps, target_probs, target_nan, recorder)
        if patience:
            patience.passed(self.positions, patience.clock() - begun)
        if self.positions > len(steps) and all(emitted.held) and not emitted.finished:
            last = self.complete(target_probs[:, -1:], target_nan[:, -1:], recorder)
            emitted, confidences = emitted.and_then(last[0]), [*confidences, last[1].confidence]
        if patience:
            patience.observe(confidences, emitted.held, self.positions)
        self.rounds += 1
        return [emitted]

    def guess(self, most: int, patience: Patience | None) -> tuple[list[Step], list[float]]:
        """The draft continues its pending token: `most` guesses, or until it ends the answer or another is not worth its step.

        Also returns how sure it was of each.
        """
        steps = [] if self.ahead is None else [self.ahead]
        confidences = [step.confidence for step in steps]
        self.ahead = None
        while len(steps) < most and not (steps and int(steps[-1].proposals) in self.ends):
            if patience and not patience.another(confidences):
                break
            begun = patience.clock() if patience else 0.0
            steps.append(self.step(steps[-1].proposals if steps else self.draft_pending.unsqueeze(-1)))
            confidences.append(steps[-1].confidence)
            if patience:
                patience.stepped(patience.clock() - begun)
        return steps, confidences

    def settle_guessed(
        self,
        steps: list[Step],
        target_probs: Float[Tensor, "1 T vocab"],
        target_nan: Bool[Tensor, "1 T"],
        recorder: Recorder | None,
    ) -> Emitted:
        """What the positions emit that both models have scored; the target forgets the one that waits for the draft."""
        both, emitted = len(steps), NOTHING
        if steps:
            proposals, draft_probs, draft_nan = (torch.cat(values, dim=1) for values in zip(*steps, strict=True))
            scored = Scored(proposals, proposals, target_probs[:, :both], draft_probs, target_nan[:, :both], draft_nan)
            emitted = self.emit_and_settle(scored, recorder)
        self.target.cache.rewind(self.positions - both)
        return emitted

    def emit_and_settle(self, scored: Scored, recorder: Recorder | None) -> Emitted:
        """`walk`, but nothing is decided where both models have the same favourite: it is what both schemes emit.

        The favourite of both has the largest P_M and the largest P_m, so for 0 ≤ α ≤ 1 the largest F = (1 − α) P_M + α P_m;
        and it is the first to enter the intersection, so that the target never insists against it.
        """
        spoiled = bool((scored.target_nan | scored.draft_nan).any())
        if recorder is not None or spoiled or max(self.config.alpha_union, self.config.alpha_intersection) > 1:
            return self.walk(scored, recorder)[0]
        agrees = (scored.target_probs.argmax(dim=-1) == scored.proposals)[0].tolist()
        emitted, width = NOTHING, len(agrees)
        while all(emitted.held) and not emitted.finished and (done := len(emitted.tokens)) < width:
            run = (agrees[done:] + [False]).index(False)
            here = Scored(*(values[:, done : done + max(run, 1)] for values in scored))
            emitted = emitted.and_then(self.agree(here.guesses[0].tolist()) if run else self.walk(here, None)[0])
        for model in (self.target, self.draft):
            model.cache.rewind(width - len(emitted.tokens))
        return emitted

    def agree(self, tokens: list[int]) -> Emitted:
        """Emit tokens that are the favourites of both, up to the end of the answer."""
        tokens = tokens[: self.max_new_tokens - int(self.switch.emitted)]
        end = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        tokens = tokens if end is None else tokens[: end + 1]
        for mine, new in zip(
            self.switch, switching.matches_in_a_row(self.switch, len(tokens), self.config), strict=True
        ):
            mine.copy_(new)
        for pending in (self.pending, self.draft_pending):
            pending.fill_(tokens[-1])
        finished = end is not None or int(self.switch.emitted) >= self.max_new_tokens
        self.finished.fill_(finished)
        yes, no = [True] * len(tokens), [False] * len(tokens)
        return Emitted(tokens, yes, no, no, yes, deepest=0, finished=finished, short=False)

    def complete(
        self, target_probs: Float[Tensor, "1 1 vocab"], target_nan: Bool[Tensor, "1 1"], recorder: Recorder | None
    ) -> tuple[Emitted, Step]:
        """The last position on its own, with the draft's step there; with luck the next round's first guess, too."""
        self.target.cache.advance(1)
        favourite = target_probs.argmax(dim=-1)
        step = self.step(torch.cat([self.draft_pending.unsqueeze(-1), favourite], dim=1))
        here, behind = (Step(*(values[:, i : i + 1] for values in step)) for i in (0, 1))
        scored = Scored(here.proposals, here.proposals, target_probs, here.probs, target_nan, here.nan)
        emitted = self.emit_and_settle(scored, recorder)
        self.ahead = behind
        if emitted.finished or emitted.tokens != favourite[0].tolist():
            self.forget_ahead()
        return emitted, here

    def forget_ahead(self) -> None:
        """The draft forgets what it read ahead."""
        if self.ahead is not None:
            self.draft.cache.rewind(1)
            self.ahead = None


def _proposals(steps: list[Step], like: Tensor) -> Tensor:
    """The guesses, [1, n]."""
    return torch.cat([step.proposals for step in steps], dim=1) if steps else like.new_empty(1, 0)
