"""Ways to answer under attack, behind one interface: questions in, answers with their trace and cost out.

A defender is a function `(pair, request) -> list[Answer]` and one line in `DEFENDERS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ssd_lib.chat import Message, decode_answer, encode_answer
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.pairs import Pair
from ssd_lib.trace import Trace

Question = str | Sequence[Message]
Prefill = str | Sequence[int]


@dataclass(frozen=True)
class Cost:
    """What one answer cost. Forwards and seconds are those of its batch; tokens are its own."""

    target_forwards: int
    draft_forwards: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """One answer: the generated part as text and ids, the prefilled part before it, the trace (SSD only) and the cost."""

    text: str
    token_ids: list[int]
    prefill: str
    trace: Trace | None
    cost: Cost


@dataclass(frozen=True)
class Request:
    """A batch of questions on its way to a defender."""

    questions: list[Question]
    prefills: list[list[int]]
    config: SSDConfig
    max_new_tokens: int
    streamer: Any = None
    trace: bool = True


def answer(
    pair: Pair,
    questions: str | Sequence[Question],
    *,
    defender: str = "ssd",
    prefill: Prefill | Sequence[Prefill] = "",
    config: SSDConfig | None = None,
    max_new_tokens: int = 160,
    streamer: Any = None,
    trace: bool = True,
) -> list[Answer]:
    """Answer one question or a batch with a defender of `DEFENDERS`.

    prefill: what an attacker wrote as the beginning of the answer, text or token ids; one for all questions, or a list
    with one for each. A name of one question gives a list of one answer.

    Raises ValueError for an unknown defender, a number of prefills that is not the number of questions, or a
    conversation that is not in a list of its own.
    """
    if defender not in DEFENDERS:
        raise ValueError(f"unknown defender {defender!r}: choose one of {', '.join(DEFENDERS)}")
    asked: list[Question] = [questions] if isinstance(questions, str) else list(questions)
    if any(isinstance(question, dict) for question in asked):
        raise ValueError("a conversation counts as one question: pass it in a list of its own, [conversation]")
    if not asked:
        return []
    given = _one_each(prefill, len(asked))
    request = Request(
        asked,
        [encode_answer(pair.tokenizer, each) for each in given],
        config or pair.config,
        max_new_tokens,
        streamer,
        trace,
    )
    return DEFENDERS[defender](pair, request)


def _one_each(prefill: Any, count: int) -> list[Prefill]:
    """Text or a flat list of ids is one prefill for all; anything else is one a question."""
    flat = isinstance(prefill, str) or len(prefill) == 0 or isinstance(prefill[0], int)
    each: list[Any] = [prefill] * count if flat else list(prefill)
    if len(each) != count:
        raise ValueError(f"{len(each)} prefilled answers for {count} questions: give one for all, or one for each")
    return each


# ------------------------------------------------------------------------------------------------ the defenders


def no_defence(pair: Pair, request: Request) -> list[Answer]:
    """The target's own greedy `generate`: what an attack does to it."""
    return _own_generate(pair, request, pair.target, "")


def draft_only(pair: Pair, request: Request) -> list[Answer]:
    """The draft's own greedy `generate`: a bound on safety, and on how little utility that needs."""
    return _own_generate(pair, request, pair.draft, "draft_")


def ssd(pair: Pair, request: Request) -> list[Answer]:
    """Speculative Safety-Aware Decoding (arXiv 2508.17739): both models."""
    output = ssd_generate(
        pair.target,
        pair.draft,
        **pair.encode(request.questions, request.prefills),
        config=request.config,
        max_new_tokens=request.max_new_tokens,
        streamer=request.streamer,
        trace=request.trace,
    )
    stats = output.stats
    return [
        _answer(
            pair,
            request.prefills[row],
            ids.tolist(),
            output.trace.row(row) if output.trace is not None else None,
            (stats.target_forwards, stats.draft_forwards, stats.seconds),
        )
        for row, ids in enumerate(output.sequences)
    ]


DEFENDERS: dict[str, Callable[[Pair, Request], list[Answer]]] = {
    "none": no_defence,
    "draft-only": draft_only,
    "ssd": ssd,
}


def _own_generate(pair: Pair, request: Request, model: PreTrainedModel, prefix: str) -> list[Answer]:
    """Greedy `generate` of one of the two models on its own prompts."""
    prompts = pair.encode(request.questions, request.prefills)
    ids = prompts[prefix + "input_ids"].to(model.device)
    started = time.perf_counter()
    with torch.inference_mode():
        sequences = model.generate(  # pyright: ignore[reportCallIssue]
            ids,
            attention_mask=prompts[prefix + "attention_mask"].to(model.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=request.max_new_tokens,
            pad_token_id=_padding(pair),
            streamer=request.streamer,
        )
    seconds = time.perf_counter() - started
    answers = [_until_eos(row, model) for row in sequences[:, ids.shape[1] :].tolist()]
    forwards = max(map(len, answers))
    target, draft = (0, forwards) if prefix else (forwards, 0)
    return [_answer(pair, request.prefills[i], row, None, (target, draft, seconds)) for i, row in enumerate(answers)]


def _padding(pair: Pair) -> Any:
    tokenizer = pair.tokenizer
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def _until_eos(ids: list[int], model: PreTrainedModel) -> list[int]:
    """Cut the padding that a batch adds behind the first end-of-sequence token, which is kept."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    for place, token in enumerate(ids):
        if token in stops:
            return ids[: place + 1]
    return ids


def _answer(
    pair: Pair, prefill: list[int], ids: list[int], trace: Trace | None, cost: tuple[int, int, float]
) -> Answer:
    text = decode_answer(pair.tokenizer, ids, prefill)
    before = str(pair.tokenizer.decode(prefill))
    return Answer(text, ids, before, trace, Cost(cost[0], cost[1], len(ids), cost[2]))
