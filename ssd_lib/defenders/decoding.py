"""The target alone, the draft alone, and SSD itself (arXiv 2508.17739)."""

from __future__ import annotations

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.defenders.base import Answer, Request, answers_of, draft_of, target_of
from ssd_lib.inference import Pass, Speaker, generate, without_answers
from ssd_lib.pairs import Pair


def no_defence(pair: Pair, request: Request, settings: None = None) -> list[Answer]:
    """The target's own greedy `generate`: what an attack does to it."""
    return _alone(target_of(pair), pair, request)


def draft_only(pair: Pair, request: Request, settings: None = None) -> list[Answer]:
    """The draft's own greedy `generate`: a bound on safety, and on how little utility that needs."""
    return _alone(draft_of(pair), pair, request)


def _alone(speaker: Speaker, pair: Pair, request: Request) -> list[Answer]:
    asked = request.questions, request.prefills
    run = generate(speaker, *asked, max_new_tokens=request.max_new_tokens, streamer=request.streamer)
    return answers_of(pair, request, run.ids, [run])


def ssd(pair: Pair, request: Request, settings: SSDConfig) -> list[Answer]:
    """Speculative Safety-Aware Decoding: the draft proposes, the target verifies, both are mixed.

    Of many questions those that are answered leave the batch, so that it computes for the others alone.
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
    return answers_of(pair, request, ids, [target, draft], traces=traces)
