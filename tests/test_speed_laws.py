"""What makes decoding fast must not change a token: shortlists, guesses from elsewhere, batching, conversations."""

import random
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from conftest import perturbed_pairs
from hypothesis import given

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import Conversation, decoder, ssd_generate
from ssd_lib.decoding.lookahead import ContextLookup
from ssd_lib.method.composite import (
    choose,
    choose_greedy,
    composite,
    intersection_space,
    mask_of,
    rank_tokens,
    search,
    target_fallback,
    union_space,
)

NEW, VOCAB = 20, 40


@pytest.fixture(scope="module")
def pairs():
    return perturbed_pairs()


# Few different values, so that ties are common, at the border of a head too.
distributions = (
    st.lists(st.integers(0, 6), min_size=VOCAB, max_size=VOCAB)
    .filter(any)
    .map(lambda counts: torch.tensor(counts).float() / sum(counts))
)


@given(distributions, distributions, st.booleans(), st.integers(1, 6), st.integers(1, VOCAB), st.floats(0, 3))
def test_a_head_that_is_enough_gives_the_choice_of_the_whole_vocabulary(target, draft, union, wanted, depth, alpha):
    ranks = rank_tokens(target[None]), rank_tokens(draft[None])
    mask, k = intersection_space(*ranks, wanted)
    mask = union_space(*ranks, wanted) if union else mask
    insisted = target_fallback(mask, ranks[0], torch.tensor([union]))
    expected = choose_greedy(composite(target[None], draft[None], torch.tensor([alpha])), mask, ranks[0], insisted)
    found = search(target[None], draft[None], torch.tensor([union]), wanted, depth)
    assert bool(found.enough) or depth < VOCAB, "the whole vocabulary is always enough"
    if found.enough:
        token, _ = choose(found, torch.tensor([alpha]))
        assert torch.equal(token, expected)
        assert torch.equal(mask_of(found, VOCAB), mask)
        assert int(found.k) == (0 if union else int(k)) and torch.equal(found.fallback, insisted)


def test_a_head_is_mostly_enough_where_the_lists_agree():
    target = torch.randn(50, 2000, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)
    draft = target.log().add(0.3 * torch.randn(50, 2000, generator=torch.Generator().manual_seed(1))).softmax(-1)
    assert search(target, draft, torch.zeros(50, dtype=torch.bool), 10, 64).enough.all()


def test_decoding_with_heads_too_short_asks_again_and_changes_nothing(pairs, monkeypatch):
    deeper, decide = [], decoder.Decoder.decide
    for target, draft in pairs:
        for config in (SSDConfig(candidates=5), SSDConfig(do_sample=True, seed=3, candidates=5)):
            monkeypatch.setattr(decoder, "DEPTHS", (24,))
            options: dict[str, Any] = dict(config=config, max_new_tokens=NEW, trace=True)
            whole: Any = ssd_generate(target, draft, torch.tensor([[3, 5], [7, 9]]), **options)
            monkeypatch.setattr(decoder, "DEPTHS", (5, 7, 24))
            monkeypatch.setattr(
                decoder.Decoder, "decide", lambda self, s, depth: deeper.append(depth) or decide(self, s, depth)
            )
            heads: Any = ssd_generate(target, draft, torch.tensor([[3, 5], [7, 9]]), **options)
            monkeypatch.setattr(decoder.Decoder, "decide", decide)
            if not config.do_sample:  # with sampling deciding again draws again
                assert [s.tolist() for s in heads.sequences] == [s.tolist() for s in whole.sequences]
                columns = ["token", "k", "match", "scheme", "insisted", "space"]
                assert heads.trace.frame[columns].equals(whole.trace.frame[columns])
    assert {5, 7, 24} <= set(deeper)


# ------------------------------------------------------------------------------------------------ who guesses, and how far


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("each", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_output_does_not_depend_on_auto_lookahead_or_on_lookup(pairs, each):
    rng = random.Random(1)
    looked_up = 0
    for target, draft in pairs:
        for _ in range(each):
            prompt = [rng.randrange(3, 24) for _ in range(6)]
            ids, config = torch.tensor([prompt * 3]), SSDConfig(candidates=5, bin_size=4)
            outputs: list[Any] = [
                ssd_generate(target, draft, ids, config=c, max_new_tokens=60, eos_token_id=[], trace=True)
                for c in (config, replace(config, lookahead="auto"), replace(config, lookahead="auto", lookup=True))
            ]
            first, *others = outputs
            columns = ["token", "proposal", "match", "scheme", "k", "threshold", "alpha", "match_ratio", "insisted"]
            for other in others:
                assert torch.equal(other.sequences[0], first.sequences[0])
                assert other.trace.frame[columns].equals(first.trace.frame[columns])
            looked_up += sum(steps == 1 < positions for positions, steps, _ in others[1].stats.schedule)
    assert looked_up > 3, "lookup never guessed: the law was not tested"


@pytest.mark.parametrize("right", [True, False])
def test_any_guess_may_be_given(pairs, right, monkeypatch):
    """Whoever guesses, right or wrong, the tokens and what counts as a match stay the same."""
    target, draft = pairs[1]
    ids, config = torch.tensor([[3, 5, 8]]), SSDConfig(candidates=5, lookup=True)
    options: dict[str, Any] = dict(max_new_tokens=NEW, eos_token_id=[], trace=True)
    plain: Any = ssd_generate(target, draft, ids, config=replace(config, lookup=False), **options)
    answer = plain.sequences[0].tolist()

    def guess(self, count):
        done = len(self.tokens) - 3
        true = (answer + [0] * count)[done : done + count]
        return true if right else [(token + 1) % 24 for token in true]

    monkeypatch.setattr(ContextLookup, "guess", guess)
    monkeypatch.setattr("ssd_lib.decoding.lookahead.Lookahead.best", lambda self, ratio, drafted: 3)
    monkeypatch.setattr("ssd_lib.decoding.lookahead.Lookahead.promise", lambda *_, drafted: 1e9 - drafted)
    guessed: Any = ssd_generate(target, draft, ids, config=config, **options)
    assert guessed.sequences[0].tolist() == answer
    assert guessed.trace.frame[["match", "proposal"]].equals(plain.trace.frame[["match", "proposal"]])
    assert guessed.stats.rounds == (NEW if not right else -(-NEW // 3))


def test_a_lookup_finds_what_followed_and_continues_loops():
    text = ContextLookup([1, 2, 3, 4, 5, 6, 7, 2, 3, 4])
    assert text.guess(3) == [5, 6, 7]
    assert text.guess(7) == [5, 6, 7, 2, 3, 4, 5]
    assert ContextLookup([1, 2, 3]).guess(2) is None
    loop = ContextLookup([9, 1, 1, 1, 1, 1])
    assert loop.guess(4) == [1, 1, 1, 1]


# ------------------------------------------------------------------------------------------------ many prompts, many turns


def random_prompts(rng, count):
    return [[rng.randrange(3, 24) for _ in range(rng.randint(1, 11))] for _ in range(count)]


@pytest.mark.parametrize("lookahead", [3, "auto"])
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_many_prompts_equal_single_calls(pairs, rows, lookahead):
    rng = random.Random(rows)
    target, draft = pairs[1]
    prompts, draft_prompts = random_prompts(rng, 7), random_prompts(rng, 7)
    config = SSDConfig(candidates=4, bin_size=3, lookahead=lookahead)
    options: dict[str, Any] = dict(config=config, max_new_tokens=NEW, eos_token_id=[4, 11, 17], trace=True)
    many: Any = ssd_generate(target, draft, prompts, draft_input_ids=draft_prompts, rows=rows, **options)
    lengths = set()
    for i, (prompt, draft_prompt) in enumerate(zip(prompts, draft_prompts, strict=True)):
        alone: Any = ssd_generate(
            target, draft, torch.tensor([prompt]), draft_input_ids=torch.tensor([draft_prompt]), **options
        )
        assert torch.equal(many.sequences[i], alone.sequences[0]), i
        columns = ["position", "token", "match", "scheme", "k", "threshold", "alpha"]
        assert many.trace.row(i).frame[columns].equals(alone.trace.frame[columns])
        lengths.add(len(alone.sequences[0]))
    assert len(lengths) > 2, "answers of one length never make room"
    assert many.stats.tokens == sum(map(len, many.sequences))


def test_finished_rows_leave(pairs):
    target, draft = pairs[0]
    rng, seen = random.Random(3), []
    hook = target.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"].shape), with_kwargs=True)
    options: dict[str, Any] = dict(config=SSDConfig(lookahead=3), max_new_tokens=NEW, eos_token_id=[4, 11, 17, 20])
    ssd_generate(target, draft, random_prompts(rng, 9), rows=4, **options)
    hook.remove()
    rows = [shape[0] for shape in seen if shape[1] == 3]
    assert rows[0] == 4 and rows[-1] < 4


def test_bad_batches_are_refused(pairs):
    target, draft = pairs[0]
    for prompts, options in [([], {}), ([[3], []], {}), ([[3]], dict(rows=0))]:
        with pytest.raises(ValueError, match="at least (one|1)"):
            ssd_generate(target, draft, prompts, max_new_tokens=4, **options)
    with pytest.raises(ValueError, match="1 and 2 rows"):
        ssd_generate(target, draft, [[3]], draft_input_ids=[[3], [4]], max_new_tokens=4)


def test_a_conversation_replies_like_single_calls_and_reads_only_what_is_new(pairs):
    target, draft = pairs[1]
    options: dict[str, Any] = dict(max_new_tokens=8, eos_token_id=[4])
    talk = Conversation(target, draft, SSDConfig(candidates=4), context=100)
    read = []
    hook = target.register_forward_pre_hook(lambda m, a, k: read.append(k["input_ids"].shape[1]), with_kwargs=True)
    prompt, draft_prompt = [5, 7, 9, 11, 3, 8], [6, 6, 3, 8]
    for turn in range(4):
        read.clear()
        reply = talk.reply(prompt, draft_prompt, **options)
        prompt_read = sum(read) - sum(positions for positions, _, _ in reply.stats.schedule)
        fresh = ssd_generate(
            target,
            draft,
            torch.tensor([prompt]),
            draft_input_ids=torch.tensor([draft_prompt]),
            config=SSDConfig(candidates=4),
            **options,
        )
        assert torch.equal(reply.sequences[0], fresh.sequences[0])
        assert prompt_read <= (5 if turn == 0 else 4)
        said = reply.sequences[0].tolist()
        prompt, draft_prompt = prompt + said + [12 + turn, 9], draft_prompt + said + [12 + turn, 9]
    edited = prompt[:4] + [20, 21]
    assert torch.equal(
        talk.reply(edited, **options).sequences[0],
        ssd_generate(target, draft, torch.tensor([edited]), config=SSDConfig(candidates=4), **options).sequences[0],
    )
    hook.remove()
    with pytest.raises(ValueError, match="this conversation holds"):
        talk.reply([3] * 95, max_new_tokens=8)


def test_a_conversation_survives_an_interruption(pairs):
    class Interrupt:
        count = 0

        def put(self, value):
            self.count += 1
            if self.count == 4:
                raise KeyboardInterrupt

        def end(self):
            pass

    target, draft = pairs[1]
    talk = Conversation(target, draft, context=60)
    before = talk.reply([3, 5, 8], max_new_tokens=8, eos_token_id=[]).sequences[0]
    with pytest.raises(KeyboardInterrupt):
        talk.reply([3, 5, 9], max_new_tokens=8, eos_token_id=[], streamer=Interrupt())
    assert torch.equal(talk.reply([3, 5, 8], max_new_tokens=8, eos_token_id=[]).sequences[0], before)


def test_long_prompts_are_read_in_chunks(pairs, monkeypatch):
    target, draft = pairs[2]
    ids = torch.randint(3, 24, (2, 61), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = dict(config=SSDConfig(lookahead=3), max_new_tokens=NEW)
    whole = ssd_generate(target, draft, ids, **options)
    monkeypatch.setattr("ssd_lib.decoding.kv_cache.CHUNK", 16)
    chunked = ssd_generate(target, draft, ids, **options)
    assert chunked.stats.target_forwards == whole.stats.target_forwards + 3
    assert all(torch.equal(a, b) for a, b in zip(whole.sequences, chunked.sequences, strict=True))
