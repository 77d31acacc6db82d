"""Two sample spaces, and the composite of two distributions over them (arXiv 2508.17739, section 4.2).

For one position, with the target's probabilities P_M and the draft's P_m,

    F(x) = P_M(x) + α (P_m(x) − P_M(x))

scores the tokens of a sample space V:

    Intersection   V = TopK_M(k) ∩ TopK_m(k), k the smallest with |V| ≥ c        keeps the target's utility
    Union          V = TopK_M(c) ∪ TopK_m(c)                                     lets the draft's refusal in

Everything is batched over any leading dimensions and stays on the device. Ties in probability go to the lower token id.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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


def target_insists(
    space: Bool[Tensor, "*rows vocab"], target_ranks: Int[Tensor, "*rows vocab"], union: Bool[Tensor, "*rows"]
) -> Bool[Tensor, "*rows"]:
    """Rule 2: in Intersection, the target's own favourite is missing from TopK_m(k), so it is emitted as it is."""
    favourite_is_inside = (space & (target_ranks == 0)).any(dim=-1)
    return ~favourite_is_inside & ~union


def choose_greedy(
    scores: Float[Tensor, "*rows vocab"],
    space: Bool[Tensor, "*rows vocab"],
    target_ranks: Int[Tensor, "*rows vocab"],
    insisted: Bool[Tensor, "*rows"],
) -> Int[Tensor, "*rows"]:
    """argmax F over the sample space, or the target's favourite where the target insists."""
    best = scores.masked_fill(~space, -torch.inf).argmax(dim=-1)
    return torch.where(insisted, target_ranks.argmin(dim=-1), best)


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
    insisted: Bool[Tensor, "*rows"],
    top_p: float,
    top_k: int = 0,
) -> Float[Tensor, "*rows vocab"]:
    """F⁺: F over the sample space, negative values cut to 0, normalised, nucleus; P_M's nucleus where the target insists.

    Where nothing positive is left (possible for α above 1 only) the best token of the space gets all the mass.
    """
    positive = scores.clamp(min=0).masked_fill(~space, 0)
    mass = positive.sum(dim=-1, keepdim=True)
    best = scores.masked_fill(~space, -torch.inf).argmax(dim=-1, keepdim=True)
    alone = torch.zeros_like(scores).scatter_(-1, best, 1.0)
    spread = torch.where(mass > 0, positive / mass.clamp(min=torch.finfo(mass.dtype).tiny), alone)
    return nucleus(torch.where(insisted.unsqueeze(-1), target_probs, spread), top_p, top_k)


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
