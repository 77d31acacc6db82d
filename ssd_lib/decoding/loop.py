"""The one loop of every public call: rounds until all prompts are answered, and what needs plain values.

Answers end at different lengths. A row that is finished leaves the batch, or a waiting prompt takes its place: both models
read it into that row's part of their caches, while the other rows keep theirs. Every answer equals that of its prompt alone.
Source of the idea: continuous batching (Orca, Yu et al. 2022).

A token is *settled* when it cannot be taken back: at once in the published method; with `retract`, when its bin is decoded in
Union, has ended without an alarm, or the answer is finished. Streamers and stopping criteria see settled tokens only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessorList

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cuda_graph import Graph, RecordedRounds, record_after
from ssd_lib.decoding.decoder import Decoder, StepwiseDecoder
from ssd_lib.decoding.inputs import Processors
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.lookahead import Lookahead, longest_lookahead
from ssd_lib.decoding.results import Emitted, Recorder
from ssd_lib.method import switching
from ssd_lib.method.trace import Trace
from ssd_lib.models.inference import eos_ids, generation_settings

SHRINK = 0.25  # share of rows that must be idle before the batch is copied into a smaller one

Criterion = Callable[[Tensor, Any], Any]
"""As transformers' stopping criteria: the ids so far [1, length] and None → whether to stop."""


@dataclass(frozen=True)
class SSDStats:
    """What a call cost, over all rows. A forward counts once, however many rows it carries."""

    rounds: int
    target_forwards: int
    draft_forwards: int
    tokens: int
    match_ratio: float
    seconds: float
    retracted: int = 0
    """Tokens that were taken back, besides `tokens`."""
    kept: int = 0
    """Tokens of the target's prompt that were in the cache already (`Conversation`)."""
    schedule: tuple[tuple[int, int, int], ...] = ()
    """Of every round: positions that the target scored, draft forwards, and the most tokens that a row emitted."""


@dataclass(frozen=True)
class SSDOutput:
    """The answers' token ids, one 1-D tensor a prompt (an end-of-sequence token included), the trace and the cost."""

    sequences: list[Tensor]
    trace: Trace | None
    stats: SSDStats
    matched: list[int]
    """Of every answer: tokens that were the draft's own proposal, …"""
    retracted: list[int]
    """… and tokens that were taken back, besides."""


@dataclass
class OutputBuffer:
    """The target's prompt and the answer so far, and of each of the answer's tokens whether it matched."""

    ids: list[int]
    prompt: int
    """Tokens of the prompt."""
    matched: list[bool] = field(default_factory=list)
    shown: int = 0
    """Tokens of the answer that a streamer or a stopping criterion has seen."""
    retracted: int = 0

    def __len__(self) -> int:
        return len(self.matched)

    @property
    def answer(self) -> list[int]:
        return self.ids[self.prompt :]

    def add(self, emitted: Emitted) -> None:
        """What a round emitted, less what it took back."""
        for line, new in ((self.ids, emitted.tokens), (self.matched, emitted.matched)):
            line += new
            del line[len(line) - emitted.back :]
        self.retracted += emitted.back

    def cut(self, length: int) -> None:
        """The answer ends after so many tokens."""
        del self.ids[self.prompt + length :], self.matched[length:]


class Loop:
    """Prompts on their way through the rows of a decoder.

    Args:
        models: Target and draft, which have read the first prompts except their last tokens.
        prompts: The target's and the draft's, a list of ids each.

    The other arguments are those of `ssd_generate`.
    """

    def __init__(
        self,
        models: tuple[CachedModel, CachedModel],
        prompts: tuple[list[list[int]], list[list[int]]],
        config: SSDConfig,
        *,
        vocab: int,
        max_new_tokens: int,
        prefilled: Sequence[int],
        eos_token_id: int | Sequence[int] | Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        generator: torch.Generator | None = None,
        streamer: Any = None,
        stopping_criteria: Sequence[Criterion] | None = None,
        cuda_graph: Graph = "auto",
        trace: bool = False,
    ):
        self.prompts, self.prefilled, self.streamer, self.stopping_criteria = (
            prompts,
            prefilled,
            streamer,
            stopping_criteria,
        )
        self.buffers = [OutputBuffer(list(prompt), len(prompt)) for prompt in prompts[0]]
        target, draft = models
        device, count, texts = target.device, target.cache.lengths.shape[0], [buffer.ids for buffer in self.buffers]
        eos = generation_settings(target.model).eos_token_id if eos_token_id is None else eos_ids(eos_token_id)
        if generator is None and config.do_sample and config.seed is not None:
            generator = torch.Generator(device).manual_seed(config.seed)
        on_cpu = target.device.type == "cpu" == draft.device.type
        stepwise = on_cpu and count == 1 and not config.do_sample
        self.lookahead = Lookahead(
            config, target.model, draft.model, texts[:count], stepwise=stepwise, timed=not (trace or config.do_sample)
        )
        self.decoder = (StepwiseDecoder if stepwise else Decoder)(
            target=target,
            draft=draft,
            config=config,
            eos=torch.tensor(eos, dtype=torch.long, device=device),
            max_new_tokens=max_new_tokens,
            vocab=vocab,
            pending=torch.tensor([[ids[-1] for ids in each[:count]] for each in prompts], device=device),
            switch=switching.start(count, config, device),
            finished=torch.zeros(count, dtype=torch.bool, device=device),
            generator=generator,
            processors=Processors.of(target.model, generation_config, logits_processor, texts, eos, max_new_tokens),
            recorder=Recorder(config) if trace else None,
            prompt_indices=list(range(count)),
            clock=self.lookahead.clock if on_cpu else None,
        )
        self.waiting, self.idle = deque(range(count, len(texts))), set[int]()
        self.recorded: RecordedRounds | None = None
        self.record_after = record_after(self.decoder, cuda_graph)
        self.schedule: list[tuple[int, int, int]] = []

    def run(self, progress: bool = False) -> None:
        """Run rounds until every prompt is answered; `progress` shows a tqdm bar over answers."""
        if self.streamer is not None:
            self.streamer.put(torch.tensor(self.prompts[0]))
        self._count_prefills(range(len(self.decoder.prompt_indices)))
        with tqdm(total=len(self.buffers), unit="answer", disable=not progress) as bar:
            while len(self.idle) < len(self.decoder.prompt_indices):
                bar.update(self._take(self._round()))
        if self.streamer is not None:
            self.streamer.end()

    def output(self, started: float, kept: int = 0) -> SSDOutput:
        """Answers, trace and cost of a call that began at `started`."""
        decoder, lengths = self.decoder, [len(buffer) for buffer in self.buffers]
        matched, retracted = ([sum(buffer.matched) for buffer in self.buffers], [b.retracted for b in self.buffers])
        return SSDOutput(
            sequences=[torch.tensor(buffer.answer, dtype=torch.long) for buffer in self.buffers],
            trace=decoder.recorder.trace(lengths) if decoder.recorder is not None else None,
            stats=SSDStats(
                rounds=len(self.schedule),
                target_forwards=decoder.target.forwards,
                draft_forwards=decoder.draft.forwards,
                tokens=sum(lengths),
                match_ratio=sum(matched) / max(1, sum(lengths)),
                seconds=time.perf_counter() - started,
                retracted=sum(retracted),
                kept=kept,
                schedule=tuple(self.schedule),
            ),
            matched=matched,
            retracted=retracted,
        )

    # -------------------------------------------------------------------------------------------- one round

    def _round(self) -> list[Emitted]:
        """One round of the controller's choice: timed for the next ones, and written into the schedule."""
        decoder, controller = self.decoder, self.lookahead
        if self.record_after is not None and self.recorded is None and decoder.rounds >= self.record_after:
            self.recorded = RecordedRounds(decoder)
            controller.record()
        if self.recorded is not None:  # its shapes are fixed, and the caches have room for its whole round
            room = longest_lookahead(decoder.config)
        else:
            running = (index for row, index in enumerate(decoder.prompt_indices) if row not in self.idle)
            room = decoder.max_new_tokens - min(len(self.buffers[index]) for index in running)
        lookahead, guesses = controller.next(room)
        recorded = self.recorded if guesses is None else None
        if recorded is None:
            self._show(lookahead)
        begun, drafted = controller.clock(), decoder.draft.forwards
        emitted = recorded.round(lookahead) if recorded else decoder.round(lookahead, guesses, controller.another)
        seconds, accepted = controller.clock() - begun, [row.accepted for row in emitted if row.tokens]
        controller.observe(accepted, decoder.positions, decoder.steps, seconds, decoder.drafting, decoder.confidences)
        self.schedule.append((decoder.positions, decoder.draft.forwards - drafted, max(map(len, accepted))))
        return emitted

    def _show(self, lookahead: int) -> None:
        """Make both caches show what the longest row needs for a round."""
        indices = self.decoder.prompt_indices
        for model, prompts in zip((self.decoder.target, self.decoder.draft), self.prompts, strict=True):
            used = max(len(prompts[index]) + len(self.buffers[index]) for index in indices)
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
        """Whether the row's answer has ended. Raises FloatingPointError where logits were not numbers."""
        index = self.decoder.prompt_indices[row]
        buffer = self.buffers[index]
        for place, nan in enumerate(zip(emitted.target_nan, emitted.draft_nan, strict=True)):
            if any(nan):
                raise FloatingPointError(
                    f"the {'target' if nan[0] else 'draft'}'s logits are NaN at answer position {len(buffer) + place} of "
                    f"row {index}: load it in bfloat16 or float32, and check its weights"
                )
        buffer.add(emitted)
        self.lookahead.emitted(buffer.ids if emitted.back else emitted.tokens, anew=emitted.back > 0)
        return self._show_settled(buffer, emitted) or emitted.finished

    def _show_settled(self, buffer: OutputBuffer, emitted: Emitted) -> bool:
        """Streamer and stopping criteria get what is settled; returns whether a criterion ends the answer there."""
        if self.streamer is None and not self.stopping_criteria:
            return False
        config, settled = self.decoder.config, len(buffer)
        if config.retract and not (emitted.finished or emitted.union):
            settled -= settled % config.bin_size
        while buffer.shown < settled:
            buffer.shown += 1
            ids = torch.tensor(buffer.ids[: buffer.prompt + buffer.shown])
            if self.streamer is not None:
                self.streamer.put(ids[-1:])
            if any(
                bool(torch.as_tensor(stops(ids.unsqueeze(0), None)).any()) for stops in self.stopping_criteria or ()
            ):
                buffer.cut(buffer.shown)
                return True
        return False

    # -------------------------------------------------------------------------------------------- prompts come and go

    def _refill(self, rows: Sequence[int]) -> None:
        """Waiting prompts take the place of these rows."""
        decoder = self.decoder
        for row in rows:
            index = self.waiting.popleft()
            both = [prompts[index] for prompts in self.prompts]
            for model, prompt in zip((decoder.target, decoder.draft), both, strict=True):
                model.replace_row(row, prompt)
            here = torch.arange(len(decoder.prompt_indices), device=decoder.pending.device) == row
            decoder.begin(here, decoder.pending.new_tensor([[prompt[-1]] for prompt in both]).expand(-1, len(here)))
            decoder.prompt_indices[row] = index
            self.idle.discard(row)
        self._count_prefills(rows)

    def _count_prefills(self, rows: Sequence[int]) -> None:
        """`count_prefill`: a given beginning of an answer counts as a bin; rows where it raises the alarm begin in Union.

        The draft reads its last b tokens once more. Rows whose beginning is shorter read anything, and forget it.
        """
        decoder, config, size = self.decoder, self.decoder.config, self.decoder.config.bin_size
        if not config.count_prefill or config.fixed_scheme:
            return
        indices = decoder.prompt_indices
        counted = [
            row for row in sorted(rows) if self.prefilled[indices[row]] >= size < len(self.prompts[1][indices[row]])
        ]
        if not counted:
            return
        ids = torch.zeros(len(indices), size + 1, dtype=torch.long)
        back = torch.zeros(len(indices), dtype=torch.long)
        for row in counted:
            ids[row], back[row] = torch.tensor(self.prompts[1][indices[row]][-size - 1 :]), size
        ids, back = (values.to(decoder.pending.device) for values in (ids, back))
        decoder.draft.cache.rewind(back)
        self._show(size)
        logits = decoder.draft.forward(ids[:, :-1].to(decoder.draft.device))
        decoder.draft.cache.advance(back.to(decoder.draft.device))
        probs, _ = decoder.probabilities(
            logits[counted], [ids[counted, 1:-1]], [indices[row] for row in counted], again=size
        )
        matches = (probs.argmax(dim=-1) == ids[counted, 1:]).sum(dim=1)
        first_in_union = torch.zeros_like(decoder.switch.union)
        first_in_union[counted] = switching.alarm(matches, size, config.threshold)
        decoder.switch.union.logical_or_(first_in_union)
