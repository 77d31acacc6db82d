"""One row on a CPU: no draft step that is not needed, guessing stops where it does not pay, and the tokens stay the same."""

import random
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from conftest import perturbed_pairs
from hypothesis import given

from benchmarks.synthetic import synthetic_pair, synthetic_prompt
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import decoder, ssd_generate
from ssd_lib.decoding.decoder import Decoder, StepwiseDecoder
from ssd_lib.method import switching

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
            options: dict[str, Any] = dict(config=config, max_new_tokens=40, eos_token_id=[4, 17])
            traced: Any = ssd_generate(target, draft, ids, **options, trace=True)
            plain = ssd_generate(target, draft, ids, **options)
            assert torch.equal(traced.sequences[0], plain.sequences[0])
            assert traced.stats.match_ratio == plain.stats.match_ratio
            frame = traced.trace.frame
            agreed += sum(t[0] == d[0] for t, d in zip(frame.target_top, frame.draft_top, strict=True))
    assert agreed > 20


@given(st.integers(0, 30), st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9), st.data())
def test_states_ahead_are_updates_one_by_one(before, would_match, bin_size, data):
    """The path of a round, found a bin at a time, is what `update` gives token by token."""
    config = SSDConfig(bin_size=bin_size, alpha_intersection=0.9, threshold_floor=0.2)
    state, active = switching.start(1, config), torch.ones(1, dtype=torch.bool)
    for _ in range(before):
        state = switching.update(state, torch.tensor([data.draw(st.booleans())]), active, config)
    path = switching.ahead(state, torch.tensor([would_match]), active, config)
    for place, matched in enumerate(would_match):
        here = switching.at(path, torch.tensor([place]))
        for name in ("union", "threshold", "alpha_intersection", "emitted"):
            assert torch.equal(getattr(here, name), getattr(state, name)), (place, name)
        if state.emitted % bin_size:  # at the beginning of a bin the old count is not looked at any more
            assert torch.equal(here.matches, state.matches), place
        state = switching.update(state, torch.tensor([matched]), active, config)
        after = switching.update(here, torch.tensor([matched]), active, config)
        assert all(torch.equal(mine, other) for mine, other in zip(after, state, strict=True))


def test_a_draft_step_a_guess_and_one_for_the_beginning():
    """Where everything matches, reading ahead saves the step that SSD needs beyond speculative decoding."""
    target, draft = synthetic_pair("micro", 1.0)
    options: dict[str, Any] = dict(max_new_tokens=40, eos_token_id=[])
    stats = ssd_generate(target, draft, synthetic_prompt(512, 8), config=SSDConfig(lookahead=4), **options).stats
    assert [positions for positions, _, _ in stats.schedule] == [4] * 10
    assert [steps for _, steps, _ in stats.schedule] == [4] + [3] * 9


def test_a_mismatch_ends_a_round_before_the_draft_s_last_step():
    target, draft = synthetic_pair("micro", 0.0)
    options: dict[str, Any] = dict(config=SSDConfig(lookahead=4), max_new_tokens=20, eos_token_id=[])
    stats = ssd_generate(target, draft, synthetic_prompt(512, 8), **options).stats
    assert {tokens for _, _, tokens in stats.schedule} == {1}
    assert all(steps <= 3 for _, steps, _ in stats.schedule)


def test_nothing_is_guessed_behind_the_end_of_an_answer():
    target, draft = synthetic_pair("micro", 1.0)
    ids = synthetic_prompt(512, 8)
    answer = ssd_generate(target, draft, ids, max_new_tokens=9, eos_token_id=[]).sequences[0].tolist()
    config = SSDConfig(lookahead=20)
    output = ssd_generate(target, draft, ids, config=config, max_new_tokens=40, eos_token_id=answer[5])
    assert output.sequences[0].tolist() == answer[:6]
    assert output.stats.draft_forwards == 7 and output.stats.rounds == 1  # 6 steps and the prompt


def test_the_limit_of_tokens_ends_an_answer_within_agreement():
    target, draft = synthetic_pair("micro", 1.0)
    for limit in (1, 2, 7, 8, 11):
        output = ssd_generate(target, draft, synthetic_prompt(512, 8), max_new_tokens=limit, eos_token_id=[])
        assert len(output.sequences[0]) == limit


def test_with_a_trace_rounds_repeat(pairs):
    target, draft = pairs[1]
    ids = torch.tensor([[3, 5, 8]])
    options: dict[str, Any] = dict(max_new_tokens=40, eos_token_id=[], trace=True)
    runs: Any = [ssd_generate(target, draft, ids, **options) for _ in range(3)]
    assert len({run.stats.schedule for run in runs}) == 1
    assert runs[0].trace.frame["round"].equals(runs[2].trace.frame["round"])
    fixed: Any = ssd_generate(target, draft, ids, config=SSDConfig(lookahead=3), **options)
    assert runs[0].trace.frame[COLUMNS].equals(fixed.trace.frame[COLUMNS])


def test_one_greedy_row_on_a_cpu_is_decoded_stepwise(pairs, monkeypatch):
    kinds = []
    settle = Decoder.settle
    monkeypatch.setattr(decoder.Decoder, "settle", lambda self, d: kinds.append(type(self)) or settle(self, d))
    for rows, sampling, kind in [(1, False, StepwiseDecoder), (2, False, Decoder), (1, True, Decoder)]:
        kinds.clear()
        config = replace(SSDConfig(), do_sample=sampling)
        target, draft = pairs[0]
        ssd_generate(target, draft, [[3, 5, 8]] * rows, config=config, max_new_tokens=5, eos_token_id=[])
        assert set(kinds) == {kind}
