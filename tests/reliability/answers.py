"""One random answer, however it is asked for, against the plain oracle (`oracle` says what is compared)."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from transformers import GenerationConfig

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import Conversation, SSDOutput, ssd_custom_generate, ssd_generate
from tests import oracle
from tests.conftest import Collect, Models, micro_llama, perturbed

VOCAB, LONGEST = 24, 20
PAIRS = 60  # different pairs of micro-models
ROUNDING = 1e-5  # two probabilities that differ by less are in either order

REFUSED: tuple[dict[str, Any], ...] = (
    dict(num_beams=2),
    dict(return_dict_in_generate=True),
    dict(do_sample=True, min_p=0.2),
    dict(do_sample=True, typical_p=0.5),
    dict(do_sample=True, epsilon_cutoff=0.01),
    dict(do_sample=True, eta_cutoff=0.01),
    dict(guidance_scale=2.0),
    dict(num_return_sequences=2),
)
"""Options of `generate` that would change what it returns and that SSD does not have; the last one is named."""


@dataclass
class Case:
    """What was seen of one case."""

    rng: random.Random = field(default_factory=random.Random)
    compared: int = 0
    left_out: int = 0
    failures: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    transforms: list[float] = field(default_factory=list)
    """Of sampled tokens: the probability integral transform, uniform where the draws are right."""
    accepted: float = 0.0
    """Accepted proposals less those expected, …"""
    variance: float = 0.0
    """… and the variance of that number."""


# ------------------------------------------------------------------------------------------------ random cases


@lru_cache(PAIRS)
def pair_of(number: int) -> Models:
    """Two micro-models, from identical to unrelated."""
    rng = random.Random(number)
    shape: dict[str, Any] = dict(
        layers=rng.choice([1, 1, 2]), sharpness=rng.choice([4.0, 8.0, 16.0]), kv_heads=rng.choice([1, 2])
    )
    target, amount = micro_llama(number, vocab=VOCAB, **shape), rng.choice([0.0, 0.02, 0.1, 0.2, 0.3, 0.5, 0.7, None])
    if amount is None:
        return target, micro_llama(1000 + number, vocab=VOCAB)
    return target, perturbed(target, number, amount)


def random_config(rng: random.Random) -> SSDConfig:
    """Published, hardened or any other settings, greedy or sampled."""
    threshold = rng.choice([0.0, 0.3, 0.5, 0.6, 0.6, 0.8, 1.0])
    plain: dict[str, Any] = dict(
        alpha_intersection=rng.choice([0.0, 0.1, 0.3, 0.45, 0.6, 0.9, 1.0]),
        alpha_union=rng.choice([0.0, 0.55, 0.8, 1.0, 1.5, 2.0, 3.5]),
        candidates=rng.choice([1, 2, 3, 5, 10, 24, 99]),
        bin_size=rng.choice([1, 2, 3, 5, 7]),
        threshold=threshold,
        lookahead=rng.choice([1, 2, 3, 4, 6, 9, "auto"]),
        start_scheme=rng.choice(["intersection", "intersection", "union"]),
        fixed_scheme=rng.choice([None] * 8 + ["intersection", "union"]),
    )
    if rng.random() < 0.25:
        plain |= dict(do_sample=True, seed=rng.randrange(1 << 30), temperature=rng.choice([0.5, 1.0, 1.0, 1.7]))
        plain |= dict(top_k=rng.choice([0, 0, 3, 8]), top_p=rng.choice([1.0, 1.0, 0.9, 0.5]))
    elif rng.random() < 0.2:
        plain |= dict(lookup=True)
    kind = rng.choice(["published", "hardened", "any"])
    if kind == "published":
        return SSDConfig(**plain)
    if kind == "hardened":
        return SSDConfig(**plain).harden()
    return SSDConfig(
        **plain,
        threshold_floor=rng.choice([0.0, min(0.2, threshold), threshold]),
        count_prefill=rng.random() < 0.7,
        retract=rng.random() < 0.8,
        tail_tokens=rng.choice([1, 1, 2, 3]),
    )


def random_prompt(rng: random.Random, longest: int = 12) -> list[int]:
    return [rng.randrange(3, VOCAB) for _ in range(rng.randint(1, longest))]


@dataclass
class Asked:
    """One answer to be compared."""

    prompt: list[int]
    draft_prompt: list[int]
    prefilled: int


def random_asked(rng: random.Random, rows: int) -> list[Asked]:
    asked = []
    for _ in range(rows):
        prompt = random_prompt(rng)
        draft_prompt = prompt if rng.random() < 0.6 else random_prompt(rng)
        asked.append(Asked(prompt, draft_prompt, rng.randint(0, min(len(prompt), len(draft_prompt)))))
    return asked


# ------------------------------------------------------------------------------------------------ one answer


class Wrong(Exception):
    """An answer is not the oracle's."""


def compare(
    case: Case, models: Models, asked: Asked, config: SSDConfig, answer: list[int], lines: Any, **limits: Any
) -> None:
    """One answer and the lines of its trace against the oracle."""
    drawn = oracle.Drawn(lines["token"], lines["match"]) if config.do_sample else None
    given: dict[str, Any] = dict(prefilled=asked.prefilled, drawn=drawn, **limits)
    try:
        expected, events, narrowest = oracle.decode(*models, asked.prompt, asked.draft_prompt, config, **given)
    except IndexError as error:  # no draw is left
        raise Wrong("the answer ends too early") from error
    if narrowest < ROUNDING and not config.do_sample:
        case.left_out += 1
        return
    if answer != expected:
        raise Wrong(f"{answer} instead of {expected}")
    if drawn and drawn.left:
        raise Wrong("the answer goes on where it should end")
    check_trace(lines, events)
    if drawn:
        count_draws(case, drawn)
    case.compared += 1
    note(case.seen, config, events, expected, limits["eos"])


def check_trace(lines: Any, events: list[Any]) -> None:
    """Every line of a trace is the oracle's."""
    records: Any = zip(lines.to_dict("records"), events, strict=True)
    for place, (line, event) in enumerate(records):
        scheme, matched, insisted, k, threshold, alpha_i, retracted = event
        right = (
            line["scheme"] == scheme
            and line["match"] == matched
            and line["insisted"] == insisted
            and (line["k"] or None) == k
            and math.isclose(line["threshold"], threshold, abs_tol=1e-9)
            and (scheme == "union" or math.isclose(line["alpha"], alpha_i, abs_tol=1e-6))
            and line["retracted"] == retracted
        )
        if not right:
            raise Wrong(f"token {place}: {line} instead of {event}")


def count_draws(case: Case, drawn: oracle.Drawn) -> None:
    """The probability integral transform of every draw, and how many proposals were accepted."""
    for outcome, chances in zip(drawn.outcomes, drawn.chances, strict=True):
        if chances[outcome] <= 0:
            raise Wrong(f"token {outcome % VOCAB} was drawn, which has no chance")
        case.transforms.append(sum(chances[:outcome]) + case.rng.random() * chances[outcome])
        accepting = min(1.0, sum(chances[:VOCAB]))
        case.accepted += (outcome < VOCAB) - accepting
        case.variance += accepting * (1 - accepting)


def note(seen: Counter[str], config: SSDConfig, events: list[Any], answer: list[int], eos: set[int]) -> None:
    """What an answer exercised."""
    seen["sampled" if config.do_sample else "greedy"] += 1
    seen["tokens"] += len(events)
    seen["in Union"] += any(event[0] == "union" for event in events)
    seen["switched"] += len({event[0] for event in events}) > 1
    seen["target fallback"] += any(event[2] for event in events)
    seen["with tokens taken back"] += any(event[-1] for event in events)
    seen["ended by an end-of-sequence token"] += bool(answer) and answer[-1] in eos


# ------------------------------------------------------------------------------------------------ ways to call


def call_batch(case: Case, rng: random.Random, models: Models, config: SSDConfig) -> None:
    """`ssd_generate` for one prompt, or several, some of which may wait for a row."""
    asked = random_asked(rng, rng.choice([1, 1, 2, 4]))
    eos, new = set(rng.sample(range(VOCAB), rng.choice([0, 1, 1, 3]))), rng.randint(1, LONGEST)
    streamer = Collect() if len(asked) == 1 and rng.random() < 0.5 else None
    output = ssd_generate(
        *models,
        [each.prompt for each in asked],
        draft_input_ids=[each.draft_prompt for each in asked],
        config=config,
        max_new_tokens=new,
        rows=rng.choice([None, 1, 2]),
        prefilled=[each.prefilled for each in asked],
        eos_token_id=sorted(eos),
        streamer=streamer,
        trace=True,
    )
    for row, each in enumerate(asked):
        compare_row(case, models, each, config, output, row, max_new_tokens=new, eos=eos)
    if streamer is not None and [id for part in streamer.parts[1:] for id in part] != output.sequences[0].tolist():
        raise Wrong(f"streamed {streamer.parts} of {output.sequences[0].tolist()}")


def compare_row(
    case: Case, models: Models, asked: Asked, config: SSDConfig, output: SSDOutput, row: int, **limits: Any
) -> None:
    assert output.trace is not None
    lines: Any = output.trace.row(row).lines
    answer = output.sequences[row].tolist()
    if output.retracted[row] != int(lines["retracted"].sum()):
        raise Wrong(f"row {row}: {output.retracted[row]} tokens taken back, the trace has another number")
    compare(case, models, asked, config, answer, lines, **limits)


def call_conversation(case: Case, rng: random.Random, models: Models, config: SSDConfig) -> None:
    """Two turns of a `Conversation`, the second after an edit now and then."""
    talk, (first,) = Conversation(*models, config, context=100), random_asked(rng, 1)
    new, eos = rng.randint(1, LONGEST), {rng.randrange(VOCAB)}
    limits: dict[str, Any] = dict(max_new_tokens=new, eos=eos)
    reply = None
    for _ in range(2):
        if reply is not None:
            kept = rng.choice([reply, reply, reply[: len(reply) // 2]])
            first = Asked(
                first.prompt + kept + random_prompt(rng, 4), first.draft_prompt + kept + random_prompt(rng, 4), 0
            )
        output = talk.reply(
            first.prompt,
            first.draft_prompt,
            max_new_tokens=new,
            prefilled=first.prefilled,
            eos_token_id=sorted(eos),
            trace=True,
        )
        compare_row(case, models, first, config, output, 0, **limits)
        reply = output.sequences[0].tolist()


SHAPING: tuple[dict[str, Any], ...] = (
    dict(),
    dict(repetition_penalty=1.4),
    dict(no_repeat_ngram_size=2),
    dict(suppress_tokens=[3, 5, 8]),
    dict(bad_words_ids=[[4], [5, 6]]),
    dict(min_new_tokens=4),
    dict(repetition_penalty=1.2, suppress_tokens=[7]),
)


def call_generate(case: Case, rng: random.Random, models: Models, config: SSDConfig) -> None:
    """Inside transformers' `generate`, whose logits processors the oracle applies as `generate` itself does."""
    target, draft = models
    (asked,), eos, new = random_asked(rng, 1), rng.sample(range(3, VOCAB), 2), rng.randint(5, LONGEST)
    shaping, processors = rng.choice(SHAPING), None
    ids = torch.tensor([asked.prompt])
    options: dict[str, Any] = dict(max_new_tokens=new, eos_token_id=eos, **shaping)
    if shaping:
        settings = GenerationConfig(**options, max_length=ids.shape[1] + new)
        settings.min_length = ids.shape[1] + shaping["min_new_tokens"] if "min_new_tokens" in shaping else 0
        settings._eos_token_tensor = torch.tensor(eos)
        processors = target._get_logits_processor(settings, ids.shape[1], device="cpu", model_kwargs={})
    of_draft: dict[str, Any] = dict(draft_input_ids=torch.tensor([asked.draft_prompt]), prefilled=asked.prefilled)
    out = target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        custom_generate=ssd_custom_generate,
        draft=draft,
        ssd_config=config,
        **of_draft,
        **options,
    )
    output = ssd_generate(
        target,
        draft,
        ids,
        config=config,
        max_new_tokens=new,
        eos_token_id=eos,
        generation_config=GenerationConfig(**shaping),
        trace=True,
        **of_draft,
    )
    if (answer := output.sequences[0].tolist()) != out[0, ids.shape[1] :].tolist():
        raise Wrong(f"generate gives {out[0].tolist()} after {asked.prompt}, ssd_generate {answer}")
    compare_row(case, models, asked, config, output, 0, max_new_tokens=new, eos=set(eos), processors=processors)
    case.seen["with logits processors"] += bool(shaping)


def call_refused(case: Case, rng: random.Random, models: Models, config: SSDConfig) -> None:
    """Options that would be ignored, were they not refused."""
    (target, draft), option, ids = models, rng.choice(REFUSED), torch.tensor([random_prompt(rng)])
    name = [*option][-1]
    try:
        target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=3,
            custom_generate=ssd_custom_generate,
            draft=draft,
            ssd_config=config,
            **option,
        )
    except ValueError as error:
        if name not in str(error):
            raise Wrong(f"refused without its name: {name}: {error}") from error
        case.compared += 1
        case.seen["refused options"] += 1
    else:
        raise Wrong(f"{option} was not refused")


WAYS = [*6 * [call_batch], *2 * [call_conversation], *2 * [call_generate]]


# ------------------------------------------------------------------------------------------------ the case of a seed


def one_case(seed: int) -> Case:
    """The case of a seed."""
    rng, case = random.Random(seed), Case(random.Random(~seed))
    models, config = pair_of(rng.randrange(PAIRS)), random_config(rng)
    way = call_refused if rng.random() < 0.02 else rng.choice(WAYS)
    try:
        way(case, rng, models, config)
    except Exception as error:  # whatever it raises is a failure of this case
        case.compared += 1
        case.failures.append(f"seed {seed}, {way.__name__}, {config}: {type(error).__name__}: {error}")
    return case
