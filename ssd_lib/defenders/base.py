"""What every defender is made of: a request in, passes of a model over a batch, answers with their cost out.

A *pass* is one batched greedy `generate` (`ssd_lib.models.inference`). A defence is one pass or a few; its cost is what
all of them read, ran and wrote, so that a defence which answers twice is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from ssd_lib.method.trace import Trace
from ssd_lib.models.chat import Question, decode_answer, encode_answer
from ssd_lib.models.inference import Pass, Speaker, check_room
from ssd_lib.models.loading import load_model
from ssd_lib.models.pairs import Pair

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
    """Generated besides the answer: verdicts, paraphrases, answers that were thrown away, tokens that SSD took back."""
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
    match_ratio: float | None = None
    """Share of the answer's tokens that the draft proposed (SSD only)."""


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


def target_of(pair: Pair) -> Speaker:
    return pair.speakers[0]


def draft_of(pair: Pair) -> Speaker:
    return pair.speakers[1]


@cache
def other_model(name: str, chat_format: str | None = None, **options: Any) -> Speaker:
    """A third model, loaded once; `options` go to `load_model`."""
    return Speaker(*load_model(name, **options), chat_format)


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

    Args:
        pair: Who answered.
        request: What was asked.
        ids: Token ids of each row's answer.
        passes: Every run of a model that the defence made.
        traces: Of SSD's answers.
        notes: What else the defence decided, one a row.
        replaced: Rows whose answer the defence itself wrote, so that no pass generated it.
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
    """The cost of one row's answer of `tokens` tokens; not `generated`: the defence wrote it, and no pass did."""
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
    """Token ids of what a defence says in place of the model, a space before it where an answer has begun."""
    return encode_answer(pair.tokenizer, f" {text}" if prefill else text)


# ------------------------------------------------------------------------------------------------ room


def check_item(pair: Pair, question: Question, prefill: Sequence[int], max_new_tokens: int) -> None:
    """Raise ValueError unless question and answer fit into the contexts of both target and draft.

    Every defender asks this of every item, whichever model it runs, so that tables compare the same items.
    """
    for speaker in pair.speakers:
        (prompt,) = speaker.encode([question], [prefill])
        check_room(f"the {speaker.role}'s prompt", speaker.model, len(prompt), max_new_tokens)
        if pair.draft is pair.target:
            return
