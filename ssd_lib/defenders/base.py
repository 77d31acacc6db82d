"""What every defender is made of: a request in, passes of a model over a batch, answers with their cost out.

A *pass* is one batched greedy `generate`. A defence is one pass or a few; its cost is what all of them read, ran and
wrote, so that a defence which answers twice is seen to answer twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ssd_lib.chat import decode_answer, encode_answer, encode_prompt, pad_left
from ssd_lib.defenders.prompts import Question
from ssd_lib.pairs import Pair
from ssd_lib.trace import Trace

Prefill = str | Sequence[int]


@dataclass(frozen=True)
class Cost:
    """What one answer cost. Forwards and seconds are those of its batch, tokens are its own."""

    target_forwards: int = 0
    draft_forwards: int = 0
    other_forwards: int = 0
    """Of a third model: SafeDecoding's expert, a paraphraser, a perplexity model."""
    tokens: int = 0
    """Of the answer."""
    extra_tokens: int = 0
    """Generated besides the answer: verdicts, paraphrases, answers that were thrown away."""
    prompt_tokens: int = 0
    """Of all prompts that the target (or a third model) read for this answer, prefilled answers included."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One answer: the generated part as text and ids, the prefilled part before it, the trace (SSD only) and the cost.

    `notes` holds what else a defence decided, such as a perplexity or an examiner's reply.
    """

    text: str
    token_ids: list[int]
    prefill: str
    trace: Trace | None
    cost: Cost
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A batch of questions on its way to a defender."""

    questions: list[Question]
    prefills: list[list[int]]
    max_new_tokens: int
    streamer: Any = None
    trace: bool = True


@dataclass(frozen=True)
class Defender:
    """One line of the registry. `run(pair, request, settings)` answers a batch; `defaults(pair)` are its settings."""

    run: Callable[[Pair, Request, Any], list[Answer]]
    paper: str
    costs: str
    defaults: Callable[[Pair], Any]
    aliases: tuple[str, ...] = ()
    needs: Literal["draft", "expert", "base"] | None = None
    """What it runs beside the target: the pair's draft, SafeDecoding's expert, or the draft and the base it was tuned from."""


@dataclass(frozen=True)
class Speaker:
    """A model with the tokenizer and chat template it is spoken to with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat_format: str | None
    role: str = "other"
    """Whose forwards are counted: target, draft or other."""


def target_of(pair: Pair) -> Speaker:
    return Speaker(pair.target, pair.tokenizer, pair.spec.target_format, "target")


def draft_of(pair: Pair) -> Speaker:
    return Speaker(pair.draft, pair.draft_tokenizer, pair.spec.draft_format, "draft")


@dataclass(frozen=True)
class Pass:
    """One batched run of one model over some `rows` of the request, and what it took."""

    role: str
    rows: list[int]
    ids: list[list[int]]
    prompt_tokens: list[int]
    forwards: int
    seconds: float


def without_answers(role: str, forwards: int = 0, seconds: float = 0.0) -> Pass:
    """Forwards that write no answer of any row; none at all by default."""
    return Pass(role, [], [], [], forwards, seconds)


def generate(
    speaker: Speaker,
    questions: Sequence[Question],
    prefills: Sequence[Sequence[int]] | None = None,
    *,
    max_new_tokens: int,
    rows: Sequence[int] | None = None,
    streamer: Any = None,
) -> Pass:
    """Greedy answers to a batch of questions, by the model's own `generate`. `rows`: which of a request's rows they are."""
    model, tokenizer = speaker.model, speaker.tokenizer
    started = time.perf_counter()
    prompts = [
        encode_prompt(tokenizer, question, chat_format=speaker.chat_format, prefill=prefill)
        for question, prefill in zip(questions, prefills or [[]] * len(questions), strict=True)
    ]
    ids, mask = pad_left(prompts, tokenizer.pad_token_id)
    device = model.get_input_embeddings().weight.device
    with torch.inference_mode():
        sequences = model.generate(  # pyright: ignore[reportCallIssue]
            ids.to(device),
            attention_mask=mask.to(device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=padding(tokenizer),
            streamer=streamer,
        )
    answers = [until_eos(row, model) for row in sequences[:, ids.shape[1] :].tolist()]
    return Pass(
        speaker.role,
        list(range(len(prompts)) if rows is None else rows),
        answers,
        [len(prompt) for prompt in prompts],
        max(map(len, answers)),
        time.perf_counter() - started,
    )


def padding(tokenizer: PreTrainedTokenizerBase) -> Any:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def until_eos(ids: list[int], model: PreTrainedModel) -> list[int]:
    """Cut the padding that a batch adds behind the first end-of-sequence token, which is kept."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    for place, token in enumerate(ids):
        if token in stops:
            return ids[: place + 1]
    return ids


# ------------------------------------------------------------------------------------------------ answers from passes


def texts_of(speaker: Speaker, run: Pass) -> list[str]:
    """The replies of a pass as text, ends stripped."""
    return [str(speaker.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in run.ids]


def answers_of(
    pair: Pair,
    request: Request,
    ids: Sequence[list[int]],
    passes: Sequence[Pass],
    *,
    traces: Sequence[Trace | None] | None = None,
    notes: Sequence[dict[str, Any]] | None = None,
    replaced: Collection[int] = (),
) -> list[Answer]:
    """One answer a row from its token ids, with the cost of all passes.

    `replaced`: the rows whose answer was put in the model's place, so that no pass generated it.
    """
    return [
        Answer(
            decode_answer(pair.tokenizer, ids[row], request.prefills[row]),
            list(ids[row]),
            str(pair.tokenizer.decode(request.prefills[row])),
            traces[row] if traces is not None else None,
            cost_of(row, len(ids[row]), passes, generated=row not in replaced),
            notes[row] if notes is not None else {},
        )
        for row in range(len(request.questions))
    ]


def cost_of(row: int, tokens: int, passes: Sequence[Pass], *, generated: bool = True) -> Cost:
    """The cost of one row's answer of `tokens` tokens, `generated` by one of the passes or put in its place."""
    forwards = {role: sum(p.forwards for p in passes if p.role == role) for role in ("target", "draft", "other")}
    mine = [(p, p.rows.index(row)) for p in passes if row in p.rows]
    written = sum(len(p.ids[i]) for p, i in mine)
    return Cost(
        target_forwards=forwards["target"],
        draft_forwards=forwards["draft"],
        other_forwards=forwards["other"],
        tokens=tokens,
        extra_tokens=written - tokens if generated else written,
        prompt_tokens=sum(p.prompt_tokens[i] for p, i in mine),
        seconds=sum(p.seconds for p in passes),
    )


def said_instead(pair: Pair, text: str, prefill: Sequence[int]) -> list[int]:
    """Token ids of what a defence says in the model's place, a space before it where an answer has begun."""
    return encode_answer(pair.tokenizer, f" {text}" if prefill else text)
