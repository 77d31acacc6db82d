"""Many prompts through a batch of a few rows: finished rows leave, waiting prompts take their place.

Answers end at different lengths. A batch that waits for its longest answer computes for rows that have nothing to say;
here a row that is finished reads the next prompt (of both models) into its part of the cache and goes on, while the other
rows keep theirs: lengths are per row anyway, nothing is moved. When no prompt waits, the batch shrinks. Every answer equals
that of its prompt alone. Source of the idea: continuous batching (Orca, Yu et al. 2022).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ssd_lib import switching
from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.generate import SSDOutput, begin, finish, last_tokens, paced_round
from ssd_lib.decoding.inputs import check_models, check_room
from ssd_lib.decoding.pace import Pace, longest_lookahead
from ssd_lib.decoding.recording import Recorder
from ssd_lib.decoding.rounds import Decoder, Emitted
from ssd_lib.decoding.short_products import short_products
from ssd_lib.decoding.stepwise import StepwiseDecoder

ROWS = 16
SHRINK = 0.25  # share of rows that must be idle before the batch is copied into a smaller one

Prompts = Sequence[Sequence[int]]


@torch.inference_mode()
def ssd_generate_many(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Prompts,
    *,
    draft_prompts: Prompts | None = None,
    config: SSDConfig = SSDConfig(),  # noqa: B008 (frozen)
    max_new_tokens: int = 256,
    rows: int = ROWS,
    eos_token_id: int | Sequence[int] | Tensor | None = None,
    generator: torch.Generator | None = None,
    trace: bool = True,
    progress: bool = False,
) -> SSDOutput:
    """Decode any number of prompts with SSD, at most `rows` at a time; greedy answers equal those of single calls.

    prompts: token ids, one list a prompt, without padding. draft_prompts: the draft's own, if its template differs.
    progress: a tqdm bar over answers. The other arguments are those of `ssd_generate`; the trace's column `row` and the
    sequences follow the order of the prompts.

    Raises ValueError, before any forward, for vocabularies that differ, no or empty prompts, different numbers of prompts
    and a context that is too long; FloatingPointError for NaN logits, naming model, prompt and position.
    """
    check_models(target, draft)
    both = (prompts, prompts if draft_prompts is None else draft_prompts)
    if not prompts or len(both[0]) != len(both[1]) or not all(map(len, [*both[0], *both[1]])):
        raise ValueError(
            f"one prompt of at least one token for each model: got {len(both[0])} and {len(both[1])} prompts"
        )
    longest = [max(map(len, each)) for each in both]
    for name, model, length in zip(("target", "draft"), (target, draft), longest, strict=True):
        check_room(name, model, length, max_new_tokens)
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows}")

    started, device = time.perf_counter(), target.get_input_embeddings().weight.device
    spare = max_new_tokens + longest_lookahead(config)
    first = [_padded(each[:rows], device) for each in both]
    models = (
        CachedModel(target, *first[0], longest[0] + spare),
        CachedModel(draft, *first[1], longest[1] + spare),
    )
    pending = last_tokens(*first[0]), last_tokens(*first[1])
    decoder = begin(models, pending, config, max_new_tokens, eos_token_id, generator)
    recorder = Recorder(config) if trace else None
    queue = Queue(both, decoder, deque(range(len(decoder.owners), len(prompts))))
    texts = [prompts[i] for i in decoder.owners]
    pace = Pace(config, target, draft, texts, stepwise=isinstance(decoder, StepwiseDecoder), timed=not trace)
    schedule: list[tuple[int, int, int]] = []
    with tqdm(total=len(prompts), unit="answer", disable=not progress) as bar, short_products(target, draft):
        while decoder.owners:
            choice = pace.next(queue.room)
            queue.show(choice[0])
            bar.update(queue.take(paced_round(decoder, pace, choice, recorder, schedule)))
    return finish(decoder, queue.answers, queue.matches, recorder, schedule, started)


def _padded(prompts: Prompts, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one tensor, padded on the right, and their lengths."""
    rows = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), lengths.to(device)


@dataclass
class Queue:
    """Which prompt each row is answering, what it has answered, and which prompts wait."""

    prompts: tuple[Prompts, Prompts]
    decoder: Decoder
    waiting: deque[int]
    answers: list[list[int]] = field(init=False)
    matches: int = 0
    idle: set[int] = field(default_factory=set)
    """Rows that have finished and not been given another prompt."""

    def __post_init__(self) -> None:
        self.answers = [[] for _ in self.prompts[0]]

    @property
    def running(self) -> list[int]:
        """The prompts that are being answered."""
        return [owner for row, owner in enumerate(self.decoder.owners) if row not in self.idle]

    @property
    def room(self) -> int:
        """Tokens that the shortest of the running answers may still get."""
        return self.decoder.max_new_tokens - min(len(self.answers[owner]) for owner in self.running)

    def show(self, lookahead: int) -> None:
        """Both caches show what the longest row needs for a round."""
        for model, prompts in zip((self.decoder.target, self.decoder.draft), self.prompts, strict=True):
            used = max(len(prompts[owner]) + len(self.answers[owner]) for owner in self.decoder.owners)
            model.cache.show_up_to(used + lookahead)

    def take(self, emitted: list[Emitted]) -> int:
        """Append what a round emitted, fill or drop the rows that finished; returns how many did."""
        ended = [row for row, values in enumerate(emitted) if values.finished and row not in self.idle]
        for owner, values in zip(self.decoder.owners, emitted, strict=True):
            if any(values.target_nan) or any(values.draft_nan):
                raise FloatingPointError(
                    f"the {'target' if any(values.target_nan) else 'draft'}'s logits are NaN behind answer position "
                    f"{len(self.answers[owner])} of prompt {owner}: load it in bfloat16 or float32, and check its weights"
                )
            self.answers[owner] += values.tokens
            self.matches += sum(values.matched)
        for row in ended:
            self._next_prompt(row)
        if len(self.idle) >= SHRINK * len(emitted):
            self._shrink()
        return len(ended)

    def _next_prompt(self, row: int) -> None:
        if not self.waiting:
            self.idle.add(row)
            return
        owner, decoder = self.waiting.popleft(), self.decoder
        target_prompt, draft_prompt = (prompts[owner] for prompts in self.prompts)
        decoder.target.replace_row(row, target_prompt)
        decoder.draft.replace_row(row, draft_prompt)
        here = torch.arange(len(decoder.owners), device=decoder.pending.device) == row
        decoder.pending = decoder.pending.masked_fill(here, target_prompt[-1])
        decoder.draft_pending = decoder.draft_pending.masked_fill(here, draft_prompt[-1])
        decoder.switch = switching.restart(decoder.switch, here, decoder.config)
        decoder.finished = decoder.finished & ~here
        decoder.owners[row] = owner

    def _shrink(self) -> None:
        decoder = self.decoder
        kept = [row for row in range(len(decoder.owners)) if row not in self.idle]
        decoder.owners, self.idle = [decoder.owners[row] for row in kept], set()
        rows = torch.tensor(kept, dtype=torch.long, device=decoder.pending.device)
        for model in (decoder.target, decoder.draft):
            model.cache.keep(rows)
        decoder.pending, decoder.draft_pending = decoder.pending[rows], decoder.draft_pending[rows]
        decoder.finished = decoder.finished[rows]
        decoder.switch = switching.SwitchState(*(values[rows] for values in decoder.switch))
