"""Defences that change the prompt and then let the target answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ssd_lib.defenders import prompts
from ssd_lib.defenders.base import Answer, Request, answers_of, target_of
from ssd_lib.defenders.prompts import Question
from ssd_lib.models.chat import default_system
from ssd_lib.models.inference import Pass, Speaker, generate, texts_of
from ssd_lib.models.loading import load_model
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import Positive, Share, settings


@settings
class ReminderSettings:
    """Self-Reminder: which of its two sentences are added (the published code means both)."""

    in_system: bool = True
    behind_question: bool = True


@settings
class DemonstrationSettings:
    """ICD: the earlier turns, (question, refusal) each."""

    demonstrations: tuple[tuple[str, str], ...] = prompts.DEMONSTRATIONS


@settings
class ParaphraseSettings:
    """Who paraphrases (None: the target itself, else a model's name, Hub id or path), and how long a paraphrase may be."""

    model: str | None = None
    chat_format: str | None = None
    max_tokens: Positive = 128


@settings
class RetokenizationSettings:
    """Share of merges that are dropped (SafeDecoding's code: 0.2) and the seed of that draw."""

    dropout: Share = 0.2
    seed: int = 0


def self_reminder(pair: Pair, request: Request, settings: ReminderSettings) -> list[Answer]:
    """Self-Reminder (Xie et al. 2023): sentences about being responsible, in the system prompt and behind the question."""
    default = default_system(pair.tokenizer, pair.spec.target_format)
    asked = list(request.questions)
    if settings.behind_question:
        asked = [prompts.reminded(question) for question in asked]
    if settings.in_system:
        asked = [prompts.reminded_system(question, default) for question in asked]
    return _answer_changed(pair, request, asked, [], "self-reminder's prompt")


def goal_priority(pair: Pair, request: Request, settings: None = None) -> list[Answer]:
    """Goal prioritisation (Zhang et al. 2024): safety is stated to come before helpfulness."""
    asked = [prompts.prioritised(question) for question in request.questions]
    return _answer_changed(pair, request, asked, [], "goal-priority's prompt")


def in_context_defence(pair: Pair, request: Request, settings: DemonstrationSettings) -> list[Answer]:
    """In-Context Demonstration (Wei et al. 2023): earlier turns in which the assistant refuses."""
    asked = [prompts.demonstrated(question, settings.demonstrations) for question in request.questions]
    return _answer_changed(pair, request, asked, [], "icd's prompt with its demonstrations")


def retokenization(pair: Pair, request: Request, settings: RetokenizationSettings) -> list[Answer]:
    """Retokenization (Jain et al. 2023): the question's words broken by BPE-dropout."""

    def broken(text: str) -> str:
        return prompts.retokenised(pair.tokenizer, text, settings.dropout, settings.seed)

    asked = [prompts.change_last_turn(question, broken) for question in request.questions]
    return _answer_changed(pair, request, asked, [], "retokenization's prompt")


def paraphrase(pair: Pair, request: Request, settings: ParaphraseSettings) -> list[Answer]:
    """Paraphrase (Jain et al. 2023): the question in other words, then the target's answer to that."""
    speaker = target_of(pair) if settings.model is None else other_model(settings.model, settings.chat_format)
    instructions = [prompts.PARAPHRASE.format(question=prompts.last_turn(q)) for q in request.questions]
    run = generate(speaker, instructions, max_new_tokens=settings.max_tokens, step="paraphrase's prompt")
    said = texts_of(speaker, run)
    asked = [
        prompts.change_last_turn(question, lambda text, new=new: new or text)  # an empty paraphrase changes nothing
        for question, new in zip(request.questions, said, strict=True)
    ]
    return _answer_changed(pair, request, asked, [run], "the paraphrased question")


@cache
def other_model(name: str, chat_format: str | None = None) -> Speaker:
    """A third model, loaded once."""
    model, tokenizer = load_model(name)
    return Speaker(model, tokenizer, chat_format)


def _answer_changed(
    pair: Pair, request: Request, asked: Sequence[Question], before: Sequence[Pass], step: str
) -> list[Answer]:
    """The target's answers to the changed questions; what was asked stands in the notes."""
    run = generate(
        target_of(pair),
        asked,
        request.prefills,
        max_new_tokens=request.max_new_tokens,
        streamer=request.streamer,
        step=step,
    )
    notes = [{"asked": prompts.last_turn(question)} for question in asked]
    return answers_of(pair, request, run.ids, [*before, run], notes=notes)
