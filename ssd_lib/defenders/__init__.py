"""Ways to answer under attack with one interface: questions in, answers with their trace and cost out.

A defender is a function `(pair, request, settings) -> list[Answer]`, a frozen dataclass of settings where it has any, and
one entry of `DEFENDERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any

from ssd_lib.config import SSDConfig
from ssd_lib.defenders import ada, checking, decoding, prompts, safedecoding, secdecoding
from ssd_lib.defenders.base import Answer, Cost, Defender, Prefill, Request, check_item
from ssd_lib.models.chat import Question, encode_answer, messages_of
from ssd_lib.models.inference import positive
from ssd_lib.models.pairs import Pair, PairSpec
from ssd_lib.settings import of_kind

__all__ = ["DEFENDERS", "Answer", "Cost", "Defender", "Request", "answer", "find_defender", "settings_for"]

DEFENDERS: dict[str, Defender] = {
    "none": Defender(
        decoding.no_defence,
        "–",
        "one target forward a token",
        lambda pair: decoding.AloneSettings(),
        ("no-defence", "defense_off"),
    ),
    "ssd": Defender(
        decoding.ssd,
        "Wang, Zhu, Cheng 2025, arXiv 2508.17739",
        "a round of T draft forwards and one target forward emits 1 to T tokens",
        lambda pair: pair.config,
        ("speculativesafedecoding",),
        needs="draft",
    ),
    "ssd-hardened": Defender(
        decoding.ssd,
        "this repository, on top of arXiv 2508.17739",
        "as ssd; a bin that is taken back is decoded twice",
        lambda pair: pair.config.harden(),
        needs="draft",
    ),
    "safedecoding": Defender(
        safedecoding.safedecoding,
        "Xu et al. 2024, arXiv 2402.08983",
        "the expert's forwards for the first m tokens, in the target's batch",
        lambda pair: safedecoding.SafeDecodingSettings(),
        needs="expert",
    ),
    "secdecoding": Defender(
        secdecoding.secdecoding,
        "Wang et al. 2025, Findings of EMNLP 2025, 1118",
        "a forward of the draft and one of its base a token, until neither differs from the other",
        lambda pair: secdecoding.SecDecodingSettings(),
        needs="base",
    ),
    "ada": Defender(
        ada.any_depth_alignment,
        "Zhang et al. 2026, arXiv 2510.18081",
        "a look of 20 tokens after every 25, over the same cache",
        lambda pair: ada.AnyDepthSettings(),
        ("any-depth-alignment", "ada-rk"),
    ),
    "self-exam": Defender(
        checking.self_exam,
        "Phute et al. 2023, arXiv 2308.07308",
        "a second prompt with the whole answer in it, and a short verdict",
        lambda pair: checking.ExamSettings(),
        ("selfexam",),
    ),
    "icd": Defender(
        prompts.in_context_defence,
        "Wei et al. 2023, arXiv 2310.06387",
        "a longer prompt",
        lambda pair: prompts.DemonstrationSettings(),
    ),
    "paraphrase": Defender(
        prompts.paraphrase,
        "Jain et al. 2023, arXiv 2309.00614",
        "a second prompt and a paraphrase of the question",
        lambda pair: prompts.ParaphraseSettings(),
        ("paraphase",),  # the published README's spelling
    ),
    "ppl": Defender(
        checking.perplexity_filter,
        "Alon & Kamfonas 2023, arXiv 2308.14132",
        "one forward of the perplexity model over the question",
        lambda pair: checking.PerplexitySettings(),
        ("perplexity",),
    ),
    "retokenization": Defender(
        prompts.retokenization,
        "Jain et al. 2023, arXiv 2309.00614",
        "a longer prompt",
        lambda pair: prompts.RetokenizationSettings(),
    ),
    "self-reminder": Defender(
        prompts.self_reminder,
        "Xie et al. 2023, Nature Machine Intelligence 5",
        "a longer prompt",
        lambda pair: prompts.ReminderSettings(),
        ("selfreminder",),
    ),
    "smoothllm": Defender(
        checking.smooth_llm,
        "Robey et al. 2023, arXiv 2310.03684",
        "N answers instead of one",
        lambda pair: checking.SmoothSettings(),
    ),
    "goal-priority": Defender(
        prompts.goal_priority,
        "Zhang et al. 2024, arXiv 2311.09096",
        "a longer prompt",
        lambda pair: None,
        ("goalpriority",),
    ),
    "back-translation": Defender(
        checking.back_translation,
        "Wang et al. 2024, arXiv 2402.16459",
        "a guess of the question, one forward over the answer and a second answer",
        lambda pair: checking.BackTranslationSettings(),
        ("backtranslation",),
    ),
    "draft-only": Defender(decoding.draft_only, "–", "one draft forward a token", lambda pair: None, needs="draft"),
}


def find_defender(name: str) -> str:
    """The registry's name for a defender, by name or alias in any case. Raises ValueError, listing the names."""
    if not isinstance(name, str):
        raise TypeError(f"defender is a name, not {name!r}: choose one of {', '.join(DEFENDERS)}")
    wanted = name.lower()
    for known, defender in DEFENDERS.items():
        if wanted == known or wanted in defender.aliases:
            return known
    raise ValueError(f"unknown defender {name!r}: choose one of {', '.join(DEFENDERS)}")


def settings_for(pair: Pair, defender: str, changed: Mapping[str, Any] | None = None) -> Any:
    """A defender's settings for this pair, some of them changed.

    Args:
        pair: Whose defaults are taken.
        defender: Name or alias of a defender.
        changed: Values by the names of settings.

    Raises:
        ValueError: For an unknown defender, a value out of range, or a setting that it does not have, listing those that it
            has.
    """
    of_kind("pair", pair, Pair, PairSpec)  # of both, a defender's defaults read `config` alone
    if changed is not None and not (isinstance(changed, Mapping) and all(isinstance(key, str) for key in changed)):
        raise TypeError(f"settings is a table of values by name, not {changed!r:.80}")
    defaults: Any = DEFENDERS[find_defender(defender)].defaults(pair)
    known = list(getattr(defaults, "__dataclass_fields__", ()))
    unknown = sorted(set(changed or {}) - set(known))
    if unknown:
        offers = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"the defender {defender!r} has no setting {', '.join(unknown)}: {offers}")
    return replace(defaults, **changed) if changed else defaults


def answer(
    pair: Pair,
    questions: str | Sequence[Question],
    *,
    defender: str = "ssd",
    prefill: Prefill | Sequence[Prefill] = "",
    config: SSDConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    max_new_tokens: int = 160,
    streamer: Any = None,
    trace: bool = True,
) -> list[Answer]:
    """Answer one question or a batch with a defender of `DEFENDERS`.

    Args:
        pair: Target and draft, from `load_pair`.
        questions: One text, or a list of texts and conversations (lists of messages that end with the user's turn).
        defender: Name or alias of a defender.
        prefill: What an attacker wrote as the beginning of the answer, text or token ids; one for all questions, or a list
            with one for each.
        config: All of SSD's settings. Default: the pair's.
        settings: Changed settings of the defender by name.
        max_new_tokens: Tokens of each answer, at most.
        streamer: Gets the answer's tokens as they are generated, where a defence generates just one answer.
        trace: Record every token of SSD's answers.

    Returns:
        One answer a question, in order: text, token ids, trace (SSD only) and cost.

    Raises:
        ValueError: For an unknown defender or setting, another number of prefills than of questions, a conversation that is
            not in a list of its own, or a question whose answer would not fit into the contexts of both target and draft,
            whichever of them the defender runs; other prompts of a defence are checked as well, and named.
        TypeError: For questions, prefills or a number of tokens of another type.
    """
    of_kind("pair", pair, Pair)
    of_kind("config", config, SSDConfig, NoneType)
    positive("max_new_tokens", max_new_tokens)
    name = find_defender(defender)
    chosen = settings_for(pair if config is None else pair.with_config(config), name, settings)
    if not isinstance(questions, (str, list, tuple)):
        raise TypeError(f"questions is text or a list of questions, not {type(questions).__name__}")
    asked: list[Question] = [questions] if isinstance(questions, str) else list(questions)
    if any(isinstance(question, dict) for question in asked):
        raise ValueError("a conversation counts as one question: pass it in a list of its own, [conversation]")
    if not asked:
        return []
    asked = [question if isinstance(question, str) else messages_of(question) for question in asked]
    given = [encode_answer(pair.tokenizer, each) for each in _one_each(prefill, len(asked))]
    for question, begun in zip(asked, given, strict=True):
        check_item(pair, question, begun, max_new_tokens)
    return DEFENDERS[name].run(pair, Request(asked, given, max_new_tokens, streamer, trace), chosen)


def _one_each(prefill: Any, count: int) -> list[Prefill]:
    """Text or a flat list of ids is one prefill for all; anything else is one a question."""
    if isinstance(prefill, (bytes, Mapping)) or not hasattr(prefill, "__len__"):
        raise TypeError(
            f"prefill is text, token ids, or a list with one for each question, not {type(prefill).__name__}"
        )
    flat = isinstance(prefill, str) or len(prefill) == 0 or not hasattr(prefill[0], "__len__")
    each: list[Any] = [prefill] * count if flat else list(prefill)
    if len(each) != count:
        raise ValueError(f"{len(each)} prefilled answers for {count} questions: give one for all, or one for each")
    return each
