"""One round of SSD (arXiv 2508.17739, section 4), for every row at once and without a wait for the host.

    score    T tokens are guessed and both models give their probabilities at all T positions
    decide   emit by the current scheme while the emitted token is the guessed one
    settle   both caches forget what was not emitted; the last emitted token is pending

The guesses are the draft's own proposals, T draft forwards, or come from elsewhere (`guesses`: one forward of each model).
Either way a token *matches* when it is the draft's own choice at its position.

A position counts only if every earlier one emitted its guess. So what the scheduler will have counted when the walk gets
there is known beforehand (`switching.ahead`), and all positions are decided in one go instead of one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssd_lib import switching
from ssd_lib.composite import accept_or_resample, composite, composite_distribution
from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.shortlist import DEPTHS, Candidates, candidates, choose, mask_of
from ssd_lib.switching import SwitchState

FIRST_DEPTH = 64.0  # as deep as sample spaces are sought at first
HEADROOM, FADE = 2.0, 0.5  # then so many times the k that was seen; what was seen long ago counts less

if TYPE_CHECKING:
    from ssd_lib.decoding.graphs import RoundGraph
    from ssd_lib.decoding.patience import Patience
    from ssd_lib.decoding.recording import Recorder


class Scored(NamedTuple):
    """What was guessed, what the draft itself proposes behind the same prefix, and both models' probabilities."""

    guesses: Int[Tensor, "rows T"]
    proposals: Int[Tensor, "rows T"]
    target_probs: Float[Tensor, "rows T vocab"]
    draft_probs: Float[Tensor, "rows T vocab"]
    target_nan: Bool[Tensor, "rows T"]
    draft_nan: Bool[Tensor, "rows T"]


class Step(NamedTuple):
    """What the draft proposes behind each token that it read, its probabilities there, and where they are not numbers."""

    proposals: Int[Tensor, "rows new"]
    probs: Float[Tensor, "rows new vocab"]
    nan: Bool[Tensor, "rows new"]

    @property
    def confidence(self) -> float:
        """The probability of the first row's last proposal: a look from the host."""
        return float(self.probs[0, -1].amax())


class Decision(NamedTuple):
    """What a round emits; nothing has changed yet."""

    tokens: Int[Tensor, "rows T"]
    alive: Bool[Tensor, "rows T"]
    """These positions count."""
    matched: Bool[Tensor, "rows T"]
    held: Bool[Tensor, "rows T"]
    """The emitted token is the guessed one, so that the walk can go on behind it."""
    switch: SwitchState
    finished: Bool[Tensor, " rows"]
    short: Bool[Tensor, " rows"]
    """The heads of the lists were not deep enough for a position that may count: decide again, deeper."""
    path: SwitchState
    found: Candidates
    scores: Float[Tensor, "rows T listed"]


def packed(scored: Scored, decision: Decision) -> Int[Tensor, "rows columns"]:
    """What the host wants to know, in one tensor: tokens, flags, and two last columns for the row; see `unpack`."""
    flags = (decision.alive, decision.matched, scored.target_nan, scored.draft_nan, decision.held)
    bits = sum(flag.long() << place for place, flag in enumerate(flags))
    row = decision.finished + 2 * decision.short
    deepest = decision.found.k.masked_fill(~decision.alive, 0).amax(dim=1)
    return torch.cat([decision.tokens, bits, deepest.unsqueeze(-1), row.unsqueeze(-1)], dim=1)


class Emitted(NamedTuple):
    """One row of a round, as plain values: the tokens that count, which matched, and whose logits were not numbers."""

    tokens: list[int]
    matched: list[bool]
    target_nan: list[bool]
    draft_nan: list[bool]
    held: list[bool]
    deepest: int
    """The largest k of Intersection."""
    finished: bool
    short: bool

    def and_then(self, later: Emitted) -> Emitted:
        """This and what the same round emitted behind it."""
        lists = (one + other for one, other in zip(self[:5], later[:5], strict=True))
        return Emitted(*lists, max(self.deepest, later.deepest), later.finished, later.short)


def unpack(lines: list[list[int]]) -> list[Emitted]:
    """The rows of `packed(…).tolist()`."""
    rows = []
    for line in lines:
        width = len(line) // 2 - 1
        count = sum(bits & 1 for bits in line[width:-2])
        flags = [[bool(bits >> place & 1) for bits in line[width : width + count]] for place in (1, 2, 3, 4)]
        rows.append(Emitted(line[:count], *flags, line[-2], bool(line[-1] & 1), bool(line[-1] & 2)))
    return rows


@dataclass
class Decoder:
    """The state of one call. Everything tensor-valued lives on the target's device; nothing in a round waits for the host."""

    target: CachedModel
    draft: CachedModel
    config: SSDConfig
    eos: Int[Tensor, " ids"]
    max_new_tokens: int
    generator: torch.Generator | None
    pending: Int[Tensor, " rows"]
    draft_pending: Int[Tensor, " rows"]
    """The same token as `pending`, but for the first round: the last token of the draft's own prompt."""
    switch: SwitchState
    finished: Bool[Tensor, " rows"]
    owners: list[int]
    """Whose answer each row is writing."""
    rounds: int = 0
    depth_wanted: float = FIRST_DEPTH
    positions: int = 0
    """T of the last round."""
    graph: RoundGraph | None = None
    """A recorded round takes the place of the step-by-step one (`graphs`)."""

    def round(
        self,
        lookahead: int,
        guesses: Sequence[int] | None = None,
        recorder: Recorder | None = None,
        patience: Patience | None = None,
    ) -> list[Emitted]:
        """One whole round: at least one and at most `lookahead` tokens for every row that is not finished.

        patience: says after each guess whether another is worth its step (heeded where the host may look: `stepwise`).
        """
        self.positions = lookahead
        if self.graph is not None:
            emitted = self.graph.round(recorder)
        else:
            given = None if guesses is None else torch.tensor([list(guesses)], device=self.target.device)
            emitted = self.walk(self.score(lookahead, given), recorder)
        self.rounds += 1
        return emitted

    def walk(self, scored: Scored, recorder: Recorder | None, depths: Sequence[int] | None = None) -> list[Emitted]:
        """Decide, tell the host (the round's only wait, but for the rare need of deeper heads), and settle."""
        for depth in self.depths() if depths is None else depths:
            decision = self.decide(scored, depth)
            emitted = unpack(packed(scored, decision).tolist())
            if not any(row.short for row in emitted):
                break
        self.depth_wanted = max(HEADROOM * max(row.deepest for row in emitted), FADE * self.depth_wanted)
        if recorder is not None:
            recorder.add(scored, decision, self.rounds, self.owners)
        self.settle(decision)
        return emitted

    def depths(self) -> tuple[int, ...]:
        """How deep to seek sample spaces: as deep as lately was needed, then deeper."""
        return tuple(depth for depth in DEPTHS if depth >= self.depth_wanted) or DEPTHS[-1:]

    def restart(self, pending: Int[Tensor, " rows"], draft_pending: Int[Tensor, " rows"]) -> None:
        """Begin anew behind other prompts, which both models have read; in place, so that a recorded round still fits."""
        fresh = switching.start(pending.shape[0], self.config, pending.device)
        for mine, new in zip(self.switch, fresh, strict=True):
            mine.copy_(new)
        self.finished.zero_()
        self.pending.copy_(pending)
        self.draft_pending.copy_(draft_pending)
        self.rounds = self.target.forwards = self.draft.forwards = 0

    # -------------------------------------------------------------------------------------------- score

    def score(self, lookahead: int, guesses: Int[Tensor, "rows T"] | None = None) -> Scored:
        """Both models' probabilities at `lookahead` positions: behind the draft's own proposals, or behind given guesses."""
        if guesses is None:
            proposals, draft_probs, draft_nan = self.propose(lookahead)
            guesses = proposals
        else:
            draft_probs, draft_nan = self.verify(self.draft, self.draft_pending, guesses[:, :-1])
            proposals = draft_probs.argmax(dim=-1)
        target_probs, target_nan = self.verify(self.target, self.pending, guesses[:, : lookahead - 1])
        return Scored(guesses, proposals, target_probs, draft_probs, target_nan, draft_nan)

    def propose(self, lookahead: int) -> Step:
        """The draft continues its pending token, one forward a token."""
        steps, token = [], self.draft_pending
        for _ in range(lookahead):
            steps.append(self.step(token.unsqueeze(-1)))
            token = steps[-1].proposals[:, -1]
        return Step(*(torch.cat(values, dim=1) for values in zip(*steps, strict=True)))

    def step(self, tokens: Int[Tensor, "rows new"]) -> Step:
        """The draft reads these tokens, and proposes one behind each."""
        logits = self.draft.forward(tokens.to(self.draft.device))
        self.draft.cache.advance(tokens.shape[1])
        probs, nan = self.probabilities(logits)
        if not self.config.do_sample:
            return Step(probs.argmax(dim=-1), probs, nan)
        return Step(torch.multinomial(probs[:, -1], 1, generator=self.generator), probs, nan)

    def verify(
        self, model: CachedModel, pending: Int[Tensor, " rows"], guesses: Int[Tensor, "rows new"]
    ) -> tuple[Float[Tensor, "rows T vocab"], Bool[Tensor, "rows T"]]:
        """A model reads the pending token and T − 1 guesses behind it, in one forward."""
        read = torch.cat([pending.unsqueeze(-1), guesses], dim=1).to(model.device)
        logits = model.forward(read)
        model.cache.advance(read.shape[1])
        return self.probabilities(logits)

    def probabilities(
        self, logits: Float[Tensor, "rows new vocab"]
    ) -> tuple[Float[Tensor, "rows new vocab"], Bool[Tensor, "rows new"]]:
        """Softmax in fp32, on the target's device, and where it is not a number (one such logit spoils its position).

        For sampling these positions are made uniform: a draw from them would raise before the round can report them.
        """
        logits = logits.to(self.target.device)
        if not self.config.do_sample:
            probs = logits.softmax(dim=-1)
            return probs, probs[..., 0].isnan()
        probs = (logits / self.config.temperature).softmax(dim=-1)
        bad = probs[..., 0].isnan()
        return probs.masked_fill(bad.unsqueeze(-1), 1 / probs.shape[-1]), bad

    # -------------------------------------------------------------------------------------------- decide

    def decide(self, scored: Scored, depth: int) -> Decision:
        """Emit at least one token for every row that is not finished; the sample space is sought `depth` tokens deep."""
        running = ~self.finished
        path = switching.ahead(self.switch, scored.guesses == scored.proposals, running, self.config)
        found = candidates(scored.target_probs, scored.draft_probs, path.union, self.config.candidates, depth)
        tokens, matched, scores = self.emit(scored, found, switching.alpha(path, self.config))

        ended = (tokens.unsqueeze(-1) == self.eos).any(dim=-1) | (path.emitted + 1 >= self.max_new_tokens)
        held = matched if self.config.do_sample else tokens == scored.guesses
        goes_on = (held & ~ended)[:, :-1]
        alive = torch.cat([running.unsqueeze(-1), goes_on], dim=1).cumprod(dim=1).bool()
        last = (alive.sum(dim=1) - 1).clamp(min=0)
        switch = switching.update(
            switching.at(path, last), matched.gather(1, last.unsqueeze(-1)).squeeze(-1), running, self.config
        )
        # With sampling, whether to decide again must not depend on what was drawn: all positions are asked.
        asked = alive if not self.config.do_sample else running.unsqueeze(-1)
        short = (asked & ~found.enough & ~(scored.target_nan | scored.draft_nan)).any(dim=1)
        finished = self.finished | (alive & ended).any(dim=1)
        return Decision(tokens, alive, matched, held, switch, finished, short, path, found, scores)

    def emit(
        self, scored: Scored, found: Candidates, alpha: Float[Tensor, "rows T"]
    ) -> tuple[Int[Tensor, "rows T"], Bool[Tensor, "rows T"], Float[Tensor, "rows T listed"]]:
        """The token of every position, whether it matches, and F of the candidates.

        Greedy: argmax F over the sample space; it matches when it is the draft's own greedy proposal. Sampling: the
        proposal is accepted with probability min(1, F⁺/P_m), else F⁺'s residual is drawn; it matches when accepted.
        """
        tokens, scores = choose(found, alpha)
        if not self.config.do_sample:
            return tokens, tokens == scored.proposals, scores
        target, draft = scored.target_probs, scored.draft_probs
        space = mask_of(found, target.shape[-1])
        wanted = composite_distribution(
            composite(target, draft, alpha), space, target, found.insisted, self.config.top_p
        )
        flat = wanted.flatten(0, 1), draft.flatten(0, 1), scored.proposals.flatten()
        tokens, accepted = accept_or_resample(*flat, self.generator)
        return tokens.view(scored.guesses.shape), accepted.view(scored.guesses.shape), scores

    # -------------------------------------------------------------------------------------------- settle

    def settle(self, decision: Decision) -> None:
        """The last emitted token is pending; both caches forget what was not emitted. All in place: see `graphs`."""
        emitted = decision.alive.sum(dim=1)
        last = decision.tokens.gather(1, (emitted - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        for pending in (self.pending, self.draft_pending):
            pending.copy_(torch.where(emitted > 0, last, pending))
        rejected = decision.tokens.shape[1] - emitted
        self.target.cache.rewind(rejected)
        self.draft.cache.rewind(rejected)
        for mine, new in zip((*self.switch, self.finished), (*decision.switch, decision.finished), strict=True):
            mine.copy_(new)
