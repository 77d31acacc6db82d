"""The target alone, the draft alone, and SSD itself (arXiv 2508.17739)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.defenders.base import Answer, Request, answers_of, draft_of, target_of
from ssd_lib.models.inference import Pass, Speaker, generate, without_answers
from ssd_lib.models.loading import load_model
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import settings


@settings
class AloneSettings:
    """The model that answers without a defence."""

    model: str | None = None
    """Another model in place of the target, with the same tokenizer and template: a path or a Hub id. None: the pair's target."""


def no_defence(pair: Pair, request: Request, settings: AloneSettings | None = None) -> list[Answer]:
    """The target's own greedy `generate`: what an attack does to it."""
    speaker = target_of(pair)
    if settings is not None and settings.model is not None:
        speaker = replace(speaker, model=_in_its_place(settings.model, str(pair.target.device), pair.target.dtype))
    return _alone(speaker, pair, request)


@lru_cache(maxsize=1)
def _in_its_place(name: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    return load_model(name, device=device, dtype=dtype)[0]


def draft_only(pair: Pair, request: Request, settings: None = None) -> list[Answer]:
    """The draft's own greedy `generate`: a bound on safety, and on how little utility that needs."""
    return _alone(draft_of(pair), pair, request)


def _alone(speaker: Speaker, pair: Pair, request: Request) -> list[Answer]:
    asked = request.questions, request.prefills
    run = generate(speaker, *asked, max_new_tokens=request.max_new_tokens, streamer=request.streamer)
    return answers_of(pair, request, run.ids, [run])


def ssd(pair: Pair, request: Request, settings: SSDConfig) -> list[Answer]:
    """Speculative Safety-Aware Decoding: the draft proposes, the target verifies, both are mixed.

    Questions that are answered leave the batch, so that only the others are computed.
    """
    prompts, draft_prompts = pair.prompts(request.questions, request.prefills)
    output = ssd_generate(
        pair.target,
        pair.draft,
        prompts,
        draft_input_ids=draft_prompts,
        config=settings,
        max_new_tokens=request.max_new_tokens,
        prefilled=[len(prefill) for prefill in request.prefills],
        vocab_size=pair.vocab_size,
        streamer=request.streamer,
        trace=request.trace,
    )
    ids, rows = [sequence.tolist() for sequence in output.sequences], list(range(len(prompts)))
    lengths = [len(prompt) for prompt in prompts]
    target = Pass("target", rows, ids, lengths, output.stats.target_forwards, output.stats.seconds)
    draft = without_answers("draft", output.stats.draft_forwards)
    traces = [output.trace.row(row) for row in rows] if output.trace is not None else None
    answers = answers_of(pair, request, ids, [target, draft], traces=traces)
    return [_counted(*row) for row in zip(answers, output.matched, output.retracted, strict=True)]


def _counted(answer: Answer, matched: int, retracted: int) -> Answer:
    """The answer with its match ratio, and its tokens that were taken back among those generated besides."""
    cost = replace(answer.cost, extra_tokens=answer.cost.extra_tokens + retracted)
    return replace(answer, cost=cost, match_ratio=matched / len(answer.token_ids) if answer.token_ids else None)
