"""One row on a CPU: no draft step that is not needed, guessing stops where it does not pay, and the tokens stay the same."""

import random
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from conftest import perturbed_pairs
from hypothesis import given, settings

from ssd_lib import switching
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.decoding.generate import begin
from ssd_lib.decoding.patience import MOST, PRIOR, SIZES, Patience
from ssd_lib.decoding.stepwise import StepwiseDecoder
from ssd_lib.synthetic import synthetic_pair, synthetic_prompt

COLUMNS = ["token", "proposal", "match", "scheme", "k", "threshold", "alpha", "match_ratio", "insisted"]


@pytest.fixture(scope="module")
def pairs():
    return perturbed_pairs()


@pytest.mark.parametrize("alpha_union", [0.8, 1.0, 2.0])
@pytest.mark.parametrize("lookahead", [1, 2, 5, "auto"])
def test_what_is_not_decided_because_both_agree_is_what_would_have_been_decided(pairs, lookahead, alpha_union):
    """Without a trace positions where the favourites agree are taken over; with one, all of them are decided."""
    rng, agreed = random.Random(4), 0
    for target, draft in pairs:
        for start_scheme in ("intersection", "union"):
            config = SSDConfig(
                candidates=5, bin_size=4, alpha_union=alpha_union, lookahead=lookahead, start_scheme=start_scheme
            )
            ids = torch.tensor([[rng.randrange(3, 24) for _ in range(5)]])
            options = dict(config=config, max_new_tokens=40, eos_token_id=[4, 17])
            traced = ssd_generate(target, draft, ids, **options)
            plain = ssd_generate(target, draft, ids, **options, trace=False)
            assert torch.equal(traced.sequences[0], plain.sequences[0])
            assert traced.stats.match_ratio == plain.stats.match_ratio
            frame = traced.trace.frame
            agreed += sum(t[0] == d[0] for t, d in zip(frame.target_top, frame.draft_top, strict=True))
    assert agreed > 20


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 9), st.booleans(), st.data())
def test_matches_in_a_row_are_updates_one_by_one(before, tokens, bin_size, union, data):
    config = SSDConfig(bin_size=bin_size, start_scheme="union" if union else "intersection", alpha_intersection=0.9)
    state, active = switching.start(1, config), torch.ones(1, dtype=torch.bool)
    for _ in range(before):
        state = switching.update(state, torch.tensor([data.draw(st.booleans())]), active, config)
    one_by_one = state
    for _ in range(tokens):
        one_by_one = switching.update(one_by_one, active, active, config)
    for mine, other in zip(switching.matches_in_a_row(state, tokens, config), one_by_one, strict=True):
        assert torch.equal(mine, other)


def test_a_draft_step_a_guess_and_one_for_the_beginning():
    """Where everything matches, reading ahead saves the step that SSD needs beyond speculative decoding."""
    target, draft = synthetic_pair("micro", 1.0)
    options = dict(max_new_tokens=40, eos_token_id=[], trace=False)
    stats = ssd_generate(target, draft, synthetic_prompt(512, 8), config=SSDConfig(lookahead=4), **options).stats
    assert [positions for positions, _, _ in stats.schedule] == [4] * 10
    assert [steps for _, steps, _ in stats.schedule] == [4] + [3] * 9


def test_a_mismatch_ends_a_round_before_the_draft_s_last_step():
    target, draft = synthetic_pair("micro", 0.0)
    options = dict(config=SSDConfig(lookahead=4), max_new_tokens=20, eos_token_id=[], trace=False)
    stats = ssd_generate(target, draft, synthetic_prompt(512, 8), **options).stats
    assert {tokens for _, _, tokens in stats.schedule} == {1}
    assert all(steps <= 3 for _, steps, _ in stats.schedule)


def test_nothing_is_guessed_behind_the_end_of_an_answer():
    target, draft = synthetic_pair("micro", 1.0)
    ids = synthetic_prompt(512, 8)
    answer = ssd_generate(target, draft, ids, max_new_tokens=9, eos_token_id=[]).sequences[0].tolist()
    config = SSDConfig(lookahead=20)
    output = ssd_generate(target, draft, ids, config=config, max_new_tokens=40, eos_token_id=answer[5], trace=False)
    assert output.sequences[0].tolist() == answer[:6]
    assert output.stats.draft_forwards == 7 and output.stats.rounds == 1  # 6 steps and the prompt


def test_the_limit_of_tokens_ends_an_answer_within_agreement():
    target, draft = synthetic_pair("micro", 1.0)
    for limit in (1, 2, 7, 8, 11):
        output = ssd_generate(
            target, draft, synthetic_prompt(512, 8), max_new_tokens=limit, eos_token_id=[], trace=False
        )
        assert len(output.sequences[0]) == limit


def test_with_a_trace_rounds_repeat(pairs):
    target, draft = pairs[1]
    ids = torch.tensor([[3, 5, 8]])
    runs = [ssd_generate(target, draft, ids, max_new_tokens=40, eos_token_id=[]) for _ in range(3)]
    assert len({run.stats.schedule for run in runs}) == 1
    assert runs[0].trace.frame["round"].equals(runs[2].trace.frame["round"])
    fixed = ssd_generate(target, draft, ids, config=SSDConfig(lookahead=3), max_new_tokens=40, eos_token_id=[])
    assert runs[0].trace.frame[COLUMNS].equals(fixed.trace.frame[COLUMNS])


def test_one_greedy_row_on_a_cpu_is_decoded_stepwise(pairs):
    from ssd_lib.decoding.cached_model import CachedModel

    for rows, sampling, stepwise in [(1, False, True), (2, False, False), (1, True, False)]:
        prompts, lengths = torch.ones(rows, 3, dtype=torch.long), torch.full((rows,), 3)
        models = tuple(CachedModel(model, prompts, lengths, 60) for model in pairs[0])
        config = replace(SSDConfig(), do_sample=sampling)
        decoder = begin(models, (prompts[:, -1], prompts[:, -1].clone()), config, 5, [])
        assert isinstance(decoder, StepwiseDecoder) is stepwise


# ------------------------------------------------------------------------------------------------ when to stop


def live(patience, holds, step, passes, rounds, confident):
    """Rounds of a draft whose guesses hold with these probabilities by confidence; returns tokens a second."""
    rng, tokens, seconds, patience.clock = random.Random(0), 0, 0.0, lambda: 0.0
    for _ in range(rounds):
        confidences, held = [], []
        while len(confidences) < MOST - 1 and patience.another(confidences):
            patience.stepped(step)
            confidences.append(confident(rng))
        positions = len(confidences) + 1
        patience.passed(positions, passes(positions))
        confidences.append(confident(rng))
        for confidence in confidences:
            held.append(rng.random() < holds(confidence))
            if not held[-1]:
                break
        patience.observe(confidences, held, positions)
        tokens += len(held)
        seconds += step * max(positions - 1, 1) + passes(positions)
    return tokens / seconds


@pytest.mark.parametrize("match_ratio", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("step", [0.05, 0.15, 0.6])
def test_patience_finds_nearly_the_best_number_of_guesses(match_ratio, step):
    """A draft that is always equally sure: the best fixed number of guesses is known by counting."""

    def passes(positions):
        return 1.0 if positions <= 3 else 1.7  # a CPU's step behind three tokens

    best = max(sum(match_ratio**i for i in range(g + 1)) / (step * max(g, 1) + passes(g + 1)) for g in range(MOST))
    patience = Patience(draft_cost=step)
    live(patience, lambda _: match_ratio, step, passes, 100, lambda rng: 0.5)
    assert live(patience, lambda _: match_ratio, step, passes, 1500, lambda rng: 0.5) > 0.87 * best


def test_a_draft_that_knows_when_it_is_sure_is_worth_more_than_one_that_does_not():
    sure, unsure = 0.98, 0.5
    knows = live(Patience(0.3), lambda c: 1.0 if c == sure else 0.3, 0.3, lambda t: 1.0, 1500,
                 lambda rng: sure if rng.random() < 0.8 else unsure)  # fmt: skip
    does_not = live(Patience(0.3), lambda c: 0.86, 0.3, lambda t: 1.0, 1500, lambda rng: 0.7)
    assert knows > 1.1 * does_not


def test_costs_are_what_was_quickest_lately_and_what_is_not_known_is_tried():
    patience = Patience(draft_cost=0.2)
    assert patience.cost(0) == pytest.approx(1.2) and patience.cost(1) > 1.2
    patience.passed(3, 500.0), patience.passed(3, 10.0), patience.passed(3, 99.0)
    assert patience.pass_cost(3) == pytest.approx(11.0), "one interrupted pass must not decide"
    assert patience.pass_cost(SIZES[-1]) == patience.pass_cost(1) == patience.pass_cost(3)
    patience.passed(8, 500.0), patience.passed(8, 30.0)
    assert patience.pass_cost(3) < patience.pass_cost(6) < patience.pass_cost(8) == 30.0
    untimed = Patience(draft_cost=0.2, timed=False)
    untimed.passed(3, 10.0), untimed.stepped(7.0)
    assert untimed.cost(2) == Patience(draft_cost=0.2).cost(2)


def test_an_answer_half_forgets_the_one_before():
    patience = Patience(draft_cost=0.1)
    for _ in range(50):
        patience.observe([0.99], [True], 1)
    before = patience.match_ratio, patience.holds(0.99)
    patience.begin()
    assert PRIOR < patience.match_ratio < before[0] and PRIOR < patience.holds(0.99) < before[1]
