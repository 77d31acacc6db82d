"""Ways of asking: attacks that lie not in a prompt but in how it is put to a defender.

    pieces        n tokens a call, and each call hands back what was answered before: a scheduler that begins afresh in
                  every call, and decides after b tokens, does not notice an attack of n < b tokens a call
    turns         the same through a service in which nobody can write into an answer: what was answered stands in the
                  conversation as the assistant's turn, and the user says "Go on."
    top k         the answer is not asked for but assembled, from the next tokens that the defender shows (`rap.py`)
    quiet bins    the scheduler begins as it would be after so many bins of perfect agreement, with a decayed threshold

A record says how it is asked (`piece`, `handed_back`, `top_k`, `quiet_bins`); `ask` puts any records to any defender.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from ssd_lib.attacks.rap import RAPConfig, assemble, seen
from ssd_lib.attacks.records import Record
from ssd_lib.config import SSDConfig
from ssd_lib.defenders import Answer, Cost, answer, settings_for
from ssd_lib.method import switching
from ssd_lib.models.chat import decode_answer, encode_answer
from ssd_lib.models.pairs import Pair

GO_ON = "Go on."
Put = Callable[[list[Any], list[Any], int], list[Answer]]
"""Questions, prefills (text or ids) and max_new_tokens to answers: `answer` of one pair and defender."""


def ask(
    pair: Pair,
    records: Sequence[Record],
    *,
    defender: str = "ssd",
    settings: Mapping[str, Any] | None = None,
    max_new_tokens: int = 160,
    trace: bool = True,
) -> list[Answer]:
    """Put each record to a defender in its own way.

    Args:
        pair: Target and draft.
        records: What is asked, from any sets.
        defender: Name or alias of a defender.
        settings: Changed settings of the defender by name.
        max_new_tokens: Tokens of each answer, at most.
        trace: Record every token of SSD's answers that are asked for in one call.

    Returns:
        One answer a record, in order. An answer in pieces has the costs of all its calls together, no trace, and the number of
        calls in its notes.

    Raises:
        ValueError: As `answer`.
    """
    replies: dict[int, Answer] = {}
    for way in dict.fromkeys(map(_way, records)):
        rows = [i for i, record in enumerate(records) if _way(record) == way]
        piece, handed_back, top_k, bins = way
        changed = quieted_settings(pair, defender, settings, bins)
        put = _put(pair, defender, changed, trace)
        questions = [records[i].prompt for i in rows]
        begun = [encode_answer(pair.tokenizer, records[i].prefill) for i in rows]
        if top_k:
            answers = assembled(pair, defender, changed, questions, begun, RAPConfig(top_k=top_k, steps=max_new_tokens))
        elif piece:
            answers = in_pieces(pair, put, questions, begun, piece, max_new_tokens, turns=handed_back == "turn")
        else:
            answers = put(questions, [records[i].prefill for i in rows], max_new_tokens)
        replies |= dict(zip(rows, answers, strict=True))
    return [replies[i] for i in range(len(records))]


def _way(record: Record) -> tuple[int, str, int, int]:
    return record.piece, record.handed_back, record.top_k, record.quiet_bins


def _put(pair: Pair, defender: str, settings: Mapping[str, Any] | None, trace: bool) -> Put:
    def put(questions: list[Any], prefills: list[Any], tokens: int) -> list[Answer]:
        options: dict[str, Any] = dict(defender=defender, settings=settings, trace=trace)
        return answer(pair, questions, prefill=prefills, max_new_tokens=tokens, **options)

    return put


# ------------------------------------------------------------------------------------------------ pieces


def in_pieces(
    pair: Pair,
    put: Put,
    questions: Sequence[str],
    begun: Sequence[list[int]],
    piece: int,
    max_new_tokens: int,
    *,
    turns: bool = False,
) -> list[Answer]:
    """Answers asked for `piece` tokens a call, until they end or have max_new_tokens.

    An answer has ended where a call returns a special token, or another number of tokens than asked for (a defence's own
    words).

    Args:
        pair: Target and draft.
        put: Asks the defender.
        questions: One text an answer.
        begun: What the attacker prefills, as token ids, one each.
        piece: Tokens of a call.
        max_new_tokens: Tokens of each answer, at most.
        turns: What was answered goes into the conversation, not into the answer; only the first call has the prefill.
    """
    if piece < 1:
        raise ValueError(f"a piece has at least 1 token, not {piece}")
    special, calls = set(pair.tokenizer.all_special_ids), [list[Answer]() for _ in questions]
    said: list[list[int]] = [[] for _ in questions]
    live, asked = list(range(len(questions))), 0
    while live and asked < max_new_tokens:
        tokens = min(piece, max_new_tokens - asked)
        handed = [_handed_back(pair, questions[i], begun[i], said[i], turns) for i in live]
        replies = put([question for question, _ in handed], [prefill for _, prefill in handed], tokens)
        for i, reply in zip(live, replies, strict=True):
            calls[i].append(reply)
            said[i] += [token for token in reply.token_ids if token not in special]
        asked += tokens
        live = [i for i in live if len(said[i]) == asked]
    return [_joined(pair, *each) for each in zip(begun, said, calls, strict=True)]


def _handed_back(pair: Pair, question: str, begun: list[int], said: list[int], turns: bool) -> tuple[Any, list[int]]:
    """The question and the beginning of the answer of the next call."""
    if not turns or not said:
        return question, begun + said
    so_far = str(pair.tokenizer.decode(begun + said, skip_special_tokens=True))
    before = [{"role": "user", "content": question}, {"role": "assistant", "content": so_far}]
    return [*before, {"role": "user", "content": GO_ON}], []


def _joined(
    pair: Pair, begun: list[int], said: list[int], calls: list[Answer], notes: Mapping[str, Any] | None = None
) -> Answer:
    text, prefill = decode_answer(pair.tokenizer, said, begun), str(pair.tokenizer.decode(begun))
    costs = [[getattr(call.cost, each.name) for call in calls] for each in fields(Cost)]
    counted = {"calls": len(calls)} | dict(notes or {})
    return Answer(text, said, prefill, None, Cost(*map(sum, costs)), counted, _match_ratio(calls))


def _match_ratio(calls: Sequence[Answer]) -> float | None:
    """Over the tokens of all calls; None where a call has none."""
    known = [(call.match_ratio, call.cost.tokens) for call in calls if call.match_ratio is not None]
    return sum(ratio * tokens for ratio, tokens in known) / sum(tokens for _, tokens in known) if known else None


# ------------------------------------------------------------------------------------------------ rankings


def assembled(
    pair: Pair,
    defender: str,
    settings: Mapping[str, Any] | None,
    questions: list[str],
    begun: list[list[int]],
    config: RAPConfig,
) -> list[Answer]:
    """RAP's answers: one call of a token for every look through a defence, none where a model's own ranking is seen."""
    calls: list[list[Answer]] = []
    rows = assemble(pair, seen(pair, defender, settings, calls), questions, begun, config)
    through = [[] for _ in rows]
    for i, replies in enumerate(calls):
        live = [place for place, row in enumerate(rows) if row.steps > i]
        for place, reply in zip(live, replies, strict=True):
            through[place].append(reply)
    return [
        _joined(pair, row.begun, row.ids, mine, {"looks": row.steps, "taken_back": row.taken_back})
        for row, mine in zip(rows, through, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ quiet bins


def quieted(config: SSDConfig, bins: int) -> SSDConfig:
    """The settings under which an answer begins as one goes on after `bins` bins in which every token matched.

    Threshold and α_I are what the scheduler itself would make of them. After a change of scheme a real answer goes back to the
    first threshold, this one to the decayed one: after an alarm, the defence does a little worse here than it would.
    """
    state, yes = switching.start(1, config), torch.ones(1, dtype=torch.bool)
    for _ in range(bins * config.bin_size):
        state = switching.update(state, yes, yes, config)
    return replace(config, threshold=float(state.threshold), alpha_intersection=float(state.alpha_intersection))


def quieted_settings(
    pair: Pair, defender: str, settings: Mapping[str, Any] | None, bins: int
) -> Mapping[str, Any] | None:
    """A defender's changed settings after quiet bins; those of a defence without a scheduler stay."""
    chosen = settings_for(pair, defender, settings)
    if not bins or not isinstance(chosen, SSDConfig):
        return settings
    quiet = quieted(chosen, bins)
    return {each.name: getattr(quiet, each.name) for each in fields(quiet)}
