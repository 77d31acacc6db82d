"""Sample spaces and composite against brute force with sets, ties included."""

import hypothesis.strategies as st
import torch
from hypothesis import given

from ssd_lib.method.composite import (
    choose_greedy,
    composite,
    composite_distribution,
    intersection_space,
    nucleus,
    rank_tokens,
    target_fallback,
    union_space,
)

VOCAB = 12
# Few different values, so that ties are common.
distributions = (
    st.lists(st.integers(0, 4), min_size=VOCAB, max_size=VOCAB)
    .filter(any)
    .map(lambda counts: torch.tensor(counts).float() / sum(counts))
)


def top(probs, k):
    return sorted(range(len(probs)), key=lambda token: (-float(probs[token]), token))[:k]


def both(target, draft):
    return torch.stack([target, draft]), rank_tokens(target[None]), rank_tokens(draft[None])


@given(distributions)
def test_ranks_order_by_probability_then_by_token_id(probs):
    assert rank_tokens(probs[None])[0].argsort().tolist() == top(probs, VOCAB)


@given(distributions, distributions, st.integers(1, VOCAB + 3))
def test_intersection_is_the_smallest_k_that_shares_enough(target, draft, candidates):
    _, target_ranks, draft_ranks = both(target, draft)
    mask, k = intersection_space(target_ranks, draft_ranks, candidates)
    expected = next(
        k for k in range(1, VOCAB + 1) if len(set(top(target, k)) & set(top(draft, k))) >= min(candidates, VOCAB)
    )
    assert int(k[0]) == expected
    assert set(mask[0].nonzero().flatten().tolist()) == set(top(target, expected)) & set(top(draft, expected))


@given(distributions, distributions, st.integers(1, VOCAB + 3))
def test_union_is_both_tops(target, draft, candidates):
    _, target_ranks, draft_ranks = both(target, draft)
    mask = union_space(target_ranks, draft_ranks, candidates)
    assert set(mask[0].nonzero().flatten().tolist()) == set(top(target, candidates)) | set(top(draft, candidates))


@given(distributions, distributions, st.integers(1, 6), st.floats(0, 3))
def test_greedy_choice_follows_both_rules(target, draft, candidates, alpha):
    _, target_ranks, draft_ranks = both(target, draft)
    mask, k = intersection_space(target_ranks, draft_ranks, candidates)
    insisted = target_fallback(mask, target_ranks, torch.tensor([False]))
    scores = composite(target[None], draft[None], torch.tensor([alpha]))
    token = int(choose_greedy(scores, mask, target_ranks, insisted)[0])
    favourite = top(target, 1)[0]
    assert bool(insisted[0]) == (favourite not in top(draft, int(k[0])))
    if insisted[0]:
        assert token == favourite
    else:
        space = mask[0].nonzero().flatten().tolist()
        assert token == min(space, key=lambda x: (-float(scores[0, x]), x))


def test_k_can_grow_to_the_whole_vocabulary():
    target = torch.arange(8, 0, -1).float()[None] / 36
    _, k = intersection_space(rank_tokens(target), rank_tokens(target.flip(-1)), 8)
    assert int(k[0]) == 8


def test_alpha_zero_is_the_target_alpha_one_the_draft_and_beyond_extrapolates():
    target, draft = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.2, 0.8]])
    assert torch.equal(composite(target, draft, torch.tensor([0.0])), target)
    torch.testing.assert_close(composite(target, draft, torch.tensor([1.0])), draft)
    assert composite(target, draft, torch.tensor([2.0]))[0, 0] < 0


def test_union_never_lets_the_target_insist():
    ranks = rank_tokens(torch.tensor([[0.7, 0.3]]))
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert (
        target_fallback(nothing, ranks, torch.tensor([False])).all()
        and not target_fallback(nothing, ranks, torch.tensor([True])).any()
    )


@given(distributions, distributions, st.integers(1, 6), st.floats(0, 3), st.floats(0.05, 1))
def test_composite_distribution_is_a_distribution_over_the_space(target, draft, candidates, alpha, top_p):
    _, target_ranks, draft_ranks = both(target, draft)
    mask = union_space(target_ranks, draft_ranks, candidates)
    scores = composite(target[None], draft[None], torch.tensor([alpha]))
    probs = composite_distribution(scores, mask, target[None], torch.tensor([False]), top_p)
    assert (probs >= 0).all() and abs(float(probs.sum()) - 1) < 1e-4
    assert not (probs > 0)[~mask].any()


def test_nucleus_keeps_the_smallest_sufficient_set():
    probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    torch.testing.assert_close(nucleus(probs, 0.7), torch.tensor([[0, 2 / 3, 0, 1 / 3]]))
    assert torch.equal(nucleus(probs, 1.0), probs)
    torch.testing.assert_close(nucleus(probs, 1e-9), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
