"""The cost model: its closed form, what it learns, and the synthetic pair that speed is measured on."""

import math

import pytest
import torch

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.decoding.lookahead import CHOICES, Costs, Tuner, best_lookahead, tokens_per_round, weights_read
from ssd_lib.synthetic import BLOCK, PAIRS, Shape, set_match_ratio, synthetic_pair, synthetic_prompt


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


def test_the_tuner_finds_the_best_of_measured_costs_and_follows_the_match_ratio():
    seconds = {t: 0.1 * t + (1.0 if t <= 3 else 1.9) for t in CHOICES}  # a CPU's step behind three tokens
    tuner = Tuner(Costs(draft=0.1))
    for match_ratio, best in [(0.95, 12), (0.3, 2), (0.7, 3)]:
        for _ in range(60):
            t = tuner.choose()
            tuner.costs.add(t, seconds[t])
            tuner.observe(100, round(100 * match_ratio))
        chosen = tuner.choose()
        promised = {t: tokens_per_round(match_ratio, t) / seconds[t] for t in CHOICES}
        assert promised[chosen] > 0.96 * max(promised.values()), (match_ratio, chosen, best)


def test_costs_are_read_off_between_what_was_measured():
    costs = Costs(draft=0.2)
    assert costs[4] == pytest.approx(1.8)
    for t, seconds in ((2, 10.0), (6, 30.0)):
        costs.add(t, seconds), costs.add(t, seconds)
    assert costs[4] == pytest.approx(20.0) and costs[2] == 10.0
    assert costs[12] == pytest.approx(30.0 * costs.expected(12) / costs.expected(6))
    costs.add(2, 1e9)
    assert costs[2] < 11.5, "one interrupted round must not decide"


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
    output = ssd_generate(target, draft, synthetic_prompt(512, 9), max_new_tokens=6 * BLOCK, eos_token_id=[])
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
    with pytest.raises(ValueError, match="'auto'"):
        SSDConfig(lookahead="often")


def test_every_row_s_prompt_ends_where_a_block_begins():
    assert torch.equal(synthetic_prompt(512, 9)[0, -1:], synthetic_prompt(512, 1)[0])
    target, draft = synthetic_pair("micro", 0.7)
    ids = torch.cat([synthetic_prompt(512, 9, row=row) for row in range(3)])
    assert len(set(ids[:, -1].tolist())) == 3
    output = ssd_generate(target, draft, ids, max_new_tokens=BLOCK, eos_token_id=[])
    assert output.trace.frame.groupby("row")["match"].mean().round(6).tolist() == [0.7] * 3
