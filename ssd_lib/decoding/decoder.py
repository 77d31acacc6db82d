"""One round of SSD (arXiv 2508.17739, section 4), for every row at once and without a wait for the host.

    score    T tokens are guessed and both models give their probabilities at all T positions
    decide   emit by the current scheme while the emitted token is the guessed one
    settle   both caches forget what was not emitted; the last emitted token is pending

The guesses are the draft's own proposals, T draft forwards, or come from elsewhere (`guesses`: one forward of each model).
Either way a token *matches* when it is the draft's own choice at its position.

A position counts only if every earlier one emitted its guess. So what the scheduler will have counted when the walk gets
there is known beforehand (`switching.ahead`), and all positions are decided in one go instead of one by one. Where both
models' favourites agree, the composite's is the same (for α up to 1); a CPU, where a look at a number costs nothing, decides
at the other positions alone.

Hardened switching takes a whole bin back (`switching.to_take_back`): for the caches that is a longer rejection, and the
token before the bin is pending again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.processors import Processors
from ssd_lib.decoding.recording import Recorder
from ssd_lib.method import switching
from ssd_lib.method.composite import accept_or_resample, composite, composite_distribution
from ssd_lib.method.shortlist import DEPTHS, Candidates, candidates, choose, mask_of
from ssd_lib.method.switching import SwitchState

FIRST_DEPTH = 64.0  # as deep as sample spaces are sought at first
HEADROOM, FADE = 2.0, 0.5  # then so many times the k that was seen; what was seen long ago counts less


class Step(NamedTuple):
    """What the draft proposes after each token that it read, its probabilities there, and where they are not numbers."""

    proposals: Int[Tensor, "rows new"]
    probs: Float[Tensor, "rows new vocab"]
    nan: Bool[Tensor, "rows new"]


class Scored(NamedTuple):
    """What was guessed, what the draft itself proposes after the same prefix, and both models' probabilities."""

    guesses: Int[Tensor, "rows T"]
    proposals: Int[Tensor, "rows T"]
    target_probs: Float[Tensor, "rows T vocab"]
    draft_probs: Float[Tensor, "rows T vocab"]
    target_nan: Bool[Tensor, "rows T"]
    draft_nan: Bool[Tensor, "rows T"]


class Choice(NamedTuple):
    """The token of every position, and how it was found; without a record only where the models disagree."""

    tokens: Int[Tensor, "rows T"]
    matched: Bool[Tensor, "rows T"]
    k: Int[Tensor, "rows T"]
    short: Bool[Tensor, "rows T"]
    """The heads of the lists were not deep enough here: decide again, deeper."""
    found: Candidates | None = None
    scores: Float[Tensor, "rows T listed"] | None = None


class Decision(NamedTuple):
    """What a round emits; nothing has changed yet."""

    choice: Choice
    alive: Bool[Tensor, "rows T"]
    """These positions count."""
    held: Bool[Tensor, "rows T"]
    """The emitted token is the guessed one, so that the walk can go on after it."""
    path: SwitchState
    switch: SwitchState
    back: Int[Tensor, " rows"]
    """Tokens that are taken back, those of this round first."""
    finished: Bool[Tensor, " rows"]
    short: Bool[Tensor, " rows"]


class Emitted(NamedTuple):
    """One row of a round, as plain values: the tokens that count, which matched, and whose logits were not numbers."""

    tokens: list[int]
    matched: list[bool]
    target_nan: list[bool]
    draft_nan: list[bool]
    held: list[bool]
    deepest: int
    """The largest k of Intersection."""
    back: int
    """So many tokens of the answer, these included, are taken back."""
    union: bool
    """The scheme of the next token."""
    finished: bool
    short: bool = False

    @property
    def goes_on(self) -> bool:
        """Every guess held, and the answer goes on after it."""
        return all(self.held) and not self.finished and not self.back

    def and_then(self, later: Emitted) -> Emitted:
        """This and what the same round emitted after it."""
        lists = (one + other for one, other in zip(self[:5], later[:5], strict=True))
        return Emitted(*lists, max(self.deepest, later.deepest), *later[6:])


def packed(scored: Scored, decision: Decision) -> Int[Tensor, "rows columns"]:
    """What the host wants to know, in one tensor: tokens, flags, and three last columns for the row; see `unpack`."""
    flags = (decision.alive, decision.choice.matched, scored.target_nan, scored.draft_nan, decision.held)
    bits = sum(flag.long() << place for place, flag in enumerate(flags))
    row = decision.finished + 2 * decision.short + 4 * decision.switch.union
    deepest = decision.choice.k.masked_fill(~decision.alive, 0).amax(dim=1)
    last = torch.stack([deepest, decision.back, row], dim=1)
    return torch.cat([decision.choice.tokens, bits, last], dim=1)


def unpack(lines: list[list[int]]) -> list[Emitted]:
    """The rows of `packed(…).tolist()`."""
    rows = []
    for *line, deepest, back, row in lines:
        width = len(line) // 2
        count = sum(bits & 1 for bits in line[width:])
        flags = [[bool(bits >> place & 1) for bits in line[width : width + count]] for place in (1, 2, 3, 4)]
        rows.append(Emitted(line[:count], *flags, deepest, back, bool(row & 4), bool(row & 1), bool(row & 2)))
    return rows


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
    """The last token of target and draft, read by neither yet: the same, but at first, when it ends two prompts."""
    switch: SwitchState
    finished: Bool[Tensor, " rows"]
    generator: torch.Generator | None = None
    processors: Processors | None = None
    recorder: Recorder | None = None
    indices: list[int] = field(default_factory=list)
    """The index of the prompt that each row answers."""
    clock: Callable[[], float] | None = None
    """Times the draft's steps, where a look at a clock tells when they are done: on a CPU."""
    rounds: int = 0
    depth_wanted: float = FIRST_DEPTH

    positions: int = 0
    """Of the last round: positions that the target scored,"""
    steps: int = 0
    """draft steps,"""
    drafting: float = 0.0
    """their seconds,"""
    confidences: list[float] = field(default_factory=list)
    """and the probabilities of the guesses of a single row (`stepwise`)."""

    def __post_init__(self) -> None:
        self.before_bin = self.pending.clone()
        """The pending tokens when the running bin began: `retract` goes back there."""

    @property
    def sparse(self) -> bool:
        """Decide at those positions alone where the favourites differ."""
        on_cpu = self.target.device.type == "cpu" == self.draft.device.type
        greatest = max(self.config.alpha_union, self.config.alpha_intersection)
        return on_cpu and self.recorder is None and not self.config.do_sample and greatest <= 1

    def round(
        self,
        lookahead: int,
        guesses: Sequence[int] | None = None,
        another: Callable[[Sequence[float]], bool] | None = None,
    ) -> list[Emitted]:
        """One whole round: at least one and at most `lookahead` tokens for every row that is not finished.

        guesses: of the only row, in place of the draft's proposals. another: says after guesses of such confidences
        whether one more is worth its step (asked only where the host may look: `stepwise`).
        """
        given = None if guesses is None else torch.tensor([list(guesses)], device=self.target.device)
        self.positions, self.steps, self.drafting, self.confidences = lookahead, 0, 0.0, []
        emitted = self.walk(self.score(lookahead, given))
        self.rounds += 1
        return emitted

    def walk(self, scored: Scored, depths: Sequence[int] | None = None) -> list[Emitted]:
        """Decide, tell the host (the round's only wait, but for the rare need of deeper heads), and settle."""
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
            self.recorder.add(scored, decision, self.rounds, self.indices)

    def depths(self) -> tuple[int, ...]:
        """How deep to seek sample spaces: as deep as lately was needed, then deeper."""
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

        guessed: all tokens of this round before the last position, for logits processors; indices, again: as theirs, by
        default all rows and none. For sampling spoilt positions are made uniform: a draw from them would raise before the
        round can report them.
        """
        logits = logits.to(self.target.device)
        if self.processors is not None:
            logits = self.processors(logits, guessed, self.indices if indices is None else indices, again)
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
        held = choice.matched if self.config.do_sample else choice.tokens == scored.guesses
        here = running.unsqueeze(-1).expand(ends.shape)
        after = switching.update(path, choice.matched, here, self.config, ends)
        back = (
            switching.to_take_back(path, after, self.config) if self.config.retract else torch.zeros_like(path.emitted)
        )

        goes_on = (held & ~ends & (back == 0))[:, :-1]
        alive = torch.cat([running.unsqueeze(-1), goes_on], dim=1).cumprod(dim=1).bool()
        last = (alive.sum(dim=1) - 1).clamp(min=0)
        back = back.gather(1, last.unsqueeze(-1)).squeeze(-1) * running
        switch = switching.at(after, last)
        finished = self.finished | ((alive & ends).any(dim=1) & (back == 0))
        # With sampling, whether to decide again must not depend on what was drawn: all positions are asked.
        asked = alive if not self.config.do_sample else here
        short = (asked & choice.short & ~(scored.target_nan | scored.draft_nan)).any(dim=1)
        return Decision(choice, alive, held, path, switching.take_back(switch, back), back, finished, short)

    def choose(self, scored: Scored, path: SwitchState, depth: int) -> Choice:
        """The token of every position, whether it matches, and F of the candidates.

        Greedy: argmax F over the sample space; it matches when it is the draft's own greedy proposal. Sampling: the
        proposal is accepted with probability min(1, F⁺/P_m), else F⁺'s residual is drawn; it matches when accepted.
        """
        target, draft, alpha = scored.target_probs, scored.draft_probs, switching.alpha(path, self.config)
        found = candidates(target, draft, path.union, self.config.candidates, depth)
        tokens, scores = choose(found, alpha)
        matched = tokens == scored.proposals
        if self.config.do_sample:
            wanted = composite_distribution(
                composite(target, draft, alpha),
                mask_of(found, target.shape[-1]),
                target,
                found.insisted,
                self.config.top_p,
                self.config.top_k,
            )
            flat = wanted.flatten(0, 1), draft.flatten(0, 1), scored.proposals.flatten()
            tokens, matched = (
                values.view(scored.guesses.shape) for values in accept_or_resample(*flat, self.generator)
            )
        return Choice(tokens, matched, found.k, ~found.enough, found, scores)

    def choose_where_they_differ(self, scored: Scored, path: SwitchState, depth: int) -> Choice:
        """The same, greedily and on a CPU, without a word about positions where both models' favourites agree.

        Nor about those that a walk does not reach: first each row's first difference, then the others of rows that go on.
        """
        tokens = scored.target_probs.argmax(dim=-1)
        k, short = torch.zeros_like(tokens), torch.zeros_like(self.finished).unsqueeze(-1).repeat(1, tokens.shape[1])
        open_ = (tokens != scored.proposals) & ~self.finished.unsqueeze(-1)
        for last in (False, True):
            stops = open_ if not last else (tokens != scored.guesses) & ~open_
            before = stops.cumsum(dim=1) - stops.long()
            at = (open_ & (before == 0)).nonzero(as_tuple=True)
            if not len(at[0]):
                break
            here = switching.SwitchState(*(values[at] for values in path))
            found = candidates(
                scored.target_probs[at], scored.draft_probs[at], here.union, self.config.candidates, depth
            )
            tokens[at], k[at], short[at] = (
                choose(found, switching.alpha(here, self.config))[0],
                found.k,
                ~found.enough,
            )
            open_[at] = False
        return Choice(tokens, tokens == scored.proposals, k, short)

    # -------------------------------------------------------------------------------------------- settle

    def settle(self, decision: Decision) -> None:
        """The last emitted token is pending; both caches forget what was not emitted or is taken back. All in place."""
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
        """These rows begin an answer: both models have read their prompts but the pending tokens. In place."""
        self.pending.copy_(torch.where(rows, pending, self.pending))
        self.before_bin.copy_(torch.where(rows, pending, self.before_bin))
        for mine, new in zip(self.switch, switching.restart(self.switch, rows, self.config), strict=True):
            mine.copy_(new)
        self.finished.logical_and_(~rows)

    def distrust(self, rows: Bool[Tensor, " rows"]) -> None:
        """`count_prefill`: these rows' first bin is decoded in Union."""
        self.switch.union.logical_or_(rows)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Only these rows stay, in this order."""
        for model in (self.target, self.draft):
            model.cache.keep(rows)
        self.pending, self.before_bin = self.pending[:, rows], self.before_bin[:, rows]
        self.finished = self.finished[rows]
        self.switch = SwitchState(*(values[rows] for values in self.switch))
        self.indices = [self.indices[row] for row in rows.tolist()]
