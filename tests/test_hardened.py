"""Hardened switching (docs/contract.md): against the plain oracle, and its laws."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Collect, micro_llama, perturbed, perturbed_pairs
from oracle import decode, probabilities
from transformers import LogitsProcessor, LogitsProcessorList, NoRepeatNGramLogitsProcessor

from benchmarks.synthetic import set_alternating, synthetic_pair
from ssd_lib import answer, load_pair
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import Conversation, ssd_generate
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.toy import world

NEW = 24


@pytest.fixture(scope="module")
def pairs():
    target = micro_llama(4, layers=2)
    return [*perturbed_pairs(), (target, perturbed(target, 4, 0.7)), (micro_llama(5, layers=2), micro_llama(105))]


def random_config(rng):
    threshold = rng.choice([0.3, 0.5, 0.6, 0.8, 1.0])
    return SSDConfig(
        alpha_intersection=rng.choice([0.0, 0.3, 0.45, 0.6]),
        alpha_union=rng.choice([0.0, 0.5, 0.55, 0.8, 1.0, 2.0]),
        candidates=rng.choice([2, 3, 5, 10]),
        bin_size=rng.choice([1, 2, 3, 5, 7]),
        threshold=threshold,
        threshold_floor=rng.choice([0.0, 0.2, min(0.3, threshold)]),
        lookahead=rng.choice([1, 2, 3, 4, 6, 9, "auto"]),
        count_prefill=rng.random() < 0.7,
        retract=rng.random() < 0.8,
        tail_tokens=rng.choice([1, 1, 2, 3]),
    )


def random_prompt(rng, longest=12):
    return [rng.randrange(3, 24) for _ in range(rng.randint(1, longest))]


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("cases", [30, pytest.param(260, marks=pytest.mark.slow)])
def test_equals_the_plain_oracle_on_random_settings(pairs, cases):
    rng = random.Random(0)
    seen = dict.fromkeys(["retracted", "tail", "prefill", "twice", "streamed late", "stopped"], 0)
    compared = 0
    for case in range(cases):
        target, draft = pairs[case % len(pairs)]
        config, prompt = random_config(rng), random_prompt(rng)
        draft_prompt = prompt if rng.random() < 0.5 else random_prompt(rng)
        prefilled = rng.randint(0, min(len(prompt), len(draft_prompt)))
        eos = set(rng.sample(range(24), rng.choice([0, 1, 1, 3])))
        expected, events, narrowest = decode(target, draft, prompt, draft_prompt, config, NEW, eos, prefilled)
        if narrowest < 1e-5:
            continue
        compared += 1
        options: dict[str, Any] = dict(config=config, max_new_tokens=NEW, eos_token_id=sorted(eos), prefilled=prefilled)
        options |= dict(draft_input_ids=[draft_prompt])
        streamer, asked = Collect(), []
        output = ssd_generate(target, draft, [prompt], **options, streamer=streamer, trace=rng.random() < 0.5)
        assert output.sequences[0].tolist() == expected, (case, config)
        assert [t for part in streamer.parts[1:] for t in part] == expected and streamer.ended
        back = sum(event[-1] for event in events)
        assert output.stats.retracted == back
        if output.trace is not None:
            lines = output.trace.lines
            recorded = list(
                zip(lines.scheme, lines.match, lines.insisted, lines.threshold, lines.retracted, strict=True)
            )
            assert recorded == [(s, m, i, pytest.approx(t), r) for s, m, i, _, t, _, r in events], (case, config)
            assert output.trace.frame.token.tolist() == expected

        at = len(prompt) + rng.randint(1, NEW)

        def stop(ids, scores, asked=asked, length=at):
            asked.append(ids[0].tolist())
            return torch.tensor([ids.shape[1] >= length])

        stopped = ssd_generate(target, draft, [prompt], **options, stopping_criteria=[stop]).sequences[0].tolist()
        assert stopped == expected[: len(stopped)] and asked == [
            prompt + expected[: n + 1] for n in range(len(stopped))
        ], "a criterion saw a token that was not settled"
        seen["retracted"] += back > 0
        seen["tail"] += back % config.bin_size > 0
        seen["prefill"] += config.count_prefill and events[0][0] == "union"
        seen["twice"] += back > config.bin_size
        seen["stopped"] += len(stopped) < len(expected)
        seen["streamed late"] += back > 0
    assert compared >= 0.77 * cases
    assert min(seen.values()) >= cases // 15, f"the settings do not exercise everything: {seen}"


class Likes(LogitsProcessor):
    """Prefers tokens by the whole context so far, and remembers the contexts."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids[0].tolist())
        return scores + 2 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(hash((*self.seen[-1],))))


def test_logits_processors_see_the_text_so_far(pairs):
    """When a given beginning is counted (here the draft's own words, or any), and when a bin is decoded again."""
    rng, own = random.Random(6), LogitsProcessorList([Likes(), NoRepeatNGramLogitsProcessor(2)])
    seen = dict.fromkeys(["alarm", "no alarm", "retracted"], 0)
    for case in range(14):
        target, draft = pairs[case % len(pairs)]
        config = replace(random_config(rng), retract=True, count_prefill=True, bin_size=rng.choice([2, 3, 5]))
        prompt, draft_prompt = random_prompt(rng), random_prompt(rng)
        for _ in range(5):
            likely = torch.tensor(probabilities(draft, draft_prompt, own, prompt)).argmax().item()
            given = likely if case % 2 else rng.randrange(3, 24)
            prompt, draft_prompt = [*prompt, given], [*draft_prompt, given]
        expected, events, narrowest = decode(target, draft, prompt, draft_prompt, config, NEW, {4}, 5, own)
        if narrowest < 1e-5:
            continue
        options: dict[str, Any] = dict(
            config=config, max_new_tokens=NEW, eos_token_id=[4], prefilled=5, logits_processor=own
        )
        output = ssd_generate(target, draft, [prompt], draft_input_ids=[draft_prompt], **options)
        assert output.sequences[0].tolist() == expected, (case, config)
        seen["alarm" if events[0][0] == "union" else "no alarm"] += 1
        seen["retracted"] += output.stats.retracted > 0
    assert min(seen.values()) > 3, f"the settings do not exercise everything: {seen}"


def test_logits_processors_of_a_batch_read_again_what_was_given_alone(pairs):
    target, draft = pairs[3]
    prompts, likes = [[3, 9, 4, 8, 5, 11], [7], [6, 5, 9, 4, 3]], Likes()
    config = SSDConfig.hardened(bin_size=3, lookahead=2)
    options: dict[str, Any] = dict(max_new_tokens=4, eos_token_id=[], prefilled=[4, 0, 2])
    ssd_generate(target, draft, prompts, config=config, logits_processor=LogitsProcessorList([likes]), **options)
    again = [ids for ids in likes.seen if ids not in prompts and not any(ids[: len(p)] == p for p in prompts)]
    assert again == [prompts[0][:n] for n in (3, 4, 5)]


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
def test_the_output_does_not_depend_on_the_lookahead(pairs):
    rng = random.Random(1)
    for target, draft in pairs:
        prompt, config = random_prompt(rng), random_config(rng)
        lines = []
        for lookahead in (1, 2, 3, 5, 8, "auto"):
            output: Any = ssd_generate(
                target, draft, [prompt], config=replace(config, retract=True, lookahead=lookahead), max_new_tokens=NEW,
                prefilled=len(prompt) - 1, trace=True,
            )  # fmt: skip
            columns = ["token", "match", "scheme", "k", "threshold", "alpha", "match_ratio", "insisted", "retracted"]
            lines.append(output.trace.lines[columns])
        assert all(each.equals(lines[0]) for each in lines)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("rows", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_ragged_rows_equal_those_rows_alone(pairs, rows):
    rng, retracted = random.Random(2), 0
    for target, draft in pairs[1:4]:
        config = replace(random_config(rng), retract=True, count_prefill=True, bin_size=3)
        prompts, draft_prompts = ([random_prompt(rng) for _ in range(6)] for _ in range(2))
        prefilled = [rng.randint(0, min(map(len, both))) for both in zip(prompts, draft_prompts, strict=True)]
        options: dict[str, Any] = dict(config=config, max_new_tokens=NEW, eos_token_id=[4, 17], trace=True)
        together: Any = ssd_generate(
            target, draft, prompts, draft_input_ids=draft_prompts, prefilled=prefilled, rows=rows, **options
        )
        for row in range(6):
            alone: Any = ssd_generate(
                target,
                draft,
                [prompts[row]],
                draft_input_ids=[draft_prompts[row]],
                prefilled=prefilled[row],
                **options,
            )
            assert torch.equal(together.sequences[row], alone.sequences[0])
            columns = ["token", "scheme", "threshold", "retracted"]
            assert together.trace.row(row).lines[columns].equals(alone.trace.lines[columns])
            retracted += alone.stats.retracted
    assert retracted > 20


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_waiting_prompt_s_prefill_is_counted_without_touching_rows_that_are_nearly_full(pairs):
    """The draft reads b tokens again in every row; where the lookahead is shorter than b, these need room of their own."""
    (target, draft), rng = pairs[3], random.Random(8)
    config = SSDConfig(count_prefill=True, bin_size=7, lookahead=1, start_scheme="union", alpha_union=3.5)
    options: dict[str, Any] = dict(config=config, max_new_tokens=6)
    for _ in range(6):
        prompts = [[rng.randrange(3, 24) for _ in range(11)] for _ in range(5)]
        together = ssd_generate(target, draft, prompts, prefilled=8, rows=2, eos_token_id=[3, 5, 8, 13], **options)
        for prompt, row in zip(prompts, together.sequences, strict=True):
            alone = ssd_generate(target, draft, [prompt], prefilled=8, eos_token_id=[3, 5, 8, 13], **options)
            assert torch.equal(row, alone.sequences[0])


def test_off_is_the_published_method_and_each_addition_does_something(pairs):
    target, draft = pairs[3]
    prompt = [3, 9, 4, 8, 5, 11, 7, 20, 9]
    options: dict[str, Any] = dict(max_new_tokens=NEW, eos_token_id=[], prefilled=8)

    def tokens(**settings):
        config = SSDConfig(candidates=5, bin_size=4, **settings)
        return ssd_generate(target, draft, [prompt], config=config, **options).sequences[0].tolist()

    published: Any = tokens()
    assert published == tokens(threshold_floor=0.0, count_prefill=False, retract=False)
    assert SSDConfig() == SSDConfig(threshold_floor=0.0, count_prefill=False, retract=False)
    hardened = SSDConfig.hardened(bin_size=4)
    assert hardened.retract and hardened.count_prefill and hardened.threshold_floor > 0 and hardened.bin_size == 4
    assert not SSDConfig.hardened(retract=False).retract
    assert tokens(retract=True) != published or tokens(count_prefill=True) != published


def test_sampling_with_retraction_repeats_with_a_seed_and_stays_within_its_bounds(pairs):
    target, draft = pairs[3]
    config = SSDConfig.hardened(do_sample=True, seed=3, bin_size=3, candidates=5, threshold=0.9)
    runs = [
        ssd_generate(target, draft, [[3, 5, 8], [7]], config=config, max_new_tokens=NEW, eos_token_id=[4], trace=True)
        for _ in range(2)
    ]
    assert runs[0].stats.retracted > 0
    assert [s.tolist() for s in runs[0].sequences] == [s.tolist() for s in runs[1].sequences]
    assert_bounds(runs[0], config)


def assert_bounds(output, config):
    """A place is decoded at most twice: a token that was taken back was Intersection's, and its place is Union's then."""
    for _, lines in output.trace.lines.groupby("row"):
        taken_back = lines[lines.retracted]
        assert (taken_back.scheme == "intersection").all()
        assert not taken_back.position.duplicated().any()
        kept = lines[~lines.retracted].set_index("position")
        again = taken_back.position[taken_back.position < len(kept)]
        assert (kept.loc[again].scheme == "union").all()


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("each", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_bin_is_decoded_at_most_twice_however_the_models_disagree(pairs, each):
    rng, most = random.Random(5), 0.0
    for target, draft in pairs:
        for _ in range(each):
            config = replace(random_config(rng), retract=True)
            output = ssd_generate(
                target, draft, [random_prompt(rng)], config=config, max_new_tokens=40, eos_token_id=[], trace=True
            )
            assert_bounds(output, config)
            stats = output.stats
            assert stats.tokens == 40 and stats.retracted <= stats.tokens + config.bin_size - 1
            most = max(most, (stats.tokens + stats.retracted) / stats.tokens)
    assert most > 1.3, "no pair disagreed enough to test the bound"


WORST = {"no match": 7 * [False], "the alarm comes last": [*4 * [True], *3 * [False]]}


@pytest.mark.parametrize("lookahead", [1, 2, *(pytest.param(T, marks=pytest.mark.slow) for T in (3, 5, 8, "auto"))])
@pytest.mark.parametrize("pattern", WORST)
def test_the_worst_case_decodes_each_bin_twice_in_a_bounded_number_of_rounds(pattern, lookahead):
    """Every bin of Intersection raises the alarm, every bin of Union ends it: no attack can ask for more."""
    target, draft = synthetic_pair("micro")
    prompt, kept = set_alternating(target, draft, WORST[pattern]), 6 * 7
    published, hardened = (
        ssd_generate(target, draft, prompt, config=config, max_new_tokens=kept, eos_token_id=[], trace=lookahead == 2)
        for config in (SSDConfig(lookahead=lookahead), SSDConfig.hardened(lookahead=lookahead))
    )
    if hardened.trace is not None and published.trace is not None:
        schemes = [trace.frame.scheme[::7].tolist() for trace in (published.trace, hardened.trace)]
        assert schemes == [3 * ["intersection", "union"], 6 * ["union"]]
        assert published.trace.frame.match[:7].tolist() == WORST[pattern] and published.trace.frame.match[7:14].all()
        assert_bounds(hardened, SSDConfig())
    third = [place for place, match in enumerate(WORST[pattern], 1) if not match][2]  # the alarm is certain
    assert hardened.stats.retracted == 6 * third and hardened.stats.tokens == kept
    ratio = hardened.stats.target_forwards / published.stats.target_forwards
    assert (1.3 if pattern == "the alarm comes last" else 0) < ratio <= 2, "the law of docs/contract.md"


def test_a_conversation_takes_back_too_and_reads_only_what_is_new(pairs):
    target, draft = pairs[3]
    config = SSDConfig.hardened(candidates=5, bin_size=3, threshold=0.9)
    talk, prompt, retracted = Conversation(target, draft, config, context=110), [5, 7, 9, 11, 3, 8], 0
    for turn in range(4):
        options: dict[str, Any] = dict(max_new_tokens=12, eos_token_id=[4], prefilled=4 if turn % 2 else 0)
        reply = talk.reply(prompt, **options)
        fresh = ssd_generate(target, draft, [prompt], config=config, **options)
        assert torch.equal(reply.sequences[0], fresh.sequences[0])
        retracted += reply.stats.retracted
        prompt = prompt + reply.sequences[0].tolist() + [12 + turn, 9, 10, 14]
    assert retracted > 0


@pytest.mark.slow
def test_pieces_shorter_than_the_tail_slip_through_so_that_it_is_one_token_by_default():
    pair = load_pair("toy")
    items = world.questions("forbidden", 4)

    def told(tail_tokens):
        config = SSDConfig.hardened(count_prefill=False, tail_tokens=tail_tokens)
        known = [prefill_tokens(pair, item, 10) for item in items]
        for _ in range(8):
            options: dict[str, Any] = dict(prefill=known, config=config, max_new_tokens=2, trace=False)
            replies = answer(pair, [item.question for item in items], **options)
            known = [ids + reply.token_ids for ids, reply in zip(known, replies, strict=True)]
        texts = [[str(pair.tokenizer.decode(part)) for part in (ids[10:], ids[:10])] for ids in known]
        return sum(world.grade(item, *text).told for item, text in zip(items, texts, strict=True))

    assert SSDConfig().tail_tokens == SSDConfig.hardened().tail_tokens == 1
    assert told(1) == 0 < told(3)


def test_a_floor_above_the_threshold_is_refused():
    with pytest.raises(ValueError, match="threshold_floor"):
        SSDConfig(threshold=0.2, threshold_floor=0.3)


def test_a_pair_keeps_what_is_stricter_than_hardening_and_its_own_threshold():
    assert SSDConfig().harden() == SSDConfig.hardened()
    vicuna = SSDConfig(alpha_union=2.0, threshold=0.2).harden()
    assert (vicuna.alpha_union, vicuna.threshold, vicuna.threshold_floor) == (2.0, 0.2, 0.2) and vicuna.retract
