"""The cost model: its closed form, what it learns, and the synthetic pair that speed is measured on."""

import math
import random
from typing import Any

import pytest
import torch

from benchmarks.synthetic import BLOCK, PAIRS, Shape, set_match_ratio, synthetic_pair, synthetic_prompt
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.decoding.lookahead import (
    CHOICES,
    MOST,
    PRIOR,
    Costs,
    Lookahead,
    best_lookahead,
    tokens_per_round,
    weights_read,
)


@pytest.mark.parametrize("match_ratio", [0.1, 0.3, 0.6, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("cost_ratio", [1.5, 3.0, 7.0, 40.0, 1e6])
def test_the_closed_form_is_the_best_real_lookahead(match_ratio, cost_ratio):
    def rate(t):
        return (1 - match_ratio**t) / (1 - match_ratio) / (t + cost_ratio)

    best = best_lookahead(match_ratio, cost_ratio)
    assert best > 0
    for step in (0.01, 0.5):
        assert rate(best) >= rate(best * (1 + step)) and rate(best) >= rate(best * (1 - step))


def test_tokens_of_a_round_by_counting():
    for m, t in [(0.3, 4), (0.9, 7), (1.0, 5), (0.0, 3)]:
        assert tokens_per_round(m, t) == pytest.approx(sum(m**i for i in range(t)))


def controller(step=0.1, timed=True, stepwise=False):
    """A controller that knows nothing yet, of a pair whose draft step costs `step` target passes."""
    target, draft = synthetic_pair("micro", 0.5)
    made = Lookahead(SSDConfig(), target, draft, [[1], [2]], stepwise=stepwise, timed=timed)
    made.costs.draft = step
    return made


def test_the_best_of_measured_costs_is_chosen_and_follows_the_match_ratio():
    passes = {t: 1.0 if t <= 3 else 1.9 for t in CHOICES}  # a CPU's step after three tokens
    chooses, rng = controller(), random.Random(0)
    for match_ratio in (0.95, 0.3, 0.7):
        for _ in range(60):
            t, _ = chooses.next(100)
            held = [[rng.random() < match_ratio for _ in range(4)] for _ in range(25)]
            chooses.observe(held, t, t, 0.1 * t + passes[t], 0.1 * t)
        promised = {t: tokens_per_round(match_ratio, t) / (0.1 * t + passes[t]) for t in CHOICES}
        assert promised[chooses.next(100)[0]] > 0.94 * max(promised.values()), match_ratio


def test_no_more_is_guessed_than_there_is_room_for():
    assert controller().next(2)[0] == 2


def test_costs_are_read_off_between_what_was_measured_and_what_is_not_known_is_tried():
    costs = Costs(draft=0.2)
    assert costs(1, 1) == pytest.approx(1.2) and costs.target(2) > costs.target(1) == 1.0
    for seconds in (500.0, 10.0, 99.0):  # the first pass of a shape pays for what libraries prepare
        costs.add(3, 2, seconds + 2.0, 2.0)
    assert costs.step == pytest.approx(1.0)
    assert costs.target(3) == pytest.approx(11.0), "one interrupted pass must not decide"
    assert costs.target(MOST) == costs.target(1) == costs.target(3)
    costs.add(8, 2, 500.0, 2.0), costs.add(8, 2, 32.0, 2.0)
    assert costs.target(3) < costs.target(6) < costs.target(8) == pytest.approx(30.0)


def test_where_only_whole_rounds_are_timed_their_sum_is_right():
    """An accelerator tells when a round has ended, not when its draft steps had."""
    costs = Costs(draft=0.25)
    for _ in range(2):
        costs.add(3, 3, 7.0, 0.0)
    assert costs(3, 3) == pytest.approx(7.0) and costs.step == pytest.approx(0.25 * costs.target(1))


def test_recorded_rounds_have_costs_of_their_own():
    chooses = controller()
    for _ in range(3):
        chooses.observe([[True]], 3, 3, 9.0, 1.0)
    chooses.record()
    assert chooses.costs.timed and not chooses.costs.pass_seconds and set(chooses.choices) < set(CHOICES)


def test_untimed_costs_stay_what_the_weights_say():
    costs = Costs(draft=0.2, timed=False)
    costs.add(3, 2, 10.0, 7.0), costs.add(3, 2, 10.0, 7.0)
    assert costs(3, 2) == Costs(draft=0.2)(3, 2)


def live(chooses, holds, step, passes, rounds, confident):
    """Stepwise rounds whose guesses hold with these probabilities by confidence; returns tokens a second."""
    rng, tokens, total = random.Random(0), 0, 0.0
    for _ in range(rounds):
        chooses.next(10**6)
        confidences, held = [], []
        while len(confidences) < MOST - 1 and chooses.another(confidences):
            confidences.append(confident(rng))
        positions, drafting = len(confidences) + 1, step * max(len(confidences), 1)
        confidences.append(confident(rng))
        for confidence in confidences:
            held.append(rng.random() < holds(confidence))
            if not held[-1]:
                break
        seconds = drafting + passes(positions)
        chooses.observe([held], positions, max(positions - 1, 1), seconds, drafting, confidences)
        tokens += len(held)
        total += seconds
    return tokens / total


@pytest.mark.parametrize("match_ratio", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("step", [0.05, 0.15, 0.6])
@pytest.mark.parametrize("rounds", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_within_a_round_nearly_the_best_number_of_guesses_is_found(match_ratio, step, rounds):
    """A draft that is always equally sure: the best fixed number of guesses is known by counting."""

    def passes(positions):
        return 1.0 if positions <= 3 else 1.7  # a CPU's step after three tokens

    best = max(sum(match_ratio**i for i in range(g + 1)) / (step * max(g, 1) + passes(g + 1)) for g in range(MOST))
    chooses = controller(step, stepwise=True)
    live(chooses, lambda _: match_ratio, step, passes, 100, lambda rng: 0.5)
    assert live(chooses, lambda _: match_ratio, step, passes, rounds, lambda rng: 0.5) > 0.87 * best


def test_a_draft_that_knows_when_it_is_sure_is_worth_more_than_one_that_does_not():
    sure, unsure = 0.98, 0.5
    knows = live(controller(0.3, stepwise=True), lambda c: 1.0 if c == sure else 0.3, 0.3, lambda t: 1.0, 500,
                 lambda rng: sure if rng.random() < 0.8 else unsure)  # fmt: skip
    does_not = live(controller(0.3, stepwise=True), lambda c: 0.86, 0.3, lambda t: 1.0, 500, lambda rng: 0.7)
    assert knows > 1.1 * does_not


def test_an_answer_half_forgets_the_one_before(monkeypatch):
    chooses = controller()
    for _ in range(50):
        chooses.observe([[True]], 1, 1, 1.0, 0.1, [0.99])
    before = chooses.match_ratio, chooses.acceptance(0.99)
    monkeypatch.setattr("ssd_lib.decoding.lookahead.known_of", lambda *_: chooses.known)
    again = controller()
    assert PRIOR < again.match_ratio < before[0] and PRIOR < again.acceptance(0.99) < before[1]


def test_a_seed_repeats_with_auto_lookahead():
    target, draft = synthetic_pair("micro", 0.5)
    config = SSDConfig(do_sample=True, seed=5, lookahead="auto")
    runs = [
        ssd_generate(target, draft, synthetic_prompt(512, 8), config=config, max_new_tokens=40, eos_token_id=[])
        for _ in range(3)
    ]
    assert len({tuple(run.sequences[0].tolist()) for run in runs}) == 1
    assert len({run.stats.schedule for run in runs}) == 1
    assert len({positions for positions, _, _ in runs[0].stats.schedule}) > 1, "the lookahead never moved"


# ------------------------------------------------------------------------------------------------ the synthetic pair


@pytest.mark.parametrize("match_ratio", [0.3, 0.5, 0.8, 1.0])
def test_the_match_ratio_is_exactly_what_was_asked_for(match_ratio):
    target, draft = synthetic_pair("micro", match_ratio)
    output: Any = ssd_generate(
        target, draft, synthetic_prompt(512, 9), max_new_tokens=6 * BLOCK, eos_token_id=[], trace=True
    )
    matches = output.trace.frame["match"]
    assert all(matches[i : i + BLOCK].mean() == match_ratio for i in range(0, 6 * BLOCK, BLOCK))
    assert len(set(output.sequences[0].tolist())) == 6 * BLOCK, "a loop would make lookups and caches look good"


def test_another_match_ratio_in_place_and_the_weights_do_something():
    target, draft = synthetic_pair("micro", 1.0)
    set_match_ratio(target, draft, 0.4)
    output = ssd_generate(target, draft, synthetic_prompt(512, 9), max_new_tokens=2 * BLOCK, eos_token_id=[])
    assert output.stats.match_ratio == pytest.approx(0.4)
    assert all(weight.abs().sum() > 0 for weight in target.parameters())


def test_weights_read_are_those_of_the_shape():
    target, _ = synthetic_pair("micro", 1.0)
    shape = PAIRS["micro"][0]
    total = sum(weight.numel() for weight in target.parameters())
    assert weights_read(target) == total - shape.vocabulary * shape.hidden


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="unknown shapes"):
        synthetic_pair("huge")
    with pytest.raises(ValueError, match="one vocabulary"):
        synthetic_pair((PAIRS["micro"][0], Shape(64, 1, 4, 2, 96, 300)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        synthetic_pair("micro", math.pi)
    wrong: Any = "often"
    with pytest.raises(ValueError, match="lookahead"):
        SSDConfig(lookahead=wrong)


def test_every_row_s_prompt_ends_where_a_block_begins():
    assert torch.equal(synthetic_prompt(512, 9)[0, -1:], synthetic_prompt(512, 1)[0])
    target, draft = synthetic_pair("micro", 0.7)
    ids = torch.cat([synthetic_prompt(512, 9, row=row) for row in range(3)])
    assert len(set(ids[:, -1].tolist())) == 3
    output: Any = ssd_generate(target, draft, ids, max_new_tokens=BLOCK, eos_token_id=[], trace=True)
    assert output.trace.frame.groupby("row")["match"].mean().round(6).tolist() == [0.7] * 3
