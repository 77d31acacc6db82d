"""Two sample spaces, and the composite of two distributions over them (arXiv 2508.17739, section 4.2).

For one position, with the target's probabilities P_M and the draft's P_m,

    F(x) = P_M(x) + α (P_m(x) − P_M(x))

scores the tokens of a sample space V:

    Intersection   V = TopK_M(k) ∩ TopK_m(k), k the smallest with |V| ≥ c        keeps the target's utility
    Union          V = TopK_M(c) ∪ TopK_m(c)                                     lets the draft's refusal in

The first functions follow this definition by the rank of every token, which takes two full sorts of the vocabulary. `search`
finds the same among the top-k of each list, where the space nearly always lies. A token enters the Intersection at k = max(rank_M, rank_m)
+ 1, and every token that enters at some k' ≤ k stands within the first k of both lists; so the k that is found among their
heads is the true one if both heads are certain up to k (`Candidates.enough`). A head is certain above its last value: tokens
tied with the first one left out may be in either order. Where a head is not enough, the caller searches again with the next
of `DEPTHS`; the last is the whole vocabulary, where every rank is known.

Everything is batched over any leading dimensions and stays on the device. Ties in probability go to the lower token id.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DEPTHS = (16, 64, 256, 4096, 1 << 31)
"""Lengths of the heads that are tried one after the other; the last one is everything. k of the embedded pair is 50 in the median, 220 at most."""

# ------------------------------------------------------------------------------------------------ by definition


def rank_tokens(probs: Float[Tensor, "*rows vocab"]) -> Int[Tensor, "*rows vocab"]:
    """The rank of every token: 0 for the likeliest; equal probabilities are ranked by token id."""
    order = probs.sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(probs.shape[-1], device=probs.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def intersection_space(
    target_ranks: Int[Tensor, "*rows vocab"], draft_ranks: Int[Tensor, "*rows vocab"], candidates: int
) -> tuple[Bool[Tensor, "*rows vocab"], Int[Tensor, "*rows"]]:
    """TopK_M(k) ∩ TopK_m(k) and its k, the smallest for which the intersection holds `candidates` tokens.

    A token enters the intersection when k passes the worse of its two ranks, so k is the c-th smallest of these: no
    search, and exact even where k grows to the whole vocabulary. More candidates than tokens means all tokens.
    """
    entered_at = torch.maximum(target_ranks, draft_ranks) + 1
    wanted = min(candidates, entered_at.shape[-1])
    k = entered_at.topk(wanted, dim=-1, largest=False).values.amax(dim=-1)
    return entered_at <= k.unsqueeze(-1), k


def union_space(
    target_ranks: Int[Tensor, "*rows vocab"], draft_ranks: Int[Tensor, "*rows vocab"], candidates: int
) -> Bool[Tensor, "*rows vocab"]:
    """TopK_M(c) ∪ TopK_m(c)."""
    return (target_ranks < candidates) | (draft_ranks < candidates)


def composite(
    target_probs: Float[Tensor, "*rows vocab"], draft_probs: Float[Tensor, "*rows vocab"], alpha: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows vocab"]:
    """F = P_M + α (P_m − P_M), one α a row. Above α = 1 some values are negative."""
    return target_probs + alpha.to(target_probs.dtype).unsqueeze(-1) * (draft_probs - target_probs)


def target_fallback(
    space: Bool[Tensor, "*rows vocab"], target_ranks: Int[Tensor, "*rows vocab"], union: Bool[Tensor, "*rows"]
) -> Bool[Tensor, "*rows"]:
    """Rule 2: in Intersection, the target's own favourite is missing from TopK_m(k), so it is emitted as it is."""
    favourite_is_inside = (space & (target_ranks == 0)).any(dim=-1)
    return ~favourite_is_inside & ~union


def choose_greedy(
    scores: Float[Tensor, "*rows vocab"],
    space: Bool[Tensor, "*rows vocab"],
    target_ranks: Int[Tensor, "*rows vocab"],
    fallback: Bool[Tensor, "*rows"],
) -> Int[Tensor, "*rows"]:
    """argmax F over the sample space, or the target's favourite at the target fallback."""
    best = scores.masked_fill(~space, -torch.inf).argmax(dim=-1)
    return torch.where(fallback, target_ranks.argmin(dim=-1), best)


# ------------------------------------------------------------------------------------------------ the search among the top-k


class Head(NamedTuple):
    """The likeliest tokens of every position, in order, and an index to find a token's rank in it."""

    ids: Int[Tensor, "*rows depth"]
    probs: Float[Tensor, "*rows depth"]
    certain: Int[Tensor, "*rows 1"]
    """How many of the first ranks are certain."""
    by_id: Int[Tensor, "*rows depth"]
    """The same ids in ascending order …"""
    rank_by_id: Int[Tensor, "*rows depth"]
    """… and the rank of each."""


def head(probs: Float[Tensor, "*rows vocab"], depth: int) -> Head:
    """The `depth` likeliest tokens; equal probabilities are ordered by token id."""
    vocab = probs.shape[-1]
    if depth >= vocab:
        by_id = torch.arange(vocab, device=probs.device).expand(probs.shape)
        values, certain = probs, torch.full((*probs.shape[:-1], 1), vocab, device=probs.device)
    else:
        top = probs.topk(depth + 1, dim=-1)
        by_id, order = top.indices[..., :depth].sort(dim=-1)
        values = top.values.gather(-1, order)
        certain = (values > top.values[..., depth:]).sum(dim=-1, keepdim=True)
    ordered, order = values.sort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=probs.device).expand_as(order)
    return Head(by_id.gather(-1, order), ordered, certain, by_id, torch.empty_like(order).scatter_(-1, order, places))


def rank_in(head: Head, ids: Int[Tensor, "*rows asked"], missing: int) -> Int[Tensor, "*rows asked"]:
    """The rank of each token in a head, `missing` for those that are not in it."""
    at = torch.searchsorted(head.by_id.contiguous(), ids.contiguous()).clamp(max=head.by_id.shape[-1] - 1)
    return torch.where(head.by_id.gather(-1, at) == ids, head.rank_by_id.gather(-1, at), missing)


class Candidates(NamedTuple):
    """Tokens among which the sample space lies, and which of them are inside; the target's list comes first."""

    ids: Int[Tensor, "*rows listed"]
    inside: Bool[Tensor, "*rows listed"]
    target_probs: Float[Tensor, "*rows listed"]
    draft_probs: Float[Tensor, "*rows listed"]
    k: Int[Tensor, "*rows"]
    """k of Intersection, 0 in Union."""
    fallback: Bool[Tensor, "*rows"]
    enough: Bool[Tensor, "*rows"]
    """The heads were deep enough: everything above is exact."""


def search(
    target_probs: Float[Tensor, "*rows vocab"],
    draft_probs: Float[Tensor, "*rows vocab"],
    union: Bool[Tensor, "*rows"],
    wanted: int,
    depth: int,
) -> Candidates:
    """The sample space of every position, Union or Intersection, of `wanted` (the paper's c) candidates."""
    vocab = target_probs.shape[-1]
    wanted = min(wanted, vocab)
    target, draft = (head(probs, max(depth, wanted)) for probs in (target_probs, draft_probs))
    union = union.unsqueeze(-1)
    rank = torch.arange(target.ids.shape[-1], device=union.device).expand_as(target.ids)
    shared, k = intersection_space(rank, rank_in(draft, target.ids, vocab), wanted)
    certain = torch.minimum(target.certain, draft.certain).squeeze(-1)
    draft_top = draft.ids[..., :wanted]
    ids = torch.cat([target.ids, draft_top], dim=-1)
    only_draft = rank_in(target, draft_top, vocab) >= wanted
    return Candidates(
        ids=ids,
        inside=torch.cat([torch.where(union, rank < wanted, shared), union & only_draft], dim=-1),
        target_probs=torch.cat([target.probs, target_probs.gather(-1, draft_top)], dim=-1),
        draft_probs=draft_probs.gather(-1, ids),
        k=k.masked_fill(union.squeeze(-1), 0),
        fallback=~(shared[..., 0] | union.squeeze(-1)),
        enough=torch.where(union.squeeze(-1), wanted, k) <= certain,
    )


def choose(
    found: Candidates, alpha: Float[Tensor, "*rows"]
) -> tuple[Int[Tensor, "*rows"], Float[Tensor, "*rows listed"]]:
    """argmax F over the sample space, or the target's favourite at the target fallback; and F of every candidate."""
    scores = composite(found.target_probs, found.draft_probs, alpha)
    inside = scores.masked_fill(~found.inside, -torch.inf)
    tied = inside == inside.amax(dim=-1, keepdim=True)
    last = torch.iinfo(found.ids.dtype).max
    best = torch.where(tied, found.ids, last).amin(dim=-1).clamp(max=found.ids.amax(dim=-1))  # NaN ties with nothing
    return torch.where(found.fallback, found.ids[..., 0], best), scores


def mask_of(found: Candidates, vocab: int) -> Bool[Tensor, "*rows vocab"]:
    """The sample space as a mask over the vocabulary."""
    mask = torch.zeros(*found.ids.shape[:-1], vocab, dtype=torch.bool, device=found.ids.device)
    outside_last = torch.where(found.inside, found.ids, found.ids[..., :1])  # a token may be listed twice
    first = found.inside[..., :1]
    return mask.scatter_(-1, outside_last, True).scatter_(-1, found.ids[..., :1], first)


# ------------------------------------------------------------------------------------------------ sampling


def nucleus(probs: Float[Tensor, "*rows vocab"], top_p: float, top_k: int = 0) -> Float[Tensor, "*rows vocab"]:
    """The smallest set of likeliest tokens that holds `top_p` of the mass of the `top_k` likeliest (0: of all), normalised."""
    if top_p >= 1 and not top_k:
        return probs
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered = ordered.masked_fill(torch.arange(probs.shape[-1], device=probs.device) >= top_k, 0)
        ordered = ordered / ordered.sum(dim=-1, keepdim=True)
    kept = ordered if top_p >= 1 else ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0)
    kept = torch.zeros_like(probs).scatter_(-1, order, kept)
    return kept / kept.sum(dim=-1, keepdim=True)


def composite_distribution(
    scores: Float[Tensor, "*rows vocab"],
    space: Bool[Tensor, "*rows vocab"],
    target_probs: Float[Tensor, "*rows vocab"],
    fallback: Bool[Tensor, "*rows"],
    top_p: float,
    top_k: int = 0,
) -> Float[Tensor, "*rows vocab"]:
    """F⁺: F over the sample space, negative values cut to 0, normalised, nucleus; P_M's nucleus at the target fallback.

    Where nothing positive is left (possible for α above 1 only) the best token of the space gets all the mass.
    """
    positive = scores.clamp(min=0).masked_fill(~space, 0)
    mass = positive.sum(dim=-1, keepdim=True)
    best = scores.masked_fill(~space, -torch.inf).argmax(dim=-1, keepdim=True)
    alone = torch.zeros_like(scores).scatter_(-1, best, 1.0)
    spread = torch.where(mass > 0, positive / mass.clamp(min=torch.finfo(mass.dtype).tiny), alone)
    return nucleus(torch.where(fallback.unsqueeze(-1), target_probs, spread), top_p, top_k)


def accept_or_resample(
    wanted: Float[Tensor, "rows vocab"],
    draft_probs: Float[Tensor, "rows vocab"],
    proposal: Int[Tensor, " rows"],
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Speculative sampling (Leviathan et al. 2023): the token is distributed as `wanted`, whatever the draft proposed.

    The draft's x ~ P_m is accepted with probability min(1, F⁺(x)/P_m(x)); otherwise the token is drawn from
    norm(max(F⁺ − P_m, 0)).
    """
    at_proposal = proposal.unsqueeze(-1)
    chance = wanted.gather(-1, at_proposal) / draft_probs.gather(-1, at_proposal)
    accepted = torch.rand(chance.shape, device=chance.device, generator=generator) < chance
    residual = (wanted - draft_probs).clamp(min=0)
    residual = torch.where(residual.sum(dim=-1, keepdim=True) > 0, residual, wanted)
    corrected = torch.multinomial(residual, 1, generator=generator)
    return torch.where(accepted, at_proposal, corrected).squeeze(-1), accepted.squeeze(-1)
