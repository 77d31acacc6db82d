"""Sampling follows F⁺ exactly: chi-square on a small vocabulary, and a check that the test can fail."""

from typing import Any

import pytest
import torch
from conftest import Models, micro_llama
from scipy.stats import chisquare

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import decoder, ssd_generate
from ssd_lib.method.composite import (
    composite,
    composite_distribution,
    intersection_space,
    rank_tokens,
    target_fallback,
    union_space,
)

VOCAB, ROWS = 12, 6000
PROMPT = [3, 7, 5]


@pytest.fixture(scope="module")
def pair():
    return micro_llama(11, vocab=VOCAB, sharpness=6.0), micro_llama(12, vocab=VOCAB, sharpness=20.0)


def expected(pair, config, prefix):
    """F⁺ after a prefix, from full forwards."""
    probs = []
    for model in pair:
        with torch.no_grad():
            probs.append((model(torch.tensor([prefix])).logits[:, -1].float() / config.temperature).softmax(-1))
    ranks = [rank_tokens(p) for p in probs]
    union = torch.tensor([config.first_scheme == "union"])
    (first, second), c = ranks, config.candidates
    space = union_space(first, second, c) if union else intersection_space(first, second, c)[0]
    scores = composite(probs[0], probs[1], torch.tensor([config.alpha_union if union else config.alpha_intersection]))
    return composite_distribution(
        scores, space, probs[0], target_fallback(space, ranks[0], union), config.top_p, config.top_k
    )[0]


def p_value(pair: Models, config, position=0):
    """Chi-square of the tokens emitted at one position, given the commonest beginning before it."""
    prompts = torch.tensor([PROMPT] * ROWS)
    answers = ssd_generate(*pair, prompts, config=config, max_new_tokens=position + 1, eos_token_id=[]).sequences
    answers = torch.stack(answers)
    beginning = answers[:, :position].mode(dim=0).values
    rows = answers[(answers[:, :position] == beginning).all(dim=1), position]
    probs = expected(pair, config, PROMPT + beginning.tolist()).double()
    observed = rows.bincount(minlength=VOCAB).double()
    assert not observed[probs == 0].any(), "a token outside F⁺ was emitted"
    kept = probs * len(rows) >= 5
    merged = (
        torch.cat([observed[kept], observed[~kept].sum()[None]]),
        torch.cat([probs[kept], probs[~kept].sum()[None]]),
    )
    used = merged[1] > 0
    return chisquare(merged[0][used], merged[1][used] / merged[1][used].sum() * merged[0][used].sum()).pvalue


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    "settings",
    [
        dict(fixed_scheme="intersection", candidates=4, alpha_intersection=0.3),
        dict(fixed_scheme="intersection", candidates=1, alpha_intersection=0.6),
        dict(fixed_scheme="union", candidates=4, alpha_union=0.8),
        dict(fixed_scheme="union", candidates=3, alpha_union=2.0, temperature=1.5),
        dict(fixed_scheme="union", candidates=6, alpha_union=0.5, top_p=0.8),
        dict(fixed_scheme="union", candidates=6, alpha_union=0.5, top_k=3, top_p=0.9),
    ],
)
def test_emitted_tokens_follow_the_composite(pair, settings, seed):
    assert p_value(pair, SSDConfig(do_sample=True, seed=seed, **settings)) > 1e-3


@pytest.mark.parametrize("scheme", ["intersection", "union"])
def test_later_positions_of_a_round_follow_it_too(pair, scheme):
    config = SSDConfig(do_sample=True, seed=4, fixed_scheme=scheme, candidates=4, lookahead=3)
    assert p_value(pair, config, position=1) > 1e-3


@pytest.mark.parametrize("scheme", ["intersection", "union"])
def test_a_wrong_acceptance_rule_fails_the_same_test(pair, scheme, monkeypatch):
    def accepts_all_of_the_space(wanted, draft_probs, proposal, generator):
        token, accepted = right(wanted, draft_probs, proposal, generator)
        inside = wanted.gather(-1, proposal.unsqueeze(-1)).squeeze(-1) > 0
        return torch.where(inside, proposal, token), accepted | inside

    right = decoder.accept_or_resample
    monkeypatch.setattr(decoder, "accept_or_resample", accepts_all_of_the_space)
    assert p_value(pair, SSDConfig(do_sample=True, seed=0, fixed_scheme=scheme, candidates=4)) < 1e-6


@pytest.mark.parametrize("scheme", ["intersection", "union"])
def test_a_vanishing_nucleus_is_greedy(pair: Models, scheme):
    rules: dict[str, Any] = dict(fixed_scheme=scheme, candidates=4)
    prompt = torch.tensor([PROMPT])
    sampled = SSDConfig(do_sample=True, top_p=1e-9, seed=1, **rules)
    outputs = [
        ssd_generate(*pair, prompt, config=c, max_new_tokens=20, eos_token_id=[]) for c in (sampled, SSDConfig(**rules))
    ]
    assert torch.equal(outputs[0].sequences[0], outputs[1].sequences[0])


def test_a_seed_repeats_and_another_differs(pair: Models):
    def run(seed):
        config = SSDConfig(do_sample=True, seed=seed)
        return (
            ssd_generate(*pair, torch.tensor([PROMPT]), config=config, max_new_tokens=20, eos_token_id=[])
            .sequences[0]
            .tolist()
        )

    assert run(3) == run(3) and run(3) != run(4)
