"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the call.

    propose   p_1 … p_T          T draft forwards
    verify    P_M at T positions  one target forward on [pending, p_1 … p_{T−1}]
    walk      emit, match?, switch; stop after the first token that does not match
    rewind    both caches forget what was not emitted

One such round is in `rounds`; here are the prompts, the loop around it and its results. Each emitted token is a function of
the prefix and the switching state alone, so the output does not depend on T, nor on who guessed the tokens. Between rounds
both caches hold all tokens but the last emitted one, the *pending* token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

from ssd_lib import switching
from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.host import Host
from ssd_lib.decoding.inputs import aligned_left, check_models, check_room, eos_ids
from ssd_lib.decoding.pace import Pace, longest_lookahead
from ssd_lib.decoding.recording import Recorder
from ssd_lib.decoding.rounds import Decoder, Emitted
from ssd_lib.decoding.short_products import short_products
from ssd_lib.decoding.stepwise import StepwiseDecoder
from ssd_lib.trace import Trace


@dataclass(frozen=True)
class SSDStats:
    """What a call cost, over all rows. A forward counts once, however many rows it carries."""

    rounds: int
    target_forwards: int
    draft_forwards: int
    tokens: int
    match_ratio: float
    seconds: float
    schedule: tuple[tuple[int, int, int], ...] = ()
    """Of every round: positions that the target scored, draft forwards, and the most tokens that a row emitted."""


@dataclass(frozen=True)
class SSDOutput:
    """The answer's token ids, one 1-D tensor a row (an end-of-sequence token included), the trace and the cost."""

    sequences: list[Tensor]
    trace: Trace | None
    stats: SSDStats


@torch.inference_mode()
def ssd_generate(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    input_ids: Int[Tensor, "rows length"],
    *,
    attention_mask: Tensor | None = None,
    draft_input_ids: Tensor | None = None,
    draft_attention_mask: Tensor | None = None,
    config: SSDConfig = SSDConfig(),  # noqa: B008 (frozen)
    max_new_tokens: int = 256,
    eos_token_id: int | Sequence[int] | Tensor | None = None,
    generator: torch.Generator | None = None,
    streamer: Any = None,
    stopping_criteria: Any = None,
    trace: bool = True,
) -> SSDOutput:
    """Decode with Speculative Safety-Aware Decoding (arXiv 2508.17739).

    input_ids: [rows, length], left-padded where lengths differ (then with `attention_mask`, 1 for real tokens).
    draft_input_ids: the draft's own prompts, if its template differs; their length may differ too.
    eos_token_id: one id or several; default: all of the target's generation config.
    generator: random numbers for sampling, on the target's device; default: seeded with `config.seed`.
    streamer: gets the prompt, then tokens as they are emitted (one row only, as in transformers).
    stopping_criteria: called after every emitted token with one row's ids [1, so far] and None.
    trace: False skips the record, which costs some time.

    Raises ValueError, before any forward, for vocabularies that differ, an empty or right-padded prompt, batches of
    different size and a context that is too long; FloatingPointError for NaN logits, naming model, row and position.
    """
    check_models(target, draft)
    target_device = target.get_input_embeddings().weight.device
    if draft_input_ids is None:
        draft_input_ids, draft_attention_mask = input_ids, attention_mask
    if draft_input_ids.shape[0] != input_ids.shape[0]:
        raise ValueError(
            f"target and draft got batches of different size: {input_ids.shape[0]} and {draft_input_ids.shape[0]} rows"
        )
    prompts, lengths = aligned_left("input_ids", input_ids, attention_mask, target_device)
    draft_prompts, draft_lengths = aligned_left("draft_input_ids", draft_input_ids, draft_attention_mask, target_device)
    check_room("target", target, prompts.shape[1], max_new_tokens)
    check_room("draft", draft, draft_prompts.shape[1], max_new_tokens)
    host = Host([prompts[i, :n].tolist() for i, n in enumerate(lengths.tolist())], streamer, stopping_criteria)
    started = time.perf_counter()
    spare = max_new_tokens + longest_lookahead(config)
    models = (
        CachedModel(target, prompts, lengths, prompts.shape[1] + spare),
        CachedModel(draft, draft_prompts, draft_lengths, draft_prompts.shape[1] + spare),
    )
    pending = last_tokens(prompts, lengths), last_tokens(draft_prompts, draft_lengths)
    decoder = begin(models, pending, config, max_new_tokens, eos_token_id, generator)
    recorder = Recorder(config) if trace else None
    pace = Pace(config, target, draft, host.prompts, stepwise=isinstance(decoder, StepwiseDecoder), timed=not trace)
    with short_products(target, draft):
        schedule = decode(decoder, host, pace, recorder, (prompts.shape[1], draft_prompts.shape[1]))
    return finish(decoder, host.answers, host.matches, recorder, schedule, started)


def last_tokens(ids: Int[Tensor, "rows length"], lengths: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The last token of every prompt; the ids are padded on the right."""
    return ids.gather(1, (lengths - 1).unsqueeze(-1)).squeeze(-1)


def begin(
    models: tuple[CachedModel, CachedModel],
    pending: tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]],
    config: SSDConfig,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] | Tensor | None,
    generator: torch.Generator | None = None,
) -> Decoder:
    """The decoder before its first round. Target and draft have read their prompts but for the pending tokens."""
    rows, device = pending[0].shape[0], pending[0].device
    if generator is None and config.do_sample and config.seed is not None:
        generator = torch.Generator(device).manual_seed(config.seed)
    on_cpu = models[0].device.type == "cpu" == models[1].device.type
    stepwise = on_cpu and rows == 1 and not config.do_sample
    return (StepwiseDecoder if stepwise else Decoder)(
        target=models[0],
        draft=models[1],
        config=config,
        eos=eos_ids(models[0].model, eos_token_id).to(device),
        max_new_tokens=max_new_tokens,
        generator=generator,
        pending=pending[0],
        draft_pending=pending[1],
        switch=switching.start(rows, config, device),
        finished=torch.zeros(rows, dtype=torch.bool, device=device),
        owners=list(range(rows)),
    )


def finish(
    decoder: Decoder,
    answers: list[list[int]],
    matches: int,
    recorder: Recorder | None,
    schedule: list[tuple[int, int, int]],
    started: float,
) -> SSDOutput:
    """Answers, trace and cost of a call that began at `started`."""
    lengths = [len(answer) for answer in answers]
    return SSDOutput(
        sequences=[torch.tensor(answer, dtype=torch.long) for answer in answers],
        trace=recorder.trace(lengths) if recorder is not None else None,
        stats=SSDStats(
            rounds=len(schedule),
            target_forwards=decoder.target.forwards,
            draft_forwards=decoder.draft.forwards,
            tokens=sum(lengths),
            match_ratio=matches / max(1, sum(lengths)),
            seconds=time.perf_counter() - started,
            schedule=tuple(schedule),
        ),
    )


def paced_round(
    decoder: Decoder,
    pace: Pace,
    choice: tuple[int, Sequence[int] | None],
    recorder: Recorder | None,
    schedule: list[tuple[int, int, int]],
) -> list[Emitted]:
    """One round of the pace's choice, timed for the next ones, and its line of the schedule."""
    begun, drafted = pace.clock(), decoder.draft.forwards
    emitted = decoder.round(*choice, recorder, pace.patience)
    pace.observe(decoder.positions, pace.clock() - begun, emitted)
    longest = max(len(row.tokens) for row in emitted)
    schedule.append((decoder.positions, decoder.draft.forwards - drafted, longest))
    return emitted


def decode(
    decoder: Decoder, host: Host, pace: Pace, recorder: Recorder | None, prompt_lengths: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """Rounds until every row is finished; returns the schedule. `prompt_lengths`: the longest of target and draft."""
    schedule: list[tuple[int, int, int]] = []
    while not host.all_finished:
        lookahead, guesses = pace.next(decoder.max_new_tokens - host.shortest)
        if decoder.graph is not None:
            lookahead, guesses = decoder.graph.lookahead, None
        longest = max(map(len, host.answers)) + lookahead
        for model, prompt in zip((decoder.target, decoder.draft), prompt_lengths, strict=True):
            model.cache.show_up_to(prompt + longest if decoder.graph is None else model.cache.slots)
        emitted = paced_round(decoder, pace, (lookahead, guesses), recorder, schedule)
        stopped = host.take(emitted)
        if any(stopped):
            decoder.finished = decoder.finished | torch.tensor(stopped, device=decoder.finished.device)
    host.end()
    return schedule


# ------------------------------------------------------------------------------------------------ inside transformers' generate


def ssd_custom_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    *,
    draft: PreTrainedModel | None = None,
    ssd_config: SSDConfig | None = None,
    ssd_streamer: Any = None,
    draft_input_ids: Tensor | None = None,
    draft_attention_mask: Tensor | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """SSD as `target.generate(…, custom_generate=ssd_custom_generate, draft=draft, ssd_config=…)`.

    Returns prompts and answers as one tensor, padded on the right, as `generate` does. Pass a streamer as
    `ssd_streamer`, since `generate` keeps its own for itself.
    """
    if draft is None:
        raise ValueError(
            "ssd_custom_generate needs the draft model: generate(…, custom_generate=ssd_custom_generate, draft=draft)"
        )
    own = [c for c in stopping_criteria or [] if not isinstance(c, EosTokenCriteria | MaxLengthCriteria)]
    output = ssd_generate(
        model,
        draft,
        input_ids,
        attention_mask=model_kwargs.get("attention_mask"),
        draft_input_ids=draft_input_ids,
        draft_attention_mask=draft_attention_mask,
        config=ssd_config or SSDConfig(),
        max_new_tokens=generation_config.max_length - input_ids.shape[1],
        eos_token_id=generation_config.eos_token_id,
        streamer=ssd_streamer,
        stopping_criteria=own,
        trace=False,
    )
    pad = generation_config.pad_token_id
    pad = pad if pad is not None else int(eos_ids(model, generation_config.eos_token_id)[0])
    answers = torch.nn.utils.rnn.pad_sequence(output.sequences, batch_first=True, padding_value=pad)
    return torch.cat([input_ids, answers.to(input_ids.device)], dim=1)
