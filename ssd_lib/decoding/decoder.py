"""One round of SSD (arXiv 2508.17739, section 4), for every row at once and with one wait for the device.

    score    T tokens are guessed and both models give their probabilities at all T positions
    decide   tokens are emitted by the current scheme while the emitted token is the guessed one
    settle   both caches forget what was rejected; the last emitted token is pending

The guesses are the draft's own proposals, T draft forwards, or come from elsewhere (`guesses`: one forward of each model).
Either way a token *matches* when it is the draft's own choice at its position.

A position counts only if every earlier one emitted its guess. So what the scheduler will have counted at each position is
known beforehand (`switching.ahead`), and all positions are decided at once instead of one by one. Where both models'
favourites agree, the composite's is the same (for α up to 1); on a CPU, where reading a number costs nothing, only the other
positions are decided.

Hardened switching takes a whole bin back (`switching.to_take_back`): for the caches that is a longer rejection, and the
token before the bin is pending again.

One greedy row on a CPU takes no draft step that is not needed (`StepwiseDecoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.inputs import Processors
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.results import Chosen, Decision, Emitted, Recorder, Scored, Step, packed, unpack
from ssd_lib.method import switching
from ssd_lib.method.composite import (
    DEPTHS,
    accept_or_resample,
    choose,
    composite,
    composite_distribution,
    mask_of,
    search,
)
from ssd_lib.method.switching import SwitchState

Another = Callable[[Sequence[float]], bool]
"""Whether, after guesses of these confidences, one more is worth its step (`lookahead`)."""

FIRST_DEPTH = 64.0  # how deep sample spaces are sought at first
HEADROOM, FADE = 2.0, 0.5  # later, the depth as a multiple of the k that was seen; what was seen long ago counts less


@dataclass
class Decoder:
    """The state of one batch. Everything tensor-valued lives on the target's device and changes in place (`cuda_graph`)."""

    target: CachedModel
    draft: CachedModel
    config: SSDConfig
    eos: Int[Tensor, " ids"]
    max_new_tokens: int
    vocab: int
    """Token ids below this are shared by both models; no other is emitted."""
    pending: Int[Tensor, "2 rows"]
    """The last token of target and draft, which neither has read yet: the same token, except at first, when it ends two prompts."""
    switch: SwitchState
    finished: Bool[Tensor, " rows"]
    generator: torch.Generator | None = None
    processors: Processors | None = None
    recorder: Recorder | None = None
    prompt_indices: list[int] = field(default_factory=list)
    """Which prompt each row answers."""
    clock: Callable[[], float] | None = None
    """Times the draft's steps where a step is done when it returns: on a CPU."""
    rounds: int = 0
    depth_wanted: float = FIRST_DEPTH

    positions: int = 0
    """Of the last round: positions that the target scored,"""
    steps: int = 0
    """draft steps,"""
    drafting: float = 0.0
    """their seconds,"""
    confidences: list[float] = field(default_factory=list)
    """and the probabilities of the guesses of a single row (`StepwiseDecoder`)."""

    def __post_init__(self) -> None:
        self.before_bin = self.pending.clone()
        """The pending tokens when the running bin began: `retract` goes back there."""

    @property
    def sparse(self) -> bool:
        """Whether only positions where the favourites differ are decided."""
        on_cpu = self.target.device.type == "cpu" == self.draft.device.type
        greatest = max(self.config.alpha_union, self.config.alpha_intersection)
        return on_cpu and self.recorder is None and not self.config.do_sample and greatest <= 1

    def round(
        self, lookahead: int, guesses: Sequence[int] | None = None, another: Another | None = None
    ) -> list[Emitted]:
        """One whole round: at least one and at most `lookahead` tokens for every row that is not finished.

        Args:
            guesses: Of the only row, in place of the draft's proposals.
            another: Asked only where reading a number costs nothing (`StepwiseDecoder`).
        """
        given = None if guesses is None else torch.tensor([list(guesses)], device=self.target.device)
        self.positions, self.steps, self.drafting, self.confidences = lookahead, 0, 0.0, []
        emitted = self.walk(self.score(lookahead, given))
        self.rounds += 1
        return emitted

    def walk(self, scored: Scored, depths: Sequence[int] | None = None) -> list[Emitted]:
        """Decide, read what was decided (the round's only wait, but for the rare need of deeper heads), and settle."""
        for depth in self.depths() if depths is None else depths:
            decision = self.decide(scored, depth)
            emitted = unpack(packed(scored, decision).tolist())
            if not any(row.short for row in emitted):
                break
        self.depth_wanted = max(HEADROOM * max(row.deepest for row in emitted), FADE * self.depth_wanted)
        self.record(scored, decision)
        self.settle(decision)
        return emitted

    def record(self, scored: Scored, decision: Decision) -> None:
        """The trace's lines of a round."""
        if self.recorder is not None:
            self.recorder.add(scored, decision, self.rounds, self.prompt_indices)

    def depths(self) -> tuple[int, ...]:
        """How deep to seek sample spaces: as deep as was needed lately, then deeper."""
        return tuple(depth for depth in DEPTHS if depth >= self.depth_wanted) or DEPTHS[-1:]

    # -------------------------------------------------------------------------------------------- score

    def score(self, lookahead: int, guesses: Int[Tensor, "rows T"] | None = None) -> Scored:
        """Both models' probabilities at `lookahead` positions: after the draft's own proposals, or after given guesses."""
        if guesses is None:
            proposals, draft_probs, draft_nan = self.propose(lookahead)
            guesses = proposals
        else:
            read = torch.cat([self.pending[1].unsqueeze(-1), guesses[:, :-1]], dim=1)
            proposals, draft_probs, draft_nan = self.step(read, [guesses[:, :-1]])
        target_probs, target_nan = self.verify(guesses[:, : lookahead - 1])
        return Scored(guesses, proposals, target_probs, draft_probs, target_nan, draft_nan)

    def propose(self, lookahead: int) -> Step:
        """The draft continues its pending token, one forward a token."""
        steps: list[Step] = []
        for _ in range(lookahead):
            tokens = steps[-1].proposals if steps else self.pending[1].unsqueeze(-1)
            steps.append(self.step(tokens, [step.proposals for step in steps]))
        return Step(*(torch.cat(values, dim=1) for values in zip(*steps, strict=True)))

    def step(self, tokens: Int[Tensor, "rows new"], guessed: Sequence[Int[Tensor, "rows some"]]) -> Step:
        """The draft reads these tokens, the last ones of what has been guessed in this round, and proposes after each."""
        begun = self.clock() if self.clock else 0.0
        logits = self.draft.forward(tokens.to(self.draft.device))
        self.draft.cache.advance(tokens.shape[1])
        probs, nan = self.probabilities(logits, guessed)
        if self.config.do_sample:
            proposals = torch.multinomial(probs[:, -1], 1, generator=self.generator)
        else:
            proposals = probs.argmax(dim=-1)
        self.steps += 1
        self.drafting += self.clock() - begun if self.clock else 0.0
        return Step(proposals, probs, nan)

    def verify(self, guesses: Int[Tensor, "rows new"]) -> tuple[Float[Tensor, "rows T vocab"], Bool[Tensor, "rows T"]]:
        """The target reads the pending token and T − 1 guesses after it, in one forward."""
        read = torch.cat([self.pending[0].unsqueeze(-1), guesses], dim=1)
        logits = self.target.forward(read)
        self.target.cache.advance(read.shape[1])
        return self.probabilities(logits, [guesses])

    def probabilities(
        self,
        logits: Float[Tensor, "rows new width"],
        guessed: Sequence[Int[Tensor, "rows some"]],
        indices: Sequence[int] | None = None,
        again: int = 0,
    ) -> tuple[Float[Tensor, "rows new vocab"], Bool[Tensor, "rows new"]]:
        """Softmax in fp32, on the target's device, and where it is not a number (one such logit spoils its position).

        Such positions are made uniform for sampling: a draw from them would raise before the round can report them. `guessed`
        are all tokens of this round before the last position; the other arguments are those of `Processors`.
        """
        logits = logits.to(self.target.device)
        if self.processors is not None:
            logits = self.processors(logits, guessed, self.prompt_indices if indices is None else indices, again)
        logits = logits[..., : self.vocab]
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
        choice = (self.choose_where_they_differ if self.sparse else self.choose)(scored, path, depth)
        ends = (choice.tokens.unsqueeze(-1) == self.eos).any(dim=-1) | (path.emitted + 1 >= self.max_new_tokens)
        accepted = choice.matched if self.config.do_sample else choice.tokens == scored.guesses
        here = running.unsqueeze(-1).expand(ends.shape)
        after = switching.update(path, choice.matched, here, self.config, ends)
        back = switching.to_take_back(path, after, self.config)

        goes_on = (accepted & ~ends & (back == 0))[:, :-1]
        alive = torch.cat([running.unsqueeze(-1), goes_on], dim=1).cumprod(dim=1).bool()
        last = (alive.sum(dim=1) - 1).clamp(min=0)
        back = back.gather(1, last.unsqueeze(-1)).squeeze(-1) * running
        switch = switching.at(after, last)
        finished = self.finished | ((alive & ends).any(dim=1) & (back == 0))
        # With sampling, whether to decide again must not depend on what was drawn: every position is looked at.
        asked = alive if not self.config.do_sample else here
        short = (asked & choice.short & ~(scored.target_nan | scored.draft_nan)).any(dim=1)
        return Decision(choice, alive, accepted, path, switching.take_back(switch, back), back, finished, short)

    def choose(self, scored: Scored, path: SwitchState, depth: int) -> Chosen:
        """The token of every position, whether it matches, and F of the candidates.

        Greedy: argmax F over the sample space; it matches when it is the draft's own greedy proposal. Sampling: the
        proposal is accepted with probability min(1, F⁺/P_m), else F⁺'s residual is drawn; it matches when accepted.
        """
        target, draft, alpha, config = (
            scored.target_probs,
            scored.draft_probs,
            switching.alpha(path, self.config),
            self.config,
        )
        found = search(target, draft, path.union, config.candidates, depth)
        tokens, scores = choose(found, alpha)
        matched = tokens == scored.proposals
        if config.do_sample:
            space, everywhere = mask_of(found, target.shape[-1]), composite(target, draft, alpha)
            wanted = composite_distribution(everywhere, space, target, found.fallback, config.top_p, config.top_k)
            flat = wanted.flatten(0, 1), draft.flatten(0, 1), scored.proposals.flatten()
            tokens, matched = (values.view(tokens.shape) for values in accept_or_resample(*flat, self.generator))
        return Chosen(tokens, matched, found.k, ~found.enough, found, scores)

    def choose_where_they_differ(self, scored: Scored, path: SwitchState, depth: int) -> Chosen:
        """The same, greedily and on a CPU, where both models' favourites differ; elsewhere their common favourite.

        Positions that a walk does not reach are left out: first each row's first difference is decided, then the others of
        rows that go on.
        """
        tokens = scored.target_probs.argmax(dim=-1)
        k, short = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
        open_ = (tokens != scored.proposals) & ~self.finished.unsqueeze(-1)
        for last in (False, True):
            stops = (tokens != scored.guesses) & ~open_ if last else open_
            at = (open_ & (stops.cumsum(dim=1) - stops.long() == 0)).nonzero(as_tuple=True)
            if not len(at[0]):
                break
            target, draft, here = scored.target_probs[at], scored.draft_probs[at], SwitchState(*(v[at] for v in path))
            found = search(target, draft, here.union, self.config.candidates, depth)
            tokens[at], _ = choose(found, switching.alpha(here, self.config))
            k[at], short[at], open_[at] = found.k, ~found.enough, False
        return Chosen(tokens, tokens == scored.proposals, k, short)

    # -------------------------------------------------------------------------------------------- settle

    def settle(self, decision: Decision) -> None:
        """The last emitted token is pending; both caches forget what was rejected or is taken back. All in place."""
        emitted, tokens = decision.alive.sum(dim=1), decision.choice.tokens
        last = tokens.gather(1, (emitted - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        pending = torch.where(emitted > 0, last, self.pending)
        forgotten = tokens.shape[1] - emitted
        if self.config.retract:
            inside = torch.where(decision.back > 0, decision.back, decision.switch.emitted % self.config.bin_size)
            place = (emitted - inside - 1).unsqueeze(-1)  # in this round, of the last token before the running bin
            before = tokens.gather(1, place.clamp(min=0)).squeeze(-1)
            self.before_bin.copy_(torch.where(place.squeeze(-1) >= 0, before, self.before_bin))
            pending = torch.where(decision.back > 0, self.before_bin, pending)
            forgotten = forgotten + decision.back
        self.pending.copy_(pending)
        for model in (self.target, self.draft):
            model.cache.rewind(forgotten)
        for mine, new in zip((*self.switch, self.finished), (*decision.switch, decision.finished), strict=True):
            mine.copy_(new)

    # -------------------------------------------------------------------------------------------- rows come and go

    def begin(self, rows: Bool[Tensor, " rows"], pending: Int[Tensor, "2 rows"]) -> None:
        """These rows begin an answer: both models have read their prompts except the pending tokens. In place."""
        self.pending.copy_(torch.where(rows, pending, self.pending))
        self.before_bin.copy_(torch.where(rows, pending, self.before_bin))
        for mine, new in zip(self.switch, switching.restart(self.switch, rows, self.config), strict=True):
            mine.copy_(new)
        self.finished.logical_and_(~rows)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Only these rows stay, in this order."""
        for model in (self.target, self.draft):
            model.cache.keep(rows)
        self.pending, self.before_bin = self.pending[:, rows], self.before_bin[:, rows]
        self.finished = self.finished[rows]
        self.switch = SwitchState(*(values[rows] for values in self.switch))
        self.prompt_indices = [self.prompt_indices[row] for row in rows.tolist()]


# ------------------------------------------------------------------------------------------------ one greedy row on a CPU


class StepwiseDecoder(Decoder):
    """Rounds of one greedy row on a CPU, where reading a number costs nothing: the draft takes no step that is not needed.

        guess      until another guess is not worth its step (`lookahead`), or T − 1 times
        verify     the target reads the pending token and all guesses: P_M at T positions
        decide     at the positions that both models have scored; most rounds end here
        complete   where all guesses were accepted, the last position needs one more step of the draft

    That last step also reads, after its own token, the target's favourite there. A pass over two tokens costs as much as one
    over one, and when the target's favourite is emitted (nearly always: the draft either agrees or seldom outvotes it) the
    first guess of the next round is already there. So a round of T positions takes T − 1 draft steps, as many as speculative
    decoding, though each token of SSD also needs the draft's probabilities.

    On an accelerator each look would be a wait; many rows seldom stop at the same guess; and a sampled answer should not depend
    on how its tokens were guessed. In these cases `Decoder` is used as it is.
    """

    ahead: Step | None = None
    """The first guess of the next round; the draft's cache then holds the pending token, too."""

    def round(
        self, lookahead: int, guesses: Sequence[int] | None = None, another: Another | None = None
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

    def guess(self, most: int, another: Another | None) -> tuple[list[Step], list[float]]:
        """Up to `most` steps of the draft and their confidences, until it ends the answer or another is not worth it."""
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
