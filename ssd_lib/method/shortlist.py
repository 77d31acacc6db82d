"""The token of a position from the heads of both lists, without sorting the vocabulary.

`composite` defines the two sample spaces by the rank of every token, which takes two full sorts of the vocabulary. But
nearly always the space lies among the likeliest tokens, so the same choice follows from the first `depth` of each list:

    a token enters TopK_M(k) ∩ TopK_m(k) at k = max(rank_M, rank_m) + 1;  k is the c-th smallest of these

Every token that enters at some k' ≤ k stands within the first k of both lists, so k, found among the heads, is the true
one if both heads are certain up to k (`enough`). A head is certain above its last value: tokens tied with the first one
left out may be ordered either way. Where a head is not enough, the caller asks again with the next of `DEPTHS`; the last
is the whole vocabulary, where every rank is known. Ties in probability go to the lower token id, as in `composite`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssd_lib.method.composite import composite

DEPTHS = (16, 64, 256, 4096, 1 << 31)
"""Heads tried one after the other; the last one is everything. k of the embedded pair is 50 in the median, 220 at most."""


class Head(NamedTuple):
    """The likeliest tokens of every position, in order, and an index to find a token's rank in it."""

    ids: Int[Tensor, "*rows depth"]
    probs: Float[Tensor, "*rows depth"]
    certain: Int[Tensor, "*rows 1"]
    """So many of the first ranks are certain."""
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
    insisted: Bool[Tensor, "*rows"]
    enough: Bool[Tensor, "*rows"]
    """The heads were deep enough: everything above is exact."""


def candidates(
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
    rank = torch.arange(target.ids.shape[-1], device=union.device)
    entered_at = torch.maximum(rank, rank_in(draft, target.ids, vocab)) + 1
    k = entered_at.topk(wanted, dim=-1, largest=False).values.amax(dim=-1, keepdim=True)
    shared, certain = entered_at <= k, torch.minimum(target.certain, draft.certain)
    draft_top = draft.ids[..., :wanted]
    ids = torch.cat([target.ids, draft_top], dim=-1)
    only_draft = rank_in(target, draft_top, vocab) >= wanted
    return Candidates(
        ids=ids,
        inside=torch.cat([torch.where(union, rank < wanted, shared), union & only_draft], dim=-1),
        target_probs=torch.cat([target.probs, target_probs.gather(-1, draft_top)], dim=-1),
        draft_probs=draft_probs.gather(-1, ids),
        k=k.masked_fill(union, 0).squeeze(-1),
        insisted=~(shared[..., 0] | union.squeeze(-1)),
        enough=(torch.where(union, wanted, k) <= certain).squeeze(-1),
    )


def choose(
    found: Candidates, alpha: Float[Tensor, "*rows"]
) -> tuple[Int[Tensor, "*rows"], Float[Tensor, "*rows listed"]]:
    """argmax F over the sample space, or the target's favourite where the target insists; and F of every candidate."""
    scores = composite(found.target_probs, found.draft_probs, alpha)
    inside = scores.masked_fill(~found.inside, -torch.inf)
    tied = inside == inside.amax(dim=-1, keepdim=True)
    last = torch.iinfo(found.ids.dtype).max
    best = torch.where(tied, found.ids, last).amin(dim=-1).clamp(max=found.ids.amax(dim=-1))  # NaN ties with nothing
    return torch.where(found.insisted, found.ids[..., 0], best), scores


def mask_of(found: Candidates, vocab: int) -> Bool[Tensor, "*rows vocab"]:
    """The sample space as a mask over the vocabulary."""
    mask = torch.zeros(*found.ids.shape[:-1], vocab, dtype=torch.bool, device=found.ids.device)
    outside_last = torch.where(found.inside, found.ids, found.ids[..., :1])  # a token may be listed twice
    first = found.inside[..., :1]
    return mask.scatter_(-1, outside_last, True).scatter_(-1, found.ids[..., :1], first)
