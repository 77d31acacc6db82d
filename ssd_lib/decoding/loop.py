"""The one loop of every public call: rounds until all prompts are answered, and what needs values on the host.

Answers end at different lengths. A row that is finished leaves the batch, or a waiting prompt takes its place: both models
read it into that row's part of their caches, while the other rows keep theirs. Every answer equals that of its prompt alone.
Source of the idea: continuous batching (Orca, Yu et al. 2022).

A token is *settled* when it cannot be taken back: at once in the published method; with `retract`, when its bin is decoded in
Union, has ended without an alarm, or the answer is finished. Streamers and stopping criteria see settled tokens only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from ssd_lib.decoding.cuda_graph import RecordedRounds
from ssd_lib.decoding.decoder import Decoder, Emitted
from ssd_lib.decoding.lookahead import Lookahead, longest_lookahead

SHRINK = 0.25  # share of rows that must be idle before the batch is copied into a smaller one

Prompts = Sequence[list[int]]


@dataclass
class Loop:
    """Prompts on their way through the rows of a decoder."""

    decoder: Decoder
    lookahead: Lookahead
    prompts: tuple[Prompts, Prompts]
    """The target's and the draft's, one list of ids each; those of `decoder.indices` are read already."""
    texts: list[list[int]]
    """The target's prompts with the answers so far."""
    prefilled: Sequence[int]
    """How many of each prompt's last tokens are the answer's."""
    streamer: Any = None
    stopping_criteria: Any = None
    recorded: RecordedRounds | None = None
    record_after: int | None = None
    """Rounds are recorded after so many, or never."""
    schedule: list[tuple[int, int, int]] = field(default_factory=list)
    """Of every round: positions that the target scored, draft forwards, and the most tokens that a row emitted."""

    def __post_init__(self) -> None:
        count = len(self.prompts[0])
        self.answers: list[list[int]] = [[] for _ in range(count)]
        self.matched: list[list[bool]] = [[] for _ in range(count)]
        self.shown = [0] * count
        self.retracted = [0] * count
        self.waiting = deque(index for index in range(count) if index not in set(self.decoder.indices))
        self.idle: set[int] = set()

    def run(self, progress: bool = False) -> None:
        """Rounds until every prompt is answered. progress: a tqdm bar over answers."""
        if self.streamer is not None:
            self.streamer.put(torch.tensor(self.prompts[0]))
        self._count_prefills(range(len(self.decoder.indices)))
        with tqdm(total=len(self.answers), unit="answer", disable=not progress) as bar:
            while len(self.idle) < len(self.decoder.indices):
                bar.update(self._take(self._round()))
        if self.streamer is not None:
            self.streamer.end()

    # -------------------------------------------------------------------------------------------- one round

    def _round(self) -> list[Emitted]:
        """One round of the controller's choice, timed for the next ones, and its line of the schedule."""
        decoder, pace = self.decoder, self.lookahead
        if self.record_after is not None and self.recorded is None and decoder.rounds >= self.record_after:
            self.recorded = RecordedRounds(decoder)
            pace.record()
        lengths = [len(self.answers[index]) for row, index in enumerate(decoder.indices) if row not in self.idle]
        room = decoder.max_new_tokens - min(lengths)
        if self.recorded is not None:  # its shapes are fixed, and the caches have room for its whole round
            room = longest_lookahead(decoder.config)
        lookahead, guesses = pace.next(room)
        recorded = self.recorded is not None and guesses is None
        if not recorded:
            self._show(lookahead)
        begun, drafted = pace.clock(), decoder.draft.forwards
        if recorded:
            assert self.recorded is not None
            emitted = self.recorded.round(lookahead)
        else:
            emitted = decoder.round(lookahead, guesses, pace.another)
        seconds, held = pace.clock() - begun, [row.held for row in emitted if row.tokens]
        pace.observe(held, decoder.positions, decoder.steps, seconds, decoder.drafting, decoder.confidences)
        self.schedule.append((decoder.positions, decoder.draft.forwards - drafted, max(map(len, held))))
        return emitted

    def _show(self, lookahead: int) -> None:
        """Both caches show what the longest row needs for a round."""
        for model, prompts in zip((self.decoder.target, self.decoder.draft), self.prompts, strict=True):
            used = max(len(prompts[index]) + len(self.answers[index]) for index in self.decoder.indices)
            model.cache.show_up_to(used + lookahead)

    # -------------------------------------------------------------------------------------------- what it emitted

    def _take(self, emitted: Sequence[Emitted]) -> int:
        """Append what a round emitted, fill or drop the rows that finished; returns how many did."""
        ended = [row for row, values in enumerate(emitted) if row not in self.idle and self._take_row(row, values)]
        if any(not emitted[row].finished for row in ended):  # ended by a stopping criterion
            rows = torch.zeros(len(emitted), dtype=torch.bool)
            rows[ended] = True
            self.decoder.finished.logical_or_(rows.to(self.decoder.finished.device))
        self.idle.update(ended)
        self._refill(ended[: len(self.waiting)])
        if self.recorded is None and SHRINK * len(emitted) <= len(self.idle) < len(emitted):
            kept = [row for row in range(len(emitted)) if row not in self.idle]
            self.decoder.keep(torch.tensor(kept, device=self.decoder.pending.device))
            self.idle = set()
        return len(ended)

    def _take_row(self, row: int, emitted: Emitted) -> bool:
        """Whether the row's answer has ended."""
        index = self.decoder.indices[row]
        answer, matched, text = self.answers[index], self.matched[index], self.texts[index]
        for place, nan in enumerate(zip(emitted.target_nan, emitted.draft_nan, strict=True)):
            if any(nan):
                raise FloatingPointError(
                    f"the {'target' if nan[0] else 'draft'}'s logits are NaN at answer position {len(answer) + place} of "
                    f"row {index}: load it in bfloat16 or float32, and check its weights"
                )
        for line, new in ((answer, emitted.tokens), (text, emitted.tokens), (matched, emitted.matched)):
            line += new
            del line[len(line) - emitted.back :]
        self.retracted[index] += emitted.back
        self.lookahead.emitted(text if emitted.back else emitted.tokens, anew=emitted.back > 0)
        return self._show_settled(index, emitted) or emitted.finished

    def _show_settled(self, index: int, emitted: Emitted) -> bool:
        """Streamer and stopping criteria get what is settled; returns whether a criterion ends the answer there."""
        if self.streamer is None and not self.stopping_criteria:
            return False
        config, answer = self.decoder.config, self.answers[index]
        settled = len(answer)
        if config.retract and not (emitted.finished or emitted.union):
            settled -= settled % config.bin_size
        while self.shown[index] < settled:
            self.shown[index] += 1
            shown = self.shown[index]
            if self.streamer is not None:
                self.streamer.put(torch.tensor(answer[shown - 1 : shown]))
            if self._stopped(index, shown):
                del answer[shown:], self.matched[index][shown:]
                return True
        return False

    def _stopped(self, index: int, shown: int) -> bool:
        if not self.stopping_criteria:
            return False
        ids = torch.tensor([[*self.prompts[0][index], *self.answers[index][:shown]]])
        return any(bool(torch.as_tensor(criterion(ids, None)).any()) for criterion in self.stopping_criteria)

    # -------------------------------------------------------------------------------------------- prompts come and go

    def _refill(self, rows: Sequence[int]) -> None:
        """Waiting prompts take the place of these rows."""
        decoder = self.decoder
        for row in rows:
            index = self.waiting.popleft()
            both = [prompts[index] for prompts in self.prompts]
            for model, prompt in zip((decoder.target, decoder.draft), both, strict=True):
                model.replace_row(row, prompt)
            here = torch.arange(len(decoder.indices), device=decoder.pending.device) == row
            decoder.begin(here, decoder.pending.new_tensor([[prompt[-1]] for prompt in both]).expand(-1, len(here)))
            decoder.indices[row] = index
            self.idle.discard(row)
        self._count_prefills(rows)

    def _count_prefills(self, rows: Sequence[int]) -> None:
        """`count_prefill`: a given beginning of an answer counts as a bin. The draft reads its last b tokens once more.

        Rows whose beginning is shorter read anything, and forget it.
        """
        decoder, size = self.decoder, self.decoder.config.bin_size
        prompts = [self.prompts[1][decoder.indices[row]] for row in rows]
        given = [
            self.prefilled[decoder.indices[row]] >= size < len(prompt)
            for row, prompt in zip(rows, prompts, strict=True)
        ]
        counted = {row: prompt for row, prompt, long in zip(rows, prompts, given, strict=True) if long}
        if not (decoder.config.count_prefill and counted) or decoder.config.fixed_scheme:
            return
        ids = torch.tensor([counted.get(row, [0] * (size + 1))[-size - 1 :] for row in range(len(decoder.indices))])
        back = torch.tensor([size * (row in counted) for row in range(len(decoder.indices))])
        ids, back = (values.to(decoder.pending.device) for values in (ids, back))
        decoder.draft.cache.rewind(back)
        self._show(size)
        logits = decoder.draft.forward(ids[:, :-1].to(decoder.draft.device))
        decoder.draft.cache.advance(back.to(decoder.draft.device))
        long = sorted(counted)
        indices = [decoder.indices[row] for row in long]
        probs, _ = decoder.probabilities(logits[long], [ids[long, 1:-1]], indices, again=size)
        matches = (probs.argmax(dim=-1) == ids[long, 1:]).sum(dim=1)
        alarm = back > 0
        alarm[long] = matches.double() / size < decoder.config.threshold
        decoder.distrust(alarm)
