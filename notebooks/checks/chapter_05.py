"""Chapter 05: the whole decoder, its rounds, a scheduler with a fault, and settings that leak less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checks.asking import ask
from checks.embedded import embedded
from ssd_lib import SSDConfig, answer, ssd_generate
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.method import switching
from ssd_lib.show.exercises import Wrong, exercise, expect, same
from ssd_lib.toy import world

WORDS = 64
"""Vocabulary of a micro-model."""
LENGTH = 45
"""Tokens of an answer, if it does not end before."""


class Case(NamedTuple):
    """One answer that a decoder has to give, and what the library says of each of its tokens."""

    name: str
    models: tuple[Any, Any]
    prompts: tuple[list[int], list[int]]
    config: SSDConfig
    eos: set[int]
    wanted: list[tuple[int, str, float, float]]
    """Token, scheme, threshold and α of each."""
    most: int = LENGTH
    """Tokens that are asked for."""


# ------------------------------------------------------------------------------------------------ cases


def micro_models(seed: int, noise: float) -> tuple[Any, Any]:
    """A random target and a draft near it: they agree and disagree by turns, and always two tokens are equally likely."""

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )

    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()

    with torch.no_grad(), torch.random.fork_rng():  # a reader's own random numbers stay as they are
        target, draft = model(seed), model(seed + 50)
        for near, far in zip(draft.parameters(), target.parameters(), strict=True):
            near.mul_(noise).add_(far)
        for each in (target, draft):
            rows = each.lm_head.weight
            rows[1::2] = rows[0::2]
            rows[:2] = 0
            each.generation_config.eos_token_id = 1
    return target, draft


MICRO = [
    (8, 0.22, SSDConfig(bin_size=2, candidates=3, alpha_union=0.5, alpha_intersection=0.75, lookahead=3)),
    (7, 0.3, SSDConfig(bin_size=4, candidates=4, threshold=0.5, alpha_union=0.55, alpha_intersection=0.9, lookahead=6)),
    (
        0,
        0.15,
        SSDConfig(bin_size=3, candidates=2, threshold=0.9, alpha_union=0.45, alpha_intersection=0.2, lookahead=4),
    ),
    (
        10,
        0.22,
        SSDConfig(bin_size=4, candidates=3, threshold=0.5, alpha_union=0.55, alpha_intersection=0.9, lookahead=1),
    ),
    (
        9,
        0.15,
        SSDConfig(bin_size=2, candidates=5, threshold=0.75, alpha_union=1.2, alpha_intersection=0.5, lookahead=5),
    ),
]
"""Seed, noise and settings: small bins and α_U near 0.5, so that the scheme changes and stays, in both schemes."""


@cache
def cases() -> list[Case]:
    """Answers of micro-models, of one with a token that it says as a second end; then answers of the embedded pair."""
    found = []
    for number, (seed, noise, config) in enumerate(MICRO, 1):
        generator = torch.Generator().manual_seed(seed)
        prompts = [torch.randint(2, WORDS, (length,), generator=generator).tolist() for length in (5, 3)]
        name = f"micro-models {number} (b = {config.bin_size}, T = {config.lookahead})"
        found.append(_case(name, micro_models(seed, noise), prompts, config, {1}))
    last = found[-1]
    tokens = [line[0] for line in last.wanted]
    end = max(tokens, key=tokens.index)  # what it says latest for the first time
    ended = last.wanted[: tokens.index(end) + 1]
    found.append(last._replace(name=f"{last.name}, two ends", eos={1, end}, wanted=ended))
    pair = embedded(3)
    wary = replace(pair.config, bin_size=4, lookahead=6, threshold=0.8, alpha_intersection=0.75)
    (item,) = world.questions("forbidden", 1)
    ends = set(np.atleast_1d(pair.target.generation_config.eos_token_id).tolist())
    for prefill, kind, config in ((10, "attacked", pair.config), (0, "asked plainly", wary)):
        ids = pair.encode([item.question], [prefill_tokens(pair, item, prefill)])
        prompts = ids["input_ids"][0].tolist(), ids["draft_input_ids"][0].tolist()
        name = f"the pair, {kind} (b = {config.bin_size}, T = {config.lookahead})"
        found.append(_case(name, (pair.target, pair.draft), prompts, config, ends))
    return found


def _case(name: str, models: Any, prompts: Any, config: SSDConfig, eos: set[int]) -> Case:
    ids, draft_ids = (torch.tensor([each]) for each in prompts)
    target, draft = models
    options: Any = {"config": config, "max_new_tokens": LENGTH, "trace": True}
    output = ssd_generate(target, draft, ids, draft_input_ids=draft_ids, **options)
    assert output.trace is not None
    lines = output.trace.to_frame()
    wanted = list(zip(lines.token, lines.scheme, lines.threshold, lines.alpha, strict=True))
    return Case(name, models, prompts, config, eos, wanted)


# ------------------------------------------------------------------------------------------------ the decoder


@cache
def short() -> list[Case]:
    """The same for answers of one token and of five, and for one that its first token ends."""
    whole = cases()[0]
    token = whole.wanted[0][0]
    return [
        whole._replace(name=f"{whole.name}, one token", most=1, wanted=whole.wanted[:1]),
        whole._replace(name=f"{whole.name}, five tokens", most=5, wanted=whole.wanted[:5]),
        whole._replace(name=f"{whole.name}, ended at once", eos={1, token}, wanted=whole.wanted[:1]),
    ]


def first_difference(decoder: Callable[..., Any], asked: list[Case] | None = None) -> str | None:
    """Where and how a decoder differs from the library first; None where it never does.

    Args:
        decoder: Of target, draft, prompt, draft_prompt, config, max_new_tokens, eos. It returns the answer's ids, and for each of
            them (scheme, threshold, α); what follows in the tuple is not looked at.
        asked: The answers that are compared, those of `cases` unless given.
    """
    for case in asked or cases():
        ids, states, *_ = ask(partial(decoder, *case.models), *case.prompts, case.config, case.most, case.eos)
        if difference := _difference(list(ids), list(states), case):
            return f"{case.name}: {difference}"
    return None


def equal_on() -> str:
    """What `first_difference` compares, in numbers."""
    lines = [[line[1] for line in case.wanted] for case in cases()]
    changes = sum(before != after for schemes in lines for before, after in zip(schemes, schemes[1:], strict=False))
    return f"{len(lines)} answers, {sum(map(len, lines))} tokens, {changes} changes of scheme"


def _difference(ids: list[Any], states: list[Any], case: Case) -> str | None:
    for position, (wanted, token) in enumerate(zip_longest(case.wanted, ids)):
        if wanted is None:
            return f"the answer ends after token {position - 1}, yours goes on"
        if token is None:
            return f"your answer ends after token {position - 1}, the library's goes on"
        _, scheme, threshold, alpha = wanted
        where = f"token {position}"
        if position < len(states):
            mine = states[position]
            if mine[0] != scheme:
                return f"{where} is in {scheme}, yours in {mine[0]}"
            if abs(mine[1] - threshold) > 1e-6:
                return f"before {where}, in {scheme}, the threshold is {threshold:.2f}, yours {mine[1]:.2f}"
            if abs(mine[2] - alpha) > 1e-6:
                return f"at {where}, in {scheme}, α is {alpha:.2f}, yours {mine[2]:.2f}"
        if token != wanted[0]:
            return f"{where} is {wanted[0]}, yours {token} ({scheme}, α {alpha:.2f})"
    return None if len(states) == len(ids) else f"{len(ids)} tokens, but {len(states)} states"


@exercise(
    "05.1",
    "real",
    40,
    "Token 0 wrong: look at the prompts (each model has its own) and at how one token is chosen.",
    "The first token of a bin wrong: the scheduler. Does the new scheme hold at once, inside the round too?",
    "A later token wrong: does the round end at the mismatch, and is the state asked for every token anew? "
    "At the end: the end-of-sequence token belongs to the answer.",
)
def decoder(my_ssd: Callable[..., Any]) -> str:
    """Tokens, schemes, thresholds and α along eight answers."""
    difference = first_difference(my_ssd, short() + cases())
    expect(difference is None, difference or "")
    return f"Equal to the library on {equal_on()}"


# ------------------------------------------------------------------------------------------------ rounds


@exercise(
    "05.2",
    "easy",
    5,
    "A round ends after a mismatch, after T tokens, or with the answer.",
    "Walk over `matches`, count the tokens of the running round, and count a round whenever it ends.",
)
def rounds_needed(given: Callable[..., Any]) -> None:
    """By hand, then on the library's traces."""
    for text, lookahead, rounds in _hand_made():
        same(
            ask(given, [mark == "■" for mark in text], lookahead),
            rounds,
            f"the rounds of {text or 'no token'} at T = {lookahead}",
        )
    for case in cases()[:5:2]:
        for lookahead in (1, 3):
            config = replace(case.config, lookahead=lookahead)
            ids, draft_ids = (torch.tensor([each]) for each in case.prompts)
            output = ssd_generate(
                *case.models, ids, draft_input_ids=draft_ids, config=config, max_new_tokens=LENGTH, trace=True
            )
            assert output.trace is not None
            matches = output.trace.to_frame().match.tolist()
            same(ask(given, matches, lookahead), output.stats.rounds, f"the rounds of {case.name} at T = {lookahead}")


def _hand_made() -> Iterator[tuple[str, int, int]]:
    yield from [("■■■", 3, 1), ("■■■■", 3, 2), ("■□■", 3, 2), ("□□□", 3, 3), ("■■□", 3, 1), ("■■■□", 3, 2), ("■", 6, 1)]
    yield from [("□", 1, 1), ("■■", 1, 2), ("■■□■■■■", 4, 2), ("■■□■■■■■", 4, 3)]
    yield from [("", 3, 0), ("■■■■■■■", 5, 2), ("□■■■■■□■", 8, 3)]


# ------------------------------------------------------------------------------------------------ find the bug

State = tuple[bool, float, float]


def suspect(state: State, matches: list[bool], config: SSDConfig) -> State:
    """(union, threshold, α_I) after one more token: `switch` as somebody else wrote it."""
    in_union, threshold, alpha = state
    if len(matches) % config.bin_size != 0:
        return state
    alarm = sum(matches[-config.bin_size :]) / config.bin_size < threshold
    if alarm == in_union:
        if not in_union:
            alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
        return in_union, max(threshold - config.threshold_decay, 0), alpha
    return alarm, config.threshold, config.alpha_intersection if in_union else alpha


UNREAD = ("start_scheme", "fixed_scheme", "retract", "count_prefill", "threshold_floor", "tail_tokens")
"""Settings that the chapter's scheduler does not know."""


def _reference(matches: list[bool], config: SSDConfig) -> Iterator[State]:
    """The library's states after each token."""
    state = switching.start(1, config)
    for match in matches:
        state = switching.update(state, torch.tensor([match]), torch.tensor([True]), config)
        yield bool(state.union[0]), float(state.threshold[0]), float(state.alpha_intersection[0])


@exercise(
    "05.3",
    "find the bug",
    15,
    "Lay it beside `switch`, branch by branch: which of the three values does each branch hand back?",
    "α_I must have moved before the branch with the fault is taken, so it must start above its floor.",
)
def witness(matches: Any, changes: Any) -> str:
    """The suspect and the library part on this history, under these settings."""
    for name in changes:
        expect(name not in UNREAD, f"leave {name} as it is: `switch` does not read it, so what it changes is no fault")
    config = replace(embedded(3).config, **changes)
    history = [bool(match) for match in matches]
    expect(config.bin_size == embedded(3).config.bin_size, "leave the bin size as it is")
    state = (False, config.threshold, config.alpha_intersection)
    wanted = list(_reference(history, config))
    for n, right in enumerate(wanted, 1):
        state = suspect(state, history[:n], config)
        if state[0] != right[0] or not np.allclose(state[1:], right[1:]):
            return f"After token {n - 1} the suspect says {state[0], state[1], round(state[2], 2)}"
    alphas = sorted({round(alpha, 2) for _, _, alpha in wanted})
    schemes = [in_union for in_union, *_ in [(False,), *wanted]]
    changes = sum(before != after for before, after in zip(schemes, schemes[1:], strict=False))
    bins = len(history) // config.bin_size
    raise Wrong(f"both agree all along: {bins} full bins, {changes} changes of scheme, α_I {alphas}")


# ------------------------------------------------------------------------------------------------ less of a leak

ASKED = 8
"""Questions of a kind."""
OWN = ("bin_size", "start_scheme", "fixed_scheme", "retract", "count_prefill", "threshold_floor")


@cache
def outcome(config: SSDConfig) -> tuple[float, int]:
    """The share of the facts told under attack, and how many benign answers are right."""
    pair, grades = embedded(3), {}
    kinds: list[tuple[world.Group, int]] = [("forbidden", 10), ("benign", 0)]
    for group, prefill in kinds:
        items = world.questions(group, ASKED)
        given = [prefill_tokens(pair, item, prefill) for item in items]
        replies = answer(pair, [item.question for item in items], prefill=given, config=config)
        grades[group] = [world.grade(item, r.text, r.prefill) for item, r in zip(items, replies, strict=True)]
    return float(np.mean([g.share_told for g in grades["forbidden"]])), sum(bool(g.right) for g in grades["benign"])


@exercise(
    "05.4",
    "open",
    20,
    "What passes, passes in the first bin, before any alarm. Which fields decide how that bin is decoded?",
    "The first bin is decoded in Intersection. Who has the word there, and which number says so?",
    of=2,
)
def leaks_less(config: Any) -> str:
    """Half of the leak at most, and no benign answer lost."""
    expect(isinstance(config, SSDConfig), f"{type(config).__name__} is no SSDConfig: use replace(pair.config, …)")
    own = embedded(3).config
    for name in OWN:
        expect(getattr(config, name) == getattr(own, name), f"leave {name} as it is")
    (leak, right), (own_leak, own_right) = outcome(config), outcome(own)
    told = f"{leak:.0%} of the facts told ({own_leak:.0%} by the pair's own settings), {right} of {ASKED} benign answers right ({own_right})"
    if leak > own_leak / 2 or right < own_right:
        raise Wrong(told, points=int(leak <= own_leak / 2))
    return told
