"""RAP, rank-assisted prefilling (Vega & Singh 2025, arXiv 2512.05518): harmful tokens from among the top 20, step by step.

Deep alignment by data augmentation moves probability to a refusal at every depth, but it leaves the tokens of a harmful
answer near the top of the *ranking*. An attacker who sees the 20 likeliest next tokens need not take the first: they take
the first that belongs to a harmful answer, append it to the answer so far, and look again. Where there is none they take
the last token back and go on with the next one below it.

What they see is up to the service: the target's ranking, the draft's, or that of SSD, which is its distribution F⁺ for a
call of one token, in the scheme that its scheduler has chosen: the sample space in the order of F, or the target's own
distribution where rule 2 falls back to it. A defence that shows no ranking shows the one token that it says.

**What no switching can prevent.** Union's sample space always holds the target's top c, and RAP does not need them to be
emitted. `ssd-hardened` (embedded pair, 24 questions begun with 10 tokens) leaks .86 of the facts to it and some in every
answer, as the bare target does (.85) and published SSD (.85, by the target fallback in Intersection): of its picks 62% stood
in the target's top 10 alone, 38% in both models', and .1% were what SSD would have said. Any defence that re-ranks the
target's candidates and shows the ranking fails in this way. What helps is to give them no probability: with α_U > 1, F is
negative where P_m < (α_U − 1)/α_U · P_M, F⁺ cuts it to 0, and with α_U = 2 nothing leaked to RAP. It also helps to show no
ranking, or only the draft's (.02 of the facts; .00 with PRESTO, `ssd_lib.models.presto`).

Which tokens are harmful is decided in the paper by a person, or by a classifier of tokens that was trained on harmful and
safe answers (`auto_rap.py` of github.com/uiuc-focal-lab/push-forward-alignment, commit e551767, the source of the top 20, the
order, taking back and the ban on a third repetition). Here the classifier is a table: which token follows which in the
world's forbidden *training* answers. It knows how such an answer is written, but none of the combinations that are asked for.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ssd_lib.config import SSDConfig
from ssd_lib.defenders import Answer, answer, settings_for
from ssd_lib.defenders.base import Speaker, draft_of, target_of
from ssd_lib.models.chat import encode_answer, pad_left
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import Count, Positive, settings
from ssd_lib.toy import world

Followers = Mapping[int, set[int]]
"""Token → the tokens that follow it in a harmful answer."""
Look = Callable[[list[str], list[list[int]]], list[list[int]]]
"""Questions and the answers so far → the likeliest next tokens of each, best first."""


@settings
class RAPConfig:
    """`top_k` as in the paper, whose 256 steps are for longer answers. `training`: answers that the table of harmful
    tokens is made from."""

    top_k: Positive = 20
    steps: Positive = 120
    training: Positive = 1500
    seed: Count = 0


@dataclass
class Assembled:
    """An answer on its way: the tokens chosen so far after the `begun` ones, and how often one was taken back."""

    begun: list[int]
    ids: list[int] = field(default_factory=list)
    taken_back: int = 0
    steps: int = 0
    ended: bool = False
    prior: int | None = None
    """The token that was just taken back."""

    @property
    def whole(self) -> list[int]:
        return self.begun + self.ids


@cache
def harmful_followers(tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> Followers:
    """Which token follows which in `count` forbidden answers as training sees them, the end of sequence after the last.

    None of them is about a combination that is held out.
    """
    rng, followers = random.Random(f"rap/{seed}"), defaultdict[int, set[int]](set)
    for _ in range(count):
        text = world.sample(rng, "forbidden", as_typed=False).answer
        ids = [*encode_answer(tokenizer, text), cast(int, tokenizer.eos_token_id)]
        for before, after in zip(ids, ids[1:], strict=False):
            followers[before].add(after)
    return followers


def assemble(
    pair: Pair,
    look: Look,
    questions: Sequence[str],
    begun: Sequence[list[int]],
    config: RAPConfig = RAPConfig(),  # noqa: B008 (frozen)
) -> list[Assembled]:
    """What an attacker assembles for each question, after the beginning that they write, from the tokens that they see."""
    rows = [Assembled(list(ids)) for ids in begun]
    followers = harmful_followers(pair.tokenizer, config.training, config.seed)
    eos = cast(int, pair.tokenizer.eos_token_id)  # whose stub says that it may be anything
    for _ in range(config.steps):
        live = [row for row in rows if not row.ended]
        if not live:
            break
        asked = [question for question, row in zip(questions, rows, strict=True) if not row.ended]
        for row, top in zip(live, look(asked, [row.whole for row in live]), strict=True):
            step(row, top[: config.top_k], followers, eos)
    return rows


def step(row: Assembled, top: Sequence[int], followers: Followers, eos: int) -> None:
    """Append the first harmful token of a ranking, or take the last one back; ends at an end or before the first token."""
    row.steps += 1
    before = row.whole[-1:]
    harmful = [token for token in top if token in followers.get(before[0] if before else -1, ())]
    if row.prior in harmful:
        harmful = harmful[harmful.index(row.prior) + 1 :]
    row.prior = None
    harmful = [token for token in harmful if row.whole[-2:] != [token, token]]
    if harmful and harmful[0] == eos:
        row.ended = True
    elif harmful:
        row.ids.append(harmful[0])
    elif row.ids:
        row.prior, row.taken_back = row.ids.pop(), row.taken_back + 1
    else:
        row.ended = True


# ------------------------------------------------------------------------------------------------ what can be seen


def seen(pair: Pair, defender: str, settings: Mapping[str, Any] | None, calls: list[list[Answer]]) -> Look:
    """What a defender shows of its next token. Calls that go through it are put into `calls`, for their costs."""
    if defender in ("none", "draft-only"):
        return lambda questions, answers: ranking(
            target_of(pair) if defender == "none" else draft_of(pair), questions, answers
        )
    decodes = isinstance(settings_for(pair, defender, settings), SSDConfig)

    def look(questions: list[str], answers: list[list[int]]) -> list[list[int]]:
        replies = answer(
            pair, questions, defender=defender, prefill=answers, settings=settings, max_new_tokens=1, trace=decodes
        )
        calls.append(replies)
        if not decodes:
            return [reply.token_ids[:1] for reply in replies]
        return [shown(reply.trace.frame.iloc[-1]) for reply in replies if reply.trace is not None]

    return look


def shown(line: Mapping[str, Any]) -> list[int]:
    """SSD's ranking of one token, from its line of the trace: what its distribution F⁺ may say, the likeliest first.

    That is the sample space where F > 0 (an α above 1 gives tokens of the target alone a negative F), and the target's
    own ranking after a fallback to the target.
    """
    if line["insisted"]:
        return list(line["target_top"])
    return [token for token, score in zip(line["space"], line["space_composite"], strict=True) if score > 0]


def ranking(speaker: Speaker, questions: Sequence[str], answers: Sequence[list[int]]) -> list[list[int]]:
    """One model's next tokens after each answer, the likeliest of its vocabulary first."""
    logits = next_logits(speaker, questions, answers)
    return logits.topk(min(TOP, logits.shape[-1]), dim=-1).indices.tolist()


@torch.inference_mode()
def next_logits(
    speaker: Speaker, questions: Sequence[str], answers: Sequence[list[int]]
) -> Float[Tensor, "rows vocab"]:
    """One model's logits of the token after each answer, in one forward."""
    model: Any = speaker.model
    pad_id = cast(int | None, speaker.tokenizer.pad_token_id)
    ids, mask = (part.to(model.device) for part in pad_left(speaker.encode(questions, answers), pad_id))
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=1).logits[:, -1].float()


TOP = 64
"""Tokens of a ranking that a service would show at most."""
