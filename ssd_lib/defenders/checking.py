"""Defences that look at a question or at an answer and may put a refusal in its place."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from ssd_lib.defenders import prompts
from ssd_lib.defenders.base import Answer, Request, answers_of, other_model, said_instead, target_of
from ssd_lib.models.chat import decode_answer
from ssd_lib.models.inference import Pass, Speaker, context_of, device_of, generate, texts_of, without_answers
from ssd_lib.models.pairs import Pair
from ssd_lib.models.refusals import plain, refuses
from ssd_lib.settings import Number, Positive, Share, settings


@settings
class PerplexitySettings:
    """The threshold of SafeDecoding's code (the largest perplexity of its 50 plain AdvBench questions under GPT-2), and
    the model that measures it (None: the pair's own choice: GPT-2 for the real pairs, the target for the embedded one).
    """

    threshold: Annotated[float, Field(gt=0)] = 175.57
    model: str | None = None
    refusal: str = prompts.REFUSAL


@settings
class ExamSettings:
    """How long the examiner's reply may be, and what takes the place of a harmful answer."""

    reply_tokens: Positive = 16
    refusal: str = prompts.REFUSAL


@settings
class SmoothSettings:
    """Copies and share of characters swapped: the paper's N = 10 and q = 10% (section 5)."""

    copies: Positive = 10
    swapped: Share = 0.1
    majority: Share = 0.5
    seed: int = 0


@settings
class BackTranslationSettings:
    """A guessed question under which the answer is less likely than this (mean log-likelihood a token, nats) is not
    trusted; the default is the published code's."""

    min_log_likelihood: Number = -2.0
    guess_tokens: Positive = 128
    refusal: str = prompts.REFUSAL


# ------------------------------------------------------------------------------------------------ before answering


def perplexity_filter(pair: Pair, request: Request, settings: PerplexitySettings) -> list[Answer]:
    """PPL (Alon & Kamfonas 2023, arXiv 2308.14132): a question that reads like noise is refused unanswered."""
    chosen = settings.model or pair.spec.perplexity_model
    reader = target_of(pair) if chosen is None else other_model(chosen)
    started = time.perf_counter()
    texts = [prompts.last_turn(question) for question in request.questions]
    log_probs, forwards = token_log_probs(reader, [_as_text(reader, text) for text in texts])
    scores = list(map(_perplexity, log_probs))
    read = without_answers(reader.role, forwards, time.perf_counter() - started)
    passed = [row for row, score in enumerate(scores) if not score > settings.threshold]
    asked, begun = [request.questions[row] for row in passed], [request.prefills[row] for row in passed]
    run = generate(target_of(pair), asked, begun, max_new_tokens=request.max_new_tokens, rows=passed)
    ids = [said_instead(pair, settings.refusal, prefill) for prefill in request.prefills]
    for row, answer in zip(passed, run.ids, strict=True):
        ids[row] = answer
    notes = [{"perplexity": score} for score in scores]
    return answers_of(pair, request, ids, [read, run], notes=notes, replaced=set(range(len(ids))) - set(passed))


def perplexity(reader: Speaker, texts: Sequence[str]) -> list[float]:
    """exp of the mean negative log-likelihood a token of each text, [texts]; 1 where there is nothing to predict.

    A text begins as the tokenizer begins one, with BOS where the model has one of its own (GPT-2 has not, as published).
    """
    return list(map(_perplexity, token_log_probs(reader, [_as_text(reader, text) for text in texts])[0]))


def _perplexity(log_probs: Tensor) -> float:
    return math.exp(-float(log_probs.mean())) if log_probs.numel() else 1.0


def _as_text(reader: Speaker, text: str) -> list[int]:
    ids, bos = list(reader.tokenizer.encode(text)), cast(int | None, reader.tokenizer.bos_token_id)
    if bos is None or bos == reader.tokenizer.eos_token_id or ids[:1] == [bos]:
        return ids
    return [bos, *ids]


@torch.inference_mode()
def token_log_probs(reader: Speaker, rows: Sequence[Sequence[int]]) -> tuple[list[Tensor], int]:
    """log P of every token of each row but its first, and the number of forwards; as many windows at once as there are rows.

    A row longer than the context is read in windows that move on by half of it, every token scored once, with at least half
    a context before it (transformers' docs, "Perplexity of fixed-length models").
    """
    context = context_of(reader.model)
    windows = [(i, *window) for i, row in enumerate(rows) for window in windows_of(len(row), context)]
    batches = [windows[start : start + len(rows)] for start in range(0, len(windows), max(1, len(rows)))]
    scores: list[list[Tensor]] = [[] for _ in rows]
    for batch in batches:
        read = _log_probs(reader, [rows[i][start:end] for i, start, _, end in batch])
        for (i, start, first, _), score in zip(batch, read, strict=True):
            scores[i].append(score[first - start - 1 :])
    return [torch.cat(row) if row else torch.empty(0) for row in scores], len(batches)


def windows_of(length: int, context: int | None) -> list[tuple[int, int, int]]:
    """(start, first scored, end) of each window over a row of tokens; none where there is nothing to predict."""
    size = max(2, length if context is None else min(length, context))
    windows, scored = [], 1
    for start in range(0, length, max(1, size // 2)):
        if scored < length:
            end = min(start + size, length)
            windows.append((start, scored, end))
            scored = end
    return windows


def _log_probs(reader: Speaker, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """log P of every token of each row but its first, in one batched forward padded on the right."""
    width, device = max(map(len, rows)), device_of(reader.model)
    ids = torch.tensor([[*row] + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    log_probs = reader.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(dim=-1)
    of_next = log_probs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return [of_next[i, : len(row) - 1].cpu() for i, row in enumerate(rows)]


# ------------------------------------------------------------------------------------------------ after answering


def self_exam(pair: Pair, request: Request, settings: ExamSettings) -> list[Answer]:
    """Self-Exam (Phute et al. 2023): the target is asked whether its own answer is harmful.

    It examines the whole answer, the prefilled part included. As published, a reply with neither yes nor no lets the
    answer pass.
    """
    run = generate(target_of(pair), request.questions, request.prefills, max_new_tokens=request.max_new_tokens)
    whole = [_whole_answer(pair, prefill, ids) for prefill, ids in zip(request.prefills, run.ids, strict=True)]
    asked, step = [prompts.EXAM.format(answer=answer) for answer in whole], "self-exam's question to the examiner"
    exam = generate(target_of(pair), asked, max_new_tokens=settings.reply_tokens, step=step)
    replies = texts_of(target_of(pair), exam)
    harmful = {row for row, reply in enumerate(replies) if "yes" in plain(reply).lower()}
    ids = _with_refusals(pair, request, run, harmful, settings.refusal)
    notes = [{"examiner": reply} for reply in replies]
    return answers_of(pair, request, ids, [run, exam], notes=notes, replaced=harmful)


def back_translation(pair: Pair, request: Request, settings: BackTranslationSettings) -> list[Answer]:
    """Back-translation (Wang et al. 2024, arXiv 2402.16459, algorithm 1): guess the question from the answer.

    An answer cannot hide the purpose of its question: if the target refuses the guessed question, the answer is refused.
    """
    target = target_of(pair)
    run = generate(target, request.questions, request.prefills, max_new_tokens=request.max_new_tokens)
    answered = [row for row, reply in enumerate(texts_of(target, run)) if not refuses(reply)]
    whole = [_whole_answer(pair, request.prefills[row], run.ids[row]) for row in answered]
    asked = [prompts.BACK_TRANSLATION.format(answer=text) for text in whole]
    limit, step = settings.guess_tokens, "back-translation's guess of the question"
    guess = generate(target, asked, max_new_tokens=limit, rows=answered, step=step)
    guessed = dict(zip(answered, texts_of(target, guess), strict=True))
    likely, scoring = _likely_enough(target, request, run, guessed, settings.min_log_likelihood)
    asked, step = [guessed[row] for row in likely], "back-translation's guessed question"
    second = generate(target, asked, max_new_tokens=request.max_new_tokens, rows=likely, step=step)
    refused = {row for row, reply in zip(likely, texts_of(target, second), strict=True) if refuses(reply)}
    ids = _with_refusals(pair, request, run, refused, settings.refusal)
    notes = [{"guessed": guessed.get(row)} for row in range(len(request.questions))]
    return answers_of(pair, request, ids, [run, guess, scoring, second], notes=notes, replaced=refused)


def _likely_enough(
    target: Speaker, request: Request, run: Pass, guessed: dict[int, str], min_log_likelihood: float
) -> tuple[list[int], Pass]:
    """Rows whose guessed question makes their answer likely enough to be trusted, and the forward that this took."""
    rows, started = [row for row, question in guessed.items() if question], time.perf_counter()
    if not rows:
        return [], without_answers(target.role)
    asked = target.encode([guessed[row] for row in rows])
    answers = [request.prefills[row] + run.ids[row] for row in rows]
    scores, forwards = token_log_probs(target, [[*q, *a] for q, a in zip(asked, answers, strict=True)])
    means = [float(score[-len(answer) :].mean()) for score, answer in zip(scores, answers, strict=True)]
    likely = [row for row, mean in zip(rows, means, strict=True) if mean > min_log_likelihood]
    return likely, without_answers(target.role, forwards, time.perf_counter() - started)


def smooth_llm(pair: Pair, request: Request, settings: SmoothSettings) -> list[Answer]:
    """SmoothLLM (Robey et al. 2023, arXiv 2310.03684, algorithm 1): vote over answers to perturbed copies.

    The answer returned is the first that agrees with the majority (the paper draws one of them at random).
    """
    target = target_of(pair)
    runs = []
    for copy in range(settings.copies):
        perturb = partial(prompts.swapped, share=settings.swapped, seed=f"{settings.seed}/{copy}")
        asked = [prompts.change_last_turn(question, perturb) for question in request.questions]
        options = {"max_new_tokens": request.max_new_tokens, "step": "smoothllm's perturbed copy"}
        runs.append(generate(target, asked, request.prefills, **options))
    refusals = list(zip(*([refuses(text) for text in texts_of(target, run)] for run in runs), strict=True))
    ids, notes = [], []
    for row, votes in enumerate(refusals):
        refused = sum(votes) >= settings.majority * settings.copies
        ids.append(runs[votes.index(refused)].ids[row] if refused in votes else runs[0].ids[row])
        notes.append({"refusals": sum(votes), "copies": settings.copies})
    return answers_of(pair, request, ids, runs, notes=notes)


# ------------------------------------------------------------------------------------------------ pieces


def _whole_answer(pair: Pair, prefill: Sequence[int], ids: Sequence[int]) -> str:
    return decode_answer(pair.tokenizer, [*prefill, *ids]).strip()


def _with_refusals(pair: Pair, request: Request, run: Pass, rows: Collection[int], refusal: str) -> list[list[int]]:
    """The pass's answers, with a refusal in the place of those of some rows."""
    return [
        said_instead(pair, refusal, request.prefills[row]) if row in rows else ids for row, ids in enumerate(run.ids)
    ]
